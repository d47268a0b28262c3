"""Metrics of the cascades of the plan in force, of answers that were cut short, and of live conditions."""

from collections import defaultdict
from collections.abc import Mapping

from proteus_cli.control.controller import Controller
from proteus_cli.domain.conditions import Condition
from proteus_cli.serving.telemetry.metrics.exposition import Exposition, counter, gauge

DEFERRED_RATIO = gauge(
    "proteus_cascade_deferred_ratio",
    "Part of a cascade's queries that its first stage is not sure of.",
    "family",
    "first",
    "second",
    "of",
)

CONDITION = gauge(
    "proteus_condition_info",
    "1 for each family with a live condition, which its multi-exit variants stop by.",
    "family",
    "stop_when",
)


CUT = counter(
    "proteus_cut_answers_total",
    "Answers of multi-exit models that were cut short for want of time, by the last exit of their rows.",
    "family",
    "variant",
    "exit",
)


def add_cut(exposition: Exposition, cut: Mapping[str, Mapping[tuple[str, int], int]]) -> None:
    """Add the answers that were cut short, by family, variant and exit."""
    found = [
        ((family, variant, str(place)), answers)
        for family, of in cut.items()
        for (variant, place), answers in sorted(of.items())
    ]
    if found:
        exposition.add(CUT, found)


def add_conditions(exposition: Exposition, live: Mapping[str, Condition]) -> None:
    """Without a live condition, there are none."""
    if live:
        exposition.add(CONDITION, [((family, str(condition)), 1.0) for family, condition in live.items()])


def add_cascades(exposition: Exposition, controller: Controller) -> None:
    """Without cascades in the plan, there are none."""
    if controller.cascades.in_use:
        exposition.add(DEFERRED_RATIO, _deferred_ratios(controller).items())


def _deferred_ratios(controller: Controller) -> dict[tuple[str, str, str, str], float]:
    """As planned and as observed, by pair: over all of its thresholds that are in use."""
    rates, sums = (defaultdict[tuple[str, str, str, str], float](float) for _ in range(2))
    for route in controller.cascades.in_use:
        cascade, (seen, _) = route.cascade, controller.cascades.observed(route)
        for of, frac in (("planned", cascade.point.deferred_frac), ("observed", seen)):
            if frac is not None:
                key = cascade.family, cascade.first, cascade.second, of
                rates[key] += cascade.rate_qps
                sums[key] += frac * cascade.rate_qps
    return {key: sums[key] / rate for key, rate in rates.items() if rate > 0}
