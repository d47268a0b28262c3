"""The one door: every front end calls `DataPlane.submit`, and every request ends here, exactly once."""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from proteus_cli.backends.base import Signature
from proteus_cli.control.controller import Admitted, Controller, Refused, Unfit
from proteus_cli.control.decision import Hosted, Launch
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.request import Outcome, Request
from proteus_cli.errors import (
    BadRequest,
    DeadlineExceeded,
    EngineFailed,
    NotAccurateEnough,
    NotReady,
    Overloaded,
    RequestError,
    UnknownModel,
)
from proteus_cli.serving.devices.executor import BatchResult
from proteus_cli.serving.fleet.worker import Clock, Worker
from proteus_cli.serving.lifecycle import Lifecycle, ServerState
from proteus_cli.serving.logs import LogRateLimiter, fields
from proteus_cli.serving.requests.counts import Tally, family_counts
from proteus_cli.serving.requests.deadlines import TimingWheel
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch, InFlightRequest, Result, ResultCallback
from proteus_cli.serving.requests.query import Query, is_finite

if TYPE_CHECKING:
    from proteus_cli.control.drift import Drift

log = logging.getLogger("proteus.dataplane")

REFUSING = "more queries than the plan can carry, some are refused"
MISSING = "some queries miss their deadline"
LOST = "no device that hosts it is there, its queries are refused"
MAX_RUNS = 2  # of a request, where devices are lost meanwhile


