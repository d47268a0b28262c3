"""Header blocks of requests: decoded, checked, and remembered."""

import re
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from proteus_cli.serving.grpc.frames import Code, ConnectionFault
from proteus_cli.serving.grpc.limits import Limits

Fields = dict[bytes, bytes]
"""A request's header fields by name; values of a name that comes more than once are joined by commas."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"[^\0\r\n]*")
_PSEUDO = (b":method", b":scheme", b":path", b":authority")
_OF_HTTP_1 = (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
_MOST_KNOWN = 64
_LARGEST_KNOWN = 1024

T = TypeVar("T")


class MalformedRequest(Exception):
    """Header fields that are no request (RFC 9113 §8.1.1)."""


class HeaderBlocks(Generic[T]):
    """Decodes the header blocks of one connection; ``read`` makes of a request's fields what is known of it.

    What a block says, and how it changes the compression table, depends on its bytes and the table alone (RFC 7541
    §2.2). So as long as no block changes the table, the same bytes say the same, and need not be decoded again.
    """

    def __init__(self, limits: Limits, read: Callable[[Fields], T]) -> None:
        self._decoder = Decoder(limits.header_list_bytes)
        self._read = read
        self._known: dict[bytes, T] = {}

    def request(self, block: bytes) -> T:
        """What the block asks for. Raises `MalformedRequest`, or `ConnectionFault` where it can't be decoded."""
        known = self._known.get(block)
        if known is not None:
            return known
        before = self._table()
        request = self._read(fields_of(self.decode(block)))
        if self._table() == before and len(block) <= _LARGEST_KNOWN:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[block] = request
        return request

    def decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """The fields of any block, as they come. Raises `ConnectionFault`."""
        before = self._table()
        try:
            return [(name, value) for name, value in self._decoder.decode(block, raw=True)]
        except OversizedHeaderListError:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many header fields") from None
        except HPACKError:
            raise ConnectionFault(Code.COMPRESSION_ERROR, "a header block that can't be decoded") from None
        finally:
            if self._table() != before:
                self._known.clear()

    def _table(self) -> tuple[int, int, int]:
        """Differs after any change: entries come in at the front as new objects, and leave at the back."""
        table = self._decoder.header_table
        entries = table.dynamic_entries
        return (table.maxsize, len(entries), id(entries[0]) if entries else 0)


def fields_of(decoded: Iterable[tuple[bytes, bytes]]) -> Fields:
    """The fields of a well-formed request (RFC 9113 §8.2, §8.3). Raises `MalformedRequest`."""
    fields: Fields = {}
    is_past_pseudo = False
    for name, value in decoded:
        if name.startswith(b":"):
            if is_past_pseudo or name in fields or name not in _PSEUDO:
                raise MalformedRequest
        else:
            is_past_pseudo = True
            if not _NAME.fullmatch(name) or name in _OF_HTTP_1 or (name == b"te" and value != b"trailers"):
                raise MalformedRequest
        if not _VALUE.fullmatch(value) or value != value.strip(b" \t"):
            raise MalformedRequest
        fields[name] = b",".join((fields[name], value)) if name in fields else value
    if not all(fields.get(name) for name in (b":method", b":scheme", b":path")):
        raise MalformedRequest
    return fields
