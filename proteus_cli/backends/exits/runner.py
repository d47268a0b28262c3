"""Runs batches through the stages of a multi-exit model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from time import monotonic
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from proteus_cli.arrays import Bools, Floats, Ints, Singles
from proteus_cli.backends.base import NamedArrays, Runner, Signature, TensorSpec
from proteus_cli.backends.exits.stop_rule import StopRule
from proteus_cli.domain.conditions import Condition
from proteus_cli.domain.stages.cascade import margin, output_of
from proteus_cli.domain.stages.pace import StagePace
from proteus_cli.domain.stages.stage_forecast import ExitBounds, Leaving, StageForecast
from proteus_cli.errors import EngineError

EXIT_NOTE, CONFIDENCE_NOTE, CUT_NOTE, HELD_NOTE = "exit (note)", "confidence (note)", "cut (note)", "held (note)"
ENERGY_NOTE = "energy (note)"
NOTES = (
    TensorSpec(EXIT_NOTE, np.dtype(np.uint8), ()),
    TensorSpec(CONFIDENCE_NOTE, np.dtype(np.float32), ()),
    TensorSpec(CUT_NOTE, np.dtype(np.bool_), ()),
    TensorSpec(HELD_NOTE, np.dtype(np.uint8), ()),
    TensorSpec(ENERGY_NOTE, np.dtype(np.float64), ()),
)
"""The notes of each row, behind the outputs of the family.

