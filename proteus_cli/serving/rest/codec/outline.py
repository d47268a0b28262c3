"""The outline of a JSON request: the request without the values of its tensors and without its id.

::

    {"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1, 2.5, -3, 4e5]}],"id":"a"}
    └───────────────────────────── piece ────────────────────────┘└──── values ───┘└─ piece ─┘│└ piece

The requests of a client differ in their values and little else, so what an outline says can be remembered. An outline
has `MAX_BYTES` at most, and only outlines are decoded as a whole; values are decoded by their datatype.

`CutRequest.outline` puts a placeholder where something was cut out. A placeholder holds a number that no client knows,
so a decoded outline shows which values belong to which tensor, however the request is written.
"""

import json
import re
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from proteus_cli.errors import BadRequest
from proteus_cli.serving.oip.tensors import OTHER_BYTES as MAX_BYTES

_DATA = re.compile(rb'"data"[ \t\r\n]*:[ \t\r\n]*(?=\[)')
_ID = re.compile(rb'"id"[ \t\r\n]*:[ \t\r\n]*"((?:[^"\\]|\\.)*)"')
_decode_text = msgspec.json.Decoder(str).decode
_SECRET = secrets.randbits(62)
ID_PLACEHOLDER = str(_SECRET)


class CutRequest(NamedTuple):
    """A request whose arrays of values, and whose id if there is one, were cut out from between ``pieces``.

    ``arrays``: from where to where in the request. ``id_at``: after which piece the id was; -1 where none was cut out.
    """

    pieces: tuple[bytes, ...]
    arrays: Sequence[tuple[int, int]]
    id_at: int
    id: str | None

    @property
    def key(self) -> tuple[bytes | int, ...]:
        """The same for all requests of the same outline."""
        return self.pieces if self.id_at < 0 else (self.id_at, *self.pieces)

    def outline(self) -> bytes:
        """The request, with placeholders."""
        placeholders = [b"[%d,%d]" % (index, _SECRET) for index in range(len(self.arrays))]
        if self.id_at >= 0:
            placeholders.insert(self.id_at, ID_PLACEHOLDER.encode())
        between = [part for pair in zip(self.pieces, placeholders, strict=False) for part in pair]
        return b"".join([*between, self.pieces[-1]])


def cut(request: bytes | bytearray, size: int) -> CutRequest:
    """Cut the values and the id out of the first ``size`` bytes of a request. Raises `BadRequest`.

    Values that hold strings, objects or nulls stay in the outline: no tensor takes them.
    """
    pieces: list[bytes] = []
    arrays: list[tuple[int, int]] = []
    after = values_bytes = 0
    found = _DATA.search(request, 0, min(size, MAX_BYTES))
    while found is not None:
        start = found.end()
        until = _end_of_numbers(request, start, size)
        end = request.rfind(b"]", max(start, until - MAX_BYTES), until) + 1
        if end:
            pieces.append(bytes(request[after:start]))
            arrays.append((start, end))
            after, values_bytes = end, values_bytes + end - start
        found = _DATA.search(request, end or start, min(size, values_bytes + MAX_BYTES))
    if size - values_bytes > MAX_BYTES:
        raise BadRequest(f"a request takes at most {MAX_BYTES} bytes besides the numbers of its tensors")
    pieces.append(bytes(request[after:size]))
    return _without_id(pieces, arrays)


def _end_of_numbers(request: bytes | bytearray, at: int, size: int) -> int:
    """Where the values that begin at ``at`` have a string, or their object ends."""
    quote = request.find(b'"', at, size)
    until = size if quote < 0 else quote
    brace = request.find(b"}", at, until)
    return until if brace < 0 else brace


def _without_id(pieces: list[bytes], arrays: Sequence[tuple[int, int]]) -> CutRequest:
    for at, piece in enumerate(pieces):
        found = _ID.search(piece)
        identity = None if found is None else decoded_id(found[1])
        if found is not None and identity is not None:
            pieces[at : at + 1] = piece[: found.start(1)], piece[found.end(1) :]
            return CutRequest(tuple(pieces), arrays, at, identity)
    return CutRequest(tuple(pieces), arrays, -1, None)


def decoded_id(quoted: bytes | bytearray) -> str | None:
    """What stands between the quotes of an id; None where that is malformed."""
    try:
        return _decode_text(b'"%b"' % bytes(quoted))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def array_of(data: list[Any]) -> int | None:
    """Which of the arrays that were cut out was where ``data`` is in a decoded outline; None: it is no placeholder."""
    return data[0] if data[1:] == [_SECRET] else None


def require_unique_names(outline: bytes, again: bytes) -> None:
    """Raise `BadRequest` where an object of a decoded outline repeats a name; decoders take the last one, silently.

    ``again`` is the decoded outline, encoded without any name that was not given. As both have a colon for each name,
    and else only in strings, as many colons mean that no name was passed over; only other outlines need a closer look.
    """
    if b"\\" in outline or outline.count(b":") != again.count(b":"):
        try:
            json.loads(str(outline, "utf-8"), object_pairs_hook=_require_unique)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"not a valid inference request: {error}") from None


def _require_unique(pairs: list[tuple[str, Any]]) -> None:
    names = set()
    for name, _ in pairs:
        if name in names:
            raise BadRequest(f"not a valid inference request: the name `{name}` is repeated")
        names.add(name)
