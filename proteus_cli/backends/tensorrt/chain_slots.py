"""A slot of a multi-exit model: what one batch needs while it goes through the stages on the device."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from proteus_cli.arrays import Bools
from proteus_cli.backends.base import NamedArrays, Part, Signature, TensorSpec, gather
from proteus_cli.backends.tensorrt.bindings import cuda, trt
from proteus_cli.backends.tensorrt.slots import (
    MS_PER_S,
    NON_BLOCKING,
    EngineTensors,
    SlotTensor,
    execution_context,
    set_shapes,
    slot_tensor,
)
from proteus_cli.errors import EngineError

_INPUT_THAT_IS_AN_OUTPUT = "__"
"""Prefix that the ONNX parser of TensorRT adds to the name of such an input: tensor names are unique."""


@dataclass(frozen=True, slots=True)
class ChainTensors:
    """The tensors of all stages, as engines call them, with room for the largest batch that every stage takes."""

    stages: tuple[Signature, ...]
    max_rows: int

    @classmethod
    def of(cls, stages: Sequence[EngineTensors]) -> "ChainTensors":
        return cls(tuple(each.signature for each in stages), min(each.max_rows for each in stages))

    @property
    def signatures(self) -> list[Signature]:
        """The stages by the names of their ONNX files: a stage may hand on what it takes."""
        return [_signature_of_file(stage) for stage in self.stages]

    @property
    def whole(self) -> EngineTensors:
        """The inputs of the first stage and the outputs of the last one."""
        first, *_, last = self.signatures
        return EngineTensors(Signature(first.inputs, last.outputs), self.max_rows)

    @property
    def buffer_bytes(self) -> int:
        """The memory of one slot's buffers on the device."""
        return sum(EngineTensors(stage, self.max_rows).buffer_bytes for stage in self.stages)


class ChainSlot:
    """For each stage an execution context and buffers, and one stream for all of them; for one batch at a time.

    Inputs of the first stage come from the host, outputs of exits go there. Features stay on the device: for rows that
    go on, they are copied from the buffers of one stage to the buffers of the next one, on the slot's stream. A slot is
    a `StagedBatch`. Every call needs the device's context to be current. Making a slot raises like `Slot`, and then
    frees what it allocated.
    """

    def __init__(self, engines: "Sequence[trt.ICudaEngine]", layout: ChainTensors) -> None:
        self._whole, self._taken = layout.whole, [signature.inputs for signature in layout.signatures]
        self._stages = [_Stage(signature, layout.max_rows) for signature in layout.stages]
        self._place = self._rows = 0
        try:
            self._allocate(engines)
        except BaseException:
            self.close()
            raise

    def submit(self, parts: Sequence[Part]) -> None:
        """Start a batch: copy in, run the first stage, copy the outputs of its exit. Returns before that is done.

        The slot must not be used again before `outputs` has returned the outputs of the last stage that was begun.
        Raises `EngineError`; then the slot is free at once.
        """
        rows = self._whole.rows_of(parts)
        first = self._stages[0]
        for which, tensor in enumerate(first.inputs):
            gather(parts, which, tensor.view, tensor.spec.row_bytes)
        with self._idle_after_errors():
            for tensor in first.inputs:
                cuda.memcpy_htod_async(tensor.device, tensor.pinned[: rows * tensor.spec.row_bytes], self._stream)
            self._run(0, rows)

    def outputs(self) -> NamedArrays:
        """Sleep until the stage that was begun last is done, without the GIL; the outputs of its exit, copied."""
        self._done.synchronize()
        return {tensor.spec.name: tensor.values[: self._rows].copy() for tensor in self._stages[self._place].outputs}

    def go_on(self, chosen: Bools | None) -> None:
        """Start the next stage with the ``chosen`` rows; None: with all. Raises like `submit`."""
        before, after = self._stages[self._place : self._place + 2]
        runs = [(0, self._rows)] if chosen is None else _runs(chosen)
        with self._idle_after_errors():
            for given, spec in zip(self._taken[self._place + 1], after.signature.inputs, strict=True):
                source, target = before.addresses[given.name], after.addresses[spec.name]
                for first, last in runs:
                    size_bytes = (last - first) * spec.row_bytes
                    cuda.memcpy_dtod_async(target, source + first * spec.row_bytes, size_bytes, self._stream)
                    target += size_bytes
            self._run(self._place + 1, sum(last - first for first, last in runs))

    def compute_s(self) -> float:
        """The time that the device computed for the last batch, in all stages that it went through, without copies."""
        return sum(stage.compute_s() for stage in self._stages[: self._place + 1])

    def close(self) -> None:
        """Free everything, once nothing runs. Stream, events and contexts go with their last reference."""
        for stage in self._stages:
            stage.close()
        for name in ("_stream", "_done"):
            self.__dict__.pop(name, None)

    def _allocate(self, engines: "Sequence[trt.ICudaEngine]") -> None:
        self._stream = cuda.Stream(NON_BLOCKING)
        self._done = cuda.Event(cuda.event_flags.BLOCKING_SYNC)  # a thread that waits for it sleeps
        answers = {spec.name for spec in self._whole.signature.outputs}
        for place, stage in enumerate(self._stages):
            stage.allocate(engines[place], takes_from_host=place == 0, answers=answers)

    def _run(self, place: int, rows: int) -> None:
        self._stages[place].enqueue(rows, self._stream)
        self._done.record(self._stream)
        self._place, self._rows = place, rows

    @contextmanager
    def _idle_after_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._stream.synchronize()  # the steps that were started still use the buffers
            raise


