"""Shares that are kept exactly and without randomness."""

import math
from collections.abc import Sequence
from typing import Generic, TypeVar

Taker = TypeVar("Taker")


class WeightedShares(Generic[Taker]):
    """Smooth weighted round-robin over ``takers``: none is ever a whole row ahead of its share.

    If all ``weights`` are 0, shares are equal.
    """

    def __init__(self, takers: Sequence[Taker], weights: Sequence[float]) -> None:
        self._takers, total = tuple(takers), sum(weights)
        self._weights = [weight / total if total > 0 else 1 / len(weights) for weight in weights]
        self._credit = [0.0] * len(self._takers)

    def next(self, rows: int) -> Taker:
        """The one that is furthest behind its share; ``rows`` go to it."""
        credit, best, highest = self._credit, 0, -math.inf
        for place, weight in enumerate(self._weights):
            credit[place] = now = credit[place] + weight * rows
            if now > highest:
                best, highest = place, now
        credit[best] = highest - rows
        return self._takers[best]
