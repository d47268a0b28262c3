"""The page of a cost study; importing this loads matplotlib."""

from collections.abc import Iterator, Sequence

import msgspec
from matplotlib.axes import Axes

from proteus_cli.studies.pages.section import (
    ABOVE_INCHES,
    ROW_INCHES,
    Picture,
    Section,
    StudyTable,
    colour,
    legend,
    name_bars,
    picture,
    results_of,
)
from proteus_cli.studies.results import CostConclusion, FleetCost, Saving
from proteus_cli.studies.study import Cell, Study
from proteus_cli.units import format_duration, format_percent, or_unknown

_BAR = 0.38
_USAGES = ("dedicated", "shared")
_SAME_FRAC = 0.005
_COSTS = (
    "Costs are those of the devices in use, for as long as the traffic, by the queries answered in time. Models on one "
    "device cost each other time as far as `proteus study share` has measured it."
)
_INTERVALS = (
    "Intervals are of the misses of the family that misses most, at 95 %, as if each query missed by itself. Misses "
    "come in clumps, so they should be somewhat wider."
)


def section(study: Study) -> Section:
    """The costs of each scope and usage, and the saving of sharing."""
    cells = results_of(study, FleetCost)
    within = format_percent(1 - float(study.options["allowed_frac"] or 0))
    return Section(
        title="Cost per million queries",
        question=f"What do a million queries cost where at least {within} of each family's are answered within its "
        "latency target (SLO), with a variant for each device, and with devices that variants share?",
        findings=_findings(study, cells) or ["Nothing was found yet."],
        how=list(_how(study)) if cells else (),
        pictures=[_bars(study.name, cells)] if cells else (),
        tables=_tables(cells) if cells else (),
        terms={
            "dedicated": "A device serves one variant of one family.",
            "shared": "A device may hold several variants, whose batches take turns and cost each other time.",
            "SLO": "The latency target: a query that is answered later, or not at all, misses it.",
        },
    )


def _findings(study: Study, cells: Sequence[tuple[Cell, FleetCost]]) -> list[str]:
    if not study.conclusion:
        return []
    conclusion = msgspec.convert(study.conclusion, CostConclusion)
    cost = next(found for cell, found in cells if cell.key == conclusion.cheapest)
    fleet = ", ".join(f"{count} × {kind}" for kind, count in cost.fleet.items())
    best = f"The cheapest: {conclusion.cheapest}, {fleet}, at {cost.cost_per_million:.3g} per million queries."
    assumed = dict.fromkeys(f"{line}." for _, found in cells for line in found.assumed)
    return [best, *map(_saved, conclusion.savings), *assumed]


def _saved(saving: Saving) -> str:
    costs = f"{saving.shared:.3g} instead of {saving.dedicated:.3g} per million"
    if abs(saving.saved_frac) < _SAME_FRAC:
        return f"{saving.scope}: sharing saves nothing ({saving.dedicated:.3g} per million)."
    if saving.saved_frac < 0:
        return f"{saving.scope}: sharing costs {format_percent(-saving.saved_frac)} more ({costs})."
    return f"{saving.scope}: sharing saves {format_percent(saving.saved_frac)} ({costs})."


def _how(study: Study) -> Iterator[str]:
    jitter, headroom = study.options.get("jitter"), float(study.options.get("headroom") or 1.0)
    scatter = f"batch times that scatter up to their {jitter}" if jitter else "the mean times of batches"
    yield (
        "The planner looked for the cheapest fleet for a multiple of the demand of the traffic's busiest 10 s; the "
        f"traffic was then simulated on it, with {scatter}. The cheapest that keeps the SLO counts."
    )
    if headroom != 1.0:
        yield (
            f"Misses and latencies are those of devices that take {headroom:g} times as long as profiled (--headroom)."
        )
    yield from (_COSTS, _INTERVALS)


def _tables(cells: Sequence[tuple[Cell, FleetCost]]) -> list[StudyTable]:
    costs = [
        (
            cell.key,
            f"{cost.cost_per_million:.3g}",
            f"{cost.price_per_hour:.3g}",
            str(cost.devices),
            f"{100 * cost.missed_frac:.2f}",
            f"{100 * cost.low_frac:.2f} to {100 * cost.high_frac:.2f}",
            or_unknown(cost.effective_accuracy, "{:.4f}".format),
        )
        for cell, cost in cells
    ]
    fleets = [
        (
            cell.key,
            "; ".join(f"{count} × {held}" for held, count in cost.held.items()),
            ", ".join(f"{name} {or_unknown(took_s, format_duration)}" for name, took_s in cost.percentile_s.items()),
            f"{cost.multiple:.2f}",
            str(cost.tried),
        )
        for cell, cost in cells
    ]
    return [
        StudyTable(
            "Costs",
            ("fleet of", "per million", "per hour", "devices", "missed (%)", "95 % interval", "accuracy"),
            costs,
            note="missed: of the family that missed the SLO most; accuracy: the mean over answers in time",
        ),
        StudyTable(
            "Fleets",
            ("fleet of", "devices hold", "latency", "planned", "tried"),
            fleets,
            note="latency: at the percentile that was asked for, by family; planned: for so many times the demand of "
            "the busiest seconds; tried: how many plans were simulated",
            of_text=frozenset({"devices hold", "latency"}),
        ),
    ]


def _bars(name: str, cells: Sequence[tuple[Cell, FleetCost]]) -> Picture:
    by_scope = [(cell.key.rpartition(", ")[0], cost) for cell, cost in cells]
    scopes = list(dict.fromkeys(scope for scope, _ in by_scope))

    def draw(axes: Axes) -> None:
        for scope, cost in by_scope:
            place, usage = len(scopes) - 1 - scopes.index(scope), _USAGES.index(cost.usage)
            axes.barh(place + (0.5 - usage) * _BAR, cost.cost_per_million, height=_BAR, color=colour(usage))
        name_bars(axes, scopes, "cost per million queries")

    height = ABOVE_INCHES + 2 * ROW_INCHES * len(scopes)
    about = "For each kind of fleet: the cheapest that keeps the SLO, dedicated and shared."
    keys = legend(_USAGES)
    return picture(f"{name}-costs", "Cost per million queries", about, draw, height_inches=height, keys=keys)
