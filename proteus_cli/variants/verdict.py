"""Whether a derived variant is worth keeping: a decision about numbers that were measured."""

from collections.abc import Sequence
from typing import NamedTuple

from proteus_cli.domain.profile import SAME_RATE_FRAC
from proteus_cli.store import ACCURACY_TOLERANCE


class Standing(NamedTuple):
    """What a variant is worth on a device: accuracy (a fraction), and the rate within the SLO; 0 where it misses it."""

    accuracy: float
    qps: float


class Verdict(NamedTuple):
    """Whether to keep a variant, and why, in words."""

    kept: bool
    why: str


def judge(own: Standing, parent: Standing, siblings: Sequence[Standing]) -> Verdict:
    """Keep what is faster than its parent, or more accurate than all that are as fast.

    What misses the SLO is of no use, however accurate. Rates that differ by less than `SAME_RATE_FRAC` are the same,
    and so are accuracies that differ by less than `ACCURACY_TOLERANCE`: a row or two of an eval split are no gain.
    """
    if own.qps == 0:
        return Verdict(kept=False, why="too slow for the SLO")
    if parent.qps == 0:
        return Verdict(kept=True, why="within the SLO, and what it is made of is not")
    ratio = own.qps / parent.qps
    if ratio > 1 + SAME_RATE_FRAC:
        return Verdict(kept=True, why=f"{ratio:.2f} × the rate")
    as_fast = [other for other in (parent, *siblings) if other.qps * (1 + SAME_RATE_FRAC) >= own.qps]
    if all(own.accuracy - other.accuracy > ACCURACY_TOLERANCE for other in as_fast):
        return Verdict(kept=True, why=f"{ratio:.2f} × the rate, and more accurate than all that are as fast")
    return Verdict(kept=False, why=f"{ratio:.2f} × the rate, and not more accurate")