A row whose request asks for a confidence may go on behind the exit at which its condition *held*; 0: it did not hold.
Its energy is what it took by the profile; NaN where its request does not limit that.
"""

_HINT = "stage k must give the outputs of the family, and all that stage k + 1 takes"


Leave = Callable[[Leaving, NamedArrays], object]
"""Sends outputs and notes of the rows of some parts, before the next stage begins."""


class Passed(NamedTuple):
    """The answers of an exit, whose stage a whole batch has passed."""

    outputs: NamedArrays
    confidence: Singles


class StagedBatch(Protocol):
    """A batch on its way through the stages: it has begun the first one. Its features lie where the device is."""

    def outputs(self) -> NamedArrays:
        """Those of the exit behind the stage that was begun last, once that has ended. Raises `EngineError`."""
        ...

    def go_on(self, chosen: Bools | None) -> None:
        """Begin the next stage with the ``chosen`` rows of the last one; None: with all of them.

        Raises `EngineError`.
        """
        ...


class ExitRunner(ABC):
    """A `Runner` of several stages. Rows stop at the first exit after which ``stop_when`` holds.

    ``signatures`` has one for each stage; ``confidence`` is the setting of the family. Raises `EngineError` where the
    stages do not fit together.
    """

    def __init__(self, signatures: Sequence[Signature], stop_when: Condition, confidence: str) -> None:
        self.exits = len(signatures)
        self._stop_when, self._pace = stop_when, StagePace()  # of one thread
        first, last = signatures[0], signatures[-1]
        for place, (stage, after) in enumerate(pairwise(signatures), start=1):
            _require_fitting(place, stage, after, last)
        self.signature = Signature(first.inputs, last.outputs, NOTES)
        self._names = [spec.name for spec in last.outputs]
        self._confidence = _confidence_output(confidence, self._names)

    @property
    @abstractmethod
    def memory_bytes(self) -> int:
        """The memory of the engines of all stages."""

    @abstractmethod
    def _begun(self, inputs: NamedArrays) -> AbstractContextManager[StagedBatch]:
        """Begin a batch, which has what it needs until left. Raises `EngineError`."""

    def infer(
        self,
        inputs: NamedArrays,
        bounds: ExitBounds | None = None,
        clock: Callable[[], float] = monotonic,
        leave: Leave | None = None,
    ) -> NamedArrays:
        """The outputs of all rows, each of the exit where it stopped, and the notes. Raises `EngineError`.

        With ``bounds`` of the rows, those are cut short that the next stage would be too late for, or would take more
        energy of than they have left. Parts that are due before it ends ``leave``, where that is given; their rows are
        in the outputs as well. For that, the ``clock`` is asked at the start, behind each stage, when a part has left,
        and when the answers are there. By it, a live condition knows the time that rows have had.
        """
        start_s = clock() if bounds is not None else 0.0
        rows = len(next(iter(inputs.values())))
        with self._begun(inputs) as batch:
            return self.answers(batch, rows, start_s, bounds, clock, leave)

    def answers(
        self,
        batch: StagedBatch,
        rows: int,
        start_s: float = 0.0,
        bounds: ExitBounds | None = None,
        clock: Callable[[], float] = monotonic,
        leave: Leave | None = None,
    ) -> NamedArrays:
        """The outputs of `infer` for a batch of ``rows`` that was begun at ``start_s``."""
        if bounds is not None and leave is None:
            bounds = replace(bounds, may_leave=False)
        forecast = StageForecast(bounds, self._pace, start_s) if bounds is not None else None
        least = bounds.min_by_row() if bounds is not None else None
        rule = StopRule(self._stop_when, self.exits, bounds, start_s)
        answers, going = _Answers(rows), np.arange(rows)
        for place in range(1, self.exits + 1):
            made = batch.outputs()
            confidence = self._confidence_of(made)
            is_enough, ended_s = rule.behind(place, going, confidence, clock)
            stops = is_enough
            if least is not None:
                answers.held_at(place, going[is_enough])
                if place < self.exits:
                    is_enough = stops = is_enough & (confidence >= least[going])
            if forecast is not None:
                stops = forecast.stopping(place, going, is_enough, clock() if ended_s is None else ended_s)
                answers.energy_j = forecast.energy_j
            stopping = int(np.count_nonzero(stops))
            if stopping == len(going):
                answers.add(place, going, {name: made[name] for name in self._names}, confidence, ~is_enough)
                break
            if stopping:
                outputs = {name: made[name][stops] for name in self._names}
                answers.add(place, going[stops], outputs, confidence[stops], ~is_enough[stops])
            if forecast is not None and forecast.leaving is not None and leave is not None:
                leave(forecast.leaving, answers.of(forecast.leaving.rows))
                forecast.left(clock())
            goes_on = ~stops if stopping else None
            batch.go_on(goes_on)
            going = going if goes_on is None else going[goes_on]
        outputs = answers.outputs()
        if forecast is not None:
            forecast.ended(clock())
        return outputs

    def passed(self, inputs: NamedArrays) -> Iterator[Passed]:
        """All rows through all stages, whatever the condition says: for measuring. Raises `EngineError`."""
        with self._begun(inputs) as batch:
            for place in range(1, self.exits + 1):
                made = batch.outputs()
                yield Passed({name: made[name] for name in self._names}, self._confidence_of(made))
                if place < self.exits:
                    batch.go_on(None)

    def _confidence_of(self, made: NamedArrays) -> Singles:
        values = margin(made[self._names[0]]) if self._confidence is None else made[self._confidence].reshape(-1)
        confidence: Singles = values.astype(np.float32, copy=False)
        return confidence


class HostExitRunner(ExitRunner):
    """One whose stages are runners that take their inputs from the host, and give their outputs there."""

    def __init__(self, stages: Sequence[Runner], stop_when: Condition, confidence: str) -> None:
        self.stages = tuple(stages)
        super().__init__([stage.signature for stage in stages], stop_when, confidence)

    @property
    def memory_bytes(self) -> int:
        return sum(stage.memory_bytes for stage in self.stages)

    def _begun(self, inputs: NamedArrays) -> AbstractContextManager[StagedBatch]:
        return nullcontext(_HostBatch(self.stages, inputs))


class _HostBatch:
    """Runs a stage once its outputs are asked for."""

    def __init__(self, stages: Sequence[Runner], inputs: NamedArrays) -> None:
        self._stages, self._place = stages, 0
        self._inputs, self._made = inputs, inputs

    def outputs(self) -> NamedArrays:
        self._made = self._stages[self._place].infer(self._inputs)
        return self._made

    def go_on(self, chosen: Bools | None) -> None:
        self._place += 1
        names = [spec.name for spec in self._stages[self._place].signature.inputs]
        if chosen is None:
            self._inputs = {name: self._made[name] for name in names}
        else:
            self._inputs = {name: self._made[name][chosen] for name in names}


class _Answers:
    """The outputs of a batch, as its rows stop, and the notes. If all rows stop at once, no output is copied.

    ``energy_j`` is None where no row has a limit.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._outputs: NamedArrays = {}
        self._exits, self._confidences = np.zeros(rows, np.uint8), np.zeros(rows, np.float32)
        self._cut = np.zeros(rows, np.bool_)
        self._held: npt.NDArray[np.uint8] | None = None  # None: where they stop, unless they are cut short
        self.energy_j: Floats | None = None

    def add(self, place: int, rows: Ints, outputs: NamedArrays, confidence: Singles, cut: Bools) -> None:
        """``rows`` of the batch stop at an exit, with these outputs; some are ``cut``."""
        if len(rows) == self._rows:
            self._exits[:], self._confidences, self._cut, self._outputs = place, confidence, cut, outputs
            return
        self._exits[rows], self._confidences[rows], self._cut[rows] = place, confidence, cut
        for name, values in outputs.items():
            if name not in self._outputs:
                self._outputs[name] = np.empty((self._rows, *values.shape[1:]), values.dtype)
            self._outputs[name][rows] = values

    def held_at(self, place: int, rows: Ints) -> None:
        """Note that the condition of ``rows`` holds behind an exit, whether or not they stop there."""
        if self._held is None:
            self._held = np.zeros(self._rows, np.uint8)
        self._held[rows[self._held[rows] == 0]] = place

    def of(self, rows: Ints) -> NamedArrays:
        """The notes of some rows; all of them have stopped."""
        return {name: values[rows] for name, values in self.outputs().items()}

    def outputs(self) -> NamedArrays:
        energy_j = np.full(self._rows, np.nan) if self.energy_j is None else self.energy_j
        held = self._exits * ~self._cut if self._held is None else self._held
        notes: tuple[npt.NDArray[Any], ...] = (self._exits, self._confidences, self._cut, held, energy_j)
        return {**self._outputs, **{spec.name: values for spec, values in zip(NOTES, notes, strict=True)}}


