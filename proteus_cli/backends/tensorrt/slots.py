"""A slot: what one batch needs while it is on the device; made once and used again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from proteus_cli.backends.base import OutputArrays, Part, Signature, TensorSpec, gather
from proteus_cli.backends.tensorrt.bindings import cuda, trt
from proteus_cli.buffers import Buffer
from proteus_cli.errors import EngineError, OutOfDeviceMemory
from proteus_cli.units import format_size


@dataclass(frozen=True, slots=True)
class EngineTensors:
    """The inputs and outputs of an engine, and its largest batch. All sizes but the batch size are fixed."""

    signature: Signature
    max_rows: int

    @property
    def buffer_bytes(self) -> int:
        """The memory of one slot's buffers on the device; as much is pinned on the host."""
        tensors = (*self.signature.inputs, *self.signature.outputs)
        return self.max_rows * sum(spec.row_bytes for spec in tensors)

    def rows_of(self, parts: Sequence[Part]) -> int:
        """The number of rows of a batch. Raises `EngineError` where the batch does not fit the engine."""
        for rows, buffers in parts:
            self._require_fitting(rows, buffers)
        rows = sum(rows for rows, _ in parts)
        if not 1 <= rows <= self.max_rows:
            raise EngineError(f"the engine takes 1 to {self.max_rows} rows, not {rows}")
        return rows

    def _require_fitting(self, rows: int, buffers: tuple[Buffer, ...]) -> None:
        for spec, buffer in zip(self.signature.inputs, buffers, strict=True):
            needed, given = rows * spec.row_bytes, memoryview(buffer).nbytes
            if given != needed:
                raise EngineError(f"`{spec.name}` has {given} bytes, where {rows} rows of {spec.dtype} take {needed}")


def require_memory(needed_bytes: int, free_bytes: int, total_bytes: int, *, what: str) -> None:
    """Raises `OutOfDeviceMemory` where less than ``needed_bytes`` are free."""
    if needed_bytes > free_bytes:
        raise OutOfDeviceMemory(
            f"{what} take {format_size(needed_bytes)} of device memory,"
            f" and of {format_size(total_bytes)} only {format_size(free_bytes)} are free.",
            hint="host fewer or smaller variants on the device, or have it use fewer slots",
        )


NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, for which pycuda has no name: do not wait for the default stream
MS_PER_S = 1e3


@dataclass(frozen=True, slots=True, eq=False)
class SlotTensor:
    """One tensor of a slot: memory for its largest batch, on the device, and pinned on the host."""

    spec: TensorSpec
    device: "cuda.DeviceAllocation"
    pinned: npt.NDArray[np.uint8]
    view: memoryview
    values: npt.NDArray[Any]

    def free(self) -> None:
        """Free the memory at once, though the traceback of an error may still hold this object."""
        self.view.release()
        self.device.free()
        _free_pinned(self.pinned)


