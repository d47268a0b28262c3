"""Cascades: a first variant answers where it is confident, and defers the other queries to a second one.

How confident a variant is of its answers: what a query is deferred by, in profiles and while serving alike.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from proteus_cli.arrays import Singles
from proteus_cli.domain.base import LARGEST_FLOAT, Fraction, OpenFraction, Rate, Share, Value, require, require_rising

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
    with np.errstate(invalid="ignore"):  # the margin of two infinite scores is unknown
        return highest[:, -1] - highest[:, -2]


SPLITS = (0.25, 0.5)
"""The parts of the SLO that plans may give to the first stage of a cascade; the second gets the rest. First stages are
the faster ones: to let them have 3/4, too, improves no plan for the paper's cluster, and makes a model larger."""
SLO_PARTS = tuple(sorted({*SPLITS, *(1 - part for part in SPLITS), 1.0}))
"""All parts of the SLO that plans may give to a variant, the whole among them."""
MAX_POINTS = 8
"""Maximum number of points of a cascade. Plans have a column for each."""
ROUNDING = 1e-6
"""Accuracies that differ by less are equal, written by different programs."""


class CascadePoint(Value, frozen=True):
    """One threshold of a cascade, judged on an eval split whose labels did not select it.

    A query is deferred to the second variant if its confidence from the first is below ``threshold``; ``deferred_frac``
    of queries are. ``accuracy`` counts the answers of both variants together, with its 95 % confidence interval ``low``
    to ``high``. On queries that are not deferred, the first variant has ``sure_accuracy``. On deferred ones, the second
    has ``second_accuracy``, and the first ``unsure_accuracy``: the value of its answer as a fallback. All are
    fractions.
    """

    threshold: Annotated[float, Meta(ge=-LARGEST_FLOAT, le=LARGEST_FLOAT)]
    deferred_frac: OpenFraction
    accuracy: Fraction
    low: Fraction
    high: Fraction
    sure_accuracy: Fraction
    unsure_accuracy: Fraction
    second_accuracy: Fraction

    def __post_init__(self) -> None:
        at = f"of threshold {self.threshold:g}"
        require(self.low <= self.accuracy <= self.high, f"accuracy {at} must be within its interval")
        is_whole = abs(self.accuracy - self.accuracy_with(0.0)) <= ROUNDING
        require(is_whole, f"accuracy {at} must be that of its parts, sure_accuracy and second_accuracy")

    def accuracy_with(self, fallback_frac: float) -> float:
        """The accuracy if that part of the deferred queries (0 to 1) gets the first answer, for want of time."""
        deferred = (1 - fallback_frac) * self.second_accuracy + fallback_frac * self.unsure_accuracy
        return (1 - self.deferred_frac) * self.sure_accuracy + self.deferred_frac * deferred


class CascadeProfile(Value, frozen=True):
    """A pair of variants of a family, with the thresholds that are worth planning with.

    ``eval_digest`` is the digest of the eval split that judged them. Thresholds, deferred fractions and accuracies of
    the ``points`` rise. `proteus profile` keeps those on the concave hull of (deferred_frac, accuracy).
    """

    family: str
    first: str
    second: str
    eval_digest: str
    points: Annotated[tuple[CascadePoint, ...], Meta(min_length=1, max_length=MAX_POINTS)]

    def __post_init__(self) -> None:
        _require_pair(self.first, self.second)
        for what in ("threshold", "deferred_frac", "accuracy"):
            pair = f"`{self.first}` → `{self.second}`"
            require_rising([getattr(each, what) for each in self.points], f"each {what} of cascade {pair}")


class PlannedCascade(Value, frozen=True):
    """A cascade in a plan, at one point of its profile.

    ``rate_qps`` of the first variant's queries go this way, the fraction ``share`` of the family's served queries.
    """

    family: str
    first: str
    second: str
    point: CascadePoint
    rate_qps: Rate
    share: Share

    def __post_init__(self) -> None:
        _require_pair(self.first, self.second)

    @property
    def threshold(self) -> float:
        return self.point.threshold

    @property
    def deferred_qps(self) -> float:
        """The rate that the second variant gets from it."""
        return self.point.deferred_frac * self.rate_qps


def _require_pair(first: str, second: str) -> None:
    require(first != second, f"`{first}` can't be both variants of a cascade")


def accuracy_by_level(
    points: Sequence[CascadePoint], thresholds: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The accuracies of the first and of the second variant on queries, by the number of ``thresholds`` they reach.

    ``points`` are of one pair; their thresholds are among ``thresholds``, and they give the accuracies between two of
    them. Above the last one, the second variant is assumed to be as accurate as just below it.
    """
    bands = [(points[0].unsure_accuracy, points[0].second_accuracy)]
    for low, high in pairwise(points):
        rows = high.deferred_frac - low.deferred_frac
        first = high.deferred_frac * high.unsure_accuracy - low.deferred_frac * low.unsure_accuracy
        second = high.deferred_frac * high.second_accuracy - low.deferred_frac * low.second_accuracy
        bands.append((min(max(first / rows, 0.0), 1.0), min(max(second / rows, 0.0), 1.0)))
    bands.append((points[-1].sure_accuracy, points[-1].second_accuracy))
    own = [point.threshold for point in points]
    found = [bands[bisect_right(own, reached)] for reached in (-math.inf, *thresholds)]
    return tuple(first for first, _ in found), tuple(second for _, second in found)
