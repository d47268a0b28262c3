"""Whether a condition can hold, and whether it can fail, whatever the metrics of a query are.

A comparison changes its answer only at its value. So it is enough to try, of each metric, each value that it is
compared with, the next float above it, and one below all of them: every other is like one of these. All combinations of
the metrics are tried, each metric along an axis of its own: exact, and with `MAX_COMPARISONS` at most half a million.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from proteus_cli.arrays import Floats
from proteus_cli.domain.conditions.condition import Condition, metrics
from proteus_cli.domain.conditions.metrics import SCALES, Metric


class Reach(NamedTuple):
    """``can_hold``: some query can fulfil the condition; ``can_fail``: some query cannot."""

    can_hold: bool
    can_fail: bool


def reach(condition: Condition, exits: int | None = None) -> Reach:
    """What can become of it in a chain of so many exits; of any number without ``exits``."""
    return _reach(condition, exits, {})


def reach_in(condition: Condition, by_exit: Sequence[Mapping[Metric, Sequence[float]]]) -> Reach:
    """What can become of it in a chain that has, by exit, none but these values of some metrics.

    With `Metric.EXIT` among them, other metrics are tried together with the exits that they belong to.
    """
    found = [_reach(condition, len(by_exit), known) for known in by_exit]
    return Reach(any(each.can_hold for each in found), any(each.can_fail for each in found))


def _reach(condition: Condition, exits: int | None, known: Mapping[Metric, Sequence[float]]) -> Reach:
    used = sorted(metrics(condition))
    axes = [np.array(known[metric]) if metric in known else _values_to_try(metric, condition, exits) for metric in used]
    truth = condition.truth(dict(zip(used, np.meshgrid(*axes, indexing="ij", sparse=True), strict=True)))
    return Reach(can_hold=bool(np.any(truth)), can_fail=not np.all(truth))


def _values_to_try(metric: Metric, condition: Condition, exits: int | None) -> Floats:
    compared = sorted({each.value for each in condition.comparisons if each.metric is metric})
    is_whole = metric is Metric.EXIT
    tried = {*compared, *_above(compared, is_whole=is_whole), compared[0] - 1 if is_whole else _below(compared[0])}
    scale = SCALES[metric]
    maximum = exits if is_whole and exits is not None else scale.maximum
    possible = [value for value in sorted(tried) if scale.minimum <= value <= maximum]
    return np.array([*possible, math.nan] if scale.may_be_nan else possible or [maximum])


def _above(values: Iterable[float], *, is_whole: bool) -> list[float]:
    return [value + 1 if is_whole else math.nextafter(value, math.inf) for value in values]


def _below(value: float) -> float:
    return math.nextafter(value, -math.inf)
