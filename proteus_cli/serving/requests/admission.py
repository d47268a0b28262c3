"""The one door for requests: every front end calls `Admission.submit`."""

from collections.abc import Callable, Mapping
from itertools import count
from math import inf
from typing import Protocol

from proteus_cli.buffers import Buffer
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Admitted
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import BadRequest, NotReady, RequestError, UnknownModel
from proteus_cli.serving.fleet.worker import Workers
from proteus_cli.serving.lifecycle import Lifecycle
from proteus_cli.serving.requests.answers.answer_log import AnswerLog
from proteus_cli.serving.requests.counts import RequestCounts
from proteus_cli.serving.requests.families import Families, ServedFamily
from proteus_cli.serving.requests.in_flight import InFlightRequest, Observer, ResultCallback, nobody
from proteus_cli.serving.requests.query import Query, ReadInputs, capped_timeout_s, is_finite
from proteus_cli.serving.requests.refusals import Refusals
from proteus_cli.serving.requests.results import Results
from proteus_cli.serving.requests.samples.capture import SampleCapture
from proteus_cli.serving.requests.version_arms import VersionArms
from proteus_cli.units import counted


class RequestWatch(Protocol):
    """Looks at some requests of each family, once they are answered."""

    def observer(self, request: InFlightRequest, served: ServedFamily, now_s: float) -> Observer:
        """Observe a request that was admitted at the ``next_look_s`` of its family or later; sets the next one."""
        ...


class Admission:
    """Checks requests, asks the controller whether to admit them, and has ``workers`` ask for work afterwards.

    With ``refuses_non_finite``, NaN or infinity in an input is an error; else it passes through. No request waits
    longer than ``max_timeout_s``, or than the SLO of its family where that is longer, whatever timeout it asks for.
    ``answers`` records the answers to requests that have an id; None where no feedback is taken. ``samples`` captures
    some requests, ``watch`` looks at some. ``arms`` of the versions that are rolled out now, by family.
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
        self._refusals = Refusals(families.by_name, controller, counts, clock, max_timeout_s)
        self._watch, self._arms = watch, arms
        self._ids = count()

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
        observers: tuple[Observer, ...] = (),
    ) -> InFlightRequest:
        """Admit a request and read its tensors; ``done`` is called with its result, never before this returns.

        It arrives now, unless ``arrival_s`` says when it did; it was decoded in between. Raises the `RequestError` of a
        request that is not admitted, and what ``read_inputs`` raises: then it is as if the request had never been
        offered. Without ``read_inputs`` it is only asked whether the request would be admitted now.
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
            bounds, arm = arms.enter(query, arrival_s, is_probe=read_inputs is None)
            if arm is not None:
                observers, mark = (*observers, arm), arm.mark
        if rows > served.max_rows:
            raise BadRequest(f"`{family}` takes at most {counted(served.max_rows, 'row')} a request; got {rows}")
        slo_s, now_s = served.slo_s, self._clock()
        if arrival_s is None:
            arrival_s = now_s
            if self._refusals.in_turn:
                self._refusals.raise_alike(query, now_s)
        timeout_s = capped_timeout_s(options.timeout_s, slo_s, self._max_timeout_s)
        if self._answers is not None and query.id is not None:
            observers = (*observers, *self._answers.observers(query, mark))
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
            observers=observers,
            decoding_s=now_s - arrival_s,
        )
        offered = self._controller.offer(request, now_s)
        if not isinstance(offered, Admitted):
            raise self._refusals.error(query, offered, timeout_s, is_usual=arrival_s == now_s and bounds is None)
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
            observers = (*observers, *self._samples.observers(request, query.id))
        if self._watch is not None and now_s >= served.next_look_s:
            observers = (*observers, self._watch.observer(request, served, now_s))
        if observers:
            request.observers = observers
            for observer in observers:
                observer.admitted(request)
        self._results.expect(request)
        if offered.devices is not self._workers.last_devices:
            self._workers.ask_soon(offered.devices)
        return request

    def _withdraw(self, request: InFlightRequest, now_s: float) -> None:
        self._refusals.in_turn.clear()  # there is room again
        self._workers.ask_soon(self._controller.dispatch.withdraw(request, now_s).ask)

    def probe(self, query: Query, arrival_s: float) -> None:
        """Raise like `submit` where a request would not be admitted now."""
        self.submit(query, None, nobody, arrival_s)

    def deadline_s(self, query: Query, arrival_s: float) -> float:
        """When a request is due, by the clock. Raises `UnknownModel` where its family is no longer there."""
        served = self._families.get(query.family)
        if served is None:
            raise UnknownModel(f"no model `{query.family}`")
        return arrival_s + capped_timeout_s(query.options.timeout_s, served.slo_s, self._max_timeout_s)

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
        self._refusals.in_turn.clear()
        self._results.cancelled(request)
        effects = self._controller.dispatch.cancel(request)
        if effects.dropped:
            request.release_inputs()
        self._workers.ask_soon(effects.ask)

    def count_refusal(self, error: RequestError) -> None:
        """A front end answers a request with an error, before the request was admitted or instead of that."""
        self._counts.refusals[type(error).__name__] += 1


def _require_finite(inputs: tuple[Buffer, ...], family: ServedFamily) -> None:
    if not is_finite(inputs, family.signature.inputs):
        raise BadRequest("the inputs hold NaN or infinity, which this server refuses")
