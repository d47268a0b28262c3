"""How admitted requests end: each exactly once, whatever becomes of its batch, its device and its client."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from proteus_cli.backends.base import Part
from proteus_cli.control.decision import CascadeRoute, Effects, HostedVariant, Launch
from proteus_cli.control.devices.slowness import Drift
from proteus_cli.domain.request import Outcome, Request
from proteus_cli.errors import DeadlineExceeded, EngineFailed, RequestError
from proteus_cli.serving.devices.executor import BatchResult
from proteus_cli.serving.logs import LogRateLimiter, fields
from proteus_cli.serving.requests.answers.second_stages import DeferredInFlight, SecondStages, is_cut, of_exits
from proteus_cli.serving.requests.counts import RequestCounts
from proteus_cli.serving.requests.in_flight import (
    Answered,
    AnsweredBatch,
    BackgroundRequest,
    InFlightRequest,
    Result,
    ResultCallback,
    in_flight,
)
from proteus_cli.serving.requests.refusals import format_least_ms

TICK_S = 0.005

MAX_TICKS = 200
"""A request that is due later is looked at again then, so that one that has ended is not kept for long."""


class TimingWheel:
    """Calls ``expired`` for each request that has not ended by its deadline, at most `TICK_S` and a timer late.

    Most requests have ended by the tick after their arrival. Only the others are sorted by the tick at which they are
    due; so the wheel keeps few that have ended, and their memory is soon used again. ``count`` is of all that were ever
    watched.
    """

    def __init__(self, clock: Callable[[], float], expired: Callable[[InFlightRequest], None]) -> None:
        self._clock, self._expired = clock, expired
        self._arrived: list[InFlightRequest] = []
        self._due: dict[int, list[InFlightRequest]] = {}
        self._tick = 0  # the last one that was checked
        self._timer: asyncio.TimerHandle | None = None
        self.count = 0

    def watch(self, in_flight: InFlightRequest) -> None:
        """Watch a request until its deadline; it is told there unless it has ended."""
        self.count += 1
        self._arrived.append(in_flight)
        if self._timer is None:
            self._check_later()

    def _check_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._check)

    def _check(self) -> None:
        now_s = self._clock()
        to_check, self._arrived = self._arrived, []
        before, self._tick = self._tick, max(self._tick, int(now_s / TICK_S))
        for tick in range(before + 1, self._tick + 1) if self._due else ():
            to_check += self._due.pop(tick, ())
        checking = iter(to_check)
        try:
            for in_flight in checking:
                if in_flight.has_ended:
                    continue
                if in_flight.deadline_s <= now_s:
                    self._expired(in_flight)
                else:
                    due = min(int(in_flight.deadline_s / TICK_S) + 1, self._tick + MAX_TICKS)
                    self._due.setdefault(due, []).append(in_flight)
        finally:  # also after a bug in `expired`: the others have deadlines, too
            self._arrived += checking
            if self._due or self._arrived:
                self._check_later()
            else:
                self._timer = None


log = logging.getLogger("proteus.dataplane")

_Ended = tuple[InFlightRequest, Answered | None, float]
"""A request that its batch has answered, the answer, None where it is late, and the seconds that it has waited."""


class Results:
    """Gives each admitted request its one result, counts its outcome, and lets drift learn from the batches.

    With ``refuses_non_finite``, NaN or infinity in an output fails the request. ``is_emulated``: no batch is computed,
    so times and outputs are made up; answers say so. Answers of first stages go to ``second_stages`` first.
    ``min_timeout_s`` says what time a request would need that has too little for any variant, even on an idle device.
    """

    def __init__(
        self,
        counts: RequestCounts,
        clock: Callable[[], float],
        *,
        drift: Drift | None,
        refuses_non_finite: bool,
        is_emulated: bool,
        second_stages: SecondStages,
        min_timeout_s: Callable[[Request], float | None],
    ) -> None:
        self._second_stages, self._min_timeout_s = second_stages, min_timeout_s
        self._counts, self._clock, self._drift = counts.by_family, clock, drift
        self._refuses_non_finite, self._is_emulated = refuses_non_finite, is_emulated
        self._deadlines = TimingWheel(clock, self._expired)
        self.expect = self._deadlines.watch  # A request was admitted: it ends by its deadline at the latest.
        self._log_limiter = LogRateLimiter(clock)
        self._ended_count = 0

    @property
    def in_flight_count(self) -> int:
        """Requests that were admitted and have no result yet."""
        return self._deadlines.count - self._ended_count

    def cancelled(self, request: InFlightRequest) -> None:
        """The client of a request is gone. Call it before the request has ended."""
        counts = self._counts[request.family]
        counts.ended(Outcome.DROPPED)
        counts.cancelled += 1
        counts.failed_s += self._clock() - request.arrival_s
        self._ended_count += 1
        observers = request.observers
        request.end()
        for observer in observers:
            observer.cancelled()
        self._give_up_second_stage(request)

    # --- ResultSink

    def started(self, launch: Launch) -> list[Part]:
        """A batch starts; returns what it is made of."""
        requests = in_flight(launch.requests)
        for request in requests:
            request.is_running = True
        return [(request.rows, request.inputs) for request in requests]

    def answered(self, launch: Launch, started_s: float, result: BatchResult) -> None:
        """A batch is done; single requests of it may have failed, or ended before."""
        first = launch.requests[0]
        if isinstance(first, BackgroundRequest):
            first.ran(result)
            return
        self._ran(launch, started_s, result, is_second=first.is_deferred)
        self._answer(launch, started_s, result)

    def left(self, launch: Launch, started_s: float, parts: Sequence[int], result: BatchResult) -> None:
        """Some requests of a batch that may be cut short have their answers before it is done."""
        leaving = tuple([launch.requests[place] for place in parts])
        self._answer(replace(launch, requests=leaving), started_s, result)

    def _answer(self, launch: Launch, started_s: float, result: BatchResult) -> None:
        if launch.requests[0].is_deferred:  # so are all: they come from one queue
            self._second_answered(launch, started_s, result)
        else:
            self._answered(launch, started_s, result)

    def _ran(self, launch: Launch, started_s: float, result: BatchResult, *, is_second: bool) -> None:
        """Count a batch that is done, and let drift learn from it."""
        hosted, compute_s = launch.hosted, result.compute_s
        counts = self._counts[hosted.family]
        counts.ran(rows=launch.rows, compute_s=compute_s, now_s=self._clock(), is_second=is_second)
        is_as_profiled = hosted.family not in self._second_stages.live_conditions and not is_cut(result.notes)
        if self._drift is not None and not result.failures and is_as_profiled:
            way_s = 0.0 if self._is_emulated else hosted.way_s(launch.rows)  # which emulated devices take themselves
            took_alone_s = hosted.unshared_s(launch.rows, compute_s + way_s)
            self._drift.record_run(hosted.device, hosted.family, hosted.variant, rows=launch.rows, took_s=took_alone_s)
        if log.isEnabledFor(logging.DEBUG):
            _log_batch(launch, started_s, compute_s)

    def _answered(self, launch: Launch, started_s: float, result: BatchResult) -> None:
        """Requests of a batch, or of the part that has left it, have their answers unless they have ended."""
        routes = self._second_stages.routes if self._second_stages.routes.ever_in_use else None
        now_s, hosted, failures = self._clock(), launch.hosted, result.failures
        batch = AnsweredBatch(hosted, launch.rows, result.outputs, result.compute_s, is_emulated=self._is_emulated)
        non_finite, is_plain = self._non_finite_rows(result), routes is None and not result.notes
        took_s, ended, last = now_s - started_s, list[_Ended](), 0
        for place, request in enumerate(in_flight(launch.requests)):
            first, last = last, last + request.rows
            if request.has_ended or request.deferred is not None:  # `needs_batch`, without a call for each row
                continue
            if place in failures or (non_finite is not None and non_finite[first:last].any()):
                self._failed(request, hosted, failures.get(place))
                continue
            waited_s = started_s - request.arrival_s - request.decoding_s
            answer: Answered | None = None
            if now_s <= request.deadline_s:
                answer = Answered(batch, first, request.rows, waited_s)
                if not is_plain:
                    route = routes.route(request, hosted) if routes is not None else None
                    own = answer if not result.notes else of_exits(answer, result.notes)
                    answer = self._after_first_stage(request, route, own, took_s, now_s)
                    if answer is None:
                        continue
            ended.append((request, answer, waited_s))
        self._send(hosted, ended, took_s, result.compute_s, now_s)

    def _send(
        self, hosted: HostedVariant, ended: Sequence[_Ended], took_s: float, compute_s: float, now_s: float
    ) -> None:
        """Send answers of one host, each with the wait before its batch, which took ``took_s``; None: it is late."""
        counts, calls = self._counts[hosted.family], list[tuple[ResultCallback, Result]]()
        waits_s, latencies_s = list[float](), list[float]()
        served = rows = 0
        decoding_s = served_waited_s = accuracy = 0.0
        for request, answer, waited_s in ended:
            latency_s = now_s - request.arrival_s
            waits_s.append(waited_s)
            latencies_s.append(latency_s)
            if answer is None:
                counts.failed_s += latency_s
                calls.append((request.end(), _late()))
                continue
            served += 1
            rows += request.rows
            decoding_s += request.decoding_s
            served_waited_s += waited_s
            accuracy += answer.batch.accuracy
            staged = answer.batch.staged
            if staged is not None and staged.is_cut and staged.exit is not None:
                counts.cut[hosted.variant, staged.exit] += 1
            calls.append((request.end(), answer))
        self._ended_count += len(ended)
        counts.ended(Outcome.SERVED, hosted.variant, hosted.device, served)
        counts.overflow += served if hosted.is_standby else 0
        counts.ended(Outcome.LATE, hosted.variant, hosted.device, len(ended) - served)
        counts.waited(waits_s, latencies_s)
        if served:
            counts.served(
                served, rows=rows, decoding_s=decoding_s, waited_s=served_waited_s, took_s=took_s,
                compute_s=compute_s, accuracy=accuracy / served, now_s=now_s,
            )  # fmt: skip
        _call(calls)

    def dropped(self, requests: Sequence[Request]) -> None:
        """The controller has dropped requests: no answer would be in time."""
        for request in in_flight(requests):
            if isinstance(request, DeferredInFlight):
                self._send_first(request)
                request.release_inputs()
            elif request.needs_batch:
                self._counts[request.family].ended(Outcome.DROPPED)
                self._warn_of_missed_deadline(request.family)
                self._end(request, self._dropped(request))
                request.release_inputs()

    def failed(self, launch: Launch, error: Exception) -> None:
        """A batch failed as a whole."""
        for request in in_flight(launch.requests):
            if isinstance(request, BackgroundRequest):
                self._log_failure(launch.hosted, error)
                request.ran(error)
            elif isinstance(request, DeferredInFlight):
                self._log_failure(launch.hosted, error)
                self._send_first(request)
            elif request.needs_batch:
                self._failed(request, launch.hosted, error)

    def has_ended(self, request: Request) -> bool:
        """A request of a batch that runs has ended, or has a first answer: the batch is not to answer it any more."""
        return not cast("InFlightRequest", request).needs_batch

    def device_lost(self, effects: Effects) -> None:
        """The device that ran requests is lost: they wait again, or end. A check is forgotten."""
        for request in in_flight(effects.requeued):
            self._counts[request.family].retried += 1
            request.wait_again()
        for request in in_flight(effects.failed):
            if isinstance(request, BackgroundRequest):
                request.ran(None)
            elif isinstance(request, DeferredInFlight):
                self._send_first(request)
            else:
                self._counts[request.family].ended(Outcome.FAILED)
                self._end(request, EngineFailed("the devices that ran it were lost"))
        self.dropped(effects.dropped)

    # --- cascades

    def _after_first_stage(
        self, request: InFlightRequest, route: CascadeRoute | None, answer: Answered, took_s: float, now_s: float
    ) -> Answered | None:
        """The answer to send now, after a batch of ``took_s``; None: the second stage is asked."""
        if route is None:
            return self._second_stages.only_answer(request, answer)
        own = self._second_stages.first_answer(request, route, answer, took_s, now_s, self._at_last_moment)
        if own is not None and own.staged is not None and own.staged.is_fallback:
            self._count_deferred(request.family, is_fallback=True)
        return None if own is None else Answered(own, 0, answer.rows, answer.queue_s)

    def _second_answered(self, launch: Launch, started_s: float, result: BatchResult) -> None:
        """A batch of deferred requests is done: they are answered unless their origin has ended."""
        now_s, hosted, last, ended = self._clock(), launch.hosted, 0, list[_Ended]()
        non_finite = self._non_finite_rows(result)
        batch = AnsweredBatch(hosted, launch.rows, result.outputs, result.compute_s, is_emulated=self._is_emulated)
        for place, deferred in enumerate(in_flight(launch.requests)):
            assert isinstance(deferred, DeferredInFlight)  # noqa: S101 - all of a batch come from one queue
            first, last = last, last + deferred.rows
            if deferred.has_ended:
                continue
            is_wrong = place in result.failures or (non_finite is not None and non_finite[first:last].any())
            waited_s = started_s - deferred.arrival_s - deferred.decoding_s
            second = Answered(batch, first, deferred.rows, waited_s)
            if result.notes:
                second = of_exits(second, result.notes)
            own = None if is_wrong else self._second_stages.second_answer(deferred, second)
            if own is None or now_s > deferred.deadline_s:
                self._send_first(deferred)
                continue
            self._count_deferred(hosted.family, is_fallback=False)
            origin = deferred.settle()
            ended.append((origin, Answered(own, 0, origin.rows, waited_s), waited_s))
        self._send(hosted, ended, now_s - started_s, result.compute_s, now_s)

    def _at_last_moment(self, deferred: DeferredInFlight) -> None:
        """The second answer is not there, and no later one would be in time."""
        if not deferred.has_ended:
            self._send_first(deferred)
            self._second_stages.give_up(deferred)

    def _send_first(self, deferred: DeferredInFlight) -> None:
        """The first answer goes out, unless the origin has ended."""
        if deferred.has_ended:
            return
        origin, own, now_s, took_s = deferred.settle(), deferred.first_answer(), self._clock(), deferred.took_s
        self._count_deferred(origin.family, is_fallback=True)
        answer = Answered(own, 0, origin.rows, deferred.queue_s) if now_s <= origin.deadline_s else None
        waited_s = now_s - origin.arrival_s - took_s - origin.decoding_s
        self._send(own.hosted, [(origin, answer, waited_s)], took_s, own.compute_s, now_s)

    def _give_up_second_stage(self, request: InFlightRequest) -> None:
        """A request has ended: its deferred rows, if any, are given up."""
        if request.deferred is not None:
            deferred = request.deferred
            deferred.settle()
            self._second_stages.give_up(deferred)

    def _count_deferred(self, family: str, *, is_fallback: bool) -> None:
        self._counts[family].deferred += 1
        self._counts[family].fallbacks += is_fallback

    # --- endings

    def _failed(self, request: InFlightRequest, hosted: HostedVariant, error: Exception | None) -> None:
        """``error`` is None where the outputs are not finite."""
        if error is not None:
            result = EngineFailed("the model failed on this request", variant=hosted.variant)
        else:
            what = "the answer holds NaN or infinity, which this server refuses"
            result = EngineFailed(what, variant=hosted.variant)
        self._log_failure(hosted, error or result)
        self._counts[request.family].ended(Outcome.FAILED, hosted.variant, hosted.device)
        self._end(request, result)

    def _log_failure(self, hosted: HostedVariant, error: Exception) -> None:
        if times := self._log_limiter.occurred((hosted.key, hosted.device)):
            log.error(
                "%s failed on %s: %s", hosted.variant, hosted.device, error,
                extra=fields(family=hosted.family, variant=hosted.variant, device=hosted.device, requests=times),
            )  # fmt: skip

    def _expired(self, request: InFlightRequest) -> None:
        """The deadline of a request has passed. It may still wait or run; its result is not used."""
        is_late, counts = request.is_running, self._counts[request.family]
        counts.ended(Outcome.LATE if is_late else Outcome.DROPPED)
        if is_late:
            counts.latency.add(self._clock() - request.arrival_s)
        self._warn_of_missed_deadline(request.family)
        self._end(request, _late() if is_late else self._dropped(request))
        self._give_up_second_stage(request)

    def _dropped(self, request: InFlightRequest) -> DeadlineExceeded:
        message = "no variant that is loaded could answer by the deadline"
        if (least_s := self._min_timeout_s(request)) is not None:
            message += f": even an idle device needs {format_least_ms(least_s)}"
        return DeadlineExceeded(message, is_late=False)

    def _end(self, request: InFlightRequest, error: RequestError) -> None:
        self._counts[request.family].failed_s += self._clock() - request.arrival_s
        self._ended_count += 1
        _call([(request.end(), error)])

    def _non_finite_rows(self, result: BatchResult) -> npt.NDArray[np.bool_] | None:
        """Rows whose outputs must not be sent; None where all may."""
        if not self._refuses_non_finite:
            return None
        found = np.zeros(len(result.outputs[0]), np.bool_)
        for values in result.outputs:
            if values.dtype.kind == "f":
                found |= ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        return found

    def _warn_of_missed_deadline(self, family: str) -> None:
        if times := self._log_limiter.occurred(family):
            log.warning("%s: some queries miss their deadline", family, extra=fields(family=family, requests=times))


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed while the batch was running", is_late=True)


def _call(ended: Sequence[tuple[ResultCallback, Result]]) -> None:
    for done, result in ended:
        try:
            done(result)
        except Exception:  # others of the batch, and others whose deadline has passed, must get their results
            log.exception("a bug in a front end")


def _log_batch(launch: Launch, started_s: float, compute_s: float) -> None:
    hosted, requests = launch.hosted, launch.requests
    longest_s = started_s - min(request.arrival_s + request.decoding_s for request in in_flight(requests))
    log.debug(
        "batch on %s", hosted.device,
        extra=fields(
            family=hosted.family, variant=hosted.variant, device=hosted.device, rows=launch.rows,
            requests=len(requests), queue_ms=round(longest_s * 1e3, 3), compute_ms=round(compute_s * 1e3, 3),
        ),
    )  # fmt: skip
