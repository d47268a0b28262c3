"""A worker that waits to take over from busy ones, and the arrivals that leave it waiting."""

from dataclasses import dataclass

from proteus_cli.control.dispatch.queues.deadline_queue import DeadlineQueue
from proteus_cli.control.dispatch.queues.host_class import HostClass
from proteus_cli.domain.request import Request


@dataclass(slots=True, eq=False)
class WaitingWorker:
    """A free worker without quota waits: it will take the ``head`` of its queue ``until_s``, if nobody else has.

    It is the one that `AccuracyTier.next_worker` names for that queue. While the rows that wait and ``qps`` × the time
    in seconds are below ``room_rows``, busy workers make all of them, so it takes none at once.
    """

    queue: DeadlineQueue
    head: Request
    until_s: float
    room_rows: float
    qps: float

    def goes_on(self, request: Request, owner: HostClass, now_s: float) -> bool:
        """An arrival, whose quota is now of ``owner``, changes nothing for the worker: it need not be asked again.

        The request is not due before the head, its class had quota before, and busy workers make all that waits.
        Anything but an arrival ends this (`AccuracyTier.changed`).
        """
        queue = self.queue
        return (
            queue.head() is self.head
            and owner.quota > request.rows
            and now_s < self.until_s
            and queue.rows + self.qps * now_s < self.room_rows
        )
