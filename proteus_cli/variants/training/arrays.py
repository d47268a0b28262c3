"""Labelled rows to train on: read and checked, and a part of each class held out."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_DEFLATED

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from proteus_cli.arrays import Ints, Singles
from proteus_cli.domain.base import require
from proteus_cli.store.eval_splits import array_header, classes_of, of_npz
from proteus_cli.store.samples.chunk import write_arrays
from proteus_cli.store.samples.export import ANSWERED

LABELS = "y"
HELD_OUT_FRAC = 0.2
FEWEST_ROWS = 5
"""Minimum number of rows of each class: one of them is held out."""
MAX_CLASSES = 10_000
MAX_VALUES = 2**28
"""Maximum number of values of all rows: 1 GiB in FP32."""
EVAL_ROWS = 20_000
"""The most that are held out: as many tell an accuracy to within 0.7 points."""


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Rows of the input ``name`` in FP32, and the class of each: 0 to ``classes`` - 1."""

    name: str
    x: Singles
    y: Ints

    @property
    def classes(self) -> int:
        return int(self.y.max()) + 1

    def take(self, places: Ints) -> "LabelledRows":
        return LabelledRows(self.name, self.x[places], self.y[places])

    def npz(self) -> bytes:
        """As the content of an eval split."""
        content = io.BytesIO()
        write_arrays(content, {self.name: self.x, LABELS: self.y}, compression=ZIP_DEFLATED)
        return content.getvalue()


def read_labelled(path: Path, fewest: int = FEWEST_ROWS) -> LabelledRows:
    """Labels `y` and one array of rows, named for the input of the models: as in an eval split of one input.

    Raises `ArtefactError` where that can't be learned from, also where a class has less than ``fewest`` rows.
    """
    return of_npz(path, lambda file, max_bytes: _read(file, max_bytes, fewest), with_labels=True, what="labelled rows")


def _read(file: BinaryIO, max_bytes: int, fewest: int) -> LabelledRows:
    with NpzFile(file, allow_pickle=False) as arrays:
        name = _rows_name(arrays.files)
        (shape, needed_bytes), (labels_shape, labels_bytes) = (
            array_header(arrays, f"{each}.npy", np.dtype(np.float32)) for each in (name, LABELS)
        )
        require(len(labels_shape) == 1, f"`y` must be a list of labels; its shape is {labels_shape}")
        require(len(shape) > 1 and 0 not in shape, f"`{name}` must have a row of numbers for each label, not {shape}")
        require(shape[0] == labels_shape[0], f"`{name}` has {shape[0]} rows, and `y` {labels_shape[0]} labels")
        require(needed_bytes + labels_bytes <= max_bytes, "its arrays take far more than its size")
        require(math.prod(shape) <= MAX_VALUES, f"`{name}` has more than {MAX_VALUES:,} numbers")
        x, y = arrays[name], arrays[LABELS]
    return LabelledRows(name, _numbers(x, name), _classes(y, fewest))


def _rows_name(names: Sequence[str]) -> str:
    """The name of the one array beside the labels, or `x`. Answers, which samples have as well, do not count."""
    require(LABELS in names, "it has no array `y`, the labels")
    others = [name for name in names if name != LABELS]
    if "x" in others:
        return "x"
    if len(others) > 1:
        others = [name for name in others if name not in ANSWERED]
    require(len(others) == 1, f"it must have `x`, or one array beside `y`; it has {len(others)}")
    return others[0]


def _numbers(x: npt.NDArray[np.generic], name: str) -> Singles:
    require(x.dtype.kind in "fiub", f"`{name}` has {x.dtype}; it must have numbers")
    with np.errstate(over="ignore"):
        rows = x.astype(np.float32)
    wrong = ~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
    require(
        not wrong.any(), f"{int(wrong.sum())} rows of `{name}` have a value that is no number of FP32 (NaN or infinite)"
    )
    return rows


def _classes(y: npt.NDArray[Any], fewest: int) -> Ints:
    labels = classes_of(y)
    require(int(labels.max()) < MAX_CLASSES, f"labels must be from 0 to {MAX_CLASSES - 1}")
    counts = np.bincount(labels)
    require(len(counts) > 1, "all rows are of one class: there is nothing to tell apart")
    few = int(counts.argmin())
    problem = f"class {few} has {counts[few]} rows; each class from 0 to {len(counts) - 1} needs {fewest}"
    require(counts[few] >= fewest, problem)
    return labels


def held_out(rows: LabelledRows, seed: int) -> LabelledRows:
    """A part of the rows of each class, as `HELD_OUT_FRAC` and `EVAL_ROWS` have it; the same for the same seed."""
    part = min(HELD_OUT_FRAC, EVAL_ROWS / len(rows.y))
    return rows.take(_drawn(rows.y, part, seed))


def at_most(rows: LabelledRows, max_rows: int, seed: int) -> LabelledRows:
    """As many rows or fewer, with about the same part of each class, and one of each at least."""
    return rows if len(rows.y) <= max_rows else rows.take(_drawn(rows.y, max_rows / len(rows.y), seed))


def _drawn(y: Ints, part: float, seed: int) -> Ints:
    """The places of a part of each class, in their order."""
    rng = np.random.default_rng(seed)
    by_class = (np.flatnonzero(y == label) for label in range(int(y.max()) + 1))
    drawn = [rng.permutation(places)[: max(1, int(part * len(places)))] for places in by_class if len(places)]
    return np.sort(np.concatenate(drawn))


def apart_from(rows: LabelledRows, others: LabelledRows) -> LabelledRows:
    """The rows that are not among the others, whatever their labels: no variant may learn from the others."""
    known = {row.tobytes() for row in others.x}
    is_new = np.array([row.tobytes() not in known for row in rows.x], bool)
    return rows.take(np.flatnonzero(is_new))
