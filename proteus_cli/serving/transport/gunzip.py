"""Decompression with a bound on the result: a few compressed kilobytes can stand for gigabytes."""

import zlib
from collections.abc import Generator, Iterator
from enum import IntEnum

from proteus_cli.buffers import Buffer

PIECE_BYTES = 128 * 1024
MAX_STREAMS = 64  # of gzip in one content; an empty one of 20 bytes takes 10 µs
_GZIP_START = b"\x1f"


class Compression(IntEnum):
    """The formats of RFC 1952 (gzip) and RFC 1950 (zlib), as zlib's window bits."""

    GZIP = zlib.MAX_WBITS | 16
    GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


class CorruptContent(Exception):
    """The content is not one complete stream of its format, or, of gzip, a few."""


class ContentTooLarge(Exception):
    """The content is larger than its bound once it is decompressed."""


def decompressed_pieces(content: Buffer, format: Compression, max_bytes: int) -> Iterator[bytes]:  # noqa: A002
    """The decompressed content in pieces of `PIECE_BYTES` at most, each of which takes half a millisecond.

    It has ``max_bytes`` at most. Raises `CorruptContent`, `ContentTooLarge`.
    """
    left = max_bytes
    for piece in _pieces(memoryview(content), format):
        left -= len(piece)
        if left < 0:
            raise ContentTooLarge
        yield piece


def _pieces(content: memoryview, format: Compression) -> Iterator[bytes]:  # noqa: A002
    """Of one stream; of gzip also of several (RFC 1952, 2.2), which come one behind the other."""
    for _ in range(MAX_STREAMS):
        is_gzip = content[:1] == _GZIP_START
        content = yield from _of_stream(content, format)
        if not content:
            return
        if not is_gzip:
            break
        format = Compression.GZIP  # noqa: A001 - as before
    raise CorruptContent("bytes follow the compressed content")


def _of_stream(content: memoryview, format: Compression) -> Generator[bytes, None, memoryview]:  # noqa: A002
    """The pieces of the first stream; returns what is behind it."""
    stream = zlib.decompressobj(format)
    for first in range(0, len(content), PIECE_BYTES):
        piece: Buffer = content[first : first + PIECE_BYTES]
        read_bytes = first + len(piece)
        while not stream.eof:
            try:
                found = stream.decompress(piece, PIECE_BYTES)
            except zlib.error as error:
                raise CorruptContent(str(error)) from None
            if found:
                yield found
            piece = stream.unconsumed_tail
            if not piece and len(found) < PIECE_BYTES:
                break
        if stream.eof:
            return content[read_bytes - len(stream.unused_data) :]
    raise CorruptContent("the compressed content is cut off")
