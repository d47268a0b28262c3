"""Cascades while serving: which answers of a first stage are kept, and what is sent once the second was asked.

The first stage of a request ends with its batch. Rows that it is not sure of become a `DeferredInFlight`, a request of
its own in the controller's queues; the request itself stays in flight with its first answer. It ends with the second
answer; or with the first, where the deferred request is dropped or fails, and at its last moment.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import msgspec
import numpy as np
from msgspec.structs import replace

from proteus_cli.arrays import Bools, Ints, Singles
from proteus_cli.backends.base import OutputArrays
from proteus_cli.buffers import Buffer
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import CascadeRoute, FirstStage, HostedVariant
from proteus_cli.domain.request import ANY_VERSION, Bounds, Request
from proteus_cli.domain.stages.cascade import margin, output_of
from proteus_cli.serving.fleet.worker import Workers
from proteus_cli.serving.requests.families import ServedFamily, confidence_place
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch, InFlightRequest, Staged, nobody


class Confidence:
    """How sure the first stage of a cascade is of its answers: the margin of the scores, or an output of its own.

    A row whose confidence is no number reaches none. Raises `ArtefactError` where a family lacks the output it names.
    """

    def __init__(self, families: Mapping[str, ServedFamily]) -> None:
        self._families = families

    def levels(self, request: Request, stage: FirstStage, outputs: OutputArrays) -> tuple[Ints, float | None]:
        """How many thresholds each row of a request reaches, and the lowest confidence, None where it is unknown."""
        values, lowest = self._values(request.family, outputs)
        reached = values[:, np.newaxis] >= np.array(stage.thresholds, np.float32)
        return np.count_nonzero(reached, axis=1), lowest

    def below(self, family: str, minimum: float, outputs: OutputArrays) -> tuple[Bools, float | None]:
        """Whether each row of an answer is less confident than ``minimum``, and the lowest confidence."""
        values, lowest = self._values(family, outputs)
        return ~(values >= minimum), lowest

    def of(self, family: str, outputs: OutputArrays) -> Singles:
        """The confidence of each row of an answer."""
        return confidence_of(self._families[family], outputs)

    def _values(self, family: str, outputs: OutputArrays) -> tuple[Singles, float | None]:
        """By row, and the lowest."""
        values = self.of(family, outputs)
        lowest = float(values.min())
        return values, lowest if math.isfinite(lowest) else None


def confidence_of(served: ServedFamily, outputs: OutputArrays) -> Singles:
    """The confidence of each row of an answer. Raises `ArtefactError`."""
    place = confidence_place(served.name, output_of(served.confidence), served.signature)
    values: Singles = margin(outputs[0]) if place is None else outputs[place].reshape(-1).astype(np.float32)
    return values


class DrawnConfidence(Confidence):
    """Confidences where no output is computed, drawn as in a simulation: the part of all rows that were less sure."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__({})
        self._rng = rng

    def levels(self, request: Request, stage: FirstStage, outputs: OutputArrays) -> tuple[Ints, float | None]:  # noqa: ARG002 - made up
        values = self._rng.random(request.rows)
        return np.searchsorted(stage.ranks, values, side="right"), float(values.min())

    def below(self, family: str, minimum: float, outputs: OutputArrays) -> tuple[Bools, float | None]:  # noqa: ARG002 - unknown
        """No output tells a confidence, so that no row is known to be below a minimum."""
        return np.zeros(len(outputs[0]), np.bool_), None


class DeferredInFlight(InFlightRequest, frozen=False, gc=True, eq=False, kw_only=True):  # type: ignore[misc]  # as its base
    """The rows of ``origin`` that its first stage was not sure of, while the second is asked.

    ``first`` has the first answer to all rows of the origin, which were in the queue for ``queue_s``; its batch took
    ``took_s``. ``unsure`` marks the rows that wait here. All rows are expected to have ``first_accuracy``
    with these answers, and ``second_accuracy`` with the second stage's. The first stage took ``first_j``; None
    where the origin does not limit its energy.
    """

    is_deferred: ClassVar[bool] = True

    origin: InFlightRequest
    first: AnsweredBatch
    queue_s: float
    took_s: float
    unsure: Bools
    first_accuracy: float
    second_accuracy: float
    confidence: float | None
    first_j: float | None
    timer: asyncio.TimerHandle | None = None

    def settle(self) -> InFlightRequest:
        """The origin ends now, with either answer or without: returns it."""
        self.end()
        self.origin.deferred = None
        if self.timer is not None:
            self.timer.cancel()
        return self.origin

    def first_answer(self) -> AnsweredBatch:
        """The first answer, as a fallback."""
        staged = Staged(1, self.confidence, self.first_accuracy, is_fallback=True, energy_j=self.first_j)
        self.first.staged = _with_exit(staged, self.first)
        return self.first

    def second_answer(self, second: Answered) -> AnsweredBatch | None:
        """The first answer with the second outputs in place of the unsure rows; None where they do not fit there."""
        batch, outputs = second.batch, second.outputs
        if not self.unsure.all():
            merged = []
            for before, after in zip(self.first.outputs, outputs, strict=True):
                if before.shape[1:] != after.shape[1:] or before.dtype != after.dtype:
                    return None
                values = before.copy()
                values[self.unsure] = after
                merged.append(values)
            outputs = tuple(merged)
        second_j = _energy_j(self, batch)
        energy_j = None if self.first_j is None or second_j is None else self.first_j + second_j
        staged = Staged(2, self.confidence, self.second_accuracy, is_fallback=False, energy_j=energy_j)
        return batch.of_one(outputs, staged=_with_exit(staged, batch), version=self.first.version)


