"""The classes of an output with the highest values, as texts ``value:index:label`` in place of all of its values.

Source: Triton's "Classification Extension".
"""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from proteus_cli.serving.requests.query import Classes, Query, Stepwise

_VALUES_AT_ONCE = 8192  # which take half a millisecond to order
_TEXTS_AT_ONCE = 512  # which take as long

Values = npt.NDArray[Any]


def wants_classes(query: Query) -> bool:
    """Whether the classes of any output are wanted, and not its values."""
    for _, form in query.outputs:  # noqa: SIM110 - asked for each batch, and `any` takes several calls
        if isinstance(form, Classes):
            return True
    return False


def highest_classes(values: Values, count: int, labels: Sequence[str]) -> Stepwise[list[str]]:
    """The ``count`` highest values of each row, one row behind another, with a pause wherever it takes long.

    The highest come first; of equal ones, those with the lower index. NaN counts as -inf. A class beyond the
    ``labels`` has none. Axis 0 of ``values`` has the rows; all else of a row are its classes, ``count`` or more.
    """
    flat, texts = values.reshape(len(values), -1), list[str]()
    rows_at_once = max(1, _VALUES_AT_ONCE // flat.shape[1])
    for first in range(0, len(flat), rows_at_once):
        rows = flat[first : first + rows_at_once]
        highest = yield from _highest(rows, count)
        indices, found = highest.reshape(-1), np.take_along_axis(rows, highest, 1).reshape(-1)
        for at in range(0, len(indices), _TEXTS_AT_ONCE):
            part = slice(at, at + _TEXTS_AT_ONCE)
            texts += [
                _text(value, index, labels) for value, index in zip(found[part], indices[part].tolist(), strict=True)
            ]
            yield
    return texts


def packed(texts: Sequence[str]) -> Stepwise[bytes]:
    """Texts as a binary tensor of BYTES, each behind its length in four bytes, with pauses."""
    parts = list[bytes]()
    for at in range(0, len(texts), _TEXTS_AT_ONCE):
        for text in texts[at : at + _TEXTS_AT_ONCE]:
            encoded = text.encode()
            parts += (struct.pack("<I", len(encoded)), encoded)
        yield
    return b"".join(parts)


def _highest(rows: Values, count: int) -> Stepwise[npt.NDArray[np.intp]]:
    """The indices of the ``count`` highest values of each row, with a pause after each part of the columns."""
    classes, highest = rows.shape[1], np.empty((len(rows), 0), np.intp)
    for first in range(0, classes, _VALUES_AT_ONCE):
        columns = np.arange(first, min(first + _VALUES_AT_ONCE, classes))
        candidates = np.hstack([highest, np.broadcast_to(columns, (len(rows), len(columns)))])
        order = _descending(np.take_along_axis(rows, candidates, 1))[:, :count]
        highest = np.take_along_axis(candidates, order, 1)
        yield
    return highest


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
