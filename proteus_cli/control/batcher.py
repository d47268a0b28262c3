"""When to launch how large a batch (paper §5)."""

from dataclasses import dataclass

from proteus_cli.control.decision import Hosted
from proteus_cli.control.queue import DeadlineQueue
from proteus_cli.domain.request import Request


@dataclass(frozen=True, slots=True)
class Start:
    """Launch a batch of up to so many rows now."""

    rows: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Wait for one more query until then."""

    until_s: float


@dataclass(frozen=True, slots=True)
class Hopeless:
    """The most urgent request can't be answered in time here, not even alone."""


Batching = Start | Hold | Hopeless
HOPELESS = Hopeless()


@dataclass(frozen=True, slots=True)
class ProactiveBatcher:
    """The paper's batching: proactive and non-work-conserving.

    A full batch starts at once. A smaller one waits for one more query until the last moment at which a batch with
    that query would still let the oldest meet its deadline, then starts as it is.

    ``margin_frac`` of the time that a request was given is kept back for what is not inference: timers, threads, and
    the answer's way home.
    """

    margin_frac: float = 0.1

    def due_s(self, request: Request) -> float:
        """When the batch of this request should be done."""
        return request.deadline_s - self.margin_frac * (request.deadline_s - request.arrival_s)

    def wanted_s(self, request: Request) -> float:
        """When it should be done if it waits for company: nobody is kept past the SLO for the sake of a batch."""
        return min(self.due_s(request), request.arrival_s + (1 - self.margin_frac) * request.patience_s)

    def decide(
        self, queue: DeadlineQueue, hosted: Hosted, turns: int, now_s: float, pace: float = 1.0
    ) -> Batching | None:
        """What ``hosted`` should do with the ``turns`` rows that are its to take; None where there are none.

        Batches take ``pace`` times what was profiled.
        """
        head = queue.peek()
        if head is None or turns <= 0:
            return None
        budget_s = self.due_s(head) - now_s
        if pace * hosted.latency(head.rows) > budget_s:
            return HOPELESS
        waiting = max(min(queue.rows, turns), head.rows)
        if waiting < hosted.max_batch:
            last_moment_s = self.wanted_s(head) - pace * hosted.latency(waiting + 1)
            if last_moment_s > now_s:
                return Hold(until_s=last_moment_s)
        most = max(min(waiting, hosted.max_batch), head.rows)
        return Start(rows=max(hosted.latency.most_rows_within(budget_s / pace, most), head.rows))
