"""The classes of an output with the highest values, as texts ``value:index:label`` in place of all of its values.

Source: Triton's "Classification Extension".
"""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from proteus_cli.serving.requests.query import Classes, Query

Values = npt.NDArray[Any]


def wants_classes(query: Query) -> bool:
    """Whether the classes of any output are wanted, and not its values."""
    for _, form in query.outputs:  # noqa: SIM110 - asked for each batch, and `any` takes several calls
        if isinstance(form, Classes):
            return True
    return False


def highest_classes(values: Values, count: int, labels: Sequence[str]) -> list[str]:
    """The ``count`` highest values of each row, one row behind another.

    The highest come first; of equal ones, those with the lower index. NaN counts as -inf. A class beyond the
    ``labels`` has none. Axis 0 of ``values`` has the rows; all else of a row are its classes, ``count`` or more.
    """
    rows = values.reshape(len(values), -1)
    highest = _descending(rows)[:, :count]
    found = np.take_along_axis(rows, highest, 1).reshape(-1)
    return [_text(value, index, labels) for value, index in zip(found, highest.reshape(-1).tolist(), strict=True)]


def packed(texts: Sequence[str]) -> bytes:
    """Texts as a binary tensor of BYTES, each behind its length in four bytes."""
    encoded = [text.encode() for text in texts]
    return b"".join([struct.pack("<I", len(each)) + each for each in encoded])


def _descending(rows: Values) -> npt.NDArray[np.intp]:
    """The order of each row from its highest value on; equal ones stay in their order."""
    if rows.dtype.kind == "f":
        rows = np.where(np.isnan(rows), -math.inf, rows)
    backwards: npt.NDArray[np.intp] = np.argsort(rows[:, ::-1], axis=1, kind="stable")[:, ::-1]
    order: npt.NDArray[np.intp] = rows.shape[1] - 1 - backwards
    return order


def _text(value: object, index: int, labels: Sequence[str]) -> str:
    """``value`` has as few digits as tell it from others of its datatype."""
    return f"{value!s}:{index}:{labels[index]}" if index < len(labels) else f"{value!s}:{index}"
