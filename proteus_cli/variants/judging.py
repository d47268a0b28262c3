"""Whether a derived variant is worth keeping: a decision about numbers that were measured."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from proteus_cli.domain.capacity import SAME_RATE_FRAC
from proteus_cli.store import ACCURACY_TOLERANCE


class Standing(NamedTuple):
    """What a variant is worth on a device: accuracy (a fraction), and the rate within the SLO; 0 where it misses it."""

    accuracy: float
    qps: float


class Judgement(NamedTuple):
    """Whether to keep a variant, and why, in words."""

    kept: bool
    why: str


def judge(own: Standing, parent: Standing, siblings: Sequence[Standing]) -> Judgement:
    """Keep what is faster than its parent and of use to a plan, or more accurate than all that are as fast.

    What misses the SLO is of no use, however accurate. What is faster is of use where it answers more queries *rightly*
    per second than its parent: else a device that is asked for more than its parent carries gains nothing by it,
    though more is answered. And no sibling may be better in one respect, and as good in the other. Rates that differ by
    less than `SAME_RATE_FRAC` are the same, and so are accuracies that differ by less than `ACCURACY_TOLERANCE`: a row
    or two of an eval split are no gain.
    """
    if own.qps == 0:
        return Judgement(kept=False, why="too slow for the SLO")
    if parent.qps == 0:
        return Judgement(kept=True, why="within the SLO, and what it is made of is not")
    rate = f"{own.qps / parent.qps:.2f} × the rate"
    if _is_faster(own, parent):
        if any(_is_better(sibling, own) for sibling in siblings):
            return Judgement(kept=False, why=f"{rate}, and another one is better")
        if own.accuracy * own.qps > parent.accuracy * parent.qps:
            return Judgement(kept=True, why=rate)
        return Judgement(kept=False, why=f"{rate}, and so inaccurate that it answers less rightly per second")
    as_fast = [other for other in (parent, *siblings) if not _is_faster(own, other)]
    if all(_is_more_accurate(own, other) for other in as_fast):
        return Judgement(kept=True, why=f"{rate}, and more accurate than all that are as fast")
    return Judgement(kept=False, why=f"{rate}, and not more accurate")


def frontier(standings: Mapping[str, Standing]) -> dict[str, Judgement]:
    """Which of several variants a plan may want, where none is made of another.

    The fastest, each that is more accurate than all that are faster, and the most accurate in any case. What misses
    the SLO is of no use. Rates and accuracies are the same where `judge` takes them to be, and of what is left out
    something kept is as fast and as accurate.
    """
    within = {name: each for name, each in standings.items() if each.qps > 0}
    kept: list[str] = []
    for name in sorted(within, key=lambda name: _worth(within[name]), reverse=True):
        if not any(_is_as_good(within[other], within[name]) for other in kept):
            kept.append(name)
    kept.sort(key=lambda name: -within[name].qps)
    best = max(within, key=lambda name: (within[name].accuracy, within[name].qps), default=None)
    return {name: _of_frontier(name, standings, kept, is_best=name == best) for name in standings}


def _worth(one: Standing) -> float:
    """Rate and accuracy, each in units of the largest difference that counts as none: what is better has more of it.

    `_is_better` is not transitive, as such differences add up. In this order nothing is beaten by what comes later.
    """
    return math.log(one.qps) / math.log1p(SAME_RATE_FRAC) + one.accuracy / ACCURACY_TOLERANCE


def _of_frontier(name: str, standings: Mapping[str, Standing], kept: Sequence[str], *, is_best: bool) -> Judgement:
    own = standings[name]
    if own.qps == 0:
        return Judgement(kept=False, why="too slow for the SLO")
    if is_best:
        return Judgement(kept=True, why="the most accurate")
    if name in kept:
        return Judgement(kept=True, why="the fastest" if name == kept[0] else "more accurate than all that are faster")
    as_good = next(other for other in reversed(kept) if _is_as_good(standings[other], own))
    return Judgement(kept=False, why=f"{as_good} is as fast, and as accurate")


def _is_better(one: Standing, other: Standing) -> bool:
    """Whether one is better in one respect, and as good in the other."""
    return _is_as_good(one, other) and not _is_as_good(other, one)


def _is_as_good(one: Standing, other: Standing) -> bool:
    """Whether one is as fast as the other, and as accurate."""
    return not (_is_faster(other, one) or _is_more_accurate(other, one))


def _is_faster(one: Standing, other: Standing) -> bool:
    return one.qps > other.qps * (1 + SAME_RATE_FRAC)


def _is_more_accurate(one: Standing, other: Standing) -> bool:
    return one.accuracy > other.accuracy + ACCURACY_TOLERANCE
