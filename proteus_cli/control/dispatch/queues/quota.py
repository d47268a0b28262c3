"""The plan's shares, kept exactly and without randomness."""

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import Generic, TypeVar

from proteus_cli.control.dispatch.queues.host_class import HostClass

Taker = TypeVar("Taker")


class WeightedShares(Generic[Taker]):
    """Smooth weighted round-robin over ``takers``: none is ever a whole row ahead of its share.

    Where all ``weights`` are 0, as the plan expected no demand, shares are equal.
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


class Quota(WeightedShares[HostClass]):
    """How many rows each class may take from the family's queue, in its ``quota``: together all that wait.

    Which rows these are, and who takes them, is bound late, when a worker is free.
    """

    def __init__(self, classes: Sequence[HostClass]) -> None:
        self.classes = tuple(classes)
        super().__init__(self.classes, [each.weight for each in self.classes])

    def assign(self, rows: int) -> HostClass:
        """Assign the rows of a new request to the class that is furthest behind its share."""
        best = self.next(rows) if len(self.classes) > 1 else self.classes[0]
        best.quota += rows
        return best

    def consume(self, taker: HostClass, rows: int) -> None:
        """A class has taken rows; what exceeds its quota comes from the classes with the most.

        So no quota falls below zero: a class in debt would be assigned quota that it cannot use, and nobody be asked.
        Nor is it owed to the others: debts of an overload would distort the shares after it.
        """
        if rows <= taker.quota:
            taker.quota -= rows
        else:
            rows, taker.quota = rows - taker.quota, 0
            self.withdraw(rows)

    def withdraw(self, rows: int) -> None:
        """Rows have left the queue without being taken: the classes with the most quota lose them.

        Raises `ValueError` where these are more than all quota: a bug.
        """
        for largest in sorted(self.classes, key=attrgetter("quota"), reverse=True):
            lost = min(rows, largest.quota)
            largest.quota -= lost
            rows -= lost
        if rows:
            raise ValueError(f"{rows} rows more than the quota have left the queue")
