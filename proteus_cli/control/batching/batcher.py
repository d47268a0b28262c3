"""Batching rules, which decide when to launch how large a batch: the paper's (§5), and two simple ones."""

from dataclasses import dataclass
from typing import Protocol

import msgspec

from proteus_cli.control.decision import Host, Launch
from proteus_cli.domain.request import Request


class Start(msgspec.Struct, frozen=True, gc=False):
    """Launch a batch of at most ``rows`` now."""

    rows: int


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

    def due_s(self, request: Request) -> float:
        """When the batch of a request must have ended."""
        ...

    def decide(self, head: Request, waiting: int, hosted: Host, now_s: float, slowdown: float = 1.0) -> Batching:
        """What ``hosted`` does with the ``waiting`` rows that it may take; ``head`` is the most urgent request.

        Batches take ``slowdown`` times what was profiled.
        """
        ...

    def ran(self, launch: Launch, took_s: float) -> None:
        """A batch has ended after ``took_s``."""
        ...


@dataclass(frozen=True, slots=True)
class _Timely:
    """What rules that use profiled times share. ``answer_frac`` of a request's time is kept back to send the answer."""

    answer_frac: float = 0.02

    def due_s(self, request: Request) -> float:
        """The deadline less the time to send the answer."""
        return request.deadline_s - self.answer_frac * (request.deadline_s - request.arrival_s)

    def ran(self, launch: Launch, took_s: float) -> None:
        """Nothing is learned."""

    def _start(self, hosted: Host, head: Request, waiting: int, budget_s: float) -> Start:
        """As many waiting rows as fit a batch that ends within ``budget_s``."""
        if waiting <= head.rows or hosted.max_batch <= head.rows:
            return Start(head.rows)
        max_rows = min(waiting, hosted.max_batch)
        return Start(max(hosted.latency.max_rows_within(budget_s, max_rows), head.rows))


@dataclass(frozen=True, slots=True)
class ProactiveBatcher(_Timely):
    """The paper's batching: proactive and non-work-conserving.

    A full batch starts at once. A smaller one waits for one more query until the last moment at which a batch with
    that query would still meet the deadline of the most urgent request; then it starts as it is.

    ``margin_frac`` of a request's time is kept back from waiting, for timers and threads.
    """

    margin_frac: float = 0.1

    def fresh(self) -> "ProactiveBatcher":
        return self

    def wanted_s(self, request: Request) -> float:
        """When a batch that waits for company ends at the latest: within the SLO, even if the deadline is later."""
        given_s = request.deadline_s - request.arrival_s
        return request.arrival_s + (1 - self.margin_frac) * min(given_s, request.slo_s)

    def decide(self, head: Request, waiting: int, hosted: Host, now_s: float, slowdown: float = 1.0) -> Batching:
        budget_s = self.due_s(head) - now_s
        if slowdown * hosted.latency(head.rows) > budget_s:
            return CANNOT_MEET_DEADLINE
        waiting = max(waiting, head.rows)
        if waiting < hosted.max_batch:
            last_moment_s = self.wanted_s(head) - slowdown * hosted.latency(waiting + 1)
            if last_moment_s > now_s:
                return Delay(until_s=last_moment_s)
        return self._start(hosted, head, waiting, budget_s / slowdown)


@dataclass(frozen=True, slots=True)
class GreedyBatcher(_Timely):
    """Work-conserving: a free worker takes at once what waits, as far as the most urgent request has time for."""

    def fresh(self) -> "GreedyBatcher":
        return self

    def decide(self, head: Request, waiting: int, hosted: Host, now_s: float, slowdown: float = 1.0) -> Batching:
        budget_s = (self.due_s(head) - now_s) / slowdown
        if hosted.latency(head.rows) > budget_s:
            return CANNOT_MEET_DEADLINE
        return self._start(hosted, head, waiting, budget_s)


@dataclass(frozen=True, slots=True)
class StaticBatcher(_Timely):
    """Batches of ``rows``; a smaller batch starts when the most urgent request must."""

    rows: int = 1

    def fresh(self) -> "StaticBatcher":
        return self

    def decide(self, head: Request, waiting: int, hosted: Host, now_s: float, slowdown: float = 1.0) -> Batching:
        due_s, max_rows = self.due_s(head), min(self.rows, hosted.max_batch)
        if slowdown * hosted.latency(head.rows) > due_s - now_s:
            return CANNOT_MEET_DEADLINE
        waiting = max(waiting, head.rows)
        last_moment_s = due_s - slowdown * hosted.latency(max_rows)
        if waiting < max_rows and last_moment_s > now_s:
            return Delay(until_s=last_moment_s)
        return self._start(hosted, head, min(waiting, max_rows), (due_s - now_s) / slowdown)
