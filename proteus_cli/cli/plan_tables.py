"""How plans, their explanations and frontiers look in a terminal."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec import UNSET
from rich.console import Group, RenderableType
from rich.table import Column, Table

from proteus_cli.domain.device import by_host
from proteus_cli.reporting.tables import bars, described, folded_name, number, table, text
from proteus_cli.units import (
    ESTIMATED,
    UNKNOWN,
    counted,
    format_accuracy,
    format_bar,
    format_percent,
    format_qps,
    format_rate,
    mark_estimate,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proteus_cli.domain.plan import FrontierPoint, Placement, Plan, Solver
    from proteus_cli.domain.stages.cascade import PlannedCascade
    from proteus_cli.planning.analysis.explain import Explanation, Price

_BAR = 20
_MAX_HOSTS = 3  # that are named
_ROUNDING_QPS = 1e-6  # what the solver leaves of a demand that is served


def plan_table(plan: "Plan") -> RenderableType:
    """A row for each variant on each device; devices that do the same share a row. Several hosts have a column."""
    where = HostColumn(plan.devices)
    numbers = map(number, ("qps", "busy", "share", "batch"))
    deferred = [number("deferred")] if plan.cascades else []
    rows = table(*map(folded_name, ("device", "family", "variant")), *numbers, *deferred, *where.columns("host"))
    for kind, devices, placements in _alike(plan):
        who, hosts = named(kind, devices), where.cells(devices)
        busy = _busy(placements)
        for p in placements:
            rate, share = format_qps(p.rate_qps), format_percent(p.share)
            if p.deferred_qps and not p.rate_qps:  # it is no spare: it answers what others defer to it
                rate = share = UNKNOWN
            from_others = [format_qps(p.deferred_qps) if p.deferred_qps else UNKNOWN] if plan.cascades else []
            rows.add_row(who, p.family, p.variant, rate, busy, share, str(p.max_batch), *from_others, *hosts)
            who, hosts = "", ()
        if not placements:
            rows.add_row(who, UNKNOWN, "idle", *[UNKNOWN] * (4 + len(deferred)), *hosts)
    is_spare = any(not p.share and not p.deferred_qps for p in plan.placements)
    spare = ["0 qps: a spare, which is loaded and helps the others"] if is_spare else []
    below = ["deferred: what others defer to it, in queries per second, beside its qps"] if plan.cascades else []
    has_several = any(len(placements) > 1 for placements in plan.by_device().values())
    shown = described(
        rows,
        f"qps: rate of each device · busy: part of its capacity{', all variants together' if has_several else ''}",
        "share: part of the family's queries · batch: the largest",
        *below,
        *spare,
        *_preferences(plan),
    )
    return Group(shown, "", cascades_table(plan.cascades)) if plan.cascades else shown


def _preferences(plan: "Plan") -> list[str]:
    """A line that says which families have other aims than accuracy; none where no family has."""
    preferred = [f"{family} {of}" for family, of in plan.rules.others_preferred.items() if family in plan.demand_qps]
    return [f"preferred instead of accuracy: {', '.join(preferred)}"] if preferred else []


def _busy(placements: "Sequence[Placement]") -> str:
    """The part of a device's capacity; each of its variants grows with the others, so all are as near their limit."""
    parts = [(p.rate_qps + p.deferred_qps) / p.capacity_qps for p in placements if p.capacity_qps > 0]
    return format_percent(max(parts)) if parts else ""


def cascades_table(cascades: "Sequence[PlannedCascade]") -> Table:
    """A row for each cascade that a plan uses: its rate, and which rate and part of that is deferred."""
    numbers = map(number, ("qps", "share", "deferred", "of qps", "accuracy"))
    rows = table(*map(folded_name, ("family", "cascade")), *numbers)
    for each in cascades:
        pair, accuracy = f"{each.first} → {each.second}", f"{each.point.accuracy:.4f}"
        deferred = format_qps(each.deferred_qps), format_percent(each.point.deferred_frac)
        rows.add_row(each.family, pair, format_qps(each.rate_qps), format_percent(each.share), *deferred, accuracy)
    return rows


def attainment_table(plan: "Plan", targets: "Mapping[str, float]") -> RenderableType:
    """The expected attainment of each family beside its target, fractions by family. Lower ones are marked."""
    rows = table(folded_name("family"), number("target", "%"), number("expected", "%"))
    missing = plan.expected_to_miss(targets)
    for family in plan.demand_qps:
        if (share := plan.expected_attainment.get(family)) is not None:
            mark = "!" if family in missing else ""
            rows.add_row(family, f"{100 * targets[family]:.10g}", f"{100 * share:.2f}{mark}")
    below = " · !: below the target" if missing else ""
    return described(rows, f"expected: share of requests in time, of Poisson arrivals{below}", title="attainment")


