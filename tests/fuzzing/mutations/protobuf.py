"""Mutations of protobuf messages, which know the wire format and no message."""

from random import Random
from typing import NamedTuple

_VALUES = (0, 1, 2, 127, 128, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_TEXTS = (
    b"", b"x", b"FP32", b"INT64", b"BYTES", b"FP16", b"large", b"small", b"kinds", b"timeout", b"priority",
    b"min_accuracy", b"min_confidence", b"max_energy_j", b"sequence_id", b"classification",
    b"shared_memory_region", b"binary_data", b"\xff\xfe", b"\0",
    b"x" * 1_000, b"x" * 100_000,
)  # fmt: skip
_TIMES = (2, 10, 1_000, 100_000)
_MAX_BYTES = 900_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}
_LONGEST, _MORE = 10, 0x80
_LARGEST_NUMBER = 2**29 - 1
_MAX_FIELDS = 500
_TEXT_FRAC = 0.2  # of contents that become another text


class Field(NamedTuple):
    """Where a field of a message is: its tag at ``start``, its content from ``first`` to ``end``."""

    number: int
    kind: int
    start: int
    first: int
    end: int


def mutated_message(message: bytes, rng: Random) -> bytes:
    """The message with one field of it changed, or of a message within it; no valid message is mutated as bytes."""
    fields = first_fields(message)
    if not fields:
        at = rng.randint(0, len(message))
        return message[:at] + rng.choice((rng.choice(_TEXTS), rng.randbytes(8))) + message[at + rng.choice((0, 1, 8)) :]
    field, other = rng.choice(fields), rng.choice(fields)
    before, itself, after = message[: field.start], message[field.start : field.end], message[field.end :]
    match rng.randrange(7):
        case 0:
            return before + after
        case 1:
            return before + itself * min(rng.choice(_TIMES), 1 + _MAX_BYTES // len(itself)) + after
        case 2:
            number = rng.choice((field.number + 1, rng.randint(1, 16), _LARGEST_NUMBER))
            return before + _encoded(number, field.kind, message[field.first : field.end]) + after
        case 3:
            return before + message[other.start : other.end] + itself + after
        case 4:
            return before + _encoded(field.number, _BYTES, rng.choice(_TEXTS)) + itself + after
    return (
        before + _encoded(field.number, field.kind, _changed(message[field.first : field.end], field.kind, rng)) + after
    )


def _changed(content: bytes, kind: int, rng: Random) -> bytes:
    if kind == _VARINT:
        return varint(rng.choice(_VALUES))
    if kind in _SIZES:
        return rng.randbytes(len(content))
    return rng.choice(_TEXTS) if rng.random() < _TEXT_FRAC else mutated_message(content, rng)


def _encoded(number: int, kind: int, content: bytes) -> bytes:
    size = varint(len(content)) if kind == _BYTES else b""
    return varint(number << 3 | kind) + size + content


def first_fields(message: bytes) -> list[Field]:
    """The first `_MAX_FIELDS` fields of a message; none where it is no message."""
    fields, at = list[Field](), 0
    try:
        while at < len(message) and len(fields) < _MAX_FIELDS:
            start = at
            tag, at = _varint_at(message, at)
            kind, first = tag & 7, at
            if kind == _VARINT:
                _, at = _varint_at(message, at)
            elif kind == _BYTES:
                size, first = _varint_at(message, at)
                at = first + size
            else:
                at += _SIZES[kind]
            if at > len(message) or not tag >> 3:
                return []
            fields.append(Field(tag >> 3, kind, start, first, at))
    except (IndexError, KeyError):
        return []
    return fields


def _varint_at(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _LONGEST, 7):
        byte = message[at]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < _MORE:
            return value, at
    raise IndexError


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= _MORE:
        encoded.append(value & 0x7F | _MORE)
        value >>= 7
    return bytes((*encoded, value))
