"""The one door for requests: every front end calls `Admission.submit`."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from itertools import count
from math import inf
from typing import Protocol

from proteus_cli.buffers import Buffer
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import (
    Admitted,
    BeyondHosts,
    NeverInTime,
    OtherPlanNeeded,
    Refused,
    TooManyRows,
    Unfit,
)
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import (
    BadRequest,
    BoundsUnmet,
    DeadlineExceeded,
    NotAccurateEnough,
    NotReady,
    Overloaded,
    RequestError,
    UnknownModel,
)
from proteus_cli.serving.fleet.workers import Workers
from proteus_cli.serving.lifecycle import Lifecycle
from proteus_cli.serving.logs import LogRateLimiter, fields
from proteus_cli.serving.requests.answers.answer_log import AnswerLog
from proteus_cli.serving.requests.bounds import LessAccurate, never_in_time, unmet
from proteus_cli.serving.requests.counts import RequestCounts
from proteus_cli.serving.requests.families import Families, ServedFamily
from proteus_cli.serving.requests.in_flight import InFlightRequest, ResultCallback, nobody
from proteus_cli.serving.requests.query import DEFAULT_OPTIONS, Query, ReadInputs, is_finite
from proteus_cli.serving.requests.results import Results
from proteus_cli.serving.requests.samples.capture import SampleCapture
from proteus_cli.serving.requests.version_arms import VersionArms
from proteus_cli.units import counted

log = logging.getLogger("proteus.dataplane")

_OVERLOADED = "more queries than the plan can carry, some are refused"


class RequestWatch(Protocol):
    """Looks at some requests of each family, once they are answered."""

    def admitted(self, request: InFlightRequest, served: ServedFamily, now_s: float) -> None:
        """A request was admitted at the ``next_look_s`` of its family or later; it says when the next one is."""
        ...


class Admission:
    """Checks requests, asks the controller whether to admit them, and has ``workers`` ask for work afterwards.

    With ``refuses_non_finite``, NaN or infinity in an input is an error; else it passes through. No request waits
    longer than ``max_timeout_s``, or than the SLO of its family where that is longer, whatever timeout it asks for.
    ``answers`` records the answers to requests that have an id; None where no feedback is taken. ``samples`` captures
    some requests, ``watch`` looks at some. ``arms`` are those of versions that are rolled out now, by family.
    """

    def __init__(
        self,
        families: Families,
        controller: Controller,
        lifecycle: Lifecycle,
        workers: Workers,
        results: Results,
        counts: RequestCounts,
        clock: Callable[[], float],
        *,
        refuses_non_finite: bool = False,
        max_timeout_s: float = inf,
        answers: AnswerLog | None = None,
        samples: SampleCapture | None = None,
        watch: RequestWatch | None = None,
        arms: Mapping[str, VersionArms],
    ) -> None:
        self._families, self._controller, self._lifecycle = families.by_name, controller, lifecycle
        self._workers, self._results, self._counts, self._clock = workers, results, counts, clock
        self._refuses_non_finite, self._max_timeout_s = refuses_non_finite, max_timeout_s
        self._answers, self._samples = answers, samples
        self._less_accurate = LessAccurate(controller)
        self._watch, self._arms = watch, arms
        self._ids = count()
        self._log_limiter = LogRateLimiter(clock)
        self._refused: dict[str, tuple[int, Overloaded]] = {}  # in this turn of the loop: rows, and why

    @property
    def now_s(self) -> float:
        """Seconds by the clock of the data plane."""
        return self._clock()

    def submit(  # noqa: C901, PLR0912 - a few checks one after another; a call for some of them would cost each request
        self,
        query: Query,
        read_inputs: ReadInputs | None,
        done: ResultCallback,
        arrival_s: float | None = None,
        on_gone: Callable[[], None] | None = None,
    ) -> InFlightRequest:
        """Admit a request and read its tensors; ``done`` is called with its result, never before this returns.

        ``on_gone`` is what else wants to know that its client is gone.

        It arrives now, unless ``arrival_s`` says when it did. Raises the `RequestError` of a request that is not
        admitted, and what ``read_inputs`` raises: then it is as if the request had never been offered. Without
        ``read_inputs`` it is only asked whether the request would be admitted now.
        """
        if not self._lifecycle.is_ready:
            self._lifecycle.require_ready()
        family = query.family
        try:
            served = self._families[family]
        except KeyError:  # it was taken out of service since the request was read
            raise UnknownModel(f"no model `{family}`") from None
        if served.why_out:
            raise NotReady(f"`{family}` is {served.why_out}")
        rows, options = query.rows, query.options
        bounds, mark = options.bounds, None
        if self._arms and (arms := self._arms.get(family)) is not None:
            bounds, read_inputs, done, mark = arms.enter(query, read_inputs, done, arrival_s)
        if rows > served.max_rows:
            raise BadRequest(f"`{family}` takes at most {counted(served.max_rows, 'row')} a request; got {rows}")
        slo_s, now_s = served.slo_s, self._clock()
        if arrival_s is None:
            arrival_s = now_s
            if self._refused:
                self._refuse_alike(query, now_s)
        timeout_s = self._timeout_s(options.timeout_s, slo_s)
        if self._answers is not None and query.id is not None:
            done = self._answers.noting(query, done, mark)
        request = InFlightRequest(
            next(self._ids),
            family,
            arrival_s,
            arrival_s + timeout_s,
            rows,
            slo_s,
            options.priority,
            options.min_accuracy,
            bounds,
            done=done,
            on_gone=on_gone,
        )
        offered = self._controller.offer(request, now_s)
        if not isinstance(offered, Admitted):
            raise self._refusal(query, offered, timeout_s, is_usual=arrival_s == now_s and bounds is None)
        if read_inputs is None:
            self._withdraw(request, now_s)
            return request
        try:
            request.inputs = read_inputs()
            if self._refuses_non_finite:
                _require_finite(request.inputs, served)
        except Exception:
            self._withdraw(request, now_s)
            raise
        if self._samples is not None and request.id >= self._samples.next_id:
            self._samples.admitted(request, query.id)
        if self._watch is not None and now_s >= served.next_look_s:
            self._watch.admitted(request, served, now_s)
        self._results.expect(request)
        if offered.devices is not self._workers.last_devices:
            self._workers.ask_soon(offered.devices)
        return request

    def _timeout_s(self, asked_s: float | None, slo_s: float) -> float:
        return slo_s if asked_s is None else min(asked_s, max(self._max_timeout_s, slo_s))

    def _withdraw(self, request: InFlightRequest, now_s: float) -> None:
        self._refused.clear()  # there is room again
        self._workers.ask_soon(self._controller.dispatch.withdraw(request, now_s).ask)

    def probe(self, query: Query, arrival_s: float) -> None:
        """Raise like `submit` where a request would not be admitted now."""
        self.submit(query, None, nobody, arrival_s)

    def deadline_s(self, query: Query, arrival_s: float) -> float:
        """When a request is due, by the clock. Raises `UnknownModel` where its family is no longer there."""
        served = self._families.get(query.family)
        if served is None:
            raise UnknownModel(f"no model `{query.family}`")
        return arrival_s + self._timeout_s(query.options.timeout_s, served.slo_s)

    def dropped(self, query: Query, arrival_s: float, *, is_cancelled: bool) -> None:
        """A request was given up before it was admitted: its deadline has passed, or its client has gone."""
        counts = self._counts.by_family.get(query.family)
        if counts is None:  # as its family has
            return
        counts.ended(Outcome.DROPPED)
        counts.cancelled += is_cancelled
        counts.failed_s += self._clock() - arrival_s

    def longest_s(self, family: str) -> float:
        """The longest that a request of a family may wait for its answer."""
        return max(self._max_timeout_s, self._families[family].slo_s)

    def cancel(self, request: InFlightRequest) -> None:
        """The client of a request is gone: the request is not run, unless it runs already. Harmless after its end."""
        if request.has_ended:
            return
        self._refused.clear()
        self._results.cancelled(request)
        effects = self._controller.dispatch.cancel(request)
        if effects.dropped:
            request.release_inputs()
        self._workers.ask_soon(effects.ask)

    def count_refusal(self, error: RequestError) -> None:
        """A front end answers a request with an error, before the request was admitted or instead of that."""
        self._counts.refusals[type(error).__name__] += 1

    def _refusal(
        self, query: Query, offered: Refused | BeyondHosts | Unfit, timeout_s: float, *, is_usual: bool
    ) -> RequestError:
        family, options = query.family, query.options
        keeps_plan = self._controller.policy.replanning is None
        is_final = keeps_plan and options.asks_for_more
        if isinstance(offered, BeyondHosts) and self._is_for_call(query, offered):
            self._counts.by_family[family].ended(Outcome.DROPPED)
            return DeadlineExceeded(never_in_time(query, timeout_s, offered, keeps_plan=keeps_plan), is_late=False)
        if isinstance(offered, TooManyRows):
            return BadRequest(
                f"the hosted variants of `{family}` answer at most {counted(offered.max_rows, 'row')} of a request "
                f"within {1000 * timeout_s:g} ms; got {query.rows}"
            )
        self._counts.by_family[family].ended(Outcome.REJECTED)
        if isinstance(offered, NeverInTime):
            return BoundsUnmet(never_in_time(query, timeout_s, offered, keeps_plan=keeps_plan))
        if isinstance(offered, Unfit) and options.bounds is not None:
            return BoundsUnmet(unmet(query, options.bounds, offered))
        if isinstance(offered, Unfit):
            available = ", ".join(f"{variant} ({accuracy:.4g})" for variant, accuracy in offered.available.items())
            return NotAccurateEnough(
                f"no variant of `{family}` that is planned has an accuracy of {options.min_accuracy:g} or more; "
                f"available: {available or 'none'}"
            )
        if isinstance(offered, OtherPlanNeeded):
            self._warn(family, "queries that only another plan could answer in time are refused")
            told = never_in_time(query, timeout_s, offered, keeps_plan=keeps_plan)
            return BoundsUnmet(told) if is_final else Overloaded(told, retry_after_s=offered.retry_after_s)
        if offered.is_lost:
            self._warn(family, "no device that hosts it is available, its queries are refused")
            version = options.bounds and options.bounds.version
            what = f"{version} of `{family}`" if version else f"`{family}`"
            return NotReady(f"no device that hosts {what} is available", retry_after_s=offered.retry_after_s)
        self._warn(family, _OVERLOADED)
        instead = "" if is_usual and options == DEFAULT_OPTIONS else self._less_accurate.instead(query, timeout_s)
        refusal = Overloaded(
            f"more queries for `{family}` than the plan can carry{instead}", retry_after_s=offered.retry_after_s
        )
        if is_usual and options == DEFAULT_OPTIONS:
            if not self._refused:
                asyncio.get_running_loop().call_soon(self._refused.clear)
            self._refused[family] = query.rows, refusal
        return refusal

    def _is_for_call(self, query: Query, offered: BeyondHosts) -> bool:
        """Whether only the deadline of its call leaves a request too little time, not its rows or what it asks for."""
        options = query.options
        without_call_s = self._timeout_s(options.asked_timeout_s, self._families[query.family].slo_s)
        is_time_enough = isinstance(offered, NeverInTime) or offered.least_timeout_s <= without_call_s
        return options.is_left_of_call and is_time_enough

    def _refuse_alike(self, query: Query, now_s: float) -> None:
        """If a request of the family with no more rows was refused in this turn of the loop, raise the same refusal.

        Requests that ask for nothing unusual are refused alike until the turn ends, or a request leaves its place.
        Under overload most requests are refused, and so in half of the time.
        """
        family, rows = query.family, query.rows
        refused_rows, refusal = self._refused.get(family, (inf, None))
        if refusal is not None and rows >= refused_rows and query.options == DEFAULT_OPTIONS:
            self._controller.dispatch.count_refused(family, rows, now_s, self._families[family].slo_s)
            self._counts.by_family[family].ended(Outcome.REJECTED)
            self._warn(family, _OVERLOADED)
            raise refusal.with_traceback(None)

    def _warn(self, family: str, problem: str) -> None:
        if times := self._log_limiter.occurred((problem, family)):
            log.warning("%s: %s", family, problem, extra=fields(family=family, requests=times))


def _require_finite(inputs: tuple[Buffer, ...], family: ServedFamily) -> None:
    if not is_finite(inputs, family.signature.inputs):
        raise BadRequest("the inputs hold NaN or infinity, which this server refuses")
