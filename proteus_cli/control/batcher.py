"""When to launch how large a batch: the paper's rule (§5), and two simple ones."""

from dataclasses import dataclass
from typing import Protocol

import msgspec

from proteus_cli.control.decision import Hosted, Launch
from proteus_cli.domain.request import Request


class Start(msgspec.Struct, frozen=True, gc=False):
    """Launch a batch of up to so many rows now."""

    rows: int


class Delay(msgspec.Struct, frozen=True, gc=False):
    """Wait for one more query until then."""

    until_s: float


@dataclass(frozen=True, slots=True)
class CannotMeetDeadline:
    """The most urgent request can't be answered in time here, not even alone."""


Batching = Start | Delay | CannotMeetDeadline
CANNOT_MEET_DEADLINE = CannotMeetDeadline()


class Batcher(Protocol):
    """A rule for batches. Where it learns, each controller has a `fresh` one of its own."""

    def fresh(self) -> "Batcher":
        """One that has learned nothing yet."""
        ...

    def due_s(self, request: Request) -> float:
        """When the batch of this request should be done."""
        ...

    def decide(self, head: Request, waiting: int, hosted: Hosted, now_s: float, slowdown: float = 1.0) -> Batching:
        """What ``hosted`` should do with the ``waiting`` rows that it may take, of which ``head`` is the most urgent.

        Batches take ``pace`` times what was profiled.
        """
        ...

    def ran(self, launch: Launch, took_s: float) -> None:
        """A batch is done."""
        ...


@dataclass(frozen=True, slots=True)
class _Timely:
    """What rules that go by the profiled times have in common.

    ``answer_frac`` of the time that a request was given is kept back for the answer's way home.
    """

    answer_frac: float = 0.02

    def due_s(self, request: Request) -> float:
        """When the batch of this request should be done."""
        return request.deadline_s - self.answer_frac * (request.deadline_s - request.arrival_s)

    def ran(self, launch: Launch, took_s: float) -> None:
        """Nothing is learned."""

    def _start(self, hosted: Hosted, head: Request, waiting: int, budget_s: float) -> Start:
        """As many of those that wait as a batch may have and the most urgent one has time for."""
        if waiting <= head.rows or hosted.max_batch <= head.rows:
            return Start(head.rows)
        most = min(waiting, hosted.max_batch)
        return Start(max(hosted.latency.max_rows_within(budget_s, most), head.rows))


@dataclass(frozen=True, slots=True)
class ProactiveBatcher(_Timely):
    """The paper's batching: proactive and non-work-conserving.

    A full batch starts at once. A smaller one waits for one more query until the last moment at which a batch with
    that query would still let the oldest meet its deadline, then starts as it is.

    ``margin_frac`` of the time that a request was given is kept back from that waiting, for what is not inference:
    timers and threads.
    """

    margin_frac: float = 0.1

    def fresh(self) -> "ProactiveBatcher":
        return self

    def wanted_s(self, request: Request) -> float:
        """When it should be done if it waits for company: nobody is kept past the SLO for the sake of a batch."""
        given_s = request.deadline_s - request.arrival_s
        return request.arrival_s + (1 - self.margin_frac) * min(given_s, request.slo_s)

    def decide(self, head: Request, waiting: int, hosted: Hosted, now_s: float, slowdown: float = 1.0) -> Batching:
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
    """Work-conserving: a free lane takes at once what waits, as far as the most urgent request has time for."""

    def fresh(self) -> "GreedyBatcher":
        return self

    def decide(self, head: Request, waiting: int, hosted: Hosted, now_s: float, slowdown: float = 1.0) -> Batching:
        budget_s = (self.due_s(head) - now_s) / slowdown
        if hosted.latency(head.rows) > budget_s:
            return CANNOT_MEET_DEADLINE
        return self._start(hosted, head, waiting, budget_s)


@dataclass(frozen=True, slots=True)
class StaticBatcher(_Timely):
    """Batches of ``rows``: waits until there are so many, at most until the most urgent one must start."""

    rows: int = 1

    def fresh(self) -> "StaticBatcher":
        return self

    def decide(self, head: Request, waiting: int, hosted: Hosted, now_s: float, slowdown: float = 1.0) -> Batching:
        due_s, most = self.due_s(head), min(self.rows, hosted.max_batch)
        if slowdown * hosted.latency(head.rows) > due_s - now_s:
            return CANNOT_MEET_DEADLINE
        waiting = max(waiting, head.rows)
        last_moment_s = due_s - slowdown * hosted.latency(most)
        if waiting < most and last_moment_s > now_s:
            return Delay(until_s=last_moment_s)
        return self._start(hosted, head, min(waiting, most), (due_s - now_s) / slowdown)
