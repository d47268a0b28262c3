"""Sequential evidence: the statistical test of guards and of live accuracy.

Theory of operation
===================

An `Evidence` tests the hypothesis "the mean of the values is at most ``bound``". It starts with a wealth of 1 and bets
against the hypothesis with each value v: the wealth is multiplied by 1 + λ (v - bound). The bet λ is fixed before v is
known and is small enough to keep the factor positive. While the hypothesis holds, each factor has a mean of at most 1,
whatever came before. The wealth then reaches x at any time with a probability of at most 1 / x (Ville's inequality).
The test may be read after each value: the bounds with a wealth below x are a confidence sequence. Source:
I. Waudby-Smith, A. Ramdas, Estimating means of bounded random variables by betting, JRSS B 86 (2024).

**Sizes of bets.** The wealth is divided among several gaps. A gap g stands for a mean of bound + g, which the bet
λ = g / variance detects soonest. For values in {0, 1} with the variance bound × (1 - bound) at the bound, the factor is
the likelihood ratio of both means.

**Changes.** A stream may be good for long and then turn bad. A roll-out ends, so its error must hold for the whole
stream. A tenth of the wealth is kept back. After n values, the part 1 / (n (n + 1)) of it is added. A server does not
end. With ``restarts``, each part of the wealth that falls below its start is raised to it. The *mean number of values*
up to a false alarm at x is then at least x (J. Shin, A. Ramdas, A. Rinaldo, E-detectors, 2022).

**Means of wealth.** A weighted mean of several wealths obeys the same bounds, whatever the dependence between them.

**Differences.** The values may be differences of two versions. Both losses of one query give a paired difference.
`Arms` makes differences of two groups of queries, each value used once.

Example: is a model wrong on more than 5 % of its queries? With a probability of 1 % at most, this ever says so
without cause::

    evidence = Evidence(0.05, {0.05: 1.0})
    evidence.observe(float(is_wrong))
    if evidence.wealth >= 100: ...
"""

from collections import deque
from collections.abc import Iterator, Mapping

MAX_RISKED = 0.75
"""The largest part of the wealth that one value can lose."""
MAX_WEALTH = 1e9
"""Cap of the wealth, so that evidence from before a change does not last."""
KEPT_BACK = 0.1
"""The part of the wealth that is bet on later changes."""
ASSUMED_VALUES = 20
"""The weight of the assumed variance in `Spread`, in values."""
MAX_WAITING = 1_000
"""Values of one arm that wait for the other arm. The oldest beyond that are dropped."""
EXPECTED = 100
"""The weight of the planned split in `Arms`, in values: labels may favour one arm."""
_TINY = 1e-12


class Evidence:
    """``wealth``: the evidence that the mean of values of at least ``minimum`` is above ``bound``.

    ``gaps`` maps each distance from the bound to its part of the wealth; the parts add up to 1. ``restarts`` selects
    the bound on the mean time to a false alarm. No gap has a wealth of more than ``most``. O(gaps) for each value.
    """

    __slots__ = ("_bound", "_gaps", "_max_bet", "_most", "_parts", "_restarts", "_values", "wealth")

    def __init__(
        self,
        bound: float,
        gaps: Mapping[float, float],
        *,
        minimum: float = 0.0,
        restarts: bool = False,
        most: float = MAX_WEALTH,
    ) -> None:
        self._bound, self._gaps, self._most, self._restarts = bound, tuple(gaps.items()), most, restarts
        self._max_bet = MAX_RISKED / max(bound - minimum, _TINY)
        begun = 1.0 if restarts else 1 - KEPT_BACK
        self._parts, self._values, self.wealth = [begun * part for _, part in self._gaps], 0, 1.0

    def observe(self, value: float, variance: float | None = None) -> None:
        """Bet on one value. ``variance`` is an estimate from before the value; default: values are 0 or ±1."""
        self._values += 1
        excess, size = value - self._bound, abs(self._bound)
        variance = max(size * (1 - size) if variance is None else variance, _TINY)
        added = KEPT_BACK / (self._values * (self._values + 1))
        self._parts = [
            min(
                (max(wealth, part) if self._restarts else wealth + added * part)
                * (1 + min(gap / variance, self._max_bet) * excess),
                self._most,
            )
            for wealth, (gap, part) in zip(self._parts, self._gaps, strict=True)
        ]
        self.wealth = sum(self._parts) + (0.0 if self._restarts else KEPT_BACK / (self._values + 1))

    def fill(self) -> None:
        """Set the wealth to ``most``, as an earlier server left it."""
        self._parts = [self._most * part for _, part in self._gaps]
        self.wealth = self._most


class Spread:
    """Running mean and variance of values, with an assumed ``variance`` at first. O(1)."""

    __slots__ = ("_squares", "count", "mean")

    def __init__(self, variance: float) -> None:
        self.count, self.mean = 0, 0.0
        self._squares = ASSUMED_VALUES * variance

    @property
    def variance(self) -> float:
        """The estimated variance."""
        return self._squares / (ASSUMED_VALUES + self.count)

    def observe(self, value: float) -> None:
        """Add a value."""
        self.count += 1
        difference = value - self.mean
        self.mean += difference / self.count
        self._squares += difference * (value - self.mean)


class Arms:
    """Differences between the arms of a roll-out, in the order of their values.

    Each difference is one value of the new version, less the mean of old values from about the same time. Each value is
    used once, so differences are independent, and a change of the queries affects both sides.
    """

    __slots__ = ("_new", "_new_seen", "_old", "_old_seen")

    def __init__(self) -> None:
        self._new: deque[float] = deque(maxlen=MAX_WAITING)
        self._old: deque[float] = deque(maxlen=MAX_WAITING)
        self.split(0.5)

    def split(self, new_frac: float) -> None:
        """Expect this part of all values from the new version."""
        self._new_seen, self._old_seen = EXPECTED * new_frac, EXPECTED * (1 - new_frac)

    def observe(self, value: float, *, is_new: bool) -> Iterator[float]:
        """Add a value; yields the differences that are complete now, new less old."""
        if is_new:
            self._new.append(value)
            self._new_seen += 1
        else:
            self._old.append(value)
            self._old_seen += 1
        # The number of old values for each new one depends on counts alone, never on the values.
        per_new = max(1, min(round(self._old_seen / self._new_seen), MAX_WAITING)) if self._new else 1
        while self._new and len(self._old) >= (per_new + 1) // 2:
            taken = [self._old.popleft() for _ in range(min(per_new, len(self._old)))]
            yield self._new.popleft() - sum(taken) / len(taken)
