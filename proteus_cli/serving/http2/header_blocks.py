"""Header blocks of requests: decoded (HPACK, RFC 7541), checked, and remembered."""

import re
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from proteus_cli.serving.http2.frames import ConnectionFault, ErrorCode
from proteus_cli.serving.http2.limits import Http2Limits
from proteus_cli.serving.memory import remember
from proteus_cli.serving.transport.connections import Turn

Fields = dict[bytes, bytes]
"""A request's header fields by name; values of a name that comes more than once are joined by commas."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"[^\0\r\n]*")
_PSEUDO = (b":method", b":scheme", b":path", b":authority")
_HTTP_1_FIELDS = (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
_SINGLE = (b"authorization", b"content-length", b"content-type", b"host")
"""Fields that a request has once at most."""
_MAX_LENGTH_DIGITS = 18
_MAX_KNOWN = 64
_LARGEST_KNOWN = 1024
_INDEXED, _ADDED, _RESIZED, _RESIZED_MASK, _MORE = 0x80, 0x40, 0x20, 0xE0, 0x80
_FIELD_BYTES = 32  # what a field counts besides its text (RFC 9113 §6.5.2)
_LONGEST_SHIFT = 35
_BYTES_PER_UNIT = 8  # of work: a field takes 1 to 4 µs, and some bytes

T = TypeVar("T")


class MalformedRequest(Exception):
    """Header fields that are no request (RFC 9113 §8.1.1)."""


class HeaderBlocks(Generic[T]):
    """Decodes the header blocks of one connection; ``read`` makes a request of the fields.

    The meaning of a block, and its change of the compression table, depend on its bytes and the table alone (RFC 7541
    §2.2). As long as no block changes the table, the same bytes mean the same, and are not decoded again.
    """

    def __init__(self, limits: Http2Limits, read: Callable[[Fields], T], turn: Turn) -> None:
        self._table = HeaderTable()
        self._max_bytes = limits.header_list_bytes
        self._read, self._turn = read, turn
        self._known: dict[bytes, tuple[T, int | None]] = {}

    def request(self, block: bytes) -> tuple[T, int | None]:
        """The request of a block, and how many bytes its body has, if it says so.

        Raises `MalformedRequest`, or `ConnectionFault` if the block can't be decoded.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        before = self._state()
        fields = fields_of(self.decode(block))
        request = self._read(fields), _content_length(fields)
        if self._state() == before and len(block) <= _LARGEST_KNOWN:
            remember(self._known, block, request, _MAX_KNOWN)
        return request

    def decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """The fields of any block, in order. Raises `ConnectionFault`."""
        before = self._state()
        self._turn.left -= len(block) // _BYTES_PER_UNIT
        try:
            return self._decoded(block)
        except (HPACKDecodingError, IndexError):
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "a header block that can't be decoded") from None
        finally:
            if self._state() != before:
                self._known.clear()

    def _decoded(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Decode by RFC 7541 §6. Table and Huffman code are hpack's; its `Decoder` takes five times as long."""
        table, fields, at, size = self._table, list[tuple[bytes, bytes]](), 0, 0
        while at < len(block):
            first = block[at]
            if first & _INDEXED:
                index, at = _integer(block, at, 0x7F)
                field = table.get_by_index(index)
            elif first & _RESIZED_MASK == _RESIZED:
                table_size, at = _integer(block, at, 0x1F)
                if fields or table_size > HeaderTable.DEFAULT_SIZE:
                    raise HPACKDecodingError
                table.maxsize = table_size
                continue
            else:
                index, at = _integer(block, at, 0x3F if first & _ADDED else 0x0F)
                name, at = (table.get_by_index(index)[0], at) if index else _string(block, at)
                value, at = _string(block, at)
                field = (name, value)
                if first & _ADDED:
                    table.add(name, value)
            fields.append(field)
            size += len(field[0]) + len(field[1]) + _FIELD_BYTES
            if size > self._max_bytes:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many header fields")
        return fields

    def _state(self) -> tuple[int, int, int]:
        """A value that differs after any change of the table: entries enter at the front as new objects."""
        table = self._table
        entries = table.dynamic_entries
        return (table.maxsize, len(entries), id(entries[0]) if entries else 0)


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """An integer (RFC 7541 §5.1), and where it ends. Raises `IndexError` if it is cut off."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in range(0, _LONGEST_SHIFT, 7):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < _MORE:
            return value, at
    raise HPACKDecodingError


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """A string (RFC 7541 §5.2), and where it ends. Raises `IndexError` if it is cut off."""
    is_huffman = block[at] & 0x80
    size, at = _integer(block, at, 0x7F)
    end = at + size
    if end > len(block):
        raise IndexError
    text = block[at:end]
    return decode_huffman(text) if is_huffman else text, end


def fields_of(decoded: Iterable[tuple[bytes, bytes]]) -> Fields:
    """The fields of a well-formed request (RFC 9113 §8.2, §8.3). Raises `MalformedRequest`.

    A Host must be the authority: who guards this server may look at one of them, and its handlers at the other.
    """
    fields: Fields = {}
    is_past_pseudo = False
    for name, value in decoded:
        if name.startswith(b":"):
            if is_past_pseudo or name in fields or name not in _PSEUDO:
                raise MalformedRequest
        else:
            is_past_pseudo = True
            if not _NAME.fullmatch(name) or name in _HTTP_1_FIELDS or (name == b"te" and value != b"trailers"):
                raise MalformedRequest
        if not _VALUE.fullmatch(value) or value != value.strip(b" \t"):
            raise MalformedRequest
        if name in fields and name in _SINGLE:
            raise MalformedRequest
        fields[name] = b",".join((fields[name], value)) if name in fields else value
    if not all(fields.get(name) for name in (b":method", b":scheme", b":path")):
        raise MalformedRequest
    if fields.get(b"host", b"").lower() not in {b"", fields.get(b":authority", fields.get(b"host", b"")).lower()}:
        raise MalformedRequest
    return fields


def _content_length(fields: Fields) -> int | None:
    length = fields.get(b"content-length")
    if length is None:
        return None
    if not length.isdigit() or len(length) > _MAX_LENGTH_DIGITS:
        raise MalformedRequest
    return int(length)
