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

    def __init__(self, counts: Counts, new_queue: Callable[[], FamilyQueue]) -> None:
        self.counts = counts
        self.rows = 0
        self.whole = AccuracyTier(new_queue())
        self._new_queue = new_queue
        self.running: dict[str, int] = {}
        self._accuracies: list[float] = []  # of its hosts, each once, rising
        self._tiers: list[AccuracyTier | None] = [self.whole]  # by the least accuracy of those who take from it

    @property
    def tiers(self) -> list[AccuracyTier]:
        """Those that are open."""
        return [tier for tier in self._tiers if tier is not None]

    @property
    def hosts(self) -> tuple[Hosted, ...]:
        return self.whole.queue.hosts

    @property
    def available(self) -> dict[str, float]:
        """The accuracy of each variant that is hosted, the highest first."""
        found: dict[str, float] = {}
        for host in sorted(self.hosts, key=lambda host: host.accuracy, reverse=True):
            found.setdefault(host.variant, host.accuracy)
        return found

    def __len__(self) -> int:
        """Requests that wait."""
        return sum(len(tier.queue) for tier in self.tiers)

    def rehost(self, hosts: Sequence[Hosted], workers: Mapping[str, WorkerState]) -> list[Request]:
        """From now on these take what waits, shared anew; returns what nobody can take any more."""
        apart = [request for tier in self.tiers if tier is not self.whole for request in tier.queue.drain()]
        least = min((host.accuracy for host in hosts), default=0.0)
        for request in [each for each in self.whole.queue if each.min_accuracy > least]:
            self.whole.queue.remove(request)
            apart.append(request)
        orphans = self.whole.queue.rehost(hosts)
        self._accuracies = sorted({host.accuracy for host in hosts})
        self._tiers = [self.whole, *[None] * (len(self._accuracies) - 1)]
        self.whole.workers = _with_workers(hosts, workers)
        self.running = {**dict.fromkeys((host.device for host in hosts), 0), **self.running}
        for request in apart:
            self.open(request, workers)
            tier = self.tier_of(request)
            if tier is not None and tier.workers:
                tier.queue.push(request)
            else:
                orphans.append(request)
        return orphans

    def open(self, request: Request, workers: Mapping[str, WorkerState]) -> bool:
        """Make room for a request of its minimum and priority; whether lanes must be seated anew for that."""
        place = bisect_left(self._accuracies, request.min_accuracy)
        if place >= len(self._accuracies):
            return False
        tier = self._tiers[place]
        is_new = tier is None
        if tier is None:
            hosts = [host for host in self.hosts if host.accuracy >= self._accuracies[place]]
            tier = AccuracyTier(self._new_queue())
            tier.queue.rehost(hosts)
            tier.workers = _with_workers(hosts, workers)
            tier.count_capacity()
            self._tiers[place] = tier
        return tier.queue.open(request.level) or is_new

    def tier_of(self, request: Request) -> AccuracyTier | None:
        """Where a request waits or would wait; None where nobody who hosts the family is accurate enough."""
        place = bisect_left(self._accuracies, request.min_accuracy)
        return self._tiers[place] if place < len(self._tiers) else None

    def tiers_for(self, host: Hosted) -> list[AccuracyTier]:
        """Those that a host takes from."""
        return [tier for tier in self._tiers[: bisect_right(self._accuracies, host.accuracy)] if tier is not None]

    def count_capacity(self) -> None:
        """Count anew what the lanes that are there carry at their pace."""
        for tier in self.tiers:
            tier.count_capacity()

    def drain(self) -> list[Request]:
        """Remove all that waits."""
        return [request for tier in self.tiers for request in tier.queue.drain()]

    def rows_before(self, request: Request, tier: AccuracyTier) -> int:
        """Rows that run on the lanes of its desk, or go before a request there.

        Of those that wait at other desks, as many as the turns of those lanes.
        """
        if tier is self.whole:
            return sum(self.running.values()) + sum(each.queue.rows_up_to(request.level) for each in self.tiers)
        rows = sum(self.running[device] for device in {host.device for host in tier.queue.hosts})
        for each in self.tiers:
            quota = sum(each.queue.quota_of(host) for host in tier.queue.hosts if host in each.queue.hosts)
            rows += min(quota, each.queue.rows_up_to(request.level))
        return rows


def _with_workers(
    hosts: Sequence[Hosted], workers: Mapping[str, WorkerState]
) -> tuple[tuple[Hosted, WorkerState], ...]:
    return tuple((host, workers[host.device]) for host in hosts)
