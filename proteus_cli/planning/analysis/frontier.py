"""The accuracy of the best plans as the demand grows."""

from collections.abc import Callable, Iterator, Mapping

from msgspec import UNSET
from msgspec.structs import replace

from proteus_cli.domain.plan import FrontierPoint, Plan
from proteus_cli.errors import UsageError
from proteus_cli.planning.planner import Planner
from proteus_cli.units import parse_rate

MAX_POINTS = 1000


def parse_sweep(text: str) -> tuple[float, ...]:
    """``"100qps:2000qps:100qps"`` (from, to, step) → rates in queries per second. Raises `UsageError`."""
    hint = "give from, to and step, like `100qps:2000qps:100qps`"
    parts = text.split(":")
    if len(parts) != 3:  # noqa: PLR2004
        raise UsageError(f"`{text}` is not a sweep.", hint=hint)
    first, last, step = (parse_rate(part) for part in parts)
    if step <= 0 or last < first:
        raise UsageError(f"The sweep `{text}` has no points.", hint=hint)
    count = int((last - first) / step * (1 + 1e-12)) + 1
    if count > MAX_POINTS:
        raise UsageError(f"The sweep `{text}` has {count:,} points.", hint=f"take at most {MAX_POINTS:,}")
    return tuple(first + i * step for i in range(count))


def sweep(
    planner: Planner,
    mix: Mapping[str, float],
    totals_qps: tuple[float, ...],
    saw: Callable[[Plan], object] = lambda _plan: None,
) -> Iterator[FrontierPoint]:
    """The best plan for each total, shared among families as ``mix`` is; with cascades, also the best without.

    ``saw`` is told each of the best plans.
    Raises `UsageError` where the mix is empty.
    """
    whole = sum(mix.values())
    if whole <= 0:
        raise UsageError("The demand to sweep has no queries.", hint="give families a weight or a demand above zero")
    rules = planner.rules
    plain = planner.with_changes(rules=replace(rules, cascades=False)) if rules.cascades else None
    for total_qps in totals_qps:
        demand_qps = {family: total_qps * part / whole for family, part in mix.items()}
        plan = planner(demand_qps)
        saw(plan)
        yield FrontierPoint(
            demand_qps=total_qps,
            served_qps=sum(plan.served_qps.values()),
            unserved_qps=plan.shortfall_qps,
            effective_accuracy=plan.effective_accuracy,
            relative_accuracy=plan.relative_accuracy,
            devices_used=len({placement.device for placement in plan.placements}),
            gap=plan.solver.gap,
            solve_s=plan.solver.solve_s,
            without_cascades=plain(demand_qps).relative_accuracy if plain is not None else UNSET,
        )
