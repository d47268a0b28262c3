"""Requests that the same hosts may answer, and who may take which.

A request is assigned late, when a worker is free (`SharedQueue`), or early, when it arrives (`PerDeviceQueue`, the
paper's).
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from proteus_cli.control.decision import Host
from proteus_cli.control.dispatch.deadline_queue import DeadlineQueue, LevelQueues
from proteus_cli.control.dispatch.quota import Quota, WeightedShares
from proteus_cli.domain.request import USUAL_LEVEL, Request


class FamilyQueue:
    """Requests that its ``hosts`` may answer; without hosts, nothing waits.

    There are queues for the usual level of priority, and for other levels once they are opened.
    """

    hosts: tuple[Host, ...] = ()

    @abstractmethod
    def open(self, level: int) -> bool:
        """Open a level of priority; False where it is open."""

    @abstractmethod
    def rehost(self, hosts: Sequence[Host]) -> list[Request]:
        """From now on these hosts share what waits; returns the requests that none of them takes."""

    @abstractmethod
    def push(self, request: Request) -> tuple[Host, bool]:
        """Add a request; returns the host that gets the quota, and whether the request overtook others."""

    @abstractmethod
    def remove(self, request: Request) -> bool:
        """Remove a request; False where it does not wait here."""

    @abstractmethod
    def queues_of(self, host: Host) -> dict[int, DeadlineQueue]:
        """The queues that a host takes from, by level, highest first; valid until the next `rehost` or `open`."""

    @abstractmethod
    def quota_of(self, host: Host) -> int:
        """Rows of all levels that a host may take."""

    @abstractmethod
    def take(self, host: Host, max_rows: int, level: int = USUAL_LEVEL) -> tuple[tuple[Request, ...], int]:
        """Remove the most urgent requests of a level that fit ``max_rows``, at least one; returns them and their rows.

        Rows beyond the host's quota come from the quota of others.
        """

    @abstractmethod
    def pop_head(self, host: Host, level: int = USUAL_LEVEL) -> Request:
        """Remove the most urgent request of a level that a host could take."""

    @abstractmethod
    def _all(self) -> Iterable[LevelQueues]: ...

    def __len__(self) -> int:
        return sum(map(len, self._all()))

    def __iter__(self) -> Iterator[Request]:
        """All requests."""
        return chain.from_iterable(self._all())

    def rows_up_to(self, level: int) -> int:
        """Rows that wait with that priority or a higher one."""
        return sum(queues.rows - queues.rows_below(level) for queues in self._all())

    def rows_below(self, level: int) -> int:
        """Rows that wait with a lower priority."""
        return sum([queues.rows_below(level) for queues in self._all()])

    def drain(self) -> list[Request]:
        """Remove and return all requests."""
        return [request for queues in self._all() for request in queues.drain()]


class SharedQueue(FamilyQueue):
    """One queue for all hosts. `Quota` says how many rows each host may take."""

    def __init__(self) -> None:
        self.quota = Quota(())
        self._queues = LevelQueues()

    def open(self, level: int) -> bool:
        return self._queues.open(level)

    def rehost(self, hosts: Sequence[Host]) -> list[Request]:
        unhosted = [] if hosts else self.drain()
        self.hosts, self.quota = tuple(hosts), Quota(hosts)
        self._queues.close_empty()
        for request in self._queues:
            self.quota.assign(request.rows)
        return unhosted

    def push(self, request: Request) -> tuple[Host, bool]:
        queues = self._queues
        overtook = queues.push(request) if request.priority else queues.usual.push(request)
        return self.quota.assign(request.rows), overtook

    def remove(self, request: Request) -> bool:
        if not self._queues.remove(request):
            return False
        self.quota.withdraw(request.rows)
        return True

    def queues_of(self, host: Host) -> dict[int, DeadlineQueue]:  # noqa: ARG002 - all share them
        return self._queues.by_level

    def quota_of(self, host: Host) -> int:
        return self.quota.of(host)

    def take(self, host: Host, max_rows: int, level: int = USUAL_LEVEL) -> tuple[tuple[Request, ...], int]:
        taken, rows = self._queues.by_level[level].take(max_rows)
        self.quota.consume(host, rows)
        return taken, rows

    def pop_head(self, host: Host, level: int = USUAL_LEVEL) -> Request:  # noqa: ARG002 - all share the queues
        request = self._queues.by_level[level].pop()
        self.quota.withdraw(request.rows)
        return request

    def drain(self) -> list[Request]:
        self.quota.withdraw(self._queues.rows)
        return super().drain()

    def _all(self) -> Iterable[LevelQueues]:
        return (self._queues,)


class PerDeviceQueue(FamilyQueue):
    """Queues for each host. An arriving request is bound to one, by the plan's shares or to all alike."""

    def __init__(self, *, uniform: bool) -> None:
        self._is_uniform = uniform
        self._shares = WeightedShares(())
        self._levels = {USUAL_LEVEL}
        self._queues: dict[Host, LevelQueues] = {}

    def open(self, level: int) -> bool:
        if level in self._levels:
            return False
        self._levels.add(level)
        for queues in self._queues.values():
            queues.open(level)
        return True

    def rehost(self, hosts: Sequence[Host]) -> list[Request]:
        """Requests stay with a device that goes on hosting the family; the others are bound anew."""
        before = [(host.device, queues) for host, queues in self._queues.items()]
        self._levels = {USUAL_LEVEL}.union(request.level for request in self)
        self.hosts, self._queues = tuple(hosts), {host: self._opened() for host in hosts}
        self._shares = WeightedShares(hosts, uniform=self._is_uniform)
        on_device = {host.device: queues for host, queues in self._queues.items()}
        unhosted = []
        for device, queues in before:
            for request in queues.drain():
                if device in on_device:
                    on_device[device].push(request)
                elif hosts:
                    self.push(request)
                else:
                    unhosted.append(request)
        return unhosted

    def push(self, request: Request) -> tuple[Host, bool]:
        host = self._shares.next(request.rows)
        self._queues[host].push(request)
        return host, False

    def remove(self, request: Request) -> bool:
        return any(queues.remove(request) for queues in self._all())

    def queues_of(self, host: Host) -> dict[int, DeadlineQueue]:
        return self._queues[host].by_level

    def quota_of(self, host: Host) -> int:
        return self._queues[host].rows

    def take(self, host: Host, max_rows: int, level: int = USUAL_LEVEL) -> tuple[tuple[Request, ...], int]:
        return self._queues[host].by_level[level].take(max_rows)

    def pop_head(self, host: Host, level: int = USUAL_LEVEL) -> Request:
        return self._queues[host].by_level[level].pop()

    def _all(self) -> Iterable[LevelQueues]:
        return self._queues.values()

    def _opened(self) -> LevelQueues:
        queues = LevelQueues()
        for level in self._levels:
            queues.open(level)
        return queues
