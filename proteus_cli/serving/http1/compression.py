"""Compressed responses, for clients that ask for them.

Source: RFC 9110, 12.5.3 (`Accept-Encoding`) and 8.4.1 (what gzip and deflate are).
"""

import zlib
from collections.abc import Mapping
from functools import lru_cache

from proteus_cli.buffers import Buffer

MIN_BYTES = 1024  # less gains nothing
MAX_BYTES = 64 * 1024  # takes half a millisecond, for which all other requests wait
LEVEL = 1
_MAX_ACCEPTED_BYTES = 128
_WINDOW_BITS = {b"gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}
_OURS = tuple(_WINDOW_BITS)
_VARY = b"vary: accept-encoding\r\n"


def accepted_encodings(headers: Mapping[bytes, bytes]) -> bytes | None:
    """What `compressed` needs to know of a request, in a few bytes."""
    accepted = headers.get(b"accept-encoding")
    return None if accepted is None else accepted[: _MAX_ACCEPTED_BYTES + 1]


def compressed(accepted: bytes | None, body: bytes, blobs: list[Buffer]) -> tuple[bytes, list[Buffer], bytes]:
    """A response's body and blobs for a client that accepts these encodings, and lines of headers to add.

    A body that would be compressed for some clients is marked as varying for all.
    """
    size = len(body)
    for blob in blobs:
        size += len(blob)
    if not MIN_BYTES <= size <= MAX_BYTES:
        return body, blobs, b""
    encoding = None if accepted is None else preferred_encoding(accepted)
    if encoding is None:
        return body, blobs, _VARY
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, _WINDOW_BITS[encoding])
    smaller = b"".join([*(packer.compress(piece) for piece in (body, *blobs)), packer.flush()])
    if len(smaller) >= size:  # as noise does
        return body, blobs, _VARY
    return smaller, [], b"content-encoding: %b\r\n%b" % (encoding, _VARY)


def preferred_encoding(accepted: bytes) -> bytes | None:
    """Which of our encodings a client prefers, None for the plain body; also where its header makes no sense."""
    return _preferred_encoding(accepted) if len(accepted) <= _MAX_ACCEPTED_BYTES else None


@lru_cache(maxsize=64)
def _preferred_encoding(accepted: bytes) -> bytes | None:
    weights: dict[bytes, float] = {}
    for part in accepted.lower().split(b","):
        name, _, parameter = part.partition(b";")
        weights[name.strip().removeprefix(b"x-")] = _weight(parameter)
    anything = weights.get(b"*", 0.0)
    ours = [(weights.get(encoding, anything), encoding) for encoding in _OURS]
    best, encoding = max(ours, key=lambda each: each[0])
    return encoding if best > 0 and best >= weights.get(b"identity", 0.0) else None


def _weight(parameter: bytes) -> float:
    name, _, value = parameter.partition(b"=")
    if not name.strip():
        return 1.0
    try:
        return float(value) if name.strip() == b"q" else 0.0
    except ValueError:
        return 0.0
