"""The plan's shares, kept exactly and without randomness."""

import math
from collections.abc import Sequence
from operator import attrgetter

from proteus_cli.control.dispatch.host_class import HostClass


class WeightedShares:
    """Smooth weighted round-robin over host classes: no class is ever a whole row ahead of its share.

    ``uniform``: equal shares, whatever the plan says.
    """

    def __init__(self, classes: Sequence[HostClass], *, uniform: bool = False) -> None:
        self.classes = tuple(classes)
        total = 0.0 if uniform else sum(each.weight for each in self.classes)
        # Where a plan sends nothing to what it hosts, as no demand was expected, shares are equal.
        self._weights = [each.weight / total if total > 0 else 1 / len(self.classes) for each in self.classes]
        self._credit = [0.0] * len(self.classes)

    def next(self, rows: int) -> HostClass:
        """The class that is furthest behind its share; ``rows`` go to it."""
        credit, best, highest = self._credit, 0, -math.inf
        for place, weight in enumerate(self._weights):
            credit[place] = now = credit[place] + weight * rows
            if now > highest:
                best, highest = place, now
        credit[best] = highest - rows
        return self.classes[best]


class Quota(WeightedShares):
    """How many rows each class may take from the family's queue, in its ``quota``: together all that wait.

    Which rows these are, and who takes them, is bound late, when a worker is free.
    """

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
        """Rows have left the queue without being taken: the classes with the most quota lose them."""
        while rows > 0:
            largest = max(self.classes, key=attrgetter("quota"))
            lost = min(rows, largest.quota)
            largest.quota -= lost
            rows -= lost
