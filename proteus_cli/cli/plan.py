"""``proteus plan``: which variants where, for a demand."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proteus_cli.cli import console
from proteus_cli.cli.options import (
    DEFAULT_HEADROOM,
    DEFAULT_POLICY,
    DEFAULT_WORKSPACE,
    DURATION,
    HeadroomOption,
    JsonOption,
    PolicyOption,
    WorkspaceOption,
    environment,
)
from proteus_cli.errors import NoFeasiblePlan, UsageError

if TYPE_CHECKING:
    from proteus_cli.domain.catalog import Catalog
    from proteus_cli.domain.plan import Plan

NEGLIGIBLE_FRAC = 1e-4  # of the demand: below it, unserved is the solver's rounding


def plan(
    *,
    demand: Annotated[
        str | None,
        typer.Option(
            envvar=environment("demand"),
            metavar="RATE",
            help="`1200qps` in all, shared by weight, or by family: `digits=800qps,signals=200qps`.",
        ),
    ] = None,
    from_trace: Annotated[
        Path | None, typer.Option(help="Take the demand of the busiest 10 s of a trace instead.", metavar="TRACE")
    ] = None,
    headroom: HeadroomOption = DEFAULT_HEADROOM,
    policy: PolicyOption = DEFAULT_POLICY,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write the plan; `-` is stdout.", show_default="plans/plan.json"),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 3 where demand stays unserved.")] = False,
    time_limit: Annotated[float, typer.Option(**DURATION, help="The longest that the solver may take.")] = "5s",  # type: ignore[assignment]
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    json: JsonOption = False,
) -> None:
    """Find the allocation that serves the demand within the SLOs at the highest accuracy."""
    from proteus_cli.cli.planning import planner_for
    from proteus_cli.store import Workspace
    from proteus_cli.units import format_rate

    place = Workspace(workspace)
    wanted = _demand(demand, from_trace, place.catalog())
    made = planner_for(place, policy, headroom, time_limit_s=time_limit)(wanted)
    missing_qps = made.shortfall_qps
    is_short = missing_qps > NEGLIGIBLE_FRAC * sum(wanted.values())
    if strict and is_short:
        raise NoFeasiblePlan(
            f"The plan would leave {format_rate(missing_qps)} of {format_rate(sum(wanted.values()))} unserved.",
            hint="lower the demand, add faster variants, or leave out `--strict` to plan for what can be served",
        )
    where = output if output is not None else place.plans_dir / "plan.json"
    is_file = console.save(made, where)
    if json and is_file:
        console.show_json(made)
    elif is_file:
        _show(made)
        console.say(f"wrote {where}")
    if is_short:
        console.warn(f"{format_rate(missing_qps)} of the demand stay unserved: the devices can't take more")


def _demand(text: str | None, trace: Path | None, catalog: "Catalog") -> dict[str, float]:
    from proteus_cli.domain.demand import check_demand, parse_demand

    if (text is None) == (trace is None):
        raise UsageError("Give either `--demand` or `--from-trace`.", hint="for example `--demand 1200qps`")
    if text is not None:
        return parse_demand(text, catalog)
    from proteus_cli.replay.trace import read_trace

    assert trace is not None  # noqa: S101 - one of both is given
    peak = read_trace(trace).peak_demand()
    check_demand(peak, catalog)
    return peak


def _show(made: "Plan") -> None:
    from rich.table import Column, Table

    from proteus_cli.units import format_percent, format_rate

    table = Table(
        "device",
        "family",
        Column("variant", no_wrap=True),
        Column("rate", no_wrap=True, min_width=9),
        "of its capacity",
        "share of family",
        "max. batch",
    )
    for p in made.placements:
        busy = format_percent(p.rate_qps / p.capacity_qps)
        table.add_row(
            p.device, p.family, p.variant, format_rate(p.rate_qps), busy, format_percent(p.share), str(p.max_batch)
        )
    for device in (d for d in made.devices if d not in {p.device for p in made.placements}):
        table.add_row(device, "–", "idle", "–", "–", "–", "–")
    console.show(table)
    if made.effective_accuracy is not None and made.relative_accuracy is not None:
        console.say(
            f"serves {format_rate(sum(made.served_qps.values()))} of {format_rate(sum(made.demand_qps.values()))} at "
            f"effective accuracy {made.effective_accuracy:.4f} ({format_percent(made.relative_accuracy)} of the best)"
        )
