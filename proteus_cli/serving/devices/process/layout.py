"""How the tensors of a batch lie in memory: each in one piece, one behind another."""

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import numpy as np

from proteus_cli.backends.base import OutputArrays, Part, Signature
from proteus_cli.buffers import Buffer
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.serving.devices.executor import Batch, LeavingCallback
from proteus_cli.serving.devices.process.shared_memory import offsets

_CACHED = 256  # sizes of batches: as good as all that an engine has


class BatchLayout:
    """Writes and reads the batches of one engine; both processes have one for each engine that is loaded."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._row_bytes = [spec.row_bytes for spec in signature.inputs]
        self._output_dtypes = [spec.dtype for spec in signature.given]
        self._inputs = lru_cache(_CACHED)(self._find_inputs)
        self._outputs = lru_cache(_CACHED)(self._find_outputs)

    def input_bytes(self, rows: int) -> int:
        """The bytes of the inputs of a batch of ``rows`` rows."""
        return self._inputs(rows)[1]

    def pieces(self, batch: Batch) -> list[Buffer]:
        """The inputs of a batch, one behind another, without a copy: `input_bytes`, unless a part is not whole."""
        found: list[Buffer] = []
        places, size = self._inputs(batch.rows)
        end = 0
        for which, place in enumerate(places):
            if place > end:
                found.append(bytes(place - end))
            found += [buffers[which] for _, buffers in batch.parts]
            end = place + batch.rows * self._row_bytes[which]
        if size > end:
            found.append(bytes(size - end))
        return found

    def read_inputs(
        self,
        key: VariantKey,
        rows: Sequence[int],
        memory: memoryview,
        bounds: ExitBounds | None = None,
        leaving: LeavingCallback | None = None,
    ) -> Batch:
        """A batch of parts with these numbers of rows, without a copy."""
        total = sum(rows)
        firsts, size = self._inputs(total)
        if len(memory) < size:  # where no more files can be open, the system drops descriptors
            raise RuntimeError(f"{size} bytes of inputs don't lie in {len(memory)}")
        parts: list[Part] = []
        for each in rows:
            lasts = [first + each * row_bytes for first, row_bytes in zip(firsts, self._row_bytes, strict=True)]
            parts.append((each, tuple(memory[first:last] for first, last in zip(firsts, lasts, strict=True))))
            firsts = lasts
        return Batch(key, parts, total, bounds, leaving=leaving)

    def outputs_in(self, shapes: Sequence[tuple[int, ...]], memory: memoryview) -> OutputArrays:
        """The outputs that lie in memory, without a copy. Raises `TypeError`, `ValueError` where they don't fit."""
        places, _ = self._outputs(tuple(shapes))
        tensors = zip(shapes, self._output_dtypes, places, strict=True)
        return tuple([np.ndarray(shape, dtype, memory, place) for shape, dtype, place in tensors])

    def output_pieces(self, outputs: OutputArrays) -> list[Buffer]:
        """Outputs one behind another, copied only where their memory has gaps.

        Raises `TypeError` where one is not of the signature's type.
        """
        found: list[Buffer] = []
        places, _ = self._outputs(tuple(values.shape for values in outputs))
        end = 0
        for values, dtype, place in zip(outputs, self._output_dtypes, places, strict=True):
            if values.dtype != dtype:
                raise TypeError(f"an output has {values.dtype}, not {dtype}")
            found += [bytes(place - end)] if place > end else []
            found.append(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
            end = place + values.nbytes
        return found

    def _find_inputs(self, rows: int) -> tuple[list[int], int]:
        """Where each input lies, and how many bytes they take together."""
        return offsets(rows * row_bytes for row_bytes in self._row_bytes)

    def _find_outputs(self, shapes: tuple[tuple[int, ...], ...]) -> tuple[list[int], int]:
        sizes = (prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, self._output_dtypes, strict=True))
        return offsets(sizes)
