"""A chunk of samples: a file of captured requests of one family; and a file of labels that were told of some.

A chunk is an ``.npz``: `index` is JSON, `classes` and `confidences` have a value for each row, and `input0`, `input1` …
have the rows of each input. Requests are known by their ``run``, which is a server from start to end, and the
``number`` that they have there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile

import msgspec
import numpy as np
import numpy.typing as npt
from numpy.lib.format import write_array

from proteus_cli.arrays import Ints, Singles
from proteus_cli.domain.base import FORMAT, MadeBy, Value, is_count, require
from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import FileKind, decoded, open_input, read_bytes
from proteus_cli.store.files import made_by, to_json
from proteus_cli.store.npz_arrays import NOT_NPZ, array_in

SAMPLES = FileKind("a file of samples", 128 * 2**20)
SAMPLE_LABELS = FileKind("a file of labels of samples", 64 * 2**20)
NO_CLASS = -1
LATEST_S = 1e11
"""The year 5138."""
_HINT = "remove it; the others can be used without it"


class SampledTensor(Value, frozen=True):
    """An input: its name, its type as numpy writes it, and the shape of a row."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        require(all(is_count(size) for size in self.shape), f"the shape of `{self.name}` must be numbers")
        require(np.dtype(self.dtype).kind in "biuf", f"`{self.name}` must hold numbers or truth values")


class SampledRequest(Value, frozen=True):
    """A request: when its answer went out, and which variant gave it. ``id`` is the client's; None: it had none."""

    number: int
    id: str | None
    unix_s: float
    variant: str
    rows: int

    def __post_init__(self) -> None:
        require(is_count(self.number) and is_count(self.rows, 1), "numbers of requests and rows must be whole")
        require(0 <= self.unix_s <= LATEST_S, f"unix_s of request {self.number} must be a time")


class _ChunkIndex(Value, frozen=True):
    format: int
    made_by: MadeBy
    family: str
    run: str
    inputs: tuple[SampledTensor, ...]
    requests: tuple[SampledRequest, ...]

    def __post_init__(self) -> None:
        require(self.format == FORMAT, f"`format` is {self.format}; this version reads {FORMAT}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Requests, and by row the class that was answered (`NO_CLASS`: none), how sure (NaN: unknown), and the inputs."""

    family: str
    run: str
    inputs: tuple[SampledTensor, ...]
    requests: tuple[SampledRequest, ...]
    classes: Ints
    confidences: Singles
    rows: tuple[npt.NDArray[Any], ...]


class ToldLabels(Value, frozen=True):
    """Labels by the number of the request, with one for each row; None is an unknown label."""

    format: int
    made_by: MadeBy
    family: str
    run: str
    labels: Mapping[int, Sequence[int | None]]

    def __post_init__(self) -> None:
        require(self.format == FORMAT, f"`format` is {self.format}; this version reads {FORMAT}")
        told = (label for labels in self.labels.values() for label in labels)
        require(all(label is None or is_count(label) for label in told), "labels must be numbers of classes")


def encoded_labels(family: str, run: str, labels: Mapping[int, Sequence[int | None]]) -> bytes:
    """The content of a file of labels."""
    return to_json(ToldLabels(FORMAT, made_by(), family, run, labels))


def encoded_chunk(chunk: Chunk) -> bytes:
    """The content of a file of samples."""
    index = msgspec.json.encode(_ChunkIndex(FORMAT, made_by(), chunk.family, chunk.run, chunk.inputs, chunk.requests))
    content = BytesIO()
    arrays: dict[str, npt.NDArray[Any]] = {f"input{place}": values for place, values in enumerate(chunk.rows)}
    arrays |= {"index": np.frombuffer(index, np.uint8), "classes": chunk.classes, "confidences": chunk.confidences}
    write_arrays(content, arrays, compression=ZIP_STORED)
    return content.getvalue()


def write_arrays(file: IO[bytes], arrays: Mapping[str, npt.NDArray[Any]], *, compression: int) -> None:
    """Write an ``.npz``. `numpy.savez` refuses arrays that are named like one of its parameters."""
    with ZipFile(file, "w", compression) as packed:
        for name, values in arrays.items():
            with packed.open(f"{name}.npy", "w", force_zip64=True) as member:
                write_array(member, values, (1, 0), allow_pickle=False)


def read_labels(path: Path) -> ToldLabels:
    """Raises `ArtefactError`."""
    content = read_bytes(path, SAMPLE_LABELS, hint=_HINT)
    what = f"`{path}` is not a valid file of labels"
    return decoded(content, lambda text: msgspec.json.decode(text, type=ToldLabels), what, hint=_HINT)


def read_chunk(path: Path) -> Chunk:
    """Raises `ArtefactError` where the file is damaged."""
    content = read_bytes(path, SAMPLES, hint=_HINT)
    try:
        return _parsed(content)
    except NOT_NPZ as error:
        raise _damaged(path, error) from None


def read_requests(path: Path) -> tuple[SampledRequest, ...]:
    """The requests of a chunk, without their inputs. Raises `ArtefactError`."""
    with open_input(path, SAMPLES, hint=_HINT) as file:
        try:
            with ZipFile(file) as arrays:
                return _index(arrays).requests
        except NOT_NPZ as error:
            raise _damaged(path, error) from None


def _damaged(path: Path, error: BaseException) -> ArtefactError:
    return ArtefactError(f"`{path}` is not a valid file of samples: {error}.", hint=_HINT)


def _parsed(content: bytes) -> Chunk:
    with ZipFile(BytesIO(content)) as arrays:
        index = _index(arrays)
        count = sum(each.rows for each in index.requests)
        classes = array_in(arrays, "classes", np.int64, SAMPLES.max_bytes, (count,))
        confidences = array_in(arrays, "confidences", np.float32, SAMPLES.max_bytes, (count,))
        rows = tuple(
            array_in(arrays, f"input{place}", each.dtype, SAMPLES.max_bytes, (count, *each.shape))
            for place, each in enumerate(index.inputs)
        )
    return Chunk(index.family, index.run, index.inputs, index.requests, classes, confidences, rows)


def _index(arrays: ZipFile) -> _ChunkIndex:
    text = array_in(arrays, "index", np.uint8, SAMPLES.max_bytes).tobytes()
    return msgspec.json.decode(text, type=_ChunkIndex)
