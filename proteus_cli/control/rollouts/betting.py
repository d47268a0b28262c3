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

MAX_RISKED = 0.75
"""Of the wealth, with one value: it must not be lost at once."""
MAX_WEALTH = 1e9
"""More is given away: it must not take forever to lose what was won before something changes."""
LATER = 0.1
"""Of the wealth: after n values, the part that is bet from the next one on is this by n (n + 1), so that it lasts."""
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
        """The estimated variance; with no value, that which is assumed."""
        return self._squares / (ASSUMED_VALUES + self.count)

    def saw(self, value: float) -> None:
        """Add a value."""
        self.count += 1
        difference = value - self.mean
        self.mean += difference / self.count
        self._squares += difference * (value - self.mean)


class BettingEvidence:
    """``wealth``: the evidence that the mean of values of at least ``minimum`` is above ``bound``; 1 at first.

    Not all of it is bet from the first value on, so that no bets of before can hide what changes later: it is divided
    among ``starts`` moments, the first now, but for `LATER`, which is bet bit by bit. O(1) for each value.
    """

    __slots__ = ("_bets", "_bound", "_max_bet", "_parts", "_start", "_starts", "_values", "_waiting", "wealth")

    def __init__(self, bound: float, minimum: float, parts: Parts, starts: int = 1) -> None:
        self._bound, self._max_bet = bound, MAX_RISKED / (bound - minimum) if bound > minimum else math.inf
        self._parts, self._start, self._starts, self._values = parts, (1 - LATER) / starts, starts, 0
        self._bets, self._waiting, self.wealth = [0.0] * len(parts), 1.0, 1.0
        self.start()

    def start(self) -> None:
        """From now on another part of the wealth is bet, as long as there is one."""
        if self._starts:
            self._starts -= 1
            self._bet_more(self._start)

    def saw(self, value: float, variance: float) -> None:
        """Bet on one value; ``variance`` is what was estimated before it came."""
        self._values += 1
        self._bet_more(LATER / (self._values * (self._values + 1)))
        excess = value - self._bound
        self._bets = [
            min(bet * self._factor(gap, variance, excess), MAX_WEALTH)
            for bet, (gap, _) in zip(self._bets, self._parts, strict=True)
        ]
        self.wealth = sum(self._bets) + self._waiting

    def _bet_more(self, wealth: float) -> None:
        self._waiting -= wealth
        self._bets = [bet + wealth * part for bet, (_, part) in zip(self._bets, self._parts, strict=True)]

    def _factor(self, gap: float, variance: float, excess: float) -> float:
        if self._max_bet == math.inf:  # no value was to be above the bound
            return math.inf if excess > 0 else 1.0
        return 1 + min(gap / max(variance + gap * gap, gap), self._max_bet) * excess
