"""Cascades: a first variant answers where it is confident, and defers the other queries to a second one.

How confident a variant is of its answers: what a query is deferred by, in profiles and while serving alike.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from proteus_cli.arrays import Singles
from proteus_cli.domain.base import Value, is_rate, require

MARGIN = "margin"
"""The confidence of a family that names none: `margin`, of the output that accuracy is judged by."""
OUTPUT = "output:"
"""Before the name of an output: its value is the confidence."""
DISCRIMINATOR = "discriminator:"
"""Before the path of an ONNX file: a model that tells from the inputs and outputs of a variant how sure it is."""
DISCRIMINATOR_OUTPUT = "discriminator"
"""The output that models have which were joined with a discriminator: its value is the confidence."""


def output_of(confidence: str) -> str | None:
    """The output whose value is the confidence: ``"output:sure"`` → ``"sure"``; None for `MARGIN`.

    Raises `ValueError` for what is no confidence.
    """
    if confidence == MARGIN:
        return None
    if discriminator_of(confidence) is not None:
        return DISCRIMINATOR_OUTPUT
    name = confidence.removeprefix(OUTPUT)
    if not confidence.startswith(OUTPUT) or not name:
        raise ValueError(
            f"`{confidence}` is neither `{MARGIN}`, nor `{OUTPUT}` with the name of an output, nor `{DISCRIMINATOR}` "
            "with the path of an ONNX file"
        )
    return name


def discriminator_of(confidence: str) -> str | None:
    """``"discriminator:sure.onnx"`` → ``"sure.onnx"``, the path as the catalog has it; None where there is none."""
    path = confidence.removeprefix(DISCRIMINATOR)
    return path if confidence.startswith(DISCRIMINATOR) and path else None


def margin(scores: npt.NDArray[Any]) -> Singles:
    """The highest score less the second highest of each row; NaN where a row has fewer than two, or one that is NaN.

    ``scores``: axis 0 is the batch, all others are the scores of a row.
    """
    rows = scores.reshape(len(scores), -1) if scores.size else np.empty((len(scores), 0), np.float32)
    if rows.shape[1] < 2:  # noqa: PLR2004
        return np.full(len(rows), np.nan, np.float32)
    highest = np.partition(rows.astype(np.float32, copy=False), (-2, -1), axis=1)
    with np.errstate(invalid="ignore"):  # of two infinite scores, nobody knows the margin
        return highest[:, -1] - highest[:, -2]


SPLITS = (0.25, 0.5)
"""The parts of the SLO that plans may give to the first stage of a cascade; the second gets the rest. First stages are
the faster ones: to let them have 3/4, too, improves no plan for the paper's cluster, and makes a model larger."""
SLO_PARTS = tuple(sorted({*SPLITS, *(1 - part for part in SPLITS), 1.0}))
"""All parts of the SLO that plans may give to a variant, the whole among them."""
MAX_POINTS = 8
"""Of a cascade: plans have a column for each."""
ROUNDING = 1e-6
"""Accuracies that agree to so much are the same number, written by different programs."""


class CascadePoint(Value, frozen=True):
    """One threshold of a cascade, as judged on an eval split whose labels had no part in the choice of it.

    A query is deferred to the second variant if its confidence from the first is below ``threshold``;
    ``deferred_frac`` of queries are. ``accuracy`` is that of the composition, the answers of both together, and from
    ``low`` to ``high`` its 95 % confidence interval. ``sure_accuracy`` is that of the first variant on the queries that
    are not deferred. On those that are, the second has ``second_accuracy``, and the first ``unsure_accuracy``: what its
    answer is worth as a fallback. All are fractions.
    """

    threshold: float
    deferred_frac: float
    accuracy: float
    low: float
    high: float
    sure_accuracy: float
    unsure_accuracy: float
    second_accuracy: float

    def __post_init__(self) -> None:
        require(math.isfinite(self.threshold), "the threshold of a cascade must be a finite number")
        at = f"of threshold {self.threshold:g}"
        require(0 < self.deferred_frac < 1, f"deferred_frac {at} must be above 0 and below 1")
        for part in (self.sure_accuracy, self.unsure_accuracy, self.second_accuracy):
            require(0 <= part <= 1, f"accuracies {at} must be fractions from 0 to 1")
        interval = f"accuracy {at} must be within its interval, and that from 0 to 1"
        require(0 <= self.low <= self.accuracy <= self.high <= 1, interval)
        is_whole = abs(self.accuracy - self.accuracy_with(0.0)) <= ROUNDING
        require(is_whole, f"accuracy {at} must be that of its parts, sure_accuracy and second_accuracy")

    def accuracy_with(self, fallback_frac: float) -> float:
        """The accuracy where that part of the deferred queries (0 to 1) gets the first answer, for want of time."""
        deferred = (1 - fallback_frac) * self.second_accuracy + fallback_frac * self.unsure_accuracy
        return (1 - self.deferred_frac) * self.sure_accuracy + self.deferred_frac * deferred


