"""Which lane's turn it is: the plan's shares, exactly and without randomness."""

from collections.abc import Sequence

from proteus_cli.control.decision import Hosted


class Router:
    """Smooth weighted round-robin over the variants that host one family.

    A turn is the right to take one row from the family's queue. Which request a turn takes is bound late, when the
    lane is free: the most urgent one. Over any stretch each variant gets its share within one turn.
    """

    def __init__(self, hosts: Sequence[Hosted]) -> None:
        self.hosts = tuple(hosts)
        self.turns = [0] * len(self.hosts)
        total = sum(host.weight for host in self.hosts)
        # A plan may send nothing to what it hosts (no demand was expected): then all take equal turns.
        self._weights = [host.weight / total if total > 0 else 1 / len(self.hosts) for host in self.hosts]
        self._credit = [0.0] * len(self.hosts)

    def give(self, rows: int) -> Hosted:
        """Give the turns of one request to the variant that is furthest behind its share."""
        best = 0
        for index, weight in enumerate(self._weights):
            self._credit[index] += weight * rows
            if self._credit[index] > self._credit[best]:
                best = index
        self._credit[best] -= rows
        self.turns[best] += rows
        return self.hosts[best]

    def turns_of(self, host: Hosted) -> int:
        return self.turns[self._index(host)]

    def use(self, host: Hosted, rows: int) -> None:
        """``host`` took so many rows."""
        self.turns[self._index(host)] -= rows

    def give_up(self, rows: int) -> None:
        """So many rows left the queue without being taken: whoever has most turns loses them."""
        self.turns[max(range(len(self.turns)), key=self.turns.__getitem__)] -= rows

    def pass_on(self, source: Hosted, target: Hosted, rows: int) -> None:
        """Move turns from one variant to another."""
        self.turns[self._index(source)] -= rows
        self.turns[self._index(target)] += rows

    def fastest(self, rows: int) -> Hosted:
        """The variant that answers so many rows first once it is free."""
        return min(self.hosts, key=lambda host: host.latency(rows))

    def _index(self, host: Hosted) -> int:
        return next(i for i, known in enumerate(self.hosts) if known is host)