class SecondStages:
    """Has second stages asked, by ``workers``."""

    def __init__(self, controller: Controller, confidence: Confidence, workers: Workers) -> None:
        self.routes, self.live_conditions = controller.cascades, controller.dispatch.stop_when
        self._controller, self._confidence, self._workers = controller, confidence, workers

    def first_answer(
        self,
        request: InFlightRequest,
        route: CascadeRoute,
        answer: Answered,
        took_s: float,
        now_s: float,
        at_last_moment: Callable[[DeferredInFlight], None],
    ) -> AnsweredBatch | None:
        """The answer to a request now, after a batch that took ``took_s``; None: the second stage is asked.

        ``at_last_moment`` is called when the second answer is not there by then.
        """
        batch, outputs = answer.batch, answer.outputs
        own = batch.of_one(outputs, staged=batch.staged, version=_version(request))
        levels, confidence = self._confidence.levels(request, route.stage, outputs)
        self.routes.observe(route.stage, levels.tolist())
        unsure: Bools = levels <= route.cut
        if request.bounds is not None and request.bounds.needs_confidence:
            unsure |= self._confidence.below(request.family, request.bounds.min_confidence, outputs)[0]
        by_first, by_both = _expected(route, levels, unsure)
        rows = int(np.count_nonzero(unsure))
        first_j = _energy_j(request, batch)
        if not rows:
            own.staged = _with_exit(Staged(1, confidence, by_first, is_fallback=False, energy_j=first_j), batch)
            return own
        bounds = request.bounds and request.bounds.without(_profiled_j(request, batch))
        deferred = DeferredInFlight(
            request.id, request.family, request.arrival_s, request.deadline_s, rows, request.slo_s, request.priority,
            max(request.min_accuracy, route.min_accuracy), bounds, done=nobody, inputs=_rows_of(request, unsure),
            decoding_s=request.decoding_s, origin=request, first=own, queue_s=answer.queue_s, took_s=took_s,
            unsure=unsure, first_accuracy=by_first, second_accuracy=by_both, confidence=confidence, first_j=first_j,
        )  # fmt: skip
        room_frac = self.routes.room_frac(route, int(levels[unsure].min()))
        admitted = self._controller.dispatch.defer(deferred, now_s, room_frac)
        if admitted is None:
            return deferred.first_answer()
        request.deferred = deferred
        left_s = self._controller.dispatch.last_moment_s(deferred) - now_s
        deferred.timer = asyncio.get_running_loop().call_later(left_s, at_last_moment, deferred)
        self._workers.ask_soon(admitted.devices)
        return None

    def only_answer(self, request: InFlightRequest, answer: Answered) -> Answered:
        """The answer to a request that goes by no cascade; it says what its bounds ask about."""
        batch, bounds = answer.batch, request.bounds
        if bounds is None or not (bounds.needs_confidence or bounds.is_energy_limited or bounds.version):
            return answer
        staged = batch.staged
        if bounds.needs_confidence or bounds.is_energy_limited:
            staged = self._with_bounds(request, bounds, answer)
        own = batch.of_one(answer.outputs, staged=staged, version=_version(request))
        return Answered(own, 0, answer.rows, answer.queue_s)

    def _with_bounds(self, request: InFlightRequest, bounds: Bounds, answer: Answered) -> Staged:
        batch = answer.batch
        of_exits = batch.staged or Staged(None, None, batch.hosted.accuracy)
        confidence = of_exits.confidence
        if bounds.needs_confidence:
            _, confidence = self._confidence.below(request.family, bounds.min_confidence, answer.outputs)
        energy_j = _energy_j(request, batch)
        return msgspec.structs.replace(of_exits, confidence=confidence, energy_j=energy_j)

    def second_answer(self, deferred: DeferredInFlight, second: Answered) -> AnsweredBatch | None:
        """The answer with the outputs of the second stage; None where they do not fit the first answer."""
        own, bounds = deferred.second_answer(second), deferred.origin.bounds
        if own is not None and own.staged is not None and bounds is not None and bounds.needs_confidence:
            _, confidence = self._confidence.below(deferred.family, bounds.min_confidence, own.outputs)
            own.staged = replace(own.staged, confidence=confidence)
        return own

    def give_up(self, deferred: DeferredInFlight) -> None:
        """The origin has ended: the deferred request is not run, unless it runs already."""
        effects = self._controller.dispatch.cancel(deferred)
        if effects.dropped:
            deferred.release_inputs()
        self._workers.ask_soon(effects.ask)


