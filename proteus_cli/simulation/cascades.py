"""Cascades in a simulation: which queries the first stage defers, and which of its answers are sent after all."""

import math
from collections.abc import Callable, Collection, Sequence

import numpy as np

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import CascadeRoute, Effects, FirstStage, Host, Launch
from proteus_cli.domain.request import DeferredRequest, Outcome, Request, RequestRecord
from proteus_cli.simulation.confidences import Confidences
from proteus_cli.simulation.eval_rows import EvalRows
from proteus_cli.simulation.events import Events
from proteus_cli.simulation.exits import ExitAnswer

ROUNDING_S = 1e-9
"""A second stage that ends so much after the last moment ends at it."""


class DeferredQuery(DeferredRequest, frozen=True, eq=False, kw_only=True):
    """A query whose first answer, from a row of the batch ``first``, waits for the second stage.

    With queries as sure as this, the first variant has ``first_accuracy``, and the second ``second_accuracy``.
    """

    first: Launch
    first_accuracy: float
    second_accuracy: float


class SimulatedCascades:
    """Ends the queries of batches, as soon as the plan's cascades have their last answer; each query once.

    A deferred query that the second stage has not answered by its last moment is answered by the first. ``saw`` takes
    the records, with the accuracies that profiles promise of queries of as much confidence. Queries that are
    ``eval_rows`` are deferred, and right or wrong, as they were when variants were profiled; of no others it is known
    whether they are below a least confidence. ``apply`` does what the controller asks for.
    """

    def __init__(
        self,
        controller: Controller,
        events: Events,
        confidences: Confidences,
        eval_rows: EvalRows,
        saw: Callable[[RequestRecord], object],
        apply: Callable[[Effects, float], None],
    ) -> None:
        self._controller, self._events = controller, events
        self._confidences, self._eval_rows = confidences, eval_rows
        self._saw, self._apply = saw, apply
        self._deferred: set[int] = set()  # ids of queries whose first answers are held

    def finished(
        self, launch: Launch, now_s: float, exits: Sequence[ExitAnswer] = (), answered: Collection[int] = ()
    ) -> Sequence[str]:
        """A batch has ended; returns the devices to ask for the second stage.

        ``exits`` are the answers of a multi-exit model, by query. Those of ``answered`` ids have left before.
        """
        if launch.requests[0].is_deferred:  # so are all: they come from one queue
            self._second_ended(launch, now_s)
            return ()
        devices: dict[str, None] = {}
        cascades = self._controller.cascades
        for place, request in enumerate(launch.requests):
            if request.id in answered:
                continue
            route = cascades.route(request, launch.hosted) if now_s <= request.deadline_s else None
            own = exits[place] if exits else ExitAnswer(launch.hosted.accuracy, is_cut=False)
            if route is None:
                self._end(request, launch, own.accuracy, now_s, is_cut=own.is_cut)
                continue
            level = self._level(request, route.stage, launch.hosted)
            cascades.observe(route.stage, (level,))
            if level > route.cut and not self._is_below(request, launch.hosted):
                self._end(request, launch, route.first_accuracy[level], now_s)
            else:
                devices |= dict.fromkeys(self._defer(request, route, level, launch, own.energy_j, now_s))
        return tuple(devices)

    def _level(self, request: Request, stage: FirstStage, host: Host) -> int:
        """As a server has it: a confidence that is no number reaches no threshold."""
        confidence = self._eval_rows.confidence(request.id, host)
        if confidence is None:
            return stage.level_of_rank(self._confidences[request.id])
        return int(np.count_nonzero(confidence >= np.array(stage.thresholds, np.float32)))

    def _is_below(self, request: Request, host: Host) -> bool:
        """Whether the answer is known to be less confident than the query asks for; as a server has it."""
        if request.bounds is None or not request.bounds.needs_confidence:
            return False
        confidence = self._eval_rows.confidence(request.id, host)
        return confidence is not None and not confidence >= np.float32(request.bounds.min_confidence)

    def _second_ended(self, launch: Launch, now_s: float) -> None:
        """Deferred queries of the batch that have no answer yet have one now."""
        for request in launch.requests:
            if request.id in self._deferred:
                self._deferred.remove(request.id)
                self._end(request, launch, _deferred(request).second_accuracy, now_s, is_deferred=True)

    def fall_back(self, request: Request, now_s: float) -> None:
        """The second stage won't answer a deferred query: its first answer is sent, unless it has been."""
        if request.id in self._deferred:
            self._deferred.remove(request.id)
            self._send_first(request, now_s)

    def _defer(
        self, request: Request, route: CascadeRoute, level: int, launch: Launch, noted_j: float, now_s: float
    ) -> Sequence[str]:
        """Ask the second stage; ``noted_j`` is what the first has noted of its energy, NaN where it has not."""
        first_j = launch.hosted.energy_j(request.rows, launch.rows) if math.isnan(noted_j) else noted_j
        bounds = request.bounds and request.bounds.without(first_j)
        deferred = DeferredQuery(
            request.id, request.family, request.arrival_s, request.deadline_s, request.rows, request.slo_s,
            request.priority, max(request.min_accuracy, route.min_accuracy), bounds, first=launch,
            first_accuracy=route.first_accuracy[level], second_accuracy=route.second_accuracy[level],
        )  # fmt: skip
        admitted = self._controller.dispatch.defer(deferred, now_s, self._controller.cascades.room_frac(route, level))
        if admitted is None:
            self._send_first(deferred, now_s)
            return ()
        self._deferred.add(request.id)
        last_moment_s = self._controller.dispatch.last_moment_s(deferred)
        self._events.at(last_moment_s + ROUNDING_S, self._time_out, deferred, last_moment_s)
        return admitted.devices

    def _time_out(self, now_s: float, deferred: DeferredQuery, last_moment_s: float) -> None:
        if deferred.id in self._deferred:
            self.fall_back(deferred, last_moment_s)
            self._apply(self._controller.dispatch.cancel(deferred), now_s)

    def _send_first(self, deferred: Request, now_s: float) -> None:
        of = _deferred(deferred)
        self._end(deferred, of.first, of.first_accuracy, now_s, is_deferred=True, is_fallback=True)

    def _end(
        self,
        request: Request,
        launch: Launch,
        accuracy: float,
        now_s: float,
        *,
        is_deferred: bool = False,
        is_fallback: bool = False,
        is_cut: bool = False,
    ) -> None:
        """Record the answer that a query got from a batch."""
        hosted, latency_s = launch.hosted, now_s - request.arrival_s
        outcome = Outcome.SERVED if now_s <= request.deadline_s else Outcome.LATE
        answer = latency_s, accuracy, hosted.variant, hosted.device, launch.rows
        is_correct = None if is_cut else self._eval_rows.is_correct(request.id, hosted)
        self._saw(
            RequestRecord(
                request.family, request.arrival_s, outcome, *answer, is_deferred, is_fallback, is_correct, is_cut=is_cut
            )
        )


def _deferred(request: Request) -> DeferredQuery:
    assert isinstance(request, DeferredQuery)  # noqa: S101 - nothing else is deferred in a simulation
    return request
