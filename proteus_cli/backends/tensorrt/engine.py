"""A TensorRT engine that is loaded on its device, with its slots."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import numpy as np

from proteus_cli.backends.base import NamedArrays, Part, Signature, TensorSpec
from proteus_cli.backends.tensorrt.bindings import trt
from proteus_cli.backends.tensorrt.cuda import PrimaryContext
from proteus_cli.backends.tensorrt.progress import error_logger
from proteus_cli.backends.tensorrt.slots import EngineTensors, Slot, require_memory
from proteus_cli.errors import DeviceLost, EngineError

DYNAMIC = -1  # a size that is known only with the batch

_abandoned: list[object] = []
"""Objects of lost contexts. They cannot be freed, and TensorRT must not try."""


class LoadedEngine:
    """An engine with a slot for each batch that may be on the device at once. It is also a `SlottedRunner`.

    Memory is counted before it is allocated; an engine that does not fit leaves nothing behind.
    """

    def __init__(self, plan: bytes, context: PrimaryContext, *, slots: int) -> None:
        """Raises `EngineError`, `OutOfDeviceMemory`, `DeviceLost`; other engines are not affected."""
        self._context = context
        self._slots: list[Slot] = []
        self._free: SimpleQueue[Slot] = SimpleQueue()
        self._errors: list[str] = []  # what TensorRT logged
        with context.current():
            try:
                with _freed_frames():
                    self._open(plan, slots)
            except BaseException:
                self._drop()
                raise
        for slot in self._slots:
            self._free.put(slot)

    @property
    def signature(self) -> Signature:
        return self.tensors.signature

    @property
    def slots(self) -> int:
        """The number of batches that may be on the device at once."""
        return len(self._slots)

    def add_slot(self) -> None:
        """Add a slot. Raises `OutOfDeviceMemory`; then there are as many as before."""
        with self._context.current(), _freed_frames():
            slot = self._new_slot()
        self._slots.append(slot)
        self._free.put(slot)

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        """A slot for one batch, once one is free, until left."""
        slot = self.take()
        try:
            yield slot
        finally:
            self.give_back(slot)

    def take(self) -> Slot:
        """A slot for one batch, once one is free; the caller gives it back after `Slot.wait`."""
        return self._free.get()

    def give_back(self, slot: Slot) -> None:
        self._free.put(slot)

    def infer(self, inputs: NamedArrays) -> NamedArrays:
        """Run one batch. Raises `EngineError` where it does not fit or fails, `DeviceLost`."""
        return self._timed(inputs)[0]

    def compute_s(self, inputs: NamedArrays) -> float:
        """Run one batch; returns the seconds that the device computed, without copies. Raises like `infer`."""
        return self._timed(inputs)[1]

    def _timed(self, inputs: NamedArrays) -> tuple[NamedArrays, float]:
        part = _part(inputs, self.signature)
        with self.slot() as slot, self._context.current():
            slot.submit([part])
            outputs = slot.wait()
            names = (spec.name for spec in self.signature.outputs)
            return dict(zip(names, outputs, strict=True)), slot.compute_s()

    def close(self) -> None:
        """Wait until all slots are free, then free everything. No batch may be submitted any more."""
        for _ in self._slots:
            self._free.get()
        try:
            with self._context.current():
                self._drop()
        except DeviceLost:
            _abandoned.append(self.__dict__.copy())
            self._slots = []

    def _open(self, plan: bytes, slots: int) -> None:
        before_bytes, total_bytes = self._context.memory_bytes()
        require_memory(len(plan), before_bytes, total_bytes, what="The weights of an engine")
        self._runtime = trt.Runtime(error_logger(self._errors))
        self._engine = self._deserialize(plan)
        self.tensors = _layout(self._engine)
        self.slot_bytes = int(self._engine.device_memory_size_v2) + self.tensors.buffer_bytes
        free_bytes, _ = self._context.memory_bytes()
        require_memory(slots * self.slot_bytes, free_bytes, total_bytes, what=f"{slots} slots of an engine")
        for _ in range(slots):
            self._slots.append(Slot(self._engine, self.tensors))
        after_bytes, _ = self._context.memory_bytes()
        self.memory_bytes = max(before_bytes - after_bytes, len(plan) + slots * self.slot_bytes)

    def _new_slot(self) -> Slot:
        """A slot beside those that run; `slot_bytes` becomes what it took, where that is more."""
        before_bytes, total_bytes = self._context.memory_bytes()
        require_memory(self.slot_bytes, before_bytes, total_bytes, what="One more slot of an engine would")
        slot = Slot(self._engine, self.tensors)
        self.slot_bytes = max(self.slot_bytes, before_bytes - self._context.memory_bytes()[0])
        return slot

    def _deserialize(self, plan: bytes) -> "trt.ICudaEngine":
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(
                f"TensorRT can't load the engine: {'; '.join(self._errors) or 'it does not say why'}",
                hint="an engine runs only with the version of TensorRT and on the kind of GPU that it was built with",
            )
        return engine

    def _drop(self) -> None:
        """Free the slots first, as they belong to the engine, and the engine to the runtime."""
        for slot in self._slots:
            slot.close()
        self._slots = []
        self.__dict__.pop("_engine", None)
        self.__dict__.pop("_runtime", None)


@contextmanager
def _freed_frames() -> Iterator[None]:
    """What the frames of an error hold is freed while the context is current, not with the error."""
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise


def _part(inputs: NamedArrays, signature: Signature) -> Part:
    """Inputs of one batch as a part. Raises `EngineError` where a type or a shape is wrong."""
    rows = len(inputs[signature.inputs[0].name])
    for spec in signature.inputs:
        values = inputs[spec.name]
        if values.dtype != spec.dtype or values.shape != (rows, *spec.shape):
            raise EngineError(
                f"`{spec.name}` is {values.dtype} {list(values.shape)}, not {spec.dtype} {[rows, *spec.shape]}"
            )
    return signature.part(inputs)


def _layout(engine: "trt.ICudaEngine") -> EngineTensors:
    """The tensors of an engine, in its order. Raises `EngineError` where they cannot be served.

    It has no generator: that would keep the engine in a cell, which cannot be cleared after an error.
    """
    inputs, outputs, max_rows = [], [], set()
    for place in range(engine.num_io_tensors):
        name = str(engine.get_tensor_name(place))
        spec = _spec(engine, name)
        if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
            outputs.append(spec)
        else:
            inputs.append(spec)
            *_, (rows, *_) = engine.get_tensor_profile_shape(name, 0)
            max_rows.add(int(rows))
    if len(max_rows) != 1:
        raise EngineError(f"the inputs of an engine must have one largest batch, not {sorted(max_rows)}")
    return EngineTensors(Signature(tuple(inputs), tuple(outputs)), max_rows.pop())


def _spec(engine: "trt.ICudaEngine", name: str) -> TensorSpec:
    batch, *shape = tuple(engine.get_tensor_shape(name)) or (0,)
    if batch != DYNAMIC or DYNAMIC in shape:
        raise EngineError(
            f"`{name}` has the shape {[batch, *shape]}, where only the first axis may vary, and must.",
            hint="export the model with axis 0 of every input and output as the batch, and the others fixed",
        )
    return TensorSpec(name, _dtype(engine, name), tuple(int(size) for size in shape))


def _dtype(engine: "trt.ICudaEngine", name: str) -> np.dtype[Any]:
    kind = engine.get_tensor_dtype(name)
    try:
        dtype: np.dtype[Any] = np.dtype(trt.nptype(kind))
    except TypeError as error:
        raise EngineError(
            f"`{name}` has type {kind}, which can't be served.",
            hint="cast it to a type that numpy has, within the model",
        ) from error
    return dtype
