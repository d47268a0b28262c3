"""What waits for one family, and which of the lanes that host it may take what.

Queries are assigned late, when a lane is free (`LateLine`), or early, when they arrive (`EarlyLine`, the paper's).
"""

from collections.abc import Sequence
from typing import Protocol

from proteus_cli.control.decision import Hosted
from proteus_cli.control.queue import DeadlineQueue
from proteus_cli.control.router import Router, SharedTurns
from proteus_cli.domain.request import Request


class Line(Protocol):
    """The requests of one family. ``hosts`` are the variants that may take them; without any, nothing waits."""

    @property
    def hosts(self) -> tuple[Hosted, ...]: ...

    @property
    def rows(self) -> int:
        """Rows of all that wait."""
        ...

    def __len__(self) -> int: ...

    def rehost(self, hosts: Sequence[Hosted]) -> list[Request]:
        """From now on these take what waits, shared anew; returns what nobody can take any more."""
        ...

    def push(self, request: Request) -> tuple[Hosted, bool]:
        """Add a request: whose it is to take, and whether it overtook others that wait."""
        ...

    def queue_of(self, host: Hosted) -> DeadlineQueue:
        """Where a host takes its requests from."""
        ...

    def turns_of(self, host: Hosted) -> int:
        """How many rows are the host's to take."""
        ...

    def take(self, host: Hosted, at_most_rows: int) -> tuple[tuple[Request, ...], int]:
        """Remove the most urgent requests that fit so many rows together, and say how many; the first always fits."""
        ...

    def give_up(self, host: Hosted) -> Request:
        """Remove the most urgent request that a host could take."""
        ...

    def drain(self) -> list[Request]:
        """Remove all that waits."""
        ...


class LateLine:
    """One queue for all hosts. Turns say how many rows each may take; which ones is bound when it is free."""

    def __init__(self) -> None:
        self.queue = DeadlineQueue()
        self.router: Router | None = None

    @property
    def hosts(self) -> tuple[Hosted, ...]:
        return self.router.hosts if self.router is not None else ()

    @property
    def rows(self) -> int:
        return self.queue.rows

    def __len__(self) -> int:
        return len(self.queue)

    def rehost(self, hosts: Sequence[Hosted]) -> list[Request]:
        if not hosts:
            self.router = None
            return self.drain()
        self.router = Router(hosts)
        for rows in self.queue.row_counts():
            self.router.give(rows)
        return []

    def push(self, request: Request) -> tuple[Hosted, bool]:
        overtook = self.queue.push(request) and len(self.queue) > 1
        return self._router.give(request.rows), overtook

    def queue_of(self, host: Hosted) -> DeadlineQueue:  # noqa: ARG002 - all share one
        return self.queue

    def turns_of(self, host: Hosted) -> int:
        return self._router.turns_of(host)

    def take(self, host: Hosted, at_most_rows: int) -> tuple[tuple[Request, ...], int]:
        before = self.queue.rows
        taken = self.queue.take(at_most_rows)
        rows = before - self.queue.rows
        self._router.use(host, rows)
        return taken, rows

    def give_up(self, host: Hosted) -> Request:  # noqa: ARG002 - all share one queue
        return self._give_up()

    def drain(self) -> list[Request]:
        return [self._give_up() for _ in range(len(self.queue))]

    @property
    def _router(self) -> Router:
        assert self.router is not None  # noqa: S101 - only asked where something hosts the family
        return self.router

    def _give_up(self) -> Request:
        request = self.queue.pop()
        if self.router is not None:
            self.router.give_up(request.rows)
        return request


class EarlyLine:
    """A queue for each host. A request is bound when it arrives, by the plan's shares or to all hosts alike."""

    def __init__(self, *, uniform: bool) -> None:
        self._is_uniform = uniform
        self._shares: SharedTurns | None = None
        self._queues: dict[int, DeadlineQueue] = {}

    @property
    def hosts(self) -> tuple[Hosted, ...]:
        return self._shares.hosts if self._shares is not None else ()

    @property
    def rows(self) -> int:
        return sum(queue.rows for queue in self._queues.values())

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def rehost(self, hosts: Sequence[Hosted]) -> list[Request]:
        """What waits for a device that goes on hosting the family stays there; the rest is bound anew."""
        before = [(host.device, self._queues[id(host)]) for host in self.hosts]
        self._queues = {id(host): DeadlineQueue() for host in hosts}
        self._shares = SharedTurns(hosts, uniform=self._is_uniform) if hosts else None
        on_device = {host.device: self._queues[id(host)] for host in hosts}
        orphans = []
        for device, queue in before:
            for request in queue.drain():
                if device in on_device:
                    on_device[device].push(request)
                elif hosts:
                    self.push(request)
                else:
                    orphans.append(request)
        return orphans

    def push(self, request: Request) -> tuple[Hosted, bool]:
        assert self._shares is not None  # noqa: S101 - only asked where something hosts the family
        host = self._shares.next(request.rows)
        self._queues[id(host)].push(request)
        return host, False

    def queue_of(self, host: Hosted) -> DeadlineQueue:
        return self._queues[id(host)]

    def turns_of(self, host: Hosted) -> int:
        return self._queues[id(host)].rows

    def take(self, host: Hosted, at_most_rows: int) -> tuple[tuple[Request, ...], int]:
        queue = self._queues[id(host)]
        before = queue.rows
        return queue.take(at_most_rows), before - queue.rows

    def give_up(self, host: Hosted) -> Request:
        return self._queues[id(host)].pop()

    def drain(self) -> list[Request]:
        return [request for queue in self._queues.values() for request in queue.drain()]