class _Stage:
    """One stage of a slot. ``inputs`` come from the host, ``outputs`` go there; all else is on the device alone."""

    def __init__(self, signature: Signature, max_rows: int) -> None:
        self.signature, self._max_rows = signature, max_rows
        self.inputs: list[SlotTensor] = []
        self.outputs: list[SlotTensor] = []
        self._features: list[cuda.DeviceAllocation] = []
        self.addresses: dict[str, int] = {}
        self._shaped_rows = 0  # the rows for which the execution context has the shapes

    def allocate(self, engine: "trt.ICudaEngine", *, takes_from_host: bool, answers: Collection[str]) -> None:
        """Make all that the stage needs; after an error, `close` frees what was made. Raises like `Slot`."""
        self._context = execution_context(engine)
        self._began, self._computed = cuda.Event(), cuda.Event()
        for spec in self.signature.inputs:
            self._add(spec, self.inputs if takes_from_host else None)
        for spec in self.signature.outputs:
            self._add(spec, self.outputs if spec.name in answers else None)

    def enqueue(self, rows: int, stream: "cuda.Stream") -> None:
        """Run, once all inputs are there, and copy the outputs to the host. Raises `EngineError`."""
        if rows != self._shaped_rows:
            self._shaped_rows = 0
            set_shapes(self._context, self.signature.inputs, rows)
            self._shaped_rows = rows
        self._began.record(stream)
        if not self._context.execute_async_v3(stream_handle=stream.handle):
            raise EngineError(f"TensorRT can't run a stage on {rows} rows")
        self._computed.record(stream)
        for tensor in self.outputs:
            cuda.memcpy_dtoh_async(tensor.pinned[: rows * tensor.spec.row_bytes], tensor.device, stream)

    def compute_s(self) -> float:
        elapsed_ms: float = self._computed.time_since(self._began)
        return elapsed_ms / MS_PER_S

    def close(self) -> None:
        for tensor in (*self.inputs, *self.outputs):
            tensor.free()
        for feature in self._features:
            feature.free()
        self.inputs, self.outputs, self._features = [], [], []
        for name in ("_context", "_began", "_computed"):
            self.__dict__.pop(name, None)

    def _add(self, spec: TensorSpec, hosted: list[SlotTensor] | None) -> None:
        if hosted is None:
            device = cuda.mem_alloc(self._max_rows * spec.row_bytes)
            self._features.append(device)
        else:
            hosted.append(slot_tensor(spec, self._max_rows))
            device = hosted[-1].device
        self.addresses[spec.name] = int(device)
        if not self._context.set_tensor_address(spec.name, int(device)):
            raise EngineError(f"TensorRT takes no buffer for `{spec.name}`")


def _signature_of_file(engine: Signature) -> Signature:
    outputs = {spec.name for spec in engine.outputs}
    named = ((spec, spec.name.removeprefix(_INPUT_THAT_IS_AN_OUTPUT)) for spec in engine.inputs)
    inputs = tuple(replace(spec, name=name) if name in outputs else spec for spec, name in named)
    return Signature(inputs, engine.outputs)


def _runs(chosen: Bools) -> list[tuple[int, int]]:
    """First rows and ends of rows in a row that are chosen: each run takes one copy."""
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
