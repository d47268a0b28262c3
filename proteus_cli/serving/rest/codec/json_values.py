"""The values of a tensor in JSON, flat or evenly nested, as the bytes of its datatype.

Leaves are decoded by their datatype: a number for floats, a whole number within range for integers, true or false for
booleans. A long or nested array is decoded only if it has no more commas than its values need. Neither
more values nor empty lists take time and memory.
"""

import math
import struct
from functools import cache
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from proteus_cli.backends.base import TensorSpec
from proteus_cli.errors import BadRequest
from proteus_cli.serving.oip.tensors import DATATYPE_OF

_LONG_BYTES = 64 * 1024  # whose values are counted before they are decoded
MAX_DEPTH = 64  # of nested lists
MAX_LISTS = 2**17  # of an array
_MAX_TUPLE = 4096  # values
_LEAVES = {"f": float, "i": int, "u": int, "b": bool}
_WHOLE_NUMBERS = {1: "b", 2: "h", 4: "i", 8: "q"}
_OPENING = frozenset(b"[ \t\r\n")
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class JsonValues:
    """Decodes the values of one input."""

    def __init__(self, spec: TensorSpec) -> None:
        kind, size = spec.dtype.kind, spec.dtype.itemsize
        self._spec, self._leaf = spec, _LEAVES[kind]
        code = _WHOLE_NUMBERS[size] if kind in "iu" else spec.dtype.char
        self._code = code.upper() if kind == "u" else code
        self.row_values = math.prod(size or 0 for size in spec.shape)  # inputs have fixed shapes
        self._one_row, self._flat = _row_decoder(self._leaf, self.row_values).decode, _decoder(self._leaf, 1).decode
        self._pack_row = struct.Struct(f"<{self.row_values}{self._code}").pack

    def read(self, text: memoryview, rows: int) -> bytes:
        """The bytes of an array. Raises `BadRequest`."""
        if len(text) > _LONG_BYTES:
            self._require_count(bytes(text), rows)
        try:
            values = (self._one_row if rows == 1 else self._flat)(text)
        except _MALFORMED:  # or nested, or not of one row
            values = self._leaves(bytes(text), rows)
        if len(values) != rows * self.row_values:
            raise self._wrong_count(len(values), rows)
        try:
            if rows == 1:
                return self._pack_row(*values)
            return struct.pack(f"<{len(values)}{self._code}", *values)
        except struct.error:
            raise self._wrong(f"holds values that don't fit {self._datatype}") from None
        except OverflowError:  # beyond the range of a float is infinity
            with np.errstate(over="ignore"):
                return np.array(values, np.float64).astype(self._spec.dtype).tobytes()

    def _leaves(self, text: bytes, rows: int) -> list[Any]:
        """The values of a nested array, whose lists must have as many entries as the others of their level."""
        self._require_count(text, rows)
        if text.count(b"[") > MAX_LISTS:
            raise self._wrong(f"has more than {MAX_LISTS} lists; send it flat, or as a binary tensor")
        depth = 0
        for byte in text:
            if byte not in _OPENING or depth > MAX_DEPTH:
                break
            depth += byte == text[0]
        try:
            lists: list[Any] = [_decoder(self._leaf, min(depth, MAX_DEPTH)).decode(text)]
        except _MALFORMED:
            raise self._malformed() from None
        for _ in range(depth):
            if len(set(map(len, lists))) > 1:
                raise self._malformed()
            lists = list(chain.from_iterable(lists))
        return lists

    @property
    def _datatype(self) -> str:
        return DATATYPE_OF[self._spec.dtype]

    def _wrong(self, problem: str) -> BadRequest:
        return BadRequest(f"input `{self._spec.name}`: `data` {problem}")

    def _require_count(self, text: bytes, rows: int) -> None:
        """Raise `BadRequest` where there are more commas than between the values that are needed."""
        count = text.count(b",") + 1  # of values, and of empty lists
        if count > rows * self.row_values:
            raise self._wrong_count(count, rows)

    def _malformed(self) -> BadRequest:
        return self._wrong(f"must hold {self._datatype} values, flat or evenly nested")

    def _wrong_count(self, count: int, rows: int) -> BadRequest:
        shape = [rows, *self._spec.shape]
        return BadRequest(
            f"input `{self._spec.name}` has {count} values; its shape {shape} needs {rows * self.row_values}"
        )


def _row_decoder(leaf: Any, values: int) -> "msgspec.json.Decoder[list[Any]] | msgspec.json.Decoder[tuple[Any, ...]]":
    """Decodes one row as a tuple of that length, which costs less than a list; a long one as a list."""
    kind: Any = tuple
    return msgspec.json.Decoder(kind[(leaf,) * values] if values <= _MAX_TUPLE else list[leaf])


@cache
def _decoder(leaf: type, depth: int) -> "msgspec.json.Decoder[list[Any]]":
    kind: Any = leaf
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)
