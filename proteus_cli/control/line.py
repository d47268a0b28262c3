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

    def __len__(self) -> int: ...

    def rehost(self, hosts: Sequence[Hosted]) -> list[Request]:
        """From now on these take what waits, shared anew; returns what nobody can take any more."""
        ...

    def push(self, request: Request) -> tuple[Hosted, bool]:
        """Add a request: whose it is to take, and whether it overtook others that wait."""
        ...

    def queue_of(self, host: Hosted) -> DeadlineQueue:
        """Where a host takes its requests from, until the next `rehost`."""
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
        self.hosts: tuple[Hosted, ...] = ()
        self.queue = DeadlineQueue()
        self.router = Router(())

    def __len__(self) -> int:
        return len(self.queue)

    def rehost(self, hosts: Sequence[Hosted]) -> list[Request]:
        orphans = [] if hosts else self.drain()
        self.hosts, self.router = tuple(hosts), Router(hosts)
        for rows in self.queue.row_counts():
            self.router.give(rows)
        return orphans

    def push(self, request: Request) -> tuple[Hosted, bool]:
        overtook = self.queue.push(request)
        return self.router.give(request.rows), overtook

    def queue_of(self, host: Hosted) -> DeadlineQueue:  # noqa: ARG002 - all share one
        return self.queue

    def turns_of(self, host: Hosted) -> int:
        return self.router.turns_of(host)

    def take(self, host: Hosted, at_most_rows: int) -> tuple[tuple[Request, ...], int]:
        taken, rows = self.queue.take(at_most_rows)
        self.router.use(host, rows)
        return taken, rows

    def give_up(self, host: Hosted) -> Request:  # noqa: ARG002 - all share one queue
        return self._give_up()

    def drain(self) -> list[Request]:
        return [self._give_up() for _ in range(len(self.queue))]

    def _give_up(self) -> Request:
        request = self.queue.pop()
        self.router.give_up(request.rows)
        return request


class EarlyLine:
    """A queue for each host. A request is bound when it arrives, by the plan's shares or to all hosts alike."""

    def __init__(self, *, uniform: bool) -> None:
        self.hosts: tuple[Hosted, ...] = ()
        self._is_uniform = uniform
        self._shares = SharedTurns(())
        self._queues: dict[Hosted, DeadlineQueue] = {}

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def rehost(self, hosts: Sequence[Hosted]) -> list[Request]:
        """What waits for a device that goes on hosting the family stays there; the rest is bound anew."""
        before = [(host.device, queue) for host, queue in self._queues.items()]
        self.hosts, self._queues = tuple(hosts), {host: DeadlineQueue() for host in hosts}
        self._shares = SharedTurns(hosts, uniform=self._is_uniform)
        on_device = {host.device: queue for host, queue in self._queues.items()}
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
        host = self._shares.next(request.rows)
        self._queues[host].push(request)
        return host, False

    def queue_of(self, host: Hosted) -> DeadlineQueue:
        return self._queues[host]

    def turns_of(self, host: Hosted) -> int:
        return self._queues[host].rows

    def take(self, host: Hosted, at_most_rows: int) -> tuple[tuple[Request, ...], int]:
        return self._queues[host].take(at_most_rows)

    def give_up(self, host: Hosted) -> Request:
        return self._queues[host].pop()

    def drain(self) -> list[Request]:
        return [request for queue in self._queues.values() for request in queue.drain()]