class HostColumn:
    """A last column with the hosts of devices; no column if all ``devices`` of the table are on one."""

    def __init__(self, devices: Iterable[str]) -> None:
        self._has_several = len(by_host(devices)) > 1

    def columns(self, header: str) -> Sequence[Column]:
        return [text(header)] if self._has_several else []

    def cells(self, devices: Sequence[str]) -> Sequence[str]:
        return [whereabouts(devices)] if self._has_several else []


def whereabouts(devices: Iterable[str]) -> str:
    """``"a"``, ``"2 each on a, b"``, ``"3 on a, 1 on b"`` or ``"8 each on 100 hosts"``: where devices are."""
    counts = {host or "this machine": len(of_host) for host, of_host in by_host(devices).items()}
    if len(counts) == 1:
        return next(iter(counts))
    is_even = len(set(counts.values())) == 1
    hosts = ", ".join(counts) if len(counts) <= _MAX_HOSTS else counted(len(counts), "host")
    if is_even:
        return f"{next(iter(counts.values()))} each on {hosts}"
    return ", ".join(f"{count} on {host}" for host, count in counts.items()) if len(counts) <= _MAX_HOSTS else hosts


def named(kind: str, devices: Sequence[str]) -> str:
    """``gpu0``, or of several alike ``10 × v100``."""
    return devices[0] if len(devices) == 1 else f"{len(devices)} × {kind}"


def _alike(plan: "Plan") -> "Iterator[tuple[str, list[str], list[Placement]]]":
    """Type, ids and placements of devices that do the same; idle ones last."""
    placed = plan.by_device()
    kind_of = {device: kind for kind, devices in plan.fleet.items() for device in devices}
    groups: dict[object, list[str]] = {}
    for device, placements in placed.items():
        does = tuple((p.family, p.variant, round(p.rate_qps, 6), round(p.deferred_qps, 6)) for p in placements)
        groups.setdefault((kind_of[device], does), []).append(device)
    for devices in sorted(groups.values(), key=lambda devices: not placed[devices[0]]):
        yield kind_of[devices[0]], devices, placed[devices[0]]


def explanation_tables(
    explanation: "Explanation", *, spent_on: str | None, estimated: Collection[str] = ()
) -> RenderableType:
    """Families, devices, what limits the plan, and how far the demand could grow.

    ``spent_on``: what is minimised; ``estimated``: the families whose accuracies are estimates.
    """
    return Group(
        _families_table(explanation, estimated),
        "",
        _devices_table(explanation),
        "",
        *_limits(explanation, spent_on),
        _growth(explanation),
    )


def _families_table(explanation: "Explanation", estimated: Collection[str]) -> RenderableType:
    is_short = any(family.unserved_qps > _ROUNDING_QPS for family in explanation.families)
    rates = ("demand", *(["unserved"] if is_short else []), "capacity")
    rows = table(folded_name("family"), *map(number, (*rates, "accuracy", "of best")), folded_name("hosts"))
    for family in explanation.families:
        variants = "\n".join(f"{count} × {variant}" for variant, count in family.variants.items()) or UNKNOWN
        accuracy, relative = family.effective_accuracy, family.relative_accuracy
        is_estimate = family.family in estimated
        rows.add_row(
            family.family,
            format_qps(family.demand_qps),
            *([_unserved(family.unserved_qps, format_qps)] if is_short else []),
            format_qps(family.capacity_qps),
            UNKNOWN if accuracy is None else format_accuracy(accuracy, estimated=is_estimate),
            UNKNOWN if relative is None else mark_estimate(format_percent(relative), estimated=is_estimate),
            variants,
        )
    return described(rows, f"{', '.join(rates)}: queries per second")


def _devices_table(explanation: "Explanation") -> RenderableType:
    where = HostColumn(device for each in explanation.devices for device in each.devices)
    costs = any(each.slower for each in explanation.devices)
    sharing = [number("sharing")] if costs else []
    rows = table(folded_name("device"), text("hosts"), number("busy"), *sharing, bars(_BAR), *where.columns("on host"))
    for each in sorted(explanation.devices, key=lambda each: not each.hosts):
        hosts = ", ".join(_slowed(variant, each.slower.get(variant, 1.0)) for variant in each.hosts) or "idle"
        who, bar = named(each.type, each.devices), format_bar(each.busy, _BAR)
        of_sharing = [format_percent(each.sharing) if each.slower else UNKNOWN] if costs else []
        rows.add_row(who, hosts, format_percent(each.busy), *of_sharing, bar, *where.cells(each.devices))
    if not costs:
        return rows
    return described(rows, "sharing: what it costs of the device's time · × 1.1: batches take so many times as long")


