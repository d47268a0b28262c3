"""The plan's shares, kept exactly and without randomness."""

import math
from collections.abc import Callable, Sequence

from proteus_cli.control.decision import Host


class WeightedShares:
    """Smooth weighted round-robin over the hosts of a family: no host is ever a whole row ahead of its share.

    ``uniform``: equal shares, whatever the plan says.
    """

    def __init__(self, hosts: Sequence[Host], *, uniform: bool = False) -> None:
        self.hosts = tuple(hosts)
        total = 0.0 if uniform else sum(host.weight for host in self.hosts)
        # Where a plan sends nothing to what it hosts, as no demand was expected, shares are equal.
        self._weights = [host.weight / total if total > 0 else 1 / len(self.hosts) for host in self.hosts]
        self._credit = [0.0] * len(self.hosts)
        self._place = {host: place for place, host in enumerate(self.hosts)}

    def next(self, rows: int) -> Host:
        """The host that is furthest behind its share; ``rows`` go to it."""
        return self.hosts[self._next(rows)]

    def _next(self, rows: int) -> int:
        credit, best, highest = self._credit, 0, -math.inf
        for place, weight in enumerate(self._weights):
            credit[place] = now = credit[place] + weight * rows
            if now > highest:
                best, highest = place, now
        credit[best] = highest - rows
        return best


class Quota(WeightedShares):
    """How many rows each host may take from the family's queue, in ``rows_by_place``: together all that wait.

    Which rows these are is bound late, when a worker is free.
    """

    def __init__(self, hosts: Sequence[Host]) -> None:
        super().__init__(hosts)
        self.rows_by_place = [0] * len(self.hosts)

    def of(self, host: Host) -> int:
        return self.rows_by_place[self._place[host]]

    def assign(self, rows: int) -> Host:
        """Assign the rows of a new request to the host that is furthest behind its share."""
        best = self._next(rows) if len(self.rows_by_place) > 1 else 0
        self.rows_by_place[best] += rows
        return self.hosts[best]

    def consume(self, host: Host, rows: int) -> None:
        """A host has taken rows; what exceeds its quota comes from the hosts with the most, and is owed to them.

        So no quota falls below zero: a host in debt would be assigned quota that it cannot use, and nobody be asked.
        """
        own, quota = self._place[host], self.rows_by_place
        quota[own] -= rows
        while quota[own] < 0:
            lender = self._largest()
            lent = min(-quota[own], quota[lender])
            self._move(lender, own, lent)
            self._credit[lender] += lent
            self._credit[own] -= lent

    def withdraw(self, rows: int) -> None:
        """Rows have left the queue without being taken: the hosts with the most quota lose them."""
        while rows > 0:
            place = self._largest()
            lost = min(rows, self.rows_by_place[place])
            self.rows_by_place[place] -= lost
            rows -= lost

    def transfer(self, source: Host, target: Host, rows: int) -> None:
        """Transfer quota for ``rows``, as far as ``source`` has it."""
        place = self._place[source]
        self._move(place, self._place[target], min(rows, self.rows_by_place[place]))

    def fastest(self, rows: int, is_serving: Callable[[Host], bool] = lambda _host: True) -> Host:
        """The host with the shortest batch of so many rows, of those that serve; of all where none serves."""
        serving = [host for host in self.hosts if is_serving(host)] or self.hosts
        return min(serving, key=lambda host: host.latency(rows))

    def _largest(self) -> int:
        return self.rows_by_place.index(max(self.rows_by_place))

    def _move(self, source: int, target: int, rows: int) -> None:
        self.rows_by_place[source] -= rows
        self.rows_by_place[target] += rows
