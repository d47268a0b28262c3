"""Mutations of what is packed: of its content, packed again, so that checksums are right."""

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable
from random import Random

Mutate = Callable[[bytes, Random], bytes]

GZIP = b"\x1f\x8b"
_BREAK_FRAC = 0.2  # mutations of the packed bytes
_MAX_UNPACKED_BYTES = 2**22
_MAX_MEMBERS = 20


def gunzipped(content: bytes) -> bytes:
    """A content without its compression, as far as it can be unpacked."""
    if not content.startswith(GZIP):
        return content
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(content, _MAX_UNPACKED_BYTES)
    except zlib.error:
        return content


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=1, mtime=0)


def mutated_gzip(content: bytes, rng: Random, mutate: Mutate) -> bytes:
    """What was gzipped is so again."""
    if not content.startswith(GZIP):
        return mutate(content, rng)
    return broken(content, rng) if rng.random() < _BREAK_FRAC else gzipped(mutate(gunzipped(content), rng))


def mutated_zip(content: bytes, rng: Random, mutate: Mutate) -> bytes:
    """A ZIP file with one member mutated."""
    if rng.random() < _BREAK_FRAC:
        return broken(content, rng)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            names = packed.namelist()[:_MAX_MEMBERS]
            members = {name: packed.open(name).read(_MAX_UNPACKED_BYTES) for name in names}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError):
        return broken(content, rng)
    if members:
        chosen = rng.choice([*members])
        members[chosen] = mutate(members[chosen], rng)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, member in members.items():
            packed.writestr(zipfile.ZipInfo(name), member)
    return written.getvalue()


def broken(content: bytes, rng: Random) -> bytes:
    """Some bytes changed, cut out or put in."""
    at, size = rng.randint(0, len(content)), rng.choice((1, 1, 2, 4, 8, 100))
    return (
        content[:at]
        + rng.choice((b"", rng.randbytes(size), b"\0" * size, b"\xff" * size))
        + content[at + rng.choice((0, size)) :]
    )
