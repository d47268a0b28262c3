"""The messages of the protocol, and protobuf's wire format for the fields that differ with each request and response.

The messages are in a descriptor pool of their own: a process that also imports another copy of the same `.proto` files
would otherwise register each name twice, which protobuf refuses. ``make proto`` makes `protocol/descriptors.binpb`.

Fields may come in any order; unknown ones are passed over. Source: "Encoding" in protobuf's documentation.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from proteus_cli.buffers import Buffer
from proteus_cli.errors import BadRequest
from proteus_cli.serving.oip.tensors import OTHER_BYTES

DESCRIPTORS = Path(__file__).parent / "protocol" / "descriptors.binpb"

FILES = tuple(descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file)
_pool = descriptor_pool.DescriptorPool()
for _file in FILES:
    _pool.Add(_file)


def message(name: str) -> Any:
    """The class of a message, by its full name."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))


def parsed(kind: Any, content: Buffer, what: str = "what this method takes") -> Any:
    """The message of that class. Raises `BadRequest`."""
    try:
        return kind.FromString(content)
    except DecodeError:
        raise BadRequest(f"the message is not {what}") from None


ModelInferRequest = message("inference.ModelInferRequest")
ModelInferResponse = message("inference.ModelInferResponse")
ModelStreamInferResponse = message("inference.ModelStreamInferResponse")


_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_ID, _INPUT, _OUTPUT, _RAW_INPUT = 0x1A, 0x2A, 0x32, 0x3A  # tags of fields 3, 5, 6 and 7 of a request
_TENSORS = (_INPUT, _OUTPUT)
_MORE = 0x80
_LONGEST_VARINT = 10
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}

MAX_FIELDS = 1024
"""The most fields of a request, its inputs and its outputs together. Protobuf takes a microsecond and 250 bytes for an
empty one."""

_TURNS = range(MAX_FIELDS + 1)


def split_request(message: Buffer) -> tuple[list[Buffer], str | None, list[Buffer], int]:
    """Split a ModelInferRequest: its other fields, unchanged; its id; its raw tensors. Raises `BadRequest`.

    The last result is where its one raw tensor begins that ends the message; -1 where there are others, or none.
    """
    rest: list[Buffer] = []
    raw: list[Buffer] = []
    request_id = None
    at, end, tail = 0, len(message), -1
    try:
        for _ in _TURNS:
            if at >= end:
                break
            first, tag = at, message[at]
            if tag & 7 != _LENGTH_DELIMITED or tag >= _MORE:  # no field of a request
                _, _, at = _field(message, at, end)
                rest.append(message[first:at])
                continue
            size = message[at + 1]
            at += 2
            if size >= _MORE:
                size, at = _long_varint(message, at - 1)
            first_of_value, at = at, at + size
            if at > end:
                raise IndexError  # noqa: TRY301 - as where a length is cut off
            if tag == _RAW_INPUT:
                raw.append(message[first_of_value:at])
                tail = first_of_value if at == end and len(raw) == 1 else -1
            elif tag == _ID:
                request_id = _id(message[first_of_value:at])
            else:
                rest.append(message[first:at])
        else:
            raise _too_many_fields()
    except IndexError:
        raise BadRequest("the message is cut off") from None
    return rest, request_id, raw, tail


def _id(content: Buffer) -> str | None:
    if len(content) > OTHER_BYTES:
        raise BadRequest(f"the id has more than {OTHER_BYTES} bytes")
    try:
        return str(content, "utf-8") or None
    except UnicodeDecodeError:
        raise BadRequest("the id is not valid UTF-8") from None


def require_few_fields(fields: Iterable[Buffer]) -> None:
    """Raise `BadRequest` where the fields that `split_request` leaves are more than `MAX_FIELDS`, or are malformed.

    Protobuf takes hundreds of bytes for a field of two. Contents of inputs are no messages in messages, so they count
    as one field.
    """
    count = 0
    try:
        for field in fields:
            tag, first, end = _field(field, 0, len(field))
            count += 1
            while tag in _TENSORS and first < end and count <= MAX_FIELDS:
                _, _, first = _field(field, first, end)
                count += 1
            if count > MAX_FIELDS:
                raise _too_many_fields()
    except IndexError:
        raise BadRequest("the message is cut off") from None


def _too_many_fields() -> BadRequest:
    return BadRequest(f"the message has more than {MAX_FIELDS} fields")


def _field(message: Buffer, at: int, end: int) -> tuple[int, int, int]:
    """The tag of the field at ``at``, and where its value begins and ends. Raises `BadRequest` or `IndexError`."""
    tag, first = _long_varint(message, at)
    if tag < _MORE and first > at + 1:
        raise BadRequest("a field's number is written with more bytes than it needs")
    kind, stop = tag & 7, first
    if kind == _LENGTH_DELIMITED:
        size, first = _long_varint(message, first)
        stop = first + size
    elif kind == _VARINT:
        _, stop = _long_varint(message, first)
    elif kind in _FIXED_BYTES:
        stop += _FIXED_BYTES[kind]
    else:
        raise BadRequest("the message is not a ModelInferRequest")
    if stop > end:
        raise IndexError
    return tag, first, stop


def _long_varint(message: Buffer, at: int) -> tuple[int, int]:
    """A number that may take several bytes, and where it ends."""
    value = 0
    for shift in range(0, 7 * _LONGEST_VARINT, 7):
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < _MORE:
            return value, at
    raise BadRequest("a number in the message is too large")


def integer_parameter(name: str, value: int) -> bytes:
    """An entry of a response's `parameters`, of int64: {1: name, 2: {2: value}} in field 4."""
    number = varint(value)
    return _ENTRIES[name][len(number)] + number


def varint(value: int) -> bytes:
    """A number that is not negative, in base 128, as protobuf writes it."""
    if value < _MORE:
        return bytes((value,))
    encoded = bytearray()
    while value >= _MORE:
        encoded.append(value & 0x7F | _MORE)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _entry_prefix(name: str, size: int) -> bytes:
    """The bytes of such an entry before its number of ``size`` bytes."""
    key = b"\x0a" + bytes((len(name),)) + name.encode()
    entry = key + b"\x12" + bytes((size + 1,)) + b"\x10"
    return b"\x22" + bytes((len(entry) + size,)) + entry


_ENTRIES: Mapping[str, Sequence[bytes]] = {
    name: [_entry_prefix(name, size) for size in range(_LONGEST_VARINT + 1)]
    for name in ("batch_size", "queue_us", "compute_us")
}
