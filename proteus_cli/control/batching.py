"""Batching rules: when to launch how large a batch. The paper's (§5), simple ones, Clipper's and Nexus's."""

from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self

import msgspec

from proteus_cli.control.decision import HostedVariant, Launch
from proteus_cli.domain.request import Request


class Start(msgspec.Struct, frozen=True, gc=False):
    """Launch a batch of at most ``rows`` now, from the request at that ``place`` in the queue on.

    ``standby`` runs it in place of the active variant.
    """

    rows: int
    place: int = 0
    standby: HostedVariant | None = None


class Delay(msgspec.Struct, frozen=True, gc=False):
    """Wait for one more query until ``until_s``."""

    until_s: float


@dataclass(frozen=True, slots=True)
class CannotMeetDeadline:
    """The most urgent request cannot be answered in time by this host, not even alone."""


Batching = Start | Delay | CannotMeetDeadline
CANNOT_MEET_DEADLINE = CannotMeetDeadline()


class Batcher(Protocol):
    """A batching rule. Each controller has a `fresh` one, as some rules learn."""

    def fresh(self) -> "Batcher":
        """The same rule with nothing learned."""
        ...

    @property
    def answer_frac(self) -> float:
        """The part of a request's time that is kept back to send the answer."""
        ...

    def due_s(self, request: Request) -> float:
        """When the batch of a request must have ended."""
        ...

    def decide(
        self, head: Request, waiting_rows: int, hosted: HostedVariant, now_s: float, slowdown: float = 1.0
    ) -> Batching:
        """What ``hosted`` does with the ``waiting_rows`` that it may take; ``head`` is the most urgent request.

        Batches take ``slowdown`` times what was profiled.
        """
        ...

    def record_run(self, launch: Launch, took_s: float) -> None:
        """A batch has ended after ``took_s``."""
        ...


@dataclass(frozen=True, slots=True)
class GreedyBatcher:
    """Work-conserving: a free worker starts a batch at once, as far as the most urgent request has time for its rows.

    ``answer_frac`` of a request's time is kept back to send the answer.
    """

    answer_frac: float = 0.02

    def fresh(self) -> Self:
        return self

    def due_s(self, request: Request) -> float:
        """The deadline less the time to send the answer."""
        return request.deadline_s - self.answer_frac * (request.deadline_s - request.arrival_s)

    def record_run(self, launch: Launch, took_s: float) -> None:
        """Does nothing: the rule goes by profiled times."""

    def decide(
        self, head: Request, waiting_rows: int, hosted: HostedVariant, now_s: float, slowdown: float = 1.0
    ) -> Batching:
        budget_s = self.due_s(head) - now_s
        if slowdown * hosted.least_latency(head.rows) > budget_s:
            return CANNOT_MEET_DEADLINE
        if waiting_rows <= head.rows or hosted.max_batch <= head.rows:
            return Start(head.rows)
        max_rows = min(waiting_rows, hosted.max_batch)
        return Start(max(hosted.least_latency.max_rows_within(budget_s / slowdown, max_rows), head.rows))

    def _wait(
        self, batching: Batching, head: Request, hosted: HostedVariant, last_moment_s: float, now_s: float
    ) -> Batching:
        """Wait for company up to a last moment, which leaves the second stage of a cascade its time."""
        if hosted.second_s and not head.is_deferred:
            last_moment_s -= hosted.second_s
        return Delay(last_moment_s) if batching is not CANNOT_MEET_DEADLINE and last_moment_s > now_s else batching


@dataclass(frozen=True, slots=True)
class ProactiveBatcher(GreedyBatcher):
    """The paper's batching: proactive and non-work-conserving.

    A full batch starts at once. A smaller one waits for one more query. It starts as it is at the last moment at which
    a batch with that query would still meet the deadline of the most urgent request.

    ``margin_frac`` of a request's time is kept back from waiting, for timers and threads.
    """

    margin_frac: float = 0.1

    def wanted_s(self, request: Request) -> float:
        """When a batch that waits for company ends at the latest: within the SLO, even if the deadline is later."""
        given_s = request.deadline_s - request.arrival_s
        return request.arrival_s + (1 - self.margin_frac) * min(given_s, request.slo_s)

    def decide(
        self, head: Request, waiting_rows: int, hosted: HostedVariant, now_s: float, slowdown: float = 1.0
    ) -> Batching:
        batching = GreedyBatcher.decide(self, head, waiting_rows, hosted, now_s, slowdown)
        rows = max(waiting_rows, head.rows)
        if rows >= hosted.max_batch:
            return batching
        return self._wait(batching, head, hosted, self.wanted_s(head) - slowdown * hosted.latency(rows + 1), now_s)


