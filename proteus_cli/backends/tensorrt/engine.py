"""TensorRT engines that are loaded on their device, with their slots."""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

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


class AnySlot(Protocol):
    """The resources of one batch while it is on the device."""

    def close(self) -> None: ...


SlotT = TypeVar("SlotT", bound=AnySlot)


class SlottedEngines(ABC, Generic[SlotT]):
    """Engines that a batch goes through one after another, with a slot for each batch that may be there at once.

    Memory of all of them is counted before it is allocated; what does not fit leaves nothing behind. ``tensors``: what
    goes into the first engine, and comes out of the last.
    """

    tensors: EngineTensors

    def __init__(self, plans: Sequence[bytes], context: PrimaryContext, *, slots: int) -> None:
        """Raises `EngineError`, `OutOfDeviceMemory`, `DeviceLost`; other engines are not affected."""
        self._context = context
        self._engines: list[trt.ICudaEngine] = []
        self._slots: list[SlotT] = []
        self._free: SimpleQueue[SlotT] = SimpleQueue()
        self._errors: list[str] = []  # what TensorRT logged
        with context.current():
            try:
                with _freed_frames():
                    self._open(plans, slots)
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
    def slot(self) -> Iterator[SlotT]:
        """A slot for one batch, once one is free, until left."""
        slot = self.take()
        try:
            yield slot
        finally:
            self.give_back(slot)

    def take(self) -> SlotT:
        """A slot for one batch, once one is free; the caller gives it back once the batch is done."""
        return self._free.get()

    def give_back(self, slot: SlotT) -> None:
        """Return a slot that was taken, for the next batch."""
        self._free.put(slot)

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

    @abstractmethod
    def _lay_out(self) -> int:
        """Set `tensors`; returns the bytes of one slot's buffers on the device. Raises `EngineError`."""

    @abstractmethod
    def _make_slot(self) -> SlotT:
        """A slot of its own. Raises like `Slot`."""

    def _open(self, plans: Sequence[bytes], slots: int) -> None:
        plan_bytes = sum(map(len, plans))
        before_bytes, total_bytes = self._context.memory_bytes()
        require_memory(plan_bytes, before_bytes, total_bytes, what="The weights of an engine")
        self._runtime = trt.Runtime(error_logger(self._errors))
        for plan in plans:
            self._engines.append(self._deserialize(plan))
        self.slot_bytes = self._lay_out() + sum(int(engine.device_memory_size_v2) for engine in self._engines)
        free_bytes, _ = self._context.memory_bytes()
        require_memory(slots * self.slot_bytes, free_bytes, total_bytes, what=f"{slots} slots of an engine")
        for _ in range(slots):
            self._slots.append(self._make_slot())
        after_bytes, _ = self._context.memory_bytes()
        self.memory_bytes = max(before_bytes - after_bytes, plan_bytes + slots * self.slot_bytes)

    def _new_slot(self) -> SlotT:
        """Add a slot beside the running ones; `slot_bytes` grows to its size if that is more."""
        before_bytes, total_bytes = self._context.memory_bytes()
        require_memory(self.slot_bytes, before_bytes, total_bytes, what="One more slot of an engine would")
        slot = self._make_slot()
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
        """Free the slots first: they belong to the engines, and the engines to the runtime."""
        for slot in self._slots:
            slot.close()
        self._slots = []
        self._engines = []
        self.__dict__.pop("_runtime", None)


class LoadedEngine(SlottedEngines[Slot]):
    """An engine with a slot for each batch that may be on the device at once. It is also a `SlottedRunner`."""

    def __init__(self, plan: bytes, context: PrimaryContext, *, slots: int) -> None:
        """Raises `EngineError`, `OutOfDeviceMemory`, `DeviceLost`; other engines are not affected."""
        super().__init__([plan], context, slots=slots)

    def infer(self, inputs: NamedArrays) -> NamedArrays:
        """Run one batch. Raises `EngineError` where it does not fit or fails, `DeviceLost`."""
        return self._timed(inputs)[0]

    def compute_s(self, inputs: NamedArrays) -> float:
        """Run one batch; returns the seconds that the device computed, without copies. Raises like `infer`."""
        return self._timed(inputs)[1]

    def _timed(self, inputs: NamedArrays) -> tuple[NamedArrays, float]:
        part = part_of(inputs, self.signature)
        with self.slot() as slot, self._context.current():
            slot.submit([part])
            outputs = slot.wait()
            names = (spec.name for spec in self.signature.outputs)
            return dict(zip(names, outputs, strict=True)), slot.compute_s()

    def _lay_out(self) -> int:
        self.tensors = tensors_of(self._engines[0])
        return self.tensors.buffer_bytes

    def _make_slot(self) -> Slot:
        return Slot(self._engines[0], self.tensors)


@contextmanager
def _freed_frames() -> Iterator[None]:
    """Objects in the frames of an error are freed while the context is current, not with the error."""
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise


def part_of(inputs: NamedArrays, signature: Signature) -> Part:
    """Inputs of one batch as a part. Raises `EngineError` where a type or a shape is wrong."""
    rows = len(inputs[signature.inputs[0].name])
    for spec in signature.inputs:
        values = inputs[spec.name]
        if values.dtype != spec.dtype or values.shape != (rows, *spec.shape):
            raise EngineError(
                f"`{spec.name}` is {values.dtype} {list(values.shape)}, not {spec.dtype} {[rows, *spec.shape]}"
            )
    return signature.part(inputs)


def warm_up_parts(signature: Signature, max_rows: int) -> list[Part]:
    """Batches of one part, with which each slot is to be run once: TensorRT does its late initialisation then."""
    rng = np.random.default_rng(0)
    return [signature.sample_part(rows, rng) for rows in sorted({1, min(2, max_rows), max_rows})]


def tensors_of(engine: "trt.ICudaEngine") -> EngineTensors:
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
