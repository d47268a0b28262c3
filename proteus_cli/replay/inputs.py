"""The content of requests in a replay: rows of an eval split, whose answers can be judged, or random rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from proteus_cli.errors import ArtefactError, ServerError
from proteus_cli.store.eval_splits import labelled_rows
from proteus_cli.units import counted, format_size

RANDOM_ROWS = 64  # of each family
MAX_BYTES = 64 << 20  # of all rows of a family
NUMPY = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


class InputMetadata(msgspec.Struct):
    """An input of a model as servers describe it: axis 0 is the batch; -1 is a size that varies."""

    name: str
    datatype: str
    shape: list[int]


@dataclass(frozen=True, slots=True)
class Sample:
    """A request of one row: ``inputs`` as JSON, their ``binary`` tensors, and the class that is right, if known.

    Without binary tensors, the JSON has the values.
    """

    inputs: bytes
    binary: bytes
    label: int | None = None

    def json(self, parameters: Mapping[str, float]) -> bytes:
        """The JSON of the body, which comes before the binary tensors."""
        if not parameters:
            return b'{"inputs":%b}' % self.inputs
        return b'{"inputs":%b,"parameters":%b}' % (self.inputs, msgspec.json.encode(parameters))


def random_samples(
    inputs: Sequence[InputMetadata], where: str, rng: np.random.Generator, *, is_binary: bool = True
) -> list[Sample]:
    """Random rows of the inputs that a model has, as told at the URL ``where``. Raises `ServerError`."""
    specs = _specs(inputs, where)
    rows = min(RANDOM_ROWS, MAX_BYTES // _row_bytes(specs))
    make = _sample if is_binary else _json_sample
    return [make(specs, {spec.name: spec.random(rng) for spec in specs}) for _ in range(rows)]


def eval_samples(
    path: Path, inputs: Sequence[InputMetadata], where: str, rng: np.random.Generator, last_row: int | None = None
) -> list[Sample]:
    """The rows of an eval split in random order, as many as take `MAX_BYTES` at most.

    With a ``last_row``, they are in the order of the split, and that one is there. Raises `ArtefactError` where the
    split does not fit the inputs, or has no such row, and `ServerError` where the inputs can't be sent.
    """
    specs = _specs(inputs, where)
    rows, labels = labelled_rows(path, specs)
    most = MAX_BYTES // _row_bytes(specs)
    if last_row is None:
        order = rng.permutation(len(labels))[:most].tolist()
    else:
        require_row(last_row, len(labels), path)
        if last_row >= most:
            raise ArtefactError(
                f"The first {last_row + 1:,} rows of `{path}` take more than {format_size(MAX_BYTES)}.",
                hint="name earlier rows in the column `eval_row` of the trace",
            )
        order = list(range(min(len(labels), most)))
    return [_sample(specs, {name: of[row] for name, of in rows.items()}, int(labels[row])) for row in order]


def require_row(row: int, rows: int, path: Path) -> None:
    """Raise `ArtefactError` where an eval split with this number of ``rows`` has no such row."""
    if row >= rows:
        raise ArtefactError(
            f"The trace names row {row:,} of the eval split `{path}`, which has {counted(rows, 'row')}.",
            hint="the column `eval_row` counts from 0",
        )


@dataclass(frozen=True, slots=True)
class _Spec:
    """An input of a model. ``shape`` is for one row; a size that varies is 1."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(NUMPY[self.datatype])

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def tensor(self, **content: object) -> dict[str, object]:
        """The tensor of one row in a request."""
        return {"name": self.name, "shape": [1, *self.shape], "datatype": self.datatype, **content}

    def random(self, rng: np.random.Generator) -> npt.NDArray[Any]:
        values = rng.random(self.shape) if self.dtype.kind == "f" else rng.integers(0, 2, self.shape)
        return np.asarray(values, self.dtype)


def _specs(inputs: Sequence[InputMetadata], where: str) -> list[_Spec]:
    if not inputs:
        raise ServerError(
            f"`{where}` names no inputs in its metadata, so nothing can be sent.",
            hint="have the server list them: name, datatype and shape",
        )
    specs = [_Spec(each.name, each.datatype, tuple(map(abs, each.shape[1:]))) for each in inputs]
    is_known = all(spec.datatype in NUMPY and spec.row_bytes for spec in specs)
    if not is_known or not 0 < _row_bytes(specs) <= MAX_BYTES:
        raise ServerError(
            f"`{where}` has inputs that can't be sent.",
            hint=f"inputs are numbers, and a row of all takes {MAX_BYTES} bytes at most",
        )
    return specs


def _row_bytes(specs: Sequence[_Spec]) -> int:
    return sum(spec.row_bytes for spec in specs)


def _sample(specs: Sequence[_Spec], row: Mapping[str, npt.NDArray[Any]], label: int | None = None) -> Sample:
    blobs = [np.ascontiguousarray(row[spec.name], spec.dtype).tobytes() for spec in specs]
    tensors = [spec.tensor(parameters={"binary_data_size": len(blob)}) for spec, blob in zip(specs, blobs, strict=True)]
    return Sample(msgspec.json.encode(tensors), b"".join(blobs), label)


def _json_sample(specs: Sequence[_Spec], row: Mapping[str, npt.NDArray[Any]]) -> Sample:
    return Sample(msgspec.json.encode([spec.tensor(data=row[spec.name].ravel().tolist()) for spec in specs]), b"")
