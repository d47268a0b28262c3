"""The answers that simulated queries get, by an exit of a model, or by one of the two stages of a cascade."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from proteus_cli.arrays import Bools, Floats, Singles
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import CascadeRoute, Effects, FirstStage, HostedVariant, Launch
from proteus_cli.domain.request import DeferredRequest, Outcome, Request, RequestRecord
from proteus_cli.domain.stages.walk import Walk
from proteus_cli.domain.trace import Trace
from proteus_cli.simulation.events import Events

ROUNDING_S = 1e-9
"""A second stage that ends this long after the last moment ends at it."""


@dataclass(frozen=True, slots=True, eq=False)
class RowAnswers:
    """The answers of a variant to every ``step``-th row of an eval split.

    ``confidences`` are NaN where the model gave none; ``correct`` says which answers were right.
    """

    confidences: Singles
    correct: Bools
    step: int = 1


RowAnswersOf = Mapping[tuple[str, str, str], RowAnswers]
"""By device, family and variant."""


class Queries:
    """How confident variants are of the queries of a trace, and which answers are right. Queries are numbered from 0.

    ``answers`` are known for queries that are rows of eval splits.
    """

    def __init__(self, trace: Trace, answers: RowAnswersOf, rng: np.random.Generator) -> None:
        self._trace, self._answers, self._rng = trace, answers, rng
        self.has_answers = bool(answers)

    @cached_property
    def ranks(self) -> list[float]:
        """By query, the fraction of all queries (0 to 1) on which first stages are less confident.

        The trace may give the rank; else it is drawn. A cascade defers the queries below the rank of its point, and
        exits of a multi-exit model answer their shares, the most confident queries first.
        """
        known = self._trace.confidence
        ranks: list[float] = np.where(np.isnan(known), self._rng.random(len(known)), known).tolist()
        return ranks

    def ranks_of(self, numbers: Sequence[int], rows: Sequence[int]) -> Floats:
        """The rank of each row of these queries. ``rows`` are their numbers of rows."""
        return np.repeat([self.ranks[number] for number in numbers], rows)

    def answer(self, number: int, host: HostedVariant) -> tuple[float, bool] | None:
        """The confidence of a host's answer to a query, and whether the answer is right; None if it is not known."""
        row, answers = float(self._trace.eval_row[number]), self._answers.get((host.device, host.family, host.variant))
        if math.isnan(row) or answers is None:
            return None
        place, rest = divmod(int(row), answers.step)
        if rest or place >= len(answers.correct):
            return None
        return float(answers.confidences[place]), bool(answers.correct[place])


class DeferredQuery(DeferredRequest, frozen=True, eq=False, kw_only=True):
    """A query that waits for the second stage of a cascade. Its first answer is a row of the batch ``first``.

    For queries of the same confidence, the variants have ``first_accuracy`` and ``second_accuracy``.
    """

    first: Launch
    first_accuracy: float
    second_accuracy: float


