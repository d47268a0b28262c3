"""What waits together, and which of the lanes that host it may take what.

Queries are assigned late, when a lane is free (`SharedQueue`), or early, when they arrive (`PerDeviceQueue`, the
paper's).
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Protocol

from proteus_cli.control.deadline_queue import DeadlineQueue, LevelQueues
from proteus_cli.control.decision import Hosted
from proteus_cli.control.quota import Quota, WeightedShares
from proteus_cli.domain.request import USUAL_LEVEL, Request


class FamilyQueue(Protocol):
    """Requests that the same variants may answer, its ``hosts``; without any, nothing waits.

    There are queues for the usual level of priority, and for others once they are opened.
    """

    @property
    def hosts(self) -> tuple[Hosted, ...]: ...

    @property
    def levels(self) -> tuple[int, ...]:
        """Those that are open, highest first."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Request]:
        """All that waits."""
        ...

    def open(self, level: int) -> bool:
        """Make room for a level of priority; False where there is already."""
        ...

    def rehost(self, hosts: Sequence[Hosted]) -> list[Request]:
        """From now on these take what waits, shared anew; returns what nobody can take any more."""
        ...

    def push(self, request: Request) -> tuple[Hosted, bool]:
        """Add a request: whose it is to take, and whether it overtook others that wait."""
        ...

    def remove(self, request: Request) -> bool:
        """Remove a request; False where it doesn't wait here."""
        ...

    def queues_of(self, host: Hosted) -> dict[int, DeadlineQueue]:
        """Where a host takes its requests from by level, highest first, until the next `rehost` or `open`."""
        ...

    def quota_of(self, host: Hosted) -> int:
        """How many rows are the host's to take, of all levels."""
        ...

    def rows_up_to(self, level: int) -> int:
        """Rows that wait with that priority or a higher one."""
        ...

    def take(self, host: Hosted, at_most_rows: int, level: int = USUAL_LEVEL) -> tuple[tuple[Request, ...], int]:
        """Remove the most urgent requests that fit so many rows together, and say how many; the first always fits."""
        ...

    def pop_head(self, host: Hosted, level: int = USUAL_LEVEL) -> Request:
        """Remove the most urgent request of a level that a host could take."""
        ...

    def drain(self) -> list[Request]:
        """Remove all that waits."""
        ...


class SharedQueue:
    """One queue for all hosts. Turns say how many rows each may take; which ones is bound when it is free."""

    def __init__(self) -> None:
        self.hosts: tuple[Hosted, ...] = ()
        self.quota = Quota(())
        self._queues = LevelQueues()

    @property
    def levels(self) -> tuple[int, ...]:
        return tuple(self._queues.by_level)

    def __len__(self) -> int:
        return len(self._queues)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._queues)

    def open(self, level: int) -> bool:
        return self._queues.open(level)

    def rehost(self, hosts: Sequence[Hosted]) -> list[Request]:
        orphans = [] if hosts else self.drain()
        self.hosts, self.quota = tuple(hosts), Quota(hosts)
        self._queues.close_empty()
        for request in self._queues:
            self.quota.assign(request.rows)
        return orphans

    def push(self, request: Request) -> tuple[Hosted, bool]:
        overtook = self._queues.push(request)
        return self.quota.assign(request.rows), overtook

    def remove(self, request: Request) -> bool:
        if not self._queues.remove(request):
            return False
        self.quota.withdraw(request.rows)
        return True

    def queues_of(self, host: Hosted) -> dict[int, DeadlineQueue]:  # noqa: ARG002 - all share them
        return self._queues.by_level

    def quota_of(self, host: Hosted) -> int:
        return self.quota.of(host)

    def rows_up_to(self, level: int) -> int:
        return sum(queue.rows for each, queue in self._queues.by_level.items() if each <= level)

    def take(self, host: Hosted, at_most_rows: int, level: int = USUAL_LEVEL) -> tuple[tuple[Request, ...], int]:
        taken, rows = self._queues.by_level[level].take(at_most_rows)
        self.quota.consume(host, rows)
        return taken, rows

    def pop_head(self, host: Hosted, level: int = USUAL_LEVEL) -> Request:  # noqa: ARG002 - all share the queues
        request = self._queues.by_level[level].pop()
        self.quota.withdraw(request.rows)
        return request

    def drain(self) -> list[Request]:
        self.quota.withdraw(self._queues.rows)
        return self._queues.drain()


class PerDeviceQueue:
    """Queues for each host. A request is bound when it arrives, by the plan's shares or to all hosts alike."""

    def __init__(self, *, uniform: bool) -> None:
        self.hosts: tuple[Hosted, ...] = ()
        self._is_uniform = uniform
        self._shares = WeightedShares(())
        self._levels = {USUAL_LEVEL}
        self._queues: dict[Hosted, LevelQueues] = {}

    @property
    def levels(self) -> tuple[int, ...]:
        return tuple(sorted(self._levels))

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Request]:
        return chain.from_iterable(self._queues.values())

    def open(self, level: int) -> bool:
        if level in self._levels:
            return False
        self._levels.add(level)
        for queues in self._queues.values():
            queues.open(level)
        return True

    def rehost(self, hosts: Sequence[Hosted]) -> list[Request]:
        """What waits for a device that goes on hosting the family stays there; the rest is bound anew."""
        before = [(host.device, queues) for host, queues in self._queues.items()]
        self._levels = {USUAL_LEVEL}.union(request.level for request in self)
        self.hosts, self._queues = tuple(hosts), {host: self._opened() for host in hosts}
        self._shares = WeightedShares(hosts, uniform=self._is_uniform)
        on_device = {host.device: queues for host, queues in self._queues.items()}
        orphans = []
        for device, queues in before:
            for request in queues.drain():
                if device in on_device:
                    on_device[device].push(request)
                elif hosts:
                    self.push(request)
                else:
                    orphans.append(request)
        return orphans

    def push(self, request: Request) -> tuple[Hosted, bool]:
        host = self._shares.next(request.rows)
        self._queues[host].push(request)
        return host, False

    def remove(self, request: Request) -> bool:
        return any(queues.remove(request) for queues in self._queues.values())

    def queues_of(self, host: Hosted) -> dict[int, DeadlineQueue]:
        return self._queues[host].by_level

    def quota_of(self, host: Hosted) -> int:
        return self._queues[host].rows

    def rows_up_to(self, level: int) -> int:
        by_level = (queues.by_level.items() for queues in self._queues.values())
        return sum(queue.rows for each, queue in chain.from_iterable(by_level) if each <= level)

    def take(self, host: Hosted, at_most_rows: int, level: int = USUAL_LEVEL) -> tuple[tuple[Request, ...], int]:
        return self._queues[host].by_level[level].take(at_most_rows)

    def pop_head(self, host: Hosted, level: int = USUAL_LEVEL) -> Request:
        return self._queues[host].by_level[level].pop()

    def drain(self) -> list[Request]:
        return [request for queues in self._queues.values() for request in queues.drain()]

    def _opened(self) -> LevelQueues:
        queues = LevelQueues()
        for level in self._levels:
            queues.open(level)
        return queues
