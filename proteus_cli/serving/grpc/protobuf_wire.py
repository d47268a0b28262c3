"""Protobuf's wire format, for the fields that differ with each request and response; the rest is left to protobuf.

Fields may come in any order; unknown ones are passed over. Source: "Encoding" in protobuf's documentation.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from proteus_cli.buffers import Buffer
from proteus_cli.errors import BadRequest
from proteus_cli.serving.grpc.messages import InferTensorContents, ModelInferRequest, parsed
from proteus_cli.serving.oip.tensors import OTHER_BYTES

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_ID, _INPUT, _OUTPUT, _RAW_INPUT = 0x1A, 0x2A, 0x32, 0x3A  # tags of fields 3, 5, 6 and 7 of a request
_TENSORS = (_INPUT, _OUTPUT)
_CONTENTS = 0x2A  # of field 5 of an input
_VARINTS = frozenset(range(0x0A, 0x32, 8))  # fields 1 to 5 of contents: Booleans and whole numbers, packed
_FLOATS = {0x32: "fp32_contents", 0x3A: "fp64_contents"}  # packed
_MORE = 0x80
_LONGEST_VARINT = 10
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}

MAX_FIELDS = 1024
"""Of a request, its inputs and its outputs together. Protobuf takes a microsecond and 250 bytes for an empty one."""

_TURNS = range(MAX_FIELDS + 1)


def split_request(message: Buffer) -> tuple[list[Buffer], str | None, list[Buffer], int]:
    """Split a ModelInferRequest: each other field, as it stands; its id; its raw tensors. Raises `BadRequest`.

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


class PackedValues(NamedTuple):
    """The values of an input: the tag of a packed field of its contents, and what is behind its length."""

    tag: int
    content: Buffer

    @property
    def floats(self) -> str | None:
        """The name of a field of floats, whose bytes are those of the tensor; None of numbers that vary in length."""
        return _FLOATS.get(self.tag)

    def message(self) -> bytes:
        """These values as the contents of an input."""
        return _delimited(self.tag, self.content)


class Outline(NamedTuple):
    """A request without the values of its tensors that are packed, and these by input; None where there are none."""

    request: bytes
    values: Sequence[PackedValues | None]


def outline_of(fields: Iterable[Buffer]) -> Outline:
    """Cut the values out of the fields that `split_request` leaves. Raises `BadRequest`.

    Protobuf takes hundreds of bytes for a field of two, and eight bytes for a number of one. So it gets the outline,
    which may not be large, and the values apart from it. All encoders pack values; values that are not packed are part
    of the outline.
    """
    parts, values, count, size = list[bytes](), list[PackedValues | None](), 0, 0
    try:
        for field in fields:
            tag, first, end = _field(field, 0, len(field))
            kept, inner_fields = [slice(0, end)], 0
            packed: PackedValues | None = None
            if tag in _TENSORS:
                kept, packed, inner_fields = _cut(field, first, end, has_contents=tag == _INPUT)
            count += 1 + inner_fields
            size += sum(part.stop - part.start for part in kept)
            if count > MAX_FIELDS:
                raise _too_many_fields()
            if size > OTHER_BYTES:
                raise BadRequest(f"the message has more than {OTHER_BYTES} bytes besides the values of its tensors")
            part = b"".join([field[each] for each in kept])
            parts.append(_delimited(tag, part) if tag in _TENSORS else part)
            if tag == _INPUT:
                values.append(packed)
    except IndexError:
        raise BadRequest("the message is cut off") from None
    return Outline(b"".join(parts), values)


def _cut(field: Buffer, at: int, end: int, *, has_contents: bool) -> tuple[list[slice], PackedValues | None, int]:
    """What to keep of a tensor, its packed contents if it ``has_contents``, and how many fields there are."""
    kept, fields = list[slice](), 0
    values: PackedValues | None = None
    for tag, start, stop in _fields(field, at, end):
        fields += 1
        if fields > MAX_FIELDS:
            raise _too_many_fields()
        packed = _packed(field, start, stop) if has_contents and tag == _CONTENTS else None
        if packed is None:
            kept.append(slice(at, stop))
        elif values is None:
            values = packed
        else:
            raise BadRequest("an input has its contents twice")
        at = stop
    return kept, values, fields


def _too_many_fields() -> BadRequest:
    return BadRequest(f"the message has more than {MAX_FIELDS} fields")


def _packed(field: Buffer, start: int, stop: int) -> PackedValues | None:
    """The contents of an input, if they are one packed field of numbers."""
    if start == stop:
        return None
    tag, first, end = _field(field, start, stop)
    is_packed = end == stop and (tag in _VARINTS or tag in _FLOATS)
    return PackedValues(tag, memoryview(field)[first:stop]) if is_packed else None


def _delimited(tag: int, content: Buffer) -> bytes:
    return b"".join((bytes((tag,)), varint(len(content)), content))


def _fields(message: Buffer, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The tag of each field, and where its value begins and ends. Raises `BadRequest`, or `IndexError` at the end."""
    while at < end:
        tag, first, at = _field(message, at, end)
        yield tag, first, at


def _field(message: Buffer, at: int, end: int) -> tuple[int, int, int]:
    """The tag of the field at ``at``, and where its value begins and ends. Raises like `_fields`."""
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


def parse_request(message: Buffer) -> Any:
    """A `ModelInferRequest`. Raises `BadRequest`."""
    return parsed(ModelInferRequest, message, "a ModelInferRequest")


def parse_contents(contents: bytes) -> Any:
    """The `InferTensorContents` of an input. Raises `BadRequest`."""
    return parsed(InferTensorContents, contents, "a ModelInferRequest")


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
    """The bytes of such an entry before its number, which takes ``size`` bytes."""
    key = b"\x0a" + bytes((len(name),)) + name.encode()
    entry = key + b"\x12" + bytes((size + 1,)) + b"\x10"
    return b"\x22" + bytes((len(entry) + size,)) + entry


_ENTRIES: Mapping[str, Sequence[bytes]] = {
    name: [_entry_prefix(name, size) for size in range(_LONGEST_VARINT + 1)]
    for name in ("batch_size", "queue_us", "compute_us")
}
