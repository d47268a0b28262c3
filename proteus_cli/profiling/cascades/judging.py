"""What a threshold is worth on rows of an eval split, and whether chance would do as well."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from proteus_cli.arrays import Bools, Floats, Ints, Singles
from proteus_cli.domain.stages.cascade import CascadePoint
from proteus_cli.intervals import wilson

_REACH = 9
"""Standard deviations, and one row each, beyond which a count has a probability of less than 1e-12."""


@dataclass(frozen=True, slots=True)
class JudgedThreshold:
    """A threshold as judged. ``p_value``: how probable a gain as large is if the rows to defer are drawn at random."""

    point: CascadePoint
    p_value: float


def judged(threshold: float, confidences: Singles, first: Bools, second: Bools) -> JudgedThreshold | None:
    """The threshold on these rows; None where it defers none of them, or all.

    ``first`` and ``second``: which rows each variant gets right.
    """
    unsure = ~(confidences >= threshold)
    deferred, rows = int(unsure.sum()), len(unsure)
    if not 0 < deferred < rows:
        return None
    right = int(np.where(unsure, second, first).sum())
    low, high = wilson(right, rows)
    point = CascadePoint(
        threshold=threshold,
        deferred_frac=deferred / rows,
        accuracy=right / rows,
        low=low,
        high=high,
        sure_accuracy=float(first[~unsure].mean()),
        unsure_accuracy=float(first[unsure].mean()),
        second_accuracy=float(second[unsure].mean()),
    )
    only_second, only_first = second & ~first, first & ~second
    gain = int(only_second[unsure].sum()) - int(only_first[unsure].sum())
    return JudgedThreshold(point, p_value_of(gain, deferred, rows, int(only_second.sum()), int(only_first.sum())))


def p_value_of(gain: int, deferred: int, rows: int, only_second: int, only_first: int) -> float:
    """How probable it is that ``deferred`` rows, drawn at random of ``rows``, gain ``gain`` right answers or more.

    The second variant is right on ``only_second`` rows where the first is wrong, and wrong on ``only_first`` where the
    first is right; on the others deferring changes nothing. This is Fisher's permutation test, exact: of all ways to
    choose the rows to defer, the part that does as well (R. A. Fisher, The Design of Experiments (1935), §21). Rows
    that are drawn at random are what a plan gets that shares queries between both variants.
    """
    lost = _likely(rows, only_first, deferred)
    lost_weight = _hypergeometric(lost, rows, only_first, deferred)
    total = 0.0
    for count, weight in zip(lost.tolist(), lost_weight.tolist(), strict=True):
        won = _likely(rows - only_first, only_second, deferred - count)
        won = won[np.searchsorted(won, gain + count) :]
        total += weight * float(_hypergeometric(won, rows - only_first, only_second, deferred - count).sum())
    return min(total, 1.0)


def _likely(rows: int, marked: int, drawn: int) -> Ints:
    """The numbers of marked rows, rising, that may be among ``drawn`` of ``rows``, but for those next to impossible."""
    mean = drawn * marked / max(rows, 1)
    reach = _REACH * (1 + math.sqrt(mean * (1 - marked / max(rows, 1)) * (rows - drawn) / max(rows - 1, 1)))
    least, most = max(drawn + marked - rows, 0), min(marked, drawn)
    return np.arange(max(least, math.floor(mean - reach)), min(most, math.ceil(mean + reach)) + 1)


def _hypergeometric(found: Ints, rows: int, marked: int, drawn: int) -> Floats:
    """The probability of each number of marked rows among ``drawn`` of ``rows``, of which so many are marked."""
    logs = _log_factorial(rows)
    constant = logs[marked] + logs[rows - marked] + logs[drawn] + logs[rows - drawn] - logs[rows]
    rest = marked - found, drawn - found
    probability: Floats = np.exp(constant - logs[found] - logs[rest[0]] - logs[rest[1]] - logs[rows - marked - rest[1]])
    return probability


@lru_cache(maxsize=4)
def _log_factorial(largest: int) -> Floats:
    """The logarithms of 0!, 1!, … up to the largest."""
    return np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, largest + 1)))))
