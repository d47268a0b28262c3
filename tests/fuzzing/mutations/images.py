"""Mutations of JPEG and PNG files: of one segment or chunk, with lengths and checksums that are right."""

import struct
import zlib
from random import Random

from fuzzing.mutations.archives import broken

PNG, SOI = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_BREAK_FRAC = 0.3  # mutations of the bytes as they stand
_TIMES = (0, 2, 50, 20_000)  # a piece is left out, or repeated
_PIECES = (b"\xff", b"\0", b"\xff\xe9\x00\x02", b"\xff\xda", b"\xff\xd8", b"\xff\xd9")  # between segments
_MAX_BYTES = 10**6


def mutated_image(content: bytes, rng: Random) -> bytes:
    if rng.random() < _BREAK_FRAC:
        return broken(content, rng)
    is_png = content.startswith(PNG)
    parts = png_chunks(content) if is_png else jpeg_segments(content)
    if not parts:
        return broken(content, rng)
    at = rng.randrange(len(parts))
    name, inside = parts[at]
    if rng.random() < 0.5:
        parts[at] = name, broken(inside, rng)
    else:
        parts[at : at + 1] = [parts[at]] * min(rng.choice(_TIMES), _MAX_BYTES // (len(inside) + 12))
    packed = [_chunk(*part) if is_png else _segment(*part) for part in parts]
    if not is_png and rng.random() < 0.3:
        packed.insert(at, rng.choice(_PIECES) * rng.choice(_TIMES))
    return (PNG if is_png else SOI) + b"".join(packed)


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of each chunk, as far as they are whole."""
    found, at = [], len(PNG)
    while at + 12 <= len(content):
        size, name = struct.unpack_from(">I4s", content, at)
        found.append((name, content[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def jpeg_segments(content: bytes) -> list[tuple[bytes, bytes]]:
    """Marker and content of each segment; all from the first scan on is one, without a length."""
    found, at = [], len(SOI)
    while at + 4 <= len(content) and content[at] == 0xFF and content[at : at + 2] != b"\xff\xda":
        (size,) = struct.unpack_from(">H", content, at + 2)
        found.append((content[at : at + 2], content[at + 4 : at + 2 + size]))
        at += 2 + max(size, 2)
    return [*found, (b"", content[at:])]


def _chunk(name: bytes, inside: bytes) -> bytes:
    return struct.pack(">I", len(inside)) + name + inside + struct.pack(">I", zlib.crc32(name + inside))


def _segment(marker: bytes, inside: bytes) -> bytes:
    return marker + struct.pack(">H", min(len(inside) + 2, 0xFFFF)) + inside if marker else inside
