"""Exits of a multi-exit model: what was measured of each."""

import math
from collections.abc import Sequence

from proteus_cli.domain.base import Value, is_count, require

MOST_EXITS = 16
"""Of a model. Each costs a call of the runtime, so more would be slower, not better."""
ROUNDING = 1e-6


class StagePoint(Value, frozen=True):
    """What a batch of so many rows takes in one stage, in seconds, if all of them get there."""

    batch: int
    mean_s: float
    p95_s: float

    def __post_init__(self) -> None:
        require(is_count(self.batch, 1), f"batch {self.batch} of a stage must be at least 1")
        latencies = 0 < self.mean_s < math.inf and 0 < self.p95_s < math.inf
        require(latencies, f"latencies of batch {self.batch} of a stage must be above zero")


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


def require_exits(exits: Sequence[ExitProfile], variant: str) -> None:
    """Raise `ValueError` unless these can be all exits of a variant, of the first to the last; none is fine, too."""
    if not exits:
        return
    require(is_count(len(exits), 2, MOST_EXITS), f"exits of `{variant}` must be 2 to {MOST_EXITS}")
    shares = [each.share for each in exits if each.share is not None]
    all_or_none = not shares or (len(shares) == len(exits) and abs(sum(shares) - 1) <= ROUNDING)
    require(all_or_none, f"shares of the exits of `{variant}` must be 1 together")
    sizes = {tuple(point.batch for point in each.points) for each in exits}
    require(len(sizes) == 1, f"all exits of `{variant}` must have points of the same batches")
    require(exits[-1].cut_accuracy is None, f"no row of `{variant}` goes on after the last exit")