class DataPlane:
    """Checks, admits, waits, accounts.

    Families in ``unloaded`` take no requests; nothing else about them changes, so they may leave it at any time.
    ``refuses_non_finite``: NaN and infinity are an error in a request and in an answer; else they pass through.
    ``is_emulated``: nothing runs, so that times and answers are made up, which all that is said of them must say.
    """

    def __init__(
        self,
        catalog: Catalog,
        controller: Controller,
        lifecycle: Lifecycle,
        clock: Clock,
        *,
        signatures: Mapping[str, Signature],
        max_rows: Mapping[str, int],
        best_accuracy: Mapping[str, float],
        refuses_non_finite: bool = False,
        is_emulated: bool = False,
    ) -> None:
        self.signatures, self.lifecycle, self.controller = signatures, lifecycle, controller
        self.clock, self.is_emulated = clock, is_emulated
        self.slo_s, self.best_accuracy, self.max_rows = catalog.slo_s(), best_accuracy, max_rows
        self.counts = family_counts(self.slo_s, max_rows)
        self.refusals: Counter[str] = Counter()  # requests that did not come in, by error
        self._seldom = LogRateLimiter(clock)
        self.inside = 0
        self.unloaded: set[str] = set()
        self.lanes: Mapping[str, Worker] = {}  # set once the fleet exists
        self.drift: Drift | None = None  # set where profiles are compared with what batches take
        self._refuses_non_finite = refuses_non_finite
        self._ids = count()
        self._deadlines = TimingWheel(clock, self._expired)
        self._to_ask: dict[str, None] = {}

    def require_family(self, name: str) -> Signature:
        """What the family takes and gives. Raises `UnknownModel`."""
        try:
            return self.signatures[name]
        except KeyError:
            raise UnknownModel(f"no model `{name}`; there are: {', '.join(self.signatures)}") from None

    def why_unavailable(self, family: str) -> str | None:
        """Why a family can't be asked for answers now; None where it can."""
        if self.lifecycle.state is not ServerState.READY:
            return f"the server is {self.lifecycle.state}"
        if family in self.unloaded:
            return "unloaded"
        if self.controller.is_lost(family):
            return "no device that hosts it is there"
        return None if self.controller.hosting(family) else "the plan in force hosts no variant of it"

    def tallies(self) -> dict[str, Tally]:
        """How requests have ended so far, by family."""
        return {family: counts.tally() for family, counts in self.counts.items()}

    async def infer(self, family: str, query: Query) -> Answered:
        """Answer one request by its deadline. Raises the `RequestError` of how it ended."""
        ended: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        pending = self.submit(family, query, ended.set_result)
        try:
            ending = await ended
        except asyncio.CancelledError:
            self.cancel(pending)
            raise
        if isinstance(ending, Exception):
            raise ending
        return ending

    def submit(self, family: str, query: Query, done: ResultCallback) -> InFlightRequest:
        """Take a request in; ``done`` is told its ending, never before this returns.

        Raises the `RequestError` of a request that does not come in.
        """
        if self.lifecycle.state is not ServerState.READY:
            self.lifecycle.require_ready()
        if family in self.unloaded:
            raise NotReady(f"`{family}` is unloaded")
        rows, options = query.rows, query.options
        if rows > self.max_rows[family]:
            raise BadRequest(f"`{family}` takes at most {self.max_rows[family]} rows a request; got {rows}")
        if self._refuses_non_finite and not is_finite(query.inputs, self.signatures[family].inputs):
            raise BadRequest("the inputs hold NaN or infinity, which this server refuses")
        now_s, slo_s = self.clock(), self.slo_s[family]
        deadline_s = now_s + (slo_s if options.timeout_s is None else options.timeout_s)
        pending = InFlightRequest(query.inputs, done, deadline_s)
        request = Request(
            next(self._ids), family, now_s, deadline_s, rows, pending, slo_s, options.priority, options.min_accuracy
        )
        offered = self.controller.offer(request, now_s)
        if not isinstance(offered, Admitted):
            raise self._refused(family, options.min_accuracy, offered)
        pending.request = request
        self.inside += 1
        self._deadlines.watch(pending, now_s)
        for device in offered.devices:
            self._ask_later(device)
        return pending

    def cancel(self, pending: InFlightRequest) -> None:
        """Nobody waits for this request any more: it is not run, unless it runs already. Harmless once it has ended."""
        if pending.has_ended:
            return
        request = pending.request
        assert request is not None  # noqa: S101 - it has not ended
        counts = self.counts[request.family]
        counts.ended(Outcome.DROPPED)
        counts.cancelled += 1
        counts.failed_s += self.clock() - request.arrival_s
        self.inside -= 1
        pending.end()
        effects = self.controller.cancel(request)
        if effects.dropped:
            pending.inputs = ()
        for device in effects.ask:
            self._ask_later(device)

    def answered(self, launch: Launch, started_s: float, result: BatchResult) -> None:
        """A batch is done."""
        now_s, hosted = self.clock(), launch.hosted
        batch = AnsweredBatch(hosted, launch.rows, result.outputs, result.compute_s, is_emulated=self.is_emulated)
        broken = self._broken_rows(result)
        told: list[tuple[ResultCallback, Result]] = []
        served = rows_served = first = 0
        waits_s: list[float] = []
        served_waited_s = 0.0
        for place, request in enumerate(launch.requests):
            pending: InFlightRequest = request.payload
            last = first + request.rows
            if pending.has_ended:
                pass
            elif place in result.failures or (broken is not None and broken[first:last].any()):
                self._failed(request, hosted, result.failures.get(place))
            else:
                waited_s = started_s - request.arrival_s
                waits_s.append(waited_s)
                if now_s <= request.deadline_s:
                    served += 1
                    rows_served += request.rows
                    served_waited_s += waited_s
                    told.append((pending.end(), Answered(batch, first, request.rows, waited_s)))
                else:
                    self.counts[hosted.family].failed_s += now_s - request.arrival_s
                    told.append((pending.end(), _late()))
            first = last
        self.inside -= len(told)
        counts, took_s = self.counts[hosted.family], now_s - started_s
        counts.ended(Outcome.SERVED, hosted.variant, hosted.device, served)
        counts.ended(Outcome.LATE, hosted.variant, hosted.device, len(told) - served)
        counts.ran(waits_s, took_s, rows=launch.rows, compute_s=result.compute_s, now_s=now_s)
        if self.drift is not None and not result.failures:
            self.drift.ran(hosted.device, hosted.family, hosted.variant, rows=launch.rows, took_s=result.compute_s)
        if served:
            counts.served(
                served, rows=rows_served, waited_s=served_waited_s, took_s=took_s, compute_s=result.compute_s,
                accuracy=hosted.accuracy, now_s=now_s,
            )  # fmt: skip
        if log.isEnabledFor(logging.DEBUG):
            _log_batch(launch, started_s, result.compute_s)
        for done, ending in told:
            _tell(done, ending)

    def dropped(self, request: Request) -> None:
        """The controller has given a request up."""
        pending: InFlightRequest = request.payload
        if not pending.has_ended:
            self.counts[request.family].ended(Outcome.DROPPED)
            self._warn(request.family, MISSING)
            self._leave(pending, _dropped())
            pending.inputs = ()

    def failed(self, launch: Launch, error: Exception) -> None:
        """A whole batch failed."""
        for request in launch.requests:
            if not request.payload.has_ended:
                self._failed(request, launch.hosted, error)

    def interrupted(self, request: Request) -> bool:
        """What ran a request is lost. Whether it may run again: nobody has ended it, and it has done no more harm.

        One that was running on two devices when they were lost may be what they were lost for.
        """
        pending: InFlightRequest = request.payload
        if pending.has_ended:
            return False
        counts = self.counts[request.family]
        if pending.runs >= MAX_RUNS:
            counts.ended(Outcome.FAILED)
            self._leave(pending, EngineFailed("the devices that ran it were lost"))
            return False
        counts.retried += 1
        pending.wait_again()
        return True

    def _refused(self, family: str, min_accuracy: float, offered: Refused | Unfit) -> RequestError:
        self.counts[family].ended(Outcome.REJECTED)
        if isinstance(offered, Refused):
            if offered.is_lost:
                self._warn(family, LOST)
                return NotReady(f"no device that hosts `{family}` is there", retry_after_s=offered.retry_after_s)
            self._warn(family, REFUSING)
            return Overloaded(
                f"more queries for `{family}` than the plan can carry", retry_after_s=offered.retry_after_s
            )
        available = ", ".join(f"{variant} ({accuracy:g})" for variant, accuracy in offered.available.items())
        return NotAccurateEnough(
            f"no variant of `{family}` that is planned has an accuracy of {min_accuracy:g} or more; available: "
            f"{available or 'none'}"
        )

    def _ask_later(self, device: str) -> None:
        """Ask a lane once all that has arrived by now is here, so that it may share a batch."""
        if not self._to_ask:
            asyncio.get_running_loop().call_soon(self._ask)
        self._to_ask[device] = None

    def _ask(self) -> None:
        asked, self._to_ask = self._to_ask, {}
        for device in asked:
            self.lanes[device].ask()

    def _broken_rows(self, result: BatchResult) -> npt.NDArray[np.bool_] | None:
        """Rows whose outputs must not be sent; None where all may."""
        if not self._refuses_non_finite:
            return None
        floats = [values for values in result.outputs if values.dtype.kind == "f"]
        broken = np.zeros(len(result.outputs[0]), np.bool_)
        for values in floats:
            broken |= ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        return broken

    def _warn(self, family: str, problem: str) -> None:
        if times := self._seldom.times((problem, family)):
            log.warning("%s: %s", family, problem, extra=fields(family=family, requests=times))

    def _failed(self, request: Request, hosted: Hosted, error: Exception | None) -> None:
        if error is not None:
            ending = EngineFailed("the model failed on this request")
        else:
            ending = EngineFailed("the answer holds NaN or infinity, which this server refuses")
        if times := self._seldom.times(("failed", hosted.variant, hosted.device)):
            log.error(
                "%s failed on %s: %s", hosted.variant, hosted.device, error or ending,
                extra=fields(family=hosted.family, variant=hosted.variant, device=hosted.device, requests=times),
            )  # fmt: skip
        self.counts[request.family].ended(Outcome.FAILED, hosted.variant, hosted.device)
        self._leave(request.payload, ending)

    def _expired(self, pending: InFlightRequest) -> None:
        """The deadline of a request has passed; it may still wait or run, but nobody waits for it."""
        assert pending.request is not None  # noqa: S101 - it has not ended
        is_late, request = pending.is_running, pending.request
        self.counts[request.family].ended(Outcome.LATE if is_late else Outcome.DROPPED)
        if is_late:
            self.counts[request.family].latency.add(self.clock() - request.arrival_s)
        self._warn(request.family, MISSING)
        self._leave(pending, _late() if is_late else _dropped())

    def _leave(self, pending: InFlightRequest, ending: RequestError) -> None:
        """A request that came in ends unanswered."""
        request = pending.request
        assert request is not None  # noqa: S101 - it has not ended
        self.counts[request.family].failed_s += self.clock() - request.arrival_s
        self.inside -= 1
        _tell(pending.end(), ending)


def _log_batch(launch: Launch, started_s: float, compute_s: float) -> None:
    """One line for a batch."""
    hosted, requests = launch.hosted, launch.requests
    longest_s = started_s - min(request.arrival_s for request in requests)
    log.debug(
        "batch on %s", hosted.device,
        extra=fields(
            family=hosted.family, variant=hosted.variant, device=hosted.device, rows=launch.rows,
            requests=len(requests), queue_ms=round(longest_s * 1e3, 3), compute_ms=round(compute_s * 1e3, 3),
        ),
    )  # fmt: skip


def _dropped() -> DeadlineExceeded:
    return DeadlineExceeded("no variant that is loaded could answer by the deadline", is_late=False)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed while the batch was running", is_late=True)


def _tell(done: ResultCallback, ending: Result) -> None:
    try:
        done(ending)
    except Exception:  # the others of its batch, and those whose time is over, must be told all the same
        log.exception("a bug in a front end")
