"""Profiles of the exits of a multi-exit model, and of the stages before them."""

from collections.abc import Callable, Sequence

import numpy as np
from msgspec.structs import replace

from proteus_cli.domain.base import Fraction, PositiveAmount, PositiveCount, Value, require, require_rising, scaled

MAX_EXITS = 16
"""Most exits of a model. Each costs a call of the runtime, so more would be slower, not better."""
ROUNDING = 1e-6


class StagePoint(Value, frozen=True, omit_defaults=True):
    """Seconds that a batch takes in one stage, with all of its rows.

    They include the time until the answers are out, for a batch that stops behind the stage. Percentiles above the p95
    may be unknown.
    """

    batch: PositiveCount
    mean_s: PositiveAmount
    p95_s: PositiveAmount
    p99_s: PositiveAmount | None = None
    p995_s: PositiveAmount | None = None

    def __post_init__(self) -> None:
        known_s = [s for s in (self.p95_s, self.p99_s, self.p995_s) if s is not None]
        require(known_s == sorted(known_s), f"percentiles of batch {self.batch} of a stage must rise")

    def within_s(self, share: float) -> float:
        """The longest time of that share of the batches: linear between known percentiles.

        No less than the p95, and no more than the highest known percentile.
        """
        known = ((0.95, self.p95_s), (0.99, self.p99_s), (0.995, self.p995_s))
        shares, times_s = zip(*((part, s) for part, s in known if s is not None), strict=True)
        return float(np.interp(share, shares, times_s))


class ExitProfile(Value, frozen=True, omit_defaults=True):
    """One exit of a variant, and the stage before it, on a device.

    ``share`` of the eval split's rows get their answer here, with this ``accuracy``. Rows that go on pass here, too:
    the exit's answers to them have ``cut_accuracy``, the value of an answer that is cut short here. Each of the three
    is None if it is unknown: without an eval split, or without such rows. ``points``: the times of the stage by batch
    size.
    """

    share: Fraction | None = None
    accuracy: Fraction | None = None
    cut_accuracy: Fraction | None = None
    points: tuple[StagePoint, ...] = ()

    def __post_init__(self) -> None:
        require_rising([point.batch for point in self.points], "batches of the points of an exit")

    def answers_worth(self, *, is_cut: bool, otherwise: float) -> float:
        """The expected accuracy of an answer of this exit; ``otherwise`` if that is unknown."""
        known = self.cut_accuracy if is_cut else self.accuracy
        return otherwise if known is None else known


def slower_exit(each: ExitProfile, factor: Callable[[int], float]) -> ExitProfile:
    """An exit whose stage takes longer by a ``factor`` of the batch."""
    times = "mean_s", "p95_s", "p99_s", "p995_s"
    return replace(each, points=tuple(scaled(point, factor(point.batch), *times) for point in each.points))


def require_exits(exits: Sequence[ExitProfile], variant: str) -> None:
    """Raise `ValueError` unless these can be all exits of a variant, in order; none is valid, too."""
    if not exits:
        return
    require(1 < len(exits) <= MAX_EXITS, f"exits of `{variant}` must be 2 to {MAX_EXITS}")
    shares = [each.share for each in exits if each.share is not None]
    all_or_none = not shares or (len(shares) == len(exits) and abs(sum(shares) - 1) <= ROUNDING)
    require(all_or_none, f"shares of the exits of `{variant}` must be 1 together")
    sizes = {tuple(point.batch for point in each.points) for each in exits}
    require(len(sizes) == 1, f"all exits of `{variant}` must have points of the same batches")
    require(exits[-1].cut_accuracy is None, f"no row of `{variant}` goes on after the last exit")
