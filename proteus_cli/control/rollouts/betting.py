"""Evidence by betting that the mean of a stream is above a bound.

Each value v is a bet against "the mean is at most b": the wealth is multiplied by 1 + λ (v - b), where λ is chosen
before v is seen, and small enough that the factor is positive. As long as each value is at most b in the mean, whatever
came before, the wealth is a supermartingale that begins at 1. So with a probability of 1 / x at most it *ever* reaches
x (Ville's inequality), however often somebody looks: I. Waudby-Smith, A. Ramdas, Estimating means of bounded random
variables by betting, JRSS B 86 (2024). What holds for such wealths holds for their weighted mean: the wealth is divided
at the start among several sizes of bets, and among the moments from which on it is bet.

A bet grows fastest where the mean is b + g with λ = g / (variance + g²), about. Values from -1 to 1 with a mean of g
have a mean square of g at least where they are whole numbers, so λ is at most 1.
"""

import math
from typing import TypeAlias

MOST_RISKED = 0.75
"""Of the wealth, with one value: it must not be lost at once."""
ASSUMED_VALUES = 20
"""The variance that is assumed at first counts like that of so many values."""

Parts: TypeAlias = tuple[tuple[float, float], ...]
"""By how much above a bound a mean may be, and the part of the wealth that bets on that; these add up to 1."""


class Spread:
    """Mean and variance of the values so far, of which ``variance`` is assumed at first. O(1)."""

    __slots__ = ("_squares", "count", "mean")

    def __init__(self, variance: float) -> None:
        self.count, self.mean = 0, 0.0
        self._squares = ASSUMED_VALUES * variance

    @property
    def variance(self) -> float:
        return self._squares / (ASSUMED_VALUES + self.count)

    def saw(self, value: float) -> None:
        self.count += 1
        difference = value - self.mean
        self.mean += difference / self.count
        self._squares += difference * (value - self.mean)


class Evidence:
    """``wealth``: the evidence that the mean of values of at least ``least`` is above ``bound``; 1 at first.

    There may be ``starts`` moments from which on it is bet, the first now: then no bets of before can hide what changes
    later.
    """

    __slots__ = ("_bound", "_gaps", "_most", "_parts", "_starts", "_to_come", "_wealths", "wealth")

    def __init__(self, bound: float, least: float, parts: Parts, starts: int = 1) -> None:
        self._bound, self._most = bound, MOST_RISKED / (bound - least) if bound > least else math.inf
        self._gaps, self._parts = tuple(gap for gap, _ in parts), tuple(part for _, part in parts)
        self._starts = self._to_come = starts
        self._wealths: list[float] = []
        self.wealth = 1.0
        self.start()

    def start(self) -> None:
        """From now on there are bets with another part of the wealth, as long as there is one."""
        if self._to_come:
            self._to_come -= 1
            self._wealths += self._parts

    def saw(self, value: float, variance: float) -> None:
        """Bet on one value; ``variance`` is what was estimated before it came."""
        excess = value - self._bound
        factors = [self._factor(gap, variance, excess) for gap in self._gaps]
        kinds = len(factors)
        self._wealths = [wealth * factors[place % kinds] for place, wealth in enumerate(self._wealths)]
        self.wealth = (sum(self._wealths) + self._to_come) / self._starts

    def _factor(self, gap: float, variance: float, excess: float) -> float:
        if self._most == math.inf:  # no value was to be above the bound
            return math.inf if excess > 0 else 1.0
        return 1 + min(gap / max(variance + gap * gap, gap), self._most) * excess