class CascadeProfile(Value, frozen=True):
    """A pair of variants of a family of which some thresholds are worth planning with.

    ``eval_digest`` is that of the eval split that they were judged on. There are 1 to `MAX_POINTS`
    ``points``; their thresholds, deferred fractions and accuracies rise. `proteus profile` keeps those on the concave
    hull of (deferred_frac, accuracy).
    """

    family: str
    first: str
    second: str
    eval_digest: str
    points: tuple[CascadePoint, ...]

    def __post_init__(self) -> None:
        require(self.first != self.second, f"`{self.first}` can't be both variants of a cascade")
        pair = f"cascade `{self.first}` → `{self.second}`"
        require(1 <= len(self.points) <= MAX_POINTS, f"{pair} must have 1 to {MAX_POINTS} points")
        for before, after in pairwise(self.points):
            rises = (
                before.threshold < after.threshold
                and before.deferred_frac < after.deferred_frac
                and before.accuracy < after.accuracy
            )
            require(rises, f"thresholds, deferred fractions and accuracies of {pair} must rise")


class PlannedCascade(Value, frozen=True):
    """A cascade that a plan uses at one point of its profile.

    ``rate_qps`` of the queries that ``first`` gets go this way, which is ``share`` of the family's served queries.
    """

    family: str
    first: str
    second: str
    point: CascadePoint
    rate_qps: float
    share: float

    def __post_init__(self) -> None:
        pair = f"cascade `{self.first}` → `{self.second}`"
        require(self.first != self.second, f"`{self.first}` can't be both variants of a cascade")
        require(is_rate(self.rate_qps), f"rate_qps of {pair} must be from 0 to 2^53")
        require(0 <= self.share <= 1 + 1e-9, f"share of {pair} must be within 0 and 1")

    @property
    def deferred_qps(self) -> float:
        """What the second variant gets of it."""
        return self.point.deferred_frac * self.rate_qps


def accuracy_by_level(
    points: Sequence[CascadePoint], thresholds: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The accuracy of the first and of the second variant on queries that reach so many of the ``thresholds``.

    ``points`` are of one pair, and say it of the queries between two of their thresholds, which are among these; of
    those above their last one, the second variant is taken to be as accurate as on those below it.
    """
    bands = [(points[0].unsure_accuracy, points[0].second_accuracy)]
    for low, high in pairwise(points):
        rows = high.deferred_frac - low.deferred_frac
        first = high.deferred_frac * high.unsure_accuracy - low.deferred_frac * low.unsure_accuracy
        second = high.deferred_frac * high.second_accuracy - low.deferred_frac * low.second_accuracy
        bands.append((_fraction(first / rows), _fraction(second / rows)))
    bands.append((points[-1].sure_accuracy, points[-1].second_accuracy))
    own = [point.threshold for point in points]
    found = [bands[bisect_right(own, reached)] for reached in (-math.inf, *thresholds)]
    return tuple(first for first, _ in found), tuple(second for _, second in found)


def _fraction(value: float) -> float:
    return min(max(value, 0.0), 1.0)
