"""Decompression with a bound on the result: a few compressed kilobytes can stand for gigabytes."""

import zlib
from enum import IntEnum

from proteus_cli.domain.arrays import Buffer


class Compression(IntEnum):
    """The formats of RFC 1952 (gzip) and RFC 1950 (zlib), as zlib's window bits."""

    GZIP = zlib.MAX_WBITS | 16
    GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


class CorruptContent(Exception):
    """The content is not one complete stream of its format."""


class ContentTooLarge(Exception):
    """The content is larger than its bound once it is decompressed."""


def decompress(content: Buffer, format: Compression, max_bytes: int) -> bytes:  # noqa: A002 - the word for it
    """The decompressed content, of ``max_bytes`` at most. Raises `CorruptContent`, `ContentTooLarge`."""
    decompressor = zlib.decompressobj(format)
    try:
        decompressed = decompressor.decompress(content, max_bytes + 1)
    except zlib.error as error:
        raise CorruptContent(str(error)) from None
    if len(decompressed) > max_bytes:
        raise ContentTooLarge
    if not decompressor.eof:
        raise CorruptContent("the compressed content is cut off")
    if decompressor.unused_data:
        raise CorruptContent("bytes follow the compressed content")
    return decompressed
