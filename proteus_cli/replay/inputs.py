"""What the requests of a replay carry: rows of an eval split, whose answers can be judged, or random ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from proteus_cli.domain.request import Bounds
from proteus_cli.errors import ArtefactError, ServerError
from proteus_cli.store.eval_splits import labelled_rows
from proteus_cli.units import counted, format_size

RANDOM_ROWS = 64  # different ones of each family …
MAX_BYTES = 64 << 20  # … and of eval splits, too, unless all rows together take more than this
NUMPY = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_US_PER_S = 1e6


class InputMetadata(msgspec.Struct):
    """An input of a model as servers describe it: axis 0 is the batch; -1 is a size that varies."""

    name: str
    datatype: str
    shape: list[int]


@dataclass(frozen=True, slots=True)
class Sample:
    """A request body of one row in parts: JSON up to the timeout, JSON after it, binary tensors.

    ``label``: the class that is right; None where nobody knows.
    """

    before: bytes
    after: bytes
    binary: bytes
    label: int | None = None

    def body(self, timeout_s: float, min_accuracy: float, bounds: Bounds | None = None) -> tuple[bytes, int]:
        """The body, and the length of its JSON."""
        minimum = b',"min_accuracy":%r' % min_accuracy if min_accuracy > 0 else b""
        if bounds is not None and bounds.min_expected_accuracy:
            minimum += b',"min_expected_accuracy":%r' % bounds.min_expected_accuracy
        if bounds is not None and bounds.is_energy_limited:
            minimum += b',"max_energy_j":%r' % bounds.max_energy_j
        if bounds is not None and bounds.needs_confidence:
            minimum += b',"min_confidence":%r' % bounds.min_confidence
        json = b"%b%d%b%b" % (self.before, max(1, round(timeout_s * _US_PER_S)), minimum, self.after)
        return json + self.binary, len(json)


@dataclass(frozen=True, slots=True)
class PlainBody:
    """A request body of one row, with the header lines that say what it is; any server of the protocol knows it."""

    content: bytes
    headers: bytes


def plain_bodies(
    inputs: Sequence[InputMetadata], where: str, rng: np.random.Generator, *, is_binary: bool
) -> list[PlainBody]:
    """Rows as `random_samples` has them, without parameters. Raises `ServerError` where they can't be sent."""
    specs = _specs(inputs, where)
    count = min(RANDOM_ROWS, MAX_BYTES // _row_bytes(specs))
    rows = [{spec.name: spec.random(rng) for spec in specs} for _ in range(count)]
    return [_binary_body(specs, row) if is_binary else _json_body(specs, row) for row in rows]


def _binary_body(specs: Sequence["_Spec"], row: Mapping[str, npt.NDArray[Any]]) -> PlainBody:
    sample = _sample(specs, row)
    json = msgspec.json.decode(sample.before + b"0" + sample.after, type=dict[str, Any])
    head = msgspec.json.encode({"inputs": json["inputs"], "parameters": {"binary_data_output": True}})
    length = b"Inference-Header-Content-Length: %d\r\n" % len(head)
    return PlainBody(head + sample.binary, b"Content-Type: application/octet-stream\r\n" + length)


def _json_body(specs: Sequence["_Spec"], row: Mapping[str, npt.NDArray[Any]]) -> PlainBody:
    tensors = [
        {
            "name": spec.name,
            "shape": [1, *spec.shape],
            "datatype": spec.datatype,
            "data": row[spec.name].ravel().tolist(),
        }
        for spec in specs
    ]
    return PlainBody(msgspec.json.encode({"inputs": tensors}), b"Content-Type: application/json\r\n")


def random_samples(inputs: Sequence[InputMetadata], where: str, rng: np.random.Generator) -> list[Sample]:
    """Random samples of the inputs that a model has, as told at the URL ``where``. Raises `ServerError`."""
    specs = _specs(inputs, where)
    rows = min(RANDOM_ROWS, MAX_BYTES // _row_bytes(specs))
    return [_sample(specs, {spec.name: spec.random(rng) for spec in specs}) for _ in range(rows)]


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
    """Raise `ArtefactError` where an eval split of so many rows has no such row."""
    if row >= rows:
        raise ArtefactError(
            f"The trace names row {row:,} of the eval split `{path}`, which has {counted(rows, 'row')}.",
            hint="the column `eval_row` counts from 0",
        )


@dataclass(frozen=True, slots=True)
class _Spec:
    """``shape`` is that of a row; a size that varies is 1."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(NUMPY[self.datatype])

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

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
    tensors, blobs = [], []
    for spec in specs:
        blobs.append(np.ascontiguousarray(row[spec.name], spec.dtype).tobytes())
        size = {"binary_data_size": len(blobs[-1])}
        tensors.append({"name": spec.name, "shape": [1, *spec.shape], "datatype": spec.datatype, "parameters": size})
    head = msgspec.json.encode({"inputs": tensors, "parameters": {"binary_data_output": True, "timeout": 0}})
    before, _, after = head.rpartition(b'"timeout":0')
    return Sample(before + b'"timeout":', after, b"".join(blobs), label)