class Answers:
    """Records the answers of batches, each query once, with the accuracies that profiles expect of them.

    A query that a cascade defers is answered by the second stage, or by the first at its last moment. For rows of eval
    splits, the profiled answers say whether they are deferred, correct, and as confident as the query asks. ``saw``
    takes the records; ``apply`` does what the controller asks for.
    """

    def __init__(
        self,
        controller: Controller,
        events: Events,
        queries: Queries,
        saw: Callable[[RequestRecord], object],
        apply: Callable[[Effects, float], None],
    ) -> None:
        self._controller, self._events, self._queries = controller, events, queries
        self._saw, self._apply = saw, apply
        self._waiting: set[int] = set()  # ids of deferred queries without an answer

    def record(self, launch: Launch, now_s: float, places: Collection[int], walk: Walk | None) -> Sequence[str]:
        """The queries at these places of a batch have left it; returns the devices to ask for the second stage.

        ``walk``: the way of the batch through a multi-exit model.
        """
        hosted = launch.hosted
        if launch.requests[0].is_deferred:  # all are: they come from one queue
            for request in launch.requests:
                if request.id in self._waiting:
                    self._waiting.remove(request.id)
                    self._end(request, launch, _deferred(request).second_accuracy, now_s, is_deferred=True)
            return ()
        devices: dict[str, None] = {}
        cascades = self._controller.cascades
        accuracies = walk.accuracies(hosted.exits, hosted.accuracy) if walk is not None else None
        for place in places:
            request = launch.requests[place]
            route = cascades.route(request, hosted) if now_s <= request.deadline_s else None
            if route is None:
                accuracy = accuracies[place] if accuracies is not None else hosted.accuracy
                self._end(request, launch, accuracy, now_s, is_cut=walk is not None and bool(walk.cut[place]))
                continue
            known = self._queries.answer(request.id, hosted)
            level = self._level(request, route.stage, known)
            cascades.observe(route.stage, (level,))
            if level > route.cut and not _is_below(request, known):
                self._end(request, launch, route.first_accuracy[level], now_s)
            else:
                noted_j = math.nan if walk is None or walk.energy_j is None else float(walk.energy_j[place])
                devices |= dict.fromkeys(self._defer(request, route, level, launch, noted_j, now_s))
        return tuple(devices)

    def fall_back(self, request: Request, now_s: float) -> None:
        """Send the first answer of a deferred query, unless it has an answer: the second stage will give none."""
        if request.id in self._waiting:
            self._waiting.remove(request.id)
            self._send_first(request, now_s)

    def _level(self, request: Request, stage: FirstStage, known: tuple[float, bool] | None) -> int:
        """The level of confidence, as a server finds it: NaN reaches no threshold."""
        if known is None:
            return stage.level_of_rank(self._queries.ranks[request.id])
        return int(np.count_nonzero(known[0] >= np.array(stage.thresholds, np.float32)))

    def _defer(
        self, request: Request, route: CascadeRoute, level: int, launch: Launch, noted_j: float, now_s: float
    ) -> Sequence[str]:
        """Ask the second stage. ``noted_j`` is the energy that the first took; NaN: it is unknown."""
        first_j = launch.hosted.energy_j(request.rows, launch.rows) if math.isnan(noted_j) else noted_j
        bounds = request.bounds and request.bounds.without(first_j)
        deferred = DeferredQuery(
            request.id, request.family, request.arrival_s, request.deadline_s, request.rows, request.slo_s,
            request.priority, max(request.min_accuracy, route.min_accuracy), bounds, first=launch,
            first_accuracy=route.first_accuracy[level], second_accuracy=route.second_accuracy[level],
        )  # fmt: skip
        dispatch = self._controller.dispatch
        admitted = dispatch.defer(deferred, now_s, self._controller.cascades.room_frac(route, level))
        if admitted is None:
            self._send_first(deferred, now_s)
            return ()
        self._waiting.add(request.id)
        last_moment_s = dispatch.last_moment_s(deferred)
        self._events.at(last_moment_s + ROUNDING_S, self._time_out, deferred, last_moment_s)
        return admitted.devices

    def _time_out(self, now_s: float, deferred: DeferredQuery, last_moment_s: float) -> None:
        if deferred.id in self._waiting:
            self.fall_back(deferred, last_moment_s)
            self._apply(self._controller.dispatch.cancel(deferred), now_s)

    def _send_first(self, request: Request, now_s: float) -> None:
        deferred = _deferred(request)
        self._end(request, deferred.first, deferred.first_accuracy, now_s, is_deferred=True, is_fallback=True)

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
        hosted = launch.hosted
        known = None if is_cut else self._queries.answer(request.id, hosted)
        self._saw(
            RequestRecord(
                request.family,
                request.arrival_s,
                Outcome.SERVED if now_s <= request.deadline_s else Outcome.LATE,
                now_s - request.arrival_s,
                accuracy,
                hosted.variant,
                hosted.device,
                launch.rows,
                is_deferred,
                is_fallback,
                known[1] if known is not None else None,
                is_cut,
            )
        )


def _is_below(request: Request, known: tuple[float, bool] | None) -> bool:
    """Whether the answer is known to be less confident than the query asks for, as a server compares them."""
    if known is None or request.bounds is None or not request.bounds.needs_confidence:
        return False
    return not known[0] >= np.float32(request.bounds.min_confidence)


def _deferred(request: Request) -> DeferredQuery:
    assert isinstance(request, DeferredQuery)  # noqa: S101 - a simulation defers no others
    return request
