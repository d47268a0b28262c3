"""Exits of a multi-exit model: what was measured of each."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from msgspec.structs import replace

from proteus_cli.domain.base import Value, is_count, require

MAX_EXITS = 16
"""Of a model. Each costs a call of the runtime, so more would be slower, not better."""
ROUNDING = 1e-6


class StagePoint(Value, frozen=True, omit_defaults=True):
    """What a batch of so many rows takes in one stage, in seconds, if all of them get there.

    Until its answers are there, if it stops behind the stage. Of the percentiles, those above the p95 may be unknown.
    """

    batch: int
    mean_s: float
    p95_s: float
    p99_s: float | None = None
    p995_s: float | None = None

    def __post_init__(self) -> None:
        require(is_count(self.batch, 1), f"batch {self.batch} of a stage must be at least 1")
        known_s = [self.mean_s, self.p95_s, *(s for s in (self.p99_s, self.p995_s) if s is not None)]
        require(
            all(0 < s < math.inf for s in known_s), f"latencies of batch {self.batch} of a stage must be above zero"
        )
        require(known_s[1:] == sorted(known_s[1:]), f"percentiles of batch {self.batch} of a stage must rise")

    def within_s(self, share: float) -> float:
        """How long that share of the batches takes at most: linear between percentiles that are known.

        No less than the p95, and no more than the highest that is known.
        """
        known = ((0.95, self.p95_s), (0.99, self.p99_s), (0.995, self.p995_s))
        shares, times_s = zip(*((part, s) for part, s in known if s is not None), strict=True)
        return float(np.interp(share, shares, times_s))


class ExitProfile(Value, frozen=True, omit_defaults=True):
    """One exit of a variant, and the stage before it, on a device.

    ``share`` of the rows of the eval split have their answer from it, with this ``accuracy``. Rows that go on get
    there, too: the exit's answers to them have ``cut_accuracy``, which is what an answer is worth that is cut short
    here. Any of the three is None where it is unknown: without an eval split, or where there are no such rows.
    ``points``: the times of the stage by batch size.
    """

    share: float | None = None
    accuracy: float | None = None
    cut_accuracy: float | None = None
    points: tuple[StagePoint, ...] = ()

    def __post_init__(self) -> None:
        known = [part for part in (self.share, self.accuracy, self.cut_accuracy) if part is not None]
        require(all(0 <= part <= 1 for part in known), "shares and accuracies of exits must be fractions from 0 to 1")
        batches = [point.batch for point in self.points]
        require(batches == sorted(set(batches)), "batches of the points of an exit must rise")

    def answers_worth(self, *, is_cut: bool, otherwise: float) -> float:
        """The accuracy that is to be expected of an answer of this exit; ``otherwise`` where that is unknown."""
        known = self.cut_accuracy if is_cut else self.accuracy
        return otherwise if known is None else known


def slower_exit(each: ExitProfile, factor: Callable[[int], float]) -> ExitProfile:
    """An exit whose stage takes longer by a ``factor`` of the batch."""
    return replace(each, points=tuple(_slower(point, factor(point.batch)) for point in each.points))


def _slower(point: StagePoint, by: float) -> StagePoint:
    return replace(
        point,
        mean_s=point.mean_s * by,
        p95_s=point.p95_s * by,
        p99_s=None if point.p99_s is None else point.p99_s * by,
        p995_s=None if point.p995_s is None else point.p995_s * by,
    )


def require_exits(exits: Sequence[ExitProfile], variant: str) -> None:
    """Raise `ValueError` unless these can be all exits of a variant, of the first to the last; none is fine, too."""
    if not exits:
        return
    require(is_count(len(exits), 2, MAX_EXITS), f"exits of `{variant}` must be 2 to {MAX_EXITS}")
    shares = [each.share for each in exits if each.share is not None]
    all_or_none = not shares or (len(shares) == len(exits) and abs(sum(shares) - 1) <= ROUNDING)
    require(all_or_none, f"shares of the exits of `{variant}` must be 1 together")
    sizes = {tuple(point.batch for point in each.points) for each in exits}
    require(len(sizes) == 1, f"all exits of `{variant}` must have points of the same batches")
    require(exits[-1].cut_accuracy is None, f"no row of `{variant}` goes on after the last exit")