@dataclass(frozen=True, slots=True)
class StaticBatcher(GreedyBatcher):
    """Batches of ``rows``; a smaller batch starts when the most urgent request must."""

    rows: int = 1

    def decide(
        self, head: Request, waiting_rows: int, hosted: HostedVariant, now_s: float, slowdown: float = 1.0
    ) -> Batching:
        max_rows = min(self.rows, hosted.max_batch)
        batching = GreedyBatcher.decide(self, head, min(waiting_rows, max_rows), hosted, now_s, slowdown)
        if max(waiting_rows, head.rows) >= max_rows:
            return batching
        return self._wait(batching, head, hosted, self.due_s(head) - slowdown * hosted.latency(max_rows), now_s)


AIMD_STEP = 1.0  # rows
AIMD_BACKOFF = 0.9  # a factor


@dataclass(frozen=True, slots=True)
class AimdBatcher:
    """The batch size grows by `AIMD_STEP` with a full batch in time, and shrinks by `AIMD_BACKOFF` with a late one.

    The rule knows no latencies; it finds the size of each host by trial (Crankshaw et al., "Clipper", NSDI 2017, §4.3).
    A batch that is not full waits ``timeout_s`` for company. Only requests that are late already are given up.
    """

    answer_frac: ClassVar[float] = 0.0
    timeout_s: float = 0.0
    _size: dict[tuple[str, str, str], float] = field(default_factory=dict, compare=False)

    def fresh(self) -> "AimdBatcher":
        return AimdBatcher(self.timeout_s)

    def due_s(self, request: Request) -> float:
        return request.deadline_s

    def decide(
        self, head: Request, waiting_rows: int, hosted: HostedVariant, now_s: float, slowdown: float = 1.0
    ) -> Batching:
        del slowdown  # the size adapts to it
        if now_s > head.deadline_s:
            return CANNOT_MEET_DEADLINE
        max_rows = min(int(self._size.get(_key(hosted), 1.0)), hosted.max_batch)
        waiting_rows = max(waiting_rows, head.rows)
        if waiting_rows < max_rows and head.arrival_s + self.timeout_s > now_s:
            return Delay(until_s=head.arrival_s + self.timeout_s)
        return Start(rows=max(min(waiting_rows, max_rows), head.rows))

    def record_run(self, launch: Launch, took_s: float) -> None:
        hosted, end_s = launch.hosted, launch.at_s + took_s
        size = self._size.get(_key(hosted), 1.0)
        if any(end_s > request.deadline_s for request in launch.requests):
            self._size[_key(hosted)] = max(1.0, size * AIMD_BACKOFF)
        elif launch.rows >= int(size):
            self._size[_key(hosted)] = min(size + AIMD_STEP, float(hosted.max_batch))


def _key(hosted: HostedVariant) -> tuple[str, str, str]:
    return hosted.device, hosted.family, hosted.variant


@dataclass(frozen=True, slots=True)
class NexusBatcher(GreedyBatcher):
    """Work-conserving batches of the planned size; requests without time for one are dropped.

    A window of that size slides along the queue up to the first request that has time for the whole window. Requests
    before it are dropped (Shen et al., "Nexus", SOSP 2019, §4.3). Where fewer wait, all of them are the window. No time
    is kept back.
    """

    answer_frac: float = 0.0

    def decide(
        self, head: Request, waiting_rows: int, hosted: HostedVariant, now_s: float, slowdown: float = 1.0
    ) -> Batching:
        rows = max(min(waiting_rows, hosted.max_batch), head.rows)
        if now_s + slowdown * hosted.least_latency(rows) > head.deadline_s:
            return CANNOT_MEET_DEADLINE
        return Start(rows)
