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
    """An input of a model as servers describe it: axis 0 is the batch, and -1 is a variable size."""

    name: str
    datatype: str
    shape: list[int]


@dataclass(frozen=True, slots=True)
class Sample:
    """A request of one row: ``inputs`` as JSON, their ``binary`` tensors, and the correct class, if known.

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
    """Random rows for the inputs of the model at the URL ``where``. Raises `ServerError`."""
    specs, most = _specs(inputs, where)
    found = []
    for _ in range(min(RANDOM_ROWS, most)):
        drawn = [rng.random(each.shape) if each.dtype.kind == "f" else rng.integers(0, 2, each.shape) for each in specs]
        found.append(_sample(specs, drawn, is_binary=is_binary))
    return found


def eval_samples(
    path: Path, inputs: Sequence[InputMetadata], where: str, rng: np.random.Generator, last_row: int | None = None
) -> list[Sample]:
    """The rows of an eval split in random order, up to `MAX_BYTES`.

    With a ``last_row``, they are in the order of the split, up to this row at least. Raises `ArtefactError` if the
    split does not fit the inputs, or lacks this row, and `ServerError` if the inputs can't be sent.
    """
    specs, most = _specs(inputs, where)
    rows, labels = labelled_rows(path, specs)
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
    return [_sample(specs, [rows[spec.name][row] for spec in specs], int(labels[row])) for row in order]


def require_row(row: int, rows: int, path: Path) -> None:
    """Raise `ArtefactError` if an eval split with this number of ``rows`` has no such row."""
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


def _specs(inputs: Sequence[InputMetadata], where: str) -> tuple[list[_Spec], int]:
    """The inputs, and the most rows that take `MAX_BYTES`."""
    if not inputs:
        raise ServerError(
            f"`{where}` names no inputs in its metadata, so no request can be made.",
            hint="have the server list them: name, datatype and shape",
        )
    specs = [_Spec(each.name, each.datatype, tuple(map(abs, each.shape[1:]))) for each in inputs]
    sizes = [math.prod(each.shape) * each.dtype.itemsize for each in specs if each.datatype in NUMPY]
    if len(sizes) < len(specs) or not all(sizes) or sum(sizes) > MAX_BYTES:
        raise ServerError(
            f"`{where}` has inputs that can't be sent.",
            hint=f"inputs are numbers, and a row of all takes {MAX_BYTES} bytes at most",
        )
    return specs, MAX_BYTES // sum(sizes)


def _sample(
    specs: Sequence[_Spec], row: Sequence[npt.ArrayLike], label: int | None = None, *, is_binary: bool = True
) -> Sample:
    tensors, blobs = list[dict[str, object]](), list[bytes]()
    for spec, given in zip(specs, row, strict=True):
        values = np.ascontiguousarray(given, spec.dtype)
        blobs.append(values.tobytes() if is_binary else b"")
        content: object = {"binary_data_size": len(blobs[-1])} if is_binary else values.ravel().tolist()
        tensor = {"name": spec.name, "shape": [1, *spec.shape], "datatype": spec.datatype}
        tensors.append({**tensor, "parameters" if is_binary else "data": content})
    return Sample(msgspec.json.encode(tensors), b"".join(blobs), label)
