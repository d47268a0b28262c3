"""The values of a tensor in JSON, flat or evenly nested, as the bytes of its datatype.

Leaves are decoded by their datatype: a number for floats, a whole number within range for integers, true or false for
booleans; nothing else. A long array is decoded in slices of about `SLICE_BYTES`. So a decode takes no more memory than
its result and what one slice needs, and others can be served between two slices.

A slice ends before a comma. It gets an opening bracket in front for each list that is open where it begins, and a
closing one behind for each that is open where it ends. So it is an array by itself, nested as deep as the whole one.
"""

import math
import re
import struct
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from proteus_cli.backends.base import TensorSpec
from proteus_cli.errors import BadRequest
from proteus_cli.serving.oip.tensors import DATATYPE_OF
from proteus_cli.serving.requests.query import Stepwise, drained

_SMALL_BYTES = 16 * 1024  # are copied, which costs less than a view
SLICE_BYTES = 64 * 1024  # hold at most 32,768 values, of 40 bytes each while they are decoded
MAX_DEPTH = 64  # of nested lists
_MAX_TUPLE = 4096  # values
_LEAVES = {"f": float, "i": int, "u": int, "b": bool}
_WHOLE_NUMBERS = {1: "b", 2: "h", 4: "i", 8: "q"}
_CLOSING = b"] \t\r\n"
_OPENING = re.compile(rb"(?:\[[ \t\r\n]*){1,%d}" % (MAX_DEPTH + 1))
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Text = bytes | bytearray


class JsonValues:
    """Decodes the values of one input."""

    def __init__(self, spec: TensorSpec) -> None:
        kind, size = spec.dtype.kind, spec.dtype.itemsize
        self._spec, self._leaf = spec, _LEAVES[kind]
        self._flat = _decoder(self._leaf, 1).decode
        code = _WHOLE_NUMBERS[size] if kind in "iu" else spec.dtype.char
        self._code = code.upper() if kind == "u" else code
        self._row_values = math.prod(size or 0 for size in spec.shape)  # inputs have fixed shapes
        self._one_row = _row_decoder(self._leaf, self._row_values).decode
        self.row_bytes = self._row_values * spec.dtype.itemsize
        self._pack_row = struct.Struct(f"<{self._row_values}{self._code}").pack

    def read_short(self, text: Text, start: int, end: int, rows: int) -> tuple[Text]:
        """The values of the array ``text[start:end]``, all at once, as the only input. Raises `BadRequest`."""
        try:
            decode = self._one_row if rows == 1 else self._flat
            values = decode(text[start:end] if end - start <= _SMALL_BYTES else memoryview(text)[start:end])
        except _MALFORMED:  # or nested, or not of one row
            return (drained(self.read(text, start, end, rows)),)
        if len(values) != rows * self._row_values:
            raise self._wrong_count(str(len(values)), rows)
        return (self._packed(values),)

    def read(self, text: Text, start: int, end: int, rows: int) -> Stepwise[Text]:
        """The values of the array ``text[start:end]``, with a pause after each slice. Raises `BadRequest`."""
        slices, count, needed, packed = _Slices(self._leaf, text, start, end), 0, rows * self._row_values, bytearray()
        while not slices.is_done:
            try:
                values = slices.next()
            except _MALFORMED:
                raise self._wrong(f"must hold {self._datatype} values, flat or evenly nested") from None
            count += len(values)
            if count > needed and not slices.is_done:
                raise self._wrong_count(f"more than {needed}", rows)
            packed += self._packed(values)
            yield
        if count != needed:
            raise self._wrong_count(str(count), rows)
        return packed

    def _packed(self, values: Sequence[Any]) -> bytes:
        try:
            if len(values) == self._row_values:
                return self._pack_row(*values)
            return struct.pack(f"<{len(values)}{self._code}", *values)
        except struct.error:
            raise self._wrong(f"holds values that don't fit {self._datatype}") from None
        except OverflowError:  # beyond the range of a float is infinity
            with np.errstate(over="ignore"):
                return np.array(values, np.float64).astype(self._spec.dtype).tobytes()

    @property
    def _datatype(self) -> str:
        return DATATYPE_OF[self._spec.dtype]

    def _wrong(self, problem: str) -> BadRequest:
        return BadRequest(f"input `{self._spec.name}`: `data` {problem}")

    def _wrong_count(self, count: str, rows: int) -> BadRequest:
        shape = [rows, *self._spec.shape]
        return BadRequest(
            f"input `{self._spec.name}` has {count} values; its shape {shape} needs {rows * self._row_values}"
        )


class _Slices:
    """The leaves of ``text[start:end]``, slice by slice.

    Of each of the first ``_open`` levels of nesting a list is open, which has ``_entries`` so far. ``_complete`` has
    the numbers of entries of the complete lists of a level: one, or the array is uneven.
    """

    def __init__(self, leaf: type, text: Text, start: int, end: int) -> None:
        self._text, self._at, self._end = text, start, end
        opening = _OPENING.match(text, start, end)
        self._depth = text.count(b"[", start, opening.end() if opening else start)
        self._decode = _decoder(leaf, min(self._depth, MAX_DEPTH)).decode
        self._open = 0
        self._entries = [0] * self._depth
        self._complete: list[set[int]] = [set() for _ in range(self._depth)]

    @property
    def is_done(self) -> bool:
        return self._at > self._end

    def next(self) -> list[Any]:
        """Raises `_MALFORMED`."""
        first = self._at
        stop = self._text.find(b",", first + SLICE_BYTES, min(first + 2 * SLICE_BYTES, self._end))
        if stop < 0:
            stop = self._end
            if stop - first > 2 * SLICE_BYTES:
                raise msgspec.DecodeError
        piece = bytes(self._text[first:stop])
        self._at = stop + 1
        was_open, self._open = self._open, self._depth - piece[len(piece.rstrip(_CLOSING)) :].count(b"]")
        if (self._open == 0) != (stop == self._end) or not 0 <= self._open < MAX_DEPTH:
            raise msgspec.DecodeError
        return self._checked(self._decode(b"[" * was_open + piece + b"]" * self._open), was_open)

    def _checked(self, array: list[Any], was_open: int) -> list[Any]:
        """The leaves of a slice, whose lists must have as many entries as others of their level."""
        lists: list[Any] = [array]
        for level in range(self._depth):
            entries = list(map(len, lists))
            if level < was_open:  # the first list goes on, and so does its last entry if that is a list that does
                if level == was_open - 1 and not entries[0]:
                    raise msgspec.DecodeError  # a comma before nothing
                entries[0] += self._entries[level] - (level < was_open - 1)
            if level < self._open:
                if level == self._open - 1 and not lists[-1]:
                    raise msgspec.DecodeError  # a comma behind nothing
                self._entries[level] = entries.pop()
            self._complete[level].update(entries)
            if len(self._complete[level]) > 1:
                raise msgspec.DecodeError
            lists = list(chain.from_iterable(lists))
        return lists


def _row_decoder(leaf: Any, values: int) -> "msgspec.json.Decoder[Sequence[Any]]":
    """Decodes one row as a tuple of that length, which costs less than a list; a long one as a list."""
    kind: Any = tuple
    return msgspec.json.Decoder(kind[(leaf,) * values] if values <= _MAX_TUPLE else list[leaf])


@cache
def _decoder(leaf: type, depth: int) -> "msgspec.json.Decoder[list[Any]]":
    kind: Any = leaf
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)
