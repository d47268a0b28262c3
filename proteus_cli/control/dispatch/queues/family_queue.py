"""Requests that the same hosts may answer, and who may take which.

A request is assigned late, when a worker is free (`SharedQueue`), or early, when it arrives (`PerDeviceQueue`, the
paper's).
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from proteus_cli.control.decision import Host
from proteus_cli.control.dispatch.queues.deadline_queue import DeadlineQueue, LevelQueues
from proteus_cli.control.dispatch.queues.host_class import HostClass, classes_of, single_classes
from proteus_cli.control.dispatch.queues.quota import Quota, WeightedShares
from proteus_cli.domain.request import USUAL_LEVEL, Request


class FamilyQueue:
    """Requests that its ``hosts`` may answer; without hosts, nothing waits. ``classes`` groups these hosts.

    There are queues for the usual level of priority, and for other levels once they are opened.
    """

    hosts: tuple[Host, ...] = ()
    classes: tuple[HostClass, ...] = ()

    @abstractmethod
    def open(self, level: int) -> bool:
        """Open a level of priority; False where it is open."""

    @abstractmethod
    def rehost(self, hosts: Sequence[Host]) -> list[Request]:
        """From now on these hosts share what waits; returns the requests that none of them takes."""

    @abstractmethod
    def push(self, request: Request) -> HostClass:
        """Add a request; returns the class that gets the quota."""

    @abstractmethod
    def remove(self, request: Request) -> bool:
        """Remove a request; False where it does not wait here."""

    @abstractmethod
    def queues_of(self, host_class: HostClass) -> dict[int, DeadlineQueue]:
        """The queues that a class takes from, by level, highest first; valid until the next `rehost` or `open`."""

    @abstractmethod
    def take(
        self, taker: HostClass, max_rows: int, level: int = USUAL_LEVEL, place: int = 0
    ) -> tuple[tuple[Request, ...], int]:
        """Remove the first requests of a level from a place on that fit ``max_rows``, at least one.

        Returns them and their rows. Rows beyond the quota of the class come from the quota of others.
        """

    @abstractmethod
    def drop(self, host_class: HostClass, count: int, level: int = USUAL_LEVEL) -> tuple[Request, ...]:
        """Remove so many of the most urgent requests of a level that a class could take."""

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
        for each in self.classes:
            each.quota = 0
        return [request for queues in self._all() for request in queues.drain()]


class SharedQueue(FamilyQueue):
    """One queue for all hosts. `Quota` says how many rows the workers of each class may take.

    ``of_deferred``: of deferred requests, whose shares are those of second stages.
    """

    def __init__(self, *, of_deferred: bool = False) -> None:
        self._of_deferred = of_deferred
        self.quota = Quota(())
        self._queues = LevelQueues()

    def open(self, level: int) -> bool:
        return self._queues.open(level)

    def rehost(self, hosts: Sequence[Host]) -> list[Request]:
        unhosted = [] if hosts else self.drain()
        self.hosts, self.classes = tuple(hosts), classes_of(hosts, of_deferred=self._of_deferred)
        self.quota = Quota(self.classes)
        self._queues.close_empty()
        for request in self._queues:
            self.quota.assign(request.rows)
        return unhosted

    def push(self, request: Request) -> HostClass:
        queues = self._queues
        if request.priority:
            queues.push(request)
        else:
            queues.usual.push(request)
        return self.quota.assign(request.rows)

    def remove(self, request: Request) -> bool:
        if not self._queues.remove(request):
            return False
        self.quota.withdraw(request.rows)
        return True

    def queues_of(self, host_class: HostClass) -> dict[int, DeadlineQueue]:  # noqa: ARG002 - all share them
        return self._queues.by_level

    def take(
        self, taker: HostClass, max_rows: int, level: int = USUAL_LEVEL, place: int = 0
    ) -> tuple[tuple[Request, ...], int]:
        taken, rows = self._queues.by_level[level].take(max_rows, place)
        self.quota.consume(taker, rows)
        return taken, rows

    def drop(self, host_class: HostClass, count: int, level: int = USUAL_LEVEL) -> tuple[Request, ...]:  # noqa: ARG002 - all share the queues
        dropped = tuple(self._queues.by_level[level].pop() for _ in range(count))
        self.quota.withdraw(sum(request.rows for request in dropped))
        return dropped

    def _all(self) -> Iterable[LevelQueues]:
        return (self._queues,)


class PerDeviceQueue(FamilyQueue):
    """Queues for each host, which is a class by itself.

    An arriving request is bound to one of them, by the plan's shares or to all alike. ``of_deferred`` as in
    `SharedQueue`.
    """

    def __init__(self, *, uniform: bool, of_deferred: bool = False) -> None:
        self._is_uniform, self._of_deferred = uniform, of_deferred
        self._shares = WeightedShares[HostClass]((), ())
        self._levels = {USUAL_LEVEL}
        self._queues: dict[HostClass, LevelQueues] = {}

    def open(self, level: int) -> bool:
        if level in self._levels:
            return False
        self._levels.add(level)
        for queues in self._queues.values():
            queues.open(level)
        return True

    def rehost(self, hosts: Sequence[Host]) -> list[Request]:
        """Requests stay with a device that goes on hosting the family; the others are bound anew."""
        before = [(each.host.device, queues) for each, queues in self._queues.items()]
        self._levels = {USUAL_LEVEL}.union(request.level for request in self)
        self.hosts, self.classes = tuple(hosts), single_classes(hosts, of_deferred=self._of_deferred)
        self._queues = {each: self._opened() for each in self.classes}
        self._shares = WeightedShares(self.classes, [0.0 if self._is_uniform else c.weight for c in self.classes])
        on_device = {each.host.device: each for each in self.classes}
        unhosted = []
        for device, queues in before:
            for request in queues.drain():
                if device in on_device:
                    self._bind(request, on_device[device])
                elif hosts:
                    self.push(request)
                else:
                    unhosted.append(request)
        return unhosted

    def push(self, request: Request) -> HostClass:
        return self._bind(request, self._shares.next(request.rows))

    def _bind(self, request: Request, to: HostClass) -> HostClass:
        self._queues[to].push(request)
        to.quota += request.rows
        return to

    def remove(self, request: Request) -> bool:
        for each, queues in self._queues.items():
            if queues.remove(request):
                each.quota -= request.rows
                return True
        return False

    def queues_of(self, host_class: HostClass) -> dict[int, DeadlineQueue]:
        return self._queues[host_class].by_level

    def take(
        self, taker: HostClass, max_rows: int, level: int = USUAL_LEVEL, place: int = 0
    ) -> tuple[tuple[Request, ...], int]:
        taken, rows = self._queues[taker].by_level[level].take(max_rows, place)
        taker.quota -= rows
        return taken, rows

    def drop(self, host_class: HostClass, count: int, level: int = USUAL_LEVEL) -> tuple[Request, ...]:
        dropped = tuple(self._queues[host_class].by_level[level].pop() for _ in range(count))
        host_class.quota -= sum(request.rows for request in dropped)
        return dropped

    def _all(self) -> Iterable[LevelQueues]:
        return self._queues.values()

    def _opened(self) -> LevelQueues:
        queues = LevelQueues()
        for level in self._levels:
            queues.open(level)
        return queues
