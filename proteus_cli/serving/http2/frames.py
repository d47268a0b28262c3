"""Frames of HTTP/2 (RFC 9113 §4, §6, §7): kinds, flags, error codes, and their bytes."""

import struct
from collections.abc import Mapping
from enum import IntEnum

from proteus_cli.buffers import Buffer

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER = struct.Struct(">HBBBL")
"""Length (upper 16 and lower 8 bits), kind, flags, stream."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)

DEFAULT_WINDOW = 65_535
DEFAULT_FRAME = 16_384
LARGEST_FRAME = 2**24 - 1
LARGEST_WINDOW = 2**31 - 1
_PREFIX, _MORE = 0x7F, 0x80


class ErrorCode(IntEnum):
    """Why a stream or connection ends (RFC 9113 §7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class ConnectionFault(Exception):
    """An error of the peer that ends the connection."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class StreamFault(Exception):
    """An error of the peer that ends one stream."""

    def __init__(self, stream_id: int, code: ErrorCode) -> None:
        super().__init__(stream_id, code)
        self.stream_id, self.code = stream_id, code


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A frame as it is sent: nine bytes of header, and the payload."""
    size = len(payload)
    return FRAME_HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def settings(values: Mapping[int, int]) -> bytes:
    """SETTINGS with these values, by name."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HL", name, value) for name, value in values.items()))


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """RST_STREAM: the stream ends with this code."""
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def window_update(stream_id: int, increment: int) -> bytes:
    """WINDOW_UPDATE by ``increment`` bytes; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def goaway(last_stream_id: int, code: ErrorCode, message: str) -> bytes:
    """GOAWAY: streams after the last one are not handled; the message is for people."""
    return frame(GOAWAY, 0, 0, struct.pack(">LL", last_stream_id, code) + message.encode())


def without_padding(payload: Buffer) -> Buffer:
    """The payload of a frame with the flag `PADDED`, without its padding. Raises `ConnectionFault`."""
    padding = payload[0] if payload else 0
    if padding >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - padding]


def literal_field(name: bytes, value: bytes) -> bytes:
    """A header field as a literal that leaves the compression table alone (RFC 7541 §6.2.2)."""
    return b"".join((b"\x00", _string(name), _string(value)))


def _string(text: bytes) -> bytes:
    """A string behind its length, an integer with a prefix of seven bits (RFC 7541 §5.1, §5.2)."""
    size = len(text)
    if size < _PREFIX:
        return bytes((size,)) + text
    size -= _PREFIX
    encoded = bytearray((_PREFIX,))
    while size > _PREFIX:
        encoded.append(size & _PREFIX | _MORE)
        size >>= 7
    encoded.append(size)
    return bytes(encoded) + text
