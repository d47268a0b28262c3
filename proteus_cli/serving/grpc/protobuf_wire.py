"""Protobuf's wire format, for the fields that differ with each request and response; the rest is left to protobuf.

Fields may come in any order; unknown ones are passed over. Source: "Encoding" in protobuf's documentation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from proteus_cli.domain.arrays import Buffer
from proteus_cli.errors import BadRequest
from proteus_cli.serving.grpc.messages import ModelInferRequest

_LENGTH_DELIMITED = 2
_ID, _RAW_INPUT = 0x1A, 0x3A  # tags of fields 3 and 7 of a request
_MORE = 0x80


def split_request(message: Buffer) -> tuple[bytes, str | None, list[Buffer]]:
    """Split a ModelInferRequest: all other fields, as bytes; its id; its raw tensors. Raises `BadRequest`."""
    rest: list[Buffer] = []
    raw: list[Buffer] = []
    request_id = None
    at, end = 0, len(message)
    try:
        while at < end:
            first, tag = at, message[at]
            size = message[at + 1]
            at += 2
            if tag & 7 != _LENGTH_DELIMITED or tag >= _MORE:  # no field of a request: left to protobuf, which knows
                return _split_parsed(message)
            if size >= _MORE:
                size, at = _long_varint(message, at - 1)
            first_of_value, at = at, at + size
            if at > end:
                raise IndexError  # noqa: TRY301 - as where a length is cut off
            if tag == _RAW_INPUT:
                raw.append(message[first_of_value:at])
            elif tag == _ID:
                request_id = str(message[first_of_value:at], "utf-8") or None
            else:
                rest.append(message[first:at])
    except IndexError:
        raise BadRequest("the message is cut off") from None
    except UnicodeDecodeError:
        raise BadRequest("the id is not valid UTF-8") from None
    return b"".join(rest), request_id, raw


def _split_parsed(message: Buffer) -> tuple[bytes, str | None, list[Buffer]]:
    request = parse_request(message)
    raw, request_id = list(request.raw_input_contents), request.id or None
    request.ClearField("raw_input_contents")
    request.ClearField("id")
    return request.SerializeToString(deterministic=True), request_id, raw


def _long_varint(message: Buffer, at: int) -> tuple[int, int]:
    """A length that may take several bytes, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < _MORE:
            return value, at
        if shift > 28:  # noqa: PLR2004 - no message is longer than 2³² bytes
            raise BadRequest("a length in the message is too large")


def parse_request(message: Buffer) -> Any:
    try:
        return ModelInferRequest.FromString(message)
    except DecodeError:
        raise BadRequest("the message is not a ModelInferRequest") from None


def integer_parameter(name: str, value: int) -> bytes:
    """An entry of a response's `parameters`, of int64: {1: name, 2: {2: value}} in field 4."""
    number = varint(value)
    return _ENTRIES[name][len(number)] + number


def varint(value: int) -> bytes:
    if value < _MORE:
        return bytes((value,))
    encoded = bytearray()
    while value >= _MORE:
        encoded.append(value & 0x7F | _MORE)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _entry_prefix(name: str, size: int) -> bytes:
    """The bytes of such an entry before its number, which takes ``size`` bytes."""
    key = b"\x0a" + bytes((len(name),)) + name.encode()
    entry = key + b"\x12" + bytes((size + 1,)) + b"\x10"
    return b"\x22" + bytes((len(entry) + size,)) + entry


_LONGEST_VARINT = 10
_ENTRIES: Mapping[str, Sequence[bytes]] = {
    name: [_entry_prefix(name, size) for size in range(_LONGEST_VARINT + 1)]
    for name in ("batch_size", "queue_us", "compute_us")
}