class Slot:
    """An execution context, a stream, events, and buffers of the largest batch; for one batch at a time.

    A slot works on its own stream alone, so that slots run side by side, and one copies while another computes. Every
    call needs the device's context to be current. Making a slot raises `OutOfDeviceMemory` and pycuda's errors, and
    then frees what it allocated.
    """

    def __init__(self, engine: "trt.ICudaEngine", layout: EngineTensors) -> None:
        self._tensors = layout
        self._rows = 0
        self._shaped_rows = 0  # the rows for which the execution context has the shapes
        self._inputs: list[SlotTensor] = []
        self._outputs: list[SlotTensor] = []
        try:
            self._allocate(engine)
        except BaseException:
            self.close()
            raise

    def submit(self, parts: Sequence[Part]) -> None:
        """Start a batch: copy in, run, copy out, one after another on the device. Returns before that is done.

        The slot must not be used again before `wait` has returned. Raises `EngineError`; then the slot is free at once.
        """
        rows = self._tensors.rows_of(parts)
        for which, tensor in enumerate(self._inputs):
            gather(parts, which, tensor.view, tensor.spec.row_bytes)
        try:
            self._enqueue(rows)
        except BaseException:
            self._stream.synchronize()  # the steps that were started still use the buffers
            raise
        self._rows = rows

    def wait(self) -> OutputArrays:
        """Sleep until the batch is done, without the GIL; returns its outputs in memory of their own."""
        self._done.synchronize()
        return tuple(tensor.values[: self._rows].copy() for tensor in self._outputs)

    def compute_s(self) -> float:
        """The time that the device computed for the batch that was waited for last, without copies."""
        elapsed_ms: float = self._computed.time_since(self._copied_in)
        return elapsed_ms / MS_PER_S

    def close(self) -> None:
        """Free everything, once nothing runs. Stream, events and execution context go with their last reference."""
        for tensor in (*self._inputs, *self._outputs):
            tensor.free()
        self._inputs, self._outputs = [], []
        for name in ("_context", "_stream", "_copied_in", "_computed", "_done"):
            self.__dict__.pop(name, None)

    def _allocate(self, engine: "trt.ICudaEngine") -> None:
        self._context = execution_context(engine)
        self._stream = cuda.Stream(NON_BLOCKING)
        self._copied_in, self._computed = cuda.Event(), cuda.Event()
        self._done = cuda.Event(cuda.event_flags.BLOCKING_SYNC)  # a thread that waits for it sleeps
        for spec in self._tensors.signature.inputs:
            self._add(self._inputs, spec)
        for spec in self._tensors.signature.outputs:
            self._add(self._outputs, spec)

    def _add(self, tensors: list[SlotTensor], spec: TensorSpec) -> None:
        tensors.append(slot_tensor(spec, self._tensors.max_rows))
        if not self._context.set_tensor_address(spec.name, int(tensors[-1].device)):
            raise EngineError(f"TensorRT takes no buffer for `{spec.name}`")

    def _enqueue(self, rows: int) -> None:
        self._set_rows(rows)
        for tensor in self._inputs:
            cuda.memcpy_htod_async(tensor.device, tensor.pinned[: rows * tensor.spec.row_bytes], self._stream)
        self._copied_in.record(self._stream)
        if not self._context.execute_async_v3(stream_handle=self._stream.handle):
            raise EngineError(f"TensorRT can't run a batch of {rows} rows")
        self._computed.record(self._stream)
        for tensor in self._outputs:
            cuda.memcpy_dtoh_async(tensor.pinned[: rows * tensor.spec.row_bytes], tensor.device, self._stream)
        self._done.record(self._stream)

    def _set_rows(self, rows: int) -> None:
        if rows == self._shaped_rows:
            return
        self._shaped_rows = 0
        set_shapes(self._context, self._tensors.signature.inputs, rows)
        self._shaped_rows = rows


def set_shapes(context: "trt.IExecutionContext", inputs: Sequence[TensorSpec], rows: int) -> None:
    """Tell TensorRT the shapes of a batch. Raises `EngineError` where it refuses one."""
    for spec in inputs:
        if not context.set_input_shape(spec.name, (rows, *spec.sizes)):
            raise EngineError(f"TensorRT refuses {rows} rows of `{spec.name}`")


def execution_context(engine: "trt.ICudaEngine") -> "trt.IExecutionContext":
    """An execution context of an engine. Raises `OutOfDeviceMemory` where TensorRT has too little memory for one."""
    context = engine.create_execution_context()
    if context is None:
        raise OutOfDeviceMemory(
            "TensorRT makes no execution context for the engine.",
            hint="mostly there is too little device memory: host fewer variants, or have the device use fewer slots",
        )
    return context


def slot_tensor(spec: TensorSpec, max_rows: int) -> SlotTensor:
    """The buffers of a tensor for a number of rows, on the device and pinned on the host: both, or none."""
    device = cuda.mem_alloc(max_rows * spec.row_bytes)
    try:
        pinned = cuda.pagelocked_empty(max_rows * spec.row_bytes, np.uint8)
    except BaseException:
        device.free()
        raise
    values = pinned.view(spec.dtype).reshape(max_rows, *spec.sizes)
    return SlotTensor(spec, device, pinned, pinned.data, values)


def _free_pinned(pinned: npt.NDArray[np.uint8]) -> None:
    allocation: object = pinned.base
    if not isinstance(allocation, cuda.PagelockedHostAllocation):
        raise TypeError(f"memory of {type(allocation).__name__} is not pinned")
    allocation.free()
