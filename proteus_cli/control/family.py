"""All that waits for one family, apart by how accurate an answer must be."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence

from proteus_cli.control.decision import Hosted
from proteus_cli.control.demand import Counts
from proteus_cli.control.family_queue import FamilyQueue
from proteus_cli.control.workers import AccuracyTier, WorkerState
from proteus_cli.domain.request import Request


class FamilyState:
    """A desk for what any variant may answer, and one for each part of them that only the more accurate make up.

    These are opened when they are first needed: a minimum between two accuracies means the same as the higher one, so
    there are no more desks than accuracies. ``rows`` wait or run, ``running`` of them on each device.
    """

    def __init__(self, counts: Counts, new_line: Callable[[], FamilyQueue]) -> None:
        self.counts = counts
        self.rows = 0
        self.whole = AccuracyTier(new_line())
        self._new_line = new_line
        self.running: dict[str, int] = {}
        self._accuracies: list[float] = []  # of its hosts, each once, rising
        self._desks: list[AccuracyTier | None] = [self.whole]  # by the least accuracy of those who take from it

    @property
    def desks(self) -> list[AccuracyTier]:
        """Those that are open."""
        return [desk for desk in self._desks if desk is not None]

    @property
    def hosts(self) -> tuple[Hosted, ...]:
        return self.whole.line.hosts

    @property
    def available(self) -> dict[str, float]:
        """The accuracy of each variant that is hosted, the highest first."""
        found: dict[str, float] = {}
        for host in sorted(self.hosts, key=lambda host: host.accuracy, reverse=True):
            found.setdefault(host.variant, host.accuracy)
        return found

    def __len__(self) -> int:
        """Requests that wait."""
        return sum(len(desk.line) for desk in self.desks)

    def rehost(self, hosts: Sequence[Hosted], lanes: Mapping[str, WorkerState]) -> list[Request]:
        """From now on these take what waits, shared anew; returns what nobody can take any more."""
        apart = [request for desk in self.desks if desk is not self.whole for request in desk.line.drain()]
        least = min((host.accuracy for host in hosts), default=0.0)
        for request in [each for each in self.whole.line if each.min_accuracy > least]:
            self.whole.line.remove(request)
            apart.append(request)
        orphans = self.whole.line.rehost(hosts)
        self._accuracies = sorted({host.accuracy for host in hosts})
        self._desks = [self.whole, *[None] * (len(self._accuracies) - 1)]
        self.whole.team = _team(hosts, lanes)
        self.running = {**dict.fromkeys((host.device for host in hosts), 0), **self.running}
        for request in apart:
            self.open(request, lanes)
            desk = self.desk_of(request)
            if desk is not None and desk.team:
                desk.line.push(request)
            else:
                orphans.append(request)
        return orphans

    def open(self, request: Request, lanes: Mapping[str, WorkerState]) -> bool:
        """Make room for a request of its minimum and priority; whether lanes must be seated anew for that."""
        place = bisect_left(self._accuracies, request.min_accuracy)
        if place >= len(self._accuracies):
            return False
        desk = self._desks[place]
        is_new = desk is None
        if desk is None:
            hosts = [host for host in self.hosts if host.accuracy >= self._accuracies[place]]
            desk = AccuracyTier(self._new_line())
            desk.line.rehost(hosts)
            desk.team = _team(hosts, lanes)
            desk.count_capacity()
            self._desks[place] = desk
        return desk.line.open(request.level) or is_new

    def desk_of(self, request: Request) -> AccuracyTier | None:
        """Where a request waits or would wait; None where nobody who hosts the family is accurate enough."""
        place = bisect_left(self._accuracies, request.min_accuracy)
        return self._desks[place] if place < len(self._desks) else None

    def desks_for(self, host: Hosted) -> list[AccuracyTier]:
        """Those that a host takes from."""
        return [desk for desk in self._desks[: bisect_right(self._accuracies, host.accuracy)] if desk is not None]

    def count_capacity(self) -> None:
        """Count anew what the lanes that are there carry at their pace."""
        for desk in self.desks:
            desk.count_capacity()

    def drain(self) -> list[Request]:
        """Remove all that waits."""
        return [request for desk in self.desks for request in desk.line.drain()]

    def rows_before(self, request: Request, desk: AccuracyTier) -> int:
        """Rows that run on the lanes of its desk, or go before a request there.

        Of those that wait at other desks, as many as the turns of those lanes.
        """
        if desk is self.whole:
            return sum(self.running.values()) + sum(each.line.rows_up_to(request.level) for each in self.desks)
        rows = sum(self.running[device] for device in {host.device for host in desk.line.hosts})
        for each in self.desks:
            turns = sum(each.line.turns_of(host) for host in desk.line.hosts if host in each.line.hosts)
            rows += min(turns, each.line.rows_up_to(request.level))
        return rows


def _team(hosts: Sequence[Hosted], lanes: Mapping[str, WorkerState]) -> tuple[tuple[Hosted, WorkerState], ...]:
    return tuple((host, lanes[host.device]) for host in hosts)
