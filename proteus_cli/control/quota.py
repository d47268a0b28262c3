"""Which lane's turn it is: the plan's shares, exactly and without randomness."""

import math
from collections.abc import Callable, Sequence

from proteus_cli.control.decision import Hosted


class WeightedShares:
    """Smooth weighted round-robin over the variants that host one family.

    Given row by row, no variant is ever a whole row ahead of its share. ``uniform``: equal shares, whatever the plan.
    """

    def __init__(self, hosts: Sequence[Hosted], *, uniform: bool = False) -> None:
        self.hosts = tuple(hosts)
        total = 0.0 if uniform else sum(host.weight for host in self.hosts)
        # A plan may send nothing to what it hosts (no demand was expected): then all take equal turns.
        self._weights = [host.weight / total if total > 0 else 1 / len(self.hosts) for host in self.hosts]
        self._credit = [0.0] * len(self.hosts)
        self._place = {host: place for place, host in enumerate(self.hosts)}

    def next(self, rows: int) -> Hosted:
        """The variant that is furthest behind its share, which so many rows go to."""
        return self.hosts[self._next(rows)]

    def _next(self, rows: int) -> int:
        credit, best, most = self._credit, 0, -math.inf
        for place, weight in enumerate(self._weights):
            credit[place] = now = credit[place] + weight * rows
            if now > most:
                best, most = place, now
        credit[best] = most - rows
        return best


class Quota(WeightedShares):
    """Turns of the variants that host one family.

    A turn is the right to take one row from the family's queue. Which request a turn takes is bound late, when the
    lane is free: the most urgent one. All turns together are as many as the rows that wait.
    """

    def __init__(self, hosts: Sequence[Hosted]) -> None:
        super().__init__(hosts)
        self.rows_by_place = [0] * len(self.hosts)

    def assign(self, rows: int) -> Hosted:
        """Give the turns of one request to the variant that is furthest behind its share."""
        best = self._next(rows) if len(self.rows_by_place) > 1 else 0
        self.rows_by_place[best] += rows
        return self.hosts[best]

    def of(self, host: Hosted) -> int:
        return self.rows_by_place[self._place[host]]

    def consume(self, host: Hosted, rows: int) -> None:
        """``host`` took so many rows; what goes beyond its turns it had from whoever has most, and owes to them.

        So turns never fall below zero: a variant in debt would be given turns that it can't use, and nobody asked.
        """
        own, rows_by_place = self._place[host], self.rows_by_place
        rows_by_place[own] -= rows
        while rows_by_place[own] < 0:
            most = self._with_most()
            lent = min(-rows_by_place[own], rows_by_place[most])
            self._move(most, own, lent)
            self._credit[most] += lent
            self._credit[own] -= lent

    def withdraw(self, rows: int) -> None:
        """So many rows left the queue without being taken: whoever has most turns loses them."""
        while rows > 0:
            most = self._with_most()
            lost = min(rows, self.rows_by_place[most])
            self.rows_by_place[most] -= lost
            rows -= lost

    def transfer(self, source: Hosted, target: Hosted, rows: int) -> None:
        """Move the turns of so many rows, as far as ``source`` has them, from one variant to another."""
        index = self._place[source]
        self._move(index, self._place[target], min(rows, self.rows_by_place[index]))

    def fastest(self, rows: int, is_there: Callable[[Hosted], bool] = lambda _host: True) -> Hosted:
        """The variant that answers so many rows first once it is free, of those there; of all where none is."""
        there = [host for host in self.hosts if is_there(host)] or self.hosts
        return min(there, key=lambda host: host.latency(rows))

    def _with_most(self) -> int:
        return self.rows_by_place.index(max(self.rows_by_place))

    def _move(self, source: int, target: int, rows: int) -> None:
        self.rows_by_place[source] -= rows
        self.rows_by_place[target] += rows
