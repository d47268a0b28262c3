"""Reads eval splits, `.npz` files of rows with labels, and rows without labels that look like them."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol, TypeVar
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic
from numpy.lib.npyio import NpzFile

from proteus_cli.domain.base import require
from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import EVAL_SPLIT, open_input
from proteus_cli.store.npz_arrays import NOT_NPZ
from proteus_cli.store.samples.export import NO_LABEL
from proteus_cli.units import counted, format_size

MAX_RATIO, MIN_UNPACKED_BYTES = 64, 32 * 2**20
"""Maximum ratio of the unpacked size of an eval split to its file, and the size up to which any ratio is allowed."""
_PIECE_BYTES = 2**20
_TEXT_SUFFIXES = {".csv", ".tsv"}
MAX_LISTED = 8  # of the names of arrays, where one is missing
T = TypeVar("T")
Rows = dict[str, npt.NDArray[Any]]
"""Rows by input of the model."""
Labels = npt.NDArray[np.int64]


class InputSpec(Protocol):
    """An input of a model, with the ``shape`` of a row."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int | None, ...]: ...


def labelled_rows(path: Path, inputs: Sequence[InputSpec]) -> tuple[Rows, Labels]:
    """The rows of an eval split, and the label of each, for a model with these inputs.

    The ``.npz`` holds labels ``y`` and one array per input of the model, or ``x`` where it has just one. Raises
    `ArtefactError` where it doesn't fit the model.
    """
    return _load(path, inputs, with_labels=True)


def unlabelled_rows(path: Path, inputs: Sequence[InputSpec]) -> Rows:
    """The rows of an ``.npz`` as for `labelled_rows`, with or without labels. Raises `ArtefactError`."""
    return _load(path, inputs, with_labels=False)[0]


def summaries_of_rows(
    path: Path, inputs: Sequence[InputSpec], most: int, summary: Callable[[list[npt.NDArray[Any]]], T]
) -> list[T]:
    """Apply ``summary`` to rows of an eval split, one at a time: all, or at most ``most`` at equal distances.

    It is given the values of each input, with one row. The split may be larger than memory. Raises `ArtefactError`.
    """
    read = partial(_summarised, inputs=inputs, most=most, summary=summary)
    return of_npz(path, read, with_labels=True)


def eval_rows(path: Path) -> int:
    """The number of rows of an eval split, by its header. Raises `ArtefactError` where it has no labels."""
    return of_npz(path, lambda file, _: _count_labels(file), with_labels=True)


def _load(path: Path, inputs: Sequence[InputSpec], *, with_labels: bool) -> tuple[Rows, Labels]:
    read = partial(_read, inputs=inputs, with_labels=with_labels)
    return of_npz(path, read, with_labels=with_labels)


def of_npz(path: Path, read: Callable[[BinaryIO, int], T], *, with_labels: bool, what: str = "") -> T:
    """What ``read`` finds in an ``.npz``, given its file and the most bytes that it may unpack to.

    Raises `ArtefactError`, which calls its content ``what``, where it can't be read, or ``read`` raises `ValueError`.
    """
    content, labels = ("eval split", "`y` and ") if with_labels else ("inputs", "")
    hint = f"it is an .npz with {labels}one array per input of the model (or `x` for its only one)"
    with open_input(path, EVAL_SPLIT, hint=hint) as file:
        max_bytes = min(4 * EVAL_SPLIT.max_bytes, MIN_UNPACKED_BYTES + MAX_RATIO * os.fstat(file.fileno()).st_size)
        try:
            return read(file, max_bytes)
        except BadZipFile:
            raise ArtefactError(f"Can't use the {what or content} in `{path}`: {_no_npz(path)}.", hint=hint) from None
        except NOT_NPZ as error:
            raise ArtefactError(f"Can't use the {what or content} in `{path}`: {error}.", hint=hint) from error


def _no_npz(path: Path) -> str:
    is_text = path.suffix.lower() in _TEXT_SUFFIXES
    return "CSV is not read, make an .npz of its columns" if is_text else "it is not an .npz file, or damaged"


def _read(file: BinaryIO, max_bytes: int, *, inputs: Sequence[InputSpec], with_labels: bool) -> tuple[Rows, Labels]:
    """Inputs, and labels or none. All headers are checked before any array is unpacked."""
    with NpzFile(file, allow_pickle=False) as arrays:
        names = _names(arrays, inputs)
        if with_labels:
            shape, needed_bytes = _labels_header(arrays)
        else:
            shape, needed_bytes = array_header(arrays, names[inputs[0].name], np.dtype(np.int64))[0][:1], 0
            require(shape != () and shape[0] > 0, "it has no rows")
        for spec in inputs:
            found, input_bytes = array_header(arrays, names[spec.name], spec.dtype)
            needed_bytes += input_bytes
            expected = (*shape, *spec.shape)
            require(found == expected, f"it has shape {found} for `{spec.name}`; the model takes {expected}")
        require(needed_bytes <= max_bytes, f"its arrays take {format_size(needed_bytes)}, far more than its size")
        labels = classes_of(arrays["y.npy"]) if with_labels else np.empty(0, np.int64)
        rows = {spec.name: arrays[names[spec.name]].astype(spec.dtype, copy=False) for spec in inputs}
    return rows, labels