def _slowed(variant: str, by: float) -> str:
    return f"{variant} × {by:.3g}" if by > 1 else variant


def _limits(explanation: "Explanation", spent_on: str | None) -> Iterator[RenderableType]:
    if not explanation.prices:
        yield "Nothing limits this plan: one device, query or rule more or less would not change its accuracy."
        return
    rows = table(text("change"), text("effect"))
    for price in explanation.prices:
        rows.add_row(price.what, _effect(price, spent_on))
    yield described(rows, title="what limits this plan")


def _effect(price: "Price", spent_on: str | None) -> str:
    if price.is_possible is None:
        return "no plan was found in the time limit; give more with `--time-limit`"
    if not price.is_possible:
        return "impossible within the rules"
    parts = []
    if price.unserved_qps:
        less_or_more = "more" if price.unserved_qps > 0 else "less"
        parts.append(f"{format_rate(abs(price.unserved_qps))} {less_or_more} unserved")
    if price.accuracy_points:
        parts.append(f"{price.accuracy_points:+.2f} points of relative accuracy")
    if price.spent:
        unit = {"cost": "per hour", "power": "W"}[spent_on or "cost"]
        parts.append(f"{price.spent:+,.2f} {unit}")
    return ", ".join(parts) + (" (of the best plan in the time limit)" if price.is_limited else "")


def _growth(explanation: "Explanation") -> str:
    multiple = explanation.max_multiple
    if multiple == float("inf"):
        return "\nNothing is asked for."
    if explanation.max_multiple_is_lower_bound:
        least = f"At least {multiple:.2f} times" if multiple > 0 else "No multiple of"
        known = f"{least} this demand is known to be possible, without headroom"
        return f"\n{known}: a solve for more ran out of time. Give more with `--time-limit`."
    if multiple <= 0:
        return "\nNo multiple of this demand could be served in full: some family has no device for it."
    return f"\nAt most {multiple:.2f} times this demand could be served, without headroom."


def proven(solver: "Solver") -> str:
    """How good a plan is at least."""
    said = f"the plan is within {solver.gap:.2%} of the best"
    if solver.unserved_gap < 0.00005:  # noqa: PLR2004 - 0.00 %
        return said
    return f"{said}, and at most {solver.unserved_gap:.2%} of the demand could be served beyond what it serves"


def estimate_note(families: Iterable[str]) -> str:
    """The meaning of the mark of estimated accuracies."""
    return f"{ESTIMATED}: accuracies of {', '.join(families)} are estimated, without labels"


def frontier_table(points: "Sequence[FrontierPoint]", *, estimated: bool) -> Table:
    """A row for each total demand, with bars of the accuracy that is kept. ``estimated``: some accuracies are."""
    has_both = any(point.without_cascades is not UNSET for point in points)
    without = [number("without", "cascades")] if has_both else []
    rows = table(*map(number, ("demand", "unserved", "accuracy", "of best")), bars(_BAR), *without, number("devices"))
    known = [point.relative_accuracy for point in points if point.relative_accuracy is not None]
    least = min(known, default=0.0)
    span = max(1 - least, 1e-9)
    for point in points:
        relative, accuracy = point.relative_accuracy, point.effective_accuracy
        rows.add_row(
            format_rate(point.demand_qps),
            _unserved(point.unserved_qps, format_rate),
            format_accuracy(accuracy, estimated=estimated) if accuracy is not None else UNKNOWN,
            _of_best(relative, estimated=estimated),
            format_bar(0.1 + 0.9 * min(relative - least, span) / span, _BAR) if relative is not None else "",
            *([_of_best(point.without_cascades or None, estimated=estimated)] if has_both else []),
            str(point.devices_used),
        )
    return rows


def _unserved(qps: float, written: Callable[[float], str]) -> str:
    return written(qps) if qps > _ROUNDING_QPS else UNKNOWN


def _of_best(relative: float | None, *, estimated: bool) -> str:
    return mark_estimate(format_percent(relative), estimated=estimated) if relative is not None else UNKNOWN