def _with_exit(staged: Staged, batch: AnsweredBatch) -> Staged:
    """With the exit that gave the answer, where the variant of the stage is a multi-exit model."""
    of_exits = batch.staged
    return staged if of_exits is None else replace(staged, exit=of_exits.exit, is_cut=of_exits.is_cut)


def _version(request: InFlightRequest) -> str:
    """The version that a request has asked for."""
    bounds = request.bounds
    return ANY_VERSION if bounds is None or bounds.version is None else bounds.version.name


def _energy_j(request: Request, batch: AnsweredBatch) -> float | None:
    """The joules of a request in a batch; None where it does not limit its energy, or the power is unknown."""
    power_w = batch.hosted.power_w
    if request.bounds is None or not request.bounds.is_energy_limited or power_w is None:
        return None
    noted_j = _noted_j(batch)
    return power_w * batch.compute_s * request.rows / batch.rows if noted_j is None else noted_j


def _profiled_j(request: Request, batch: AnsweredBatch) -> float:
    """The same by the times of the profile."""
    noted_j = _noted_j(batch)
    return batch.hosted.energy_j(request.rows, batch.rows) if noted_j is None else noted_j


def _noted_j(batch: AnsweredBatch) -> float | None:
    """The joules of a request that limits its energy, as a multi-exit model says."""
    return None if batch.staged is None else batch.staged.energy_j


def _expected(route: CascadeRoute, levels: Ints, unsure: Bools) -> tuple[float, float]:
    """The accuracy of all rows with the first answers, and with second answers to the unsure ones."""
    first = np.array(route.first_accuracy)[levels]
    both = np.where(unsure, np.array(route.second_accuracy)[levels], first)
    return float(first.mean()), float(both.mean())


def _rows_of(request: InFlightRequest, chosen: Bools) -> tuple[Buffer, ...]:
    """The inputs of some rows of a request."""
    if chosen.all():
        return request.inputs
    picked = []
    for content in request.inputs:
        view = memoryview(content).cast("B")
        size = len(view) // request.rows
        picked.append(b"".join([view[row * size : (row + 1) * size] for row in np.flatnonzero(chosen).tolist()]))
    return tuple(picked)


def of_exits(answer: Answered, notes: OutputArrays) -> Answered:
    """The answer to a request with the exits of its rows; ``notes`` of all rows of its batch."""
    batch, rows = answer.batch, slice(answer.first, answer.first + answer.rows)
    exits, confidences, cut, held, energies = (values[rows] for values in notes)
    lowest, energy_j = float(confidences.min()), float(energies.sum())
    staged = Staged(
        None,
        lowest if math.isfinite(lowest) else None,
        _accuracy(batch.hosted, exits.tolist(), held.tolist()),
        energy_j=None if math.isnan(energy_j) else energy_j,
        exit=int(exits.max()),
        is_cut=bool(cut.any()),
    )
    return Answered(batch.of_one(answer.outputs, staged=staged), 0, answer.rows, answer.queue_s)


def is_cut(notes: OutputArrays) -> bool:
    """Whether a row of a batch was cut short, so that the batch took less than profiled."""
    return bool(notes) and bool(notes[2].any())


def _accuracy(hosted: HostedVariant, exits: list[int], held: list[int]) -> float:
    """The mean of what is to be expected of the rows; of the variant where its profile knows no more.

    The profile of an exit covers the rows for which the condition holds there. A row that has gone on, as its
    request asks for more confidence, is like these, not like the hard ones that get to the exit which answered it.
    """
    known = hosted.exits
    if not known:
        return hosted.accuracy
    rows = zip(exits, held, strict=True)
    each = (known[(at or exit_) - 1].answers_worth(is_cut=not at, otherwise=hosted.accuracy) for exit_, at in rows)
    return sum(each) / len(exits)
