"""How admitted requests end: each exactly once, whatever becomes of its batch, its device and its client."""

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from proteus_cli.control.decision import Host, Launch
from proteus_cli.control.topology.drift import Drift
from proteus_cli.domain.request import Outcome, Request
from proteus_cli.errors import DeadlineExceeded, EngineFailed, RequestError
from proteus_cli.serving.devices.executor import BatchResult
from proteus_cli.serving.logs import LogRateLimiter, fields
from proteus_cli.serving.requests.counts import RequestCounts
from proteus_cli.serving.requests.deadlines import TimingWheel
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch, InFlightRequest, Result, ResultCallback

log = logging.getLogger("proteus.dataplane")

MAX_RUNS = 2
"""A request that was running on so many devices when they were lost may be the cause, and is not run again."""


class Results:
    """Gives each admitted request its one result, counts its outcome, and lets drift learn from the batches.

    With ``refuses_non_finite``, NaN or infinity in an output fails the request. ``is_emulated``: no batch is computed,
    so times and outputs are made up; answers say so.
    """

    def __init__(
        self,
        counts: RequestCounts,
        clock: Callable[[], float],
        *,
        drift: Drift | None = None,
        refuses_non_finite: bool = False,
        is_emulated: bool = False,
    ) -> None:
        self._counts, self._clock, self._drift = counts.by_family, clock, drift
        self._refuses_non_finite, self._is_emulated = refuses_non_finite, is_emulated
        self._deadlines = TimingWheel(clock, self._expired)
        self._log_limiter = LogRateLimiter(clock)
        self.in_flight_count = 0

    def expect(self, in_flight: InFlightRequest, now_s: float) -> None:
        """A request was admitted: it ends by its deadline at the latest."""
        self.in_flight_count += 1
        self._deadlines.watch(in_flight, now_s)

    def cancelled(self, in_flight: InFlightRequest) -> None:
        """The client of a request is gone. Call it before the request has ended."""
        request = in_flight.request
        assert request is not None  # noqa: S101 - it has not ended
        counts = self._counts[request.family]
        counts.ended(Outcome.DROPPED)
        counts.cancelled += 1
        counts.failed_s += self._clock() - request.arrival_s
        self.in_flight_count -= 1
        in_flight.end()

    # --- ResultSink

    def answered(self, launch: Launch, started_s: float, result: BatchResult) -> None:
        """A batch is done; single requests of it may have failed, or ended before."""
        now_s, hosted = self._clock(), launch.hosted
        batch = AnsweredBatch(hosted, launch.rows, result.outputs, result.compute_s, is_emulated=self._is_emulated)
        non_finite = self._non_finite_rows(result)
        ended: list[tuple[ResultCallback, Result]] = []
        served = rows_served = first = 0
        waits_s: list[float] = []
        served_waited_s = 0.0
        for place, request in enumerate(launch.requests):
            in_flight: InFlightRequest = request.payload
            last = first + request.rows
            if in_flight.has_ended:
                pass
            elif place in result.failures or (non_finite is not None and non_finite[first:last].any()):
                self._failed(request, hosted, result.failures.get(place))
            else:
                waited_s = started_s - request.arrival_s
                waits_s.append(waited_s)
                if now_s <= request.deadline_s:
                    served += 1
                    rows_served += request.rows
                    served_waited_s += waited_s
                    ended.append((in_flight.end(), Answered(batch, first, request.rows, waited_s)))
                else:
                    self._counts[hosted.family].failed_s += now_s - request.arrival_s
                    ended.append((in_flight.end(), _late()))
            first = last
        self.in_flight_count -= len(ended)
        counts, took_s = self._counts[hosted.family], now_s - started_s
        counts.ended(Outcome.SERVED, hosted.variant, hosted.device, served)
        counts.ended(Outcome.LATE, hosted.variant, hosted.device, len(ended) - served)
        counts.ran(waits_s, took_s, rows=launch.rows, compute_s=result.compute_s, now_s=now_s)
        if self._drift is not None and not result.failures:
            self._drift.ran(hosted.device, hosted.family, hosted.variant, rows=launch.rows, took_s=result.compute_s)
        if served:
            counts.served(
                served, rows=rows_served, waited_s=served_waited_s, took_s=took_s, compute_s=result.compute_s,
                accuracy=hosted.accuracy, now_s=now_s,
            )  # fmt: skip
        if log.isEnabledFor(logging.DEBUG):
            _log_batch(launch, started_s, result.compute_s)
        for done, answer in ended:
            _call(done, answer)

    def dropped(self, request: Request) -> None:
        """The controller has dropped a request, as it can't be answered in time."""
        in_flight: InFlightRequest = request.payload
        if not in_flight.has_ended:
            self._counts[request.family].ended(Outcome.DROPPED)
            self._warn_of_missed_deadline(request.family)
            self._end(in_flight, _dropped())
            in_flight.release_inputs()

    def failed(self, launch: Launch, error: Exception) -> None:
        """A batch failed as a whole."""
        for request in launch.requests:
            if not request.payload.has_ended:
                self._failed(request, launch.hosted, error)

    def wait_again_or_fail(self, request: Request) -> bool:
        """The device that ran a request is lost: the request waits again, or fails after `MAX_RUNS` runs.

        Returns whether it waits; False also where it had ended before.
        """
        in_flight: InFlightRequest = request.payload
        if in_flight.has_ended:
            return False
        counts = self._counts[request.family]
        if in_flight.runs >= MAX_RUNS:
            counts.ended(Outcome.FAILED)
            self._end(in_flight, EngineFailed("the devices that ran it were lost"))
            return False
        counts.retried += 1
        in_flight.wait_again()
        return True

    # --- endings

    def _failed(self, request: Request, hosted: Host, error: Exception | None) -> None:
        """``error`` is None where the outputs are not finite."""
        if error is not None:
            result = EngineFailed("the model failed on this request")
        else:
            result = EngineFailed("the answer holds NaN or infinity, which this server refuses")
        if times := self._log_limiter.occurred((hosted.variant, hosted.device)):
            log.error(
                "%s failed on %s: %s", hosted.variant, hosted.device, error or result,
                extra=fields(family=hosted.family, variant=hosted.variant, device=hosted.device, requests=times),
            )  # fmt: skip
        self._counts[request.family].ended(Outcome.FAILED, hosted.variant, hosted.device)
        self._end(request.payload, result)

    def _expired(self, in_flight: InFlightRequest) -> None:
        """The deadline of a request has passed. It may still wait or run; its result is not used."""
        assert in_flight.request is not None  # noqa: S101 - it has not ended
        is_late, request = in_flight.is_running, in_flight.request
        counts = self._counts[request.family]
        counts.ended(Outcome.LATE if is_late else Outcome.DROPPED)
        if is_late:
            counts.latency.add(self._clock() - request.arrival_s)
        self._warn_of_missed_deadline(request.family)
        self._end(in_flight, _late() if is_late else _dropped())

    def _end(self, in_flight: InFlightRequest, error: RequestError) -> None:
        request = in_flight.request
        assert request is not None  # noqa: S101 - it has not ended
        self._counts[request.family].failed_s += self._clock() - request.arrival_s
        self.in_flight_count -= 1
        _call(in_flight.end(), error)

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


def _dropped() -> DeadlineExceeded:
    return DeadlineExceeded("no variant that is loaded could answer by the deadline", is_late=False)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed while the batch was running", is_late=True)


def _call(done: ResultCallback, result: Result) -> None:
    try:
        done(result)
    except Exception:  # other requests of the batch, and others whose deadline has passed, must get their results
        log.exception("a bug in a front end")


def _log_batch(launch: Launch, started_s: float, compute_s: float) -> None:
    hosted, requests = launch.hosted, launch.requests
    longest_s = started_s - min(request.arrival_s for request in requests)
    log.debug(
        "batch on %s", hosted.device,
        extra=fields(
            family=hosted.family, variant=hosted.variant, device=hosted.device, rows=launch.rows,
            requests=len(requests), queue_ms=round(longest_s * 1e3, 3), compute_ms=round(compute_s * 1e3, 3),
        ),
    )  # fmt: skip
