"""The tensors of an engine: which batches fit it, and how much memory they take."""

from collections.abc import Sequence
from dataclasses import dataclass

from proteus_cli.backends.base import Part, Signature
from proteus_cli.domain.arrays import Buffer
from proteus_cli.errors import EngineError, OutOfDeviceMemory
from proteus_cli.units import format_size


@dataclass(frozen=True, slots=True)
class EngineTensors:
    """The inputs and outputs of an engine, and its largest batch. All sizes but that of the batch are fixed."""

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