def _require_fitting(place: int, stage: Signature, after: Signature, last: Signature) -> None:
    """Raise `EngineError` unless a stage gives what the family's outputs are, and what the stage ``after`` it takes."""
    given = {spec.name: spec for spec in stage.outputs}
    for what, needed in (
        ("an output of the last stage", last.outputs),
        (f"what stage {place + 1} takes", after.inputs),
    ):
        for spec in needed:
            found = given.get(spec.name)
            if found is None:
                names = ", ".join(f"`{name}`" for name in given)
                raise EngineError(f"Stage {place} gives no `{spec.name}`, {what}, but {names}.", hint=_HINT)
            if found.dtype != spec.dtype or found.shape != spec.shape or None in found.shape:
                raise EngineError(
                    f"Stage {place} gives `{spec.name}` as {found.dtype} {found.shape_text}; {what} is {spec.dtype} "
                    f"{spec.shape_text}.",
                    hint=f"{_HINT}, in the same type and a fixed shape",
                )


def _confidence_output(confidence: str, outputs: Sequence[str]) -> str | None:
    name = output_of(confidence)
    if name is not None and name not in outputs:
        raise EngineError(
            f'`confidence = "{confidence}"`: no stage has an output `{name}`.', hint=f"they have: {', '.join(outputs)}"
        )
    return name
