"""Decompression with a bound on the result: a few compressed kilobytes can stand for gigabytes."""

import zlib
from enum import IntEnum

from proteus_cli.buffers import Buffer

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


def decompressed(content: Buffer, format: Compression, max_bytes: int) -> bytearray:  # noqa: A002
    """The decompressed content, of ``max_bytes`` at most. Raises `CorruptContent`, `ContentTooLarge`.

    gzip may have several streams, one behind the other (RFC 1952, 2.2).
    """
    left, found = memoryview(content), bytearray()
    for _ in range(MAX_STREAMS):
        is_gzip = left[:1] == _GZIP_START
        stream = zlib.decompressobj(format)
        try:
            found += stream.decompress(left, max_bytes - len(found) + 1)
        except zlib.error as error:
            raise CorruptContent(str(error)) from None
        if len(found) > max_bytes:
            raise ContentTooLarge
        if not stream.eof:
            raise CorruptContent("the compressed content is cut off")
        left = left[len(left) - len(stream.unused_data) :]
        if not left:
            return found
        if not is_gzip:
            break
        format = Compression.GZIP  # noqa: A001 - as before
    raise CorruptContent("bytes follow the compressed content")