def _summarised(
    file: BinaryIO,
    _: int,
    *,
    inputs: Sequence[InputSpec],
    most: int,
    summary: Callable[[list[npt.NDArray[Any]]], T],
) -> list[T]:
    with NpzFile(file, allow_pickle=False) as arrays, ExitStack() as stack:
        names, (rows,) = _names(arrays, inputs), _labels_header(arrays)[0]
        members = [stack.enter_context(_rows_of(arrays, names[spec.name], spec, rows)) for spec in inputs]
        step = -(-rows // most)
        return [
            summary([member.next_row(min(step, rows - first)) for member in members]) for first in range(0, rows, step)
        ]


def classes_of(y: npt.NDArray[Any]) -> Labels:
    """Labels as classes. Raises `ValueError` where one is no whole number from 0."""
    problem = "`y` must have whole numbers: the classes, from 0"
    require(y.dtype.kind in "fiub", problem)
    with np.errstate(invalid="ignore"):  # what no integer can hold becomes another number
        labels = y.astype(np.int64)
    require(bool((labels == y).all()), problem)
    unlabelled = int((labels == NO_LABEL).sum())
    without = f"; {counted(unlabelled, 'row')} of {NO_LABEL} (`proteus samples export --labelled-only` leaves them out)"
    require(bool((labels >= 0).all()), f"labels must be from 0{without if unlabelled else ''}")
    return labels


class _RowReader:
    """The rows of an array in an open ``.npz``, one after another."""

    def __init__(self, member: IO[bytes], stored: np.dtype[Any], spec: InputSpec) -> None:
        self._member, self._stored, self._spec = member, stored, spec
        self._row_bytes = stored.itemsize * math.prod(size or 1 for size in spec.shape)

    def next_row(self, of: int) -> npt.NDArray[Any]:
        """The first of the next ``of`` rows; the others are skipped."""
        content = _read_whole(self._member, self._row_bytes)
        left = (of - 1) * self._row_bytes
        while left:
            left -= len(_read_whole(self._member, min(left, _PIECE_BYTES)))
        return np.frombuffer(content, self._stored).reshape(1, *self._spec.shape).astype(self._spec.dtype, copy=False)


@contextmanager
def _rows_of(arrays: NpzFile, name: str, spec: InputSpec, rows: int) -> Iterator[_RowReader]:
    assert arrays.zip is not None  # noqa: S101 - it is open
    found, _ = array_header(arrays, name, spec.dtype)
    require(found == (rows, *spec.shape), f"it has shape {found} for `{spec.name}`; the model takes {spec.shape}")
    with arrays.zip.open(name) as member:
        _, is_fortran, stored = _header(member)
        require(not is_fortran, f"`{spec.name}` is stored column by column")
        require(not stored.hasobject, f"`{spec.name}` holds objects")
        yield _RowReader(member, stored, spec)


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    return read_array_header_1_0(member) if read_magic(member) == (1, 0) else read_array_header_2_0(member)


def _read_whole(member: IO[bytes], size: int) -> bytes:
    content = member.read(size)
    require(len(content) == size, "it ends too soon")
    return content


def _names(arrays: NpzFile, inputs: Sequence[InputSpec]) -> dict[str, str]:
    """The arrays that hold the inputs."""
    only = len(inputs) == 1 and "x" in arrays
    return {spec.name: f"{'x' if only else spec.name}.npy" for spec in inputs}


def _count_labels(file: BinaryIO) -> int:
    with NpzFile(file, allow_pickle=False) as arrays:
        (rows,), _ = _labels_header(arrays)
    return rows


def _labels_header(arrays: NpzFile) -> tuple[tuple[int, ...], int]:
    shape, needed_bytes = array_header(arrays, "y.npy", np.dtype(np.int64))
    require(len(shape) == 1 and shape[0] > 0, f"`y` must be a list of labels; its shape is {shape}")
    return shape, needed_bytes


def array_header(arrays: NpzFile, name: str, dtype: np.dtype[Any]) -> tuple[tuple[int, ...], int]:
    """The shape of an array (``name``: of its file), and the bytes that it takes as it is and as ``dtype`` together.

    Raises `ValueError` where there is no such array.
    """
    assert arrays.zip is not None  # noqa: S101 - it is open
    if name not in arrays.zip.NameToInfo:
        there = ", ".join(f"`{each}`" for each in arrays.files[:MAX_LISTED]) or "nothing"
        more = f" and {len(arrays.files) - MAX_LISTED} others" if len(arrays.files) > MAX_LISTED else ""
        raise ValueError(f"it has no array `{name.removesuffix('.npy')}`, but {there}{more}")
    with arrays.zip.open(name) as member:
        shape, _, stored = _header(member)
    return shape, math.prod(shape) * (stored.itemsize + dtype.itemsize)
