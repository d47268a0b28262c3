"""Decompression with a bound on the result: a few compressed kilobytes can stand for gigabytes."""

import zlib
from collections.abc import Iterator
from enum import IntEnum

from proteus_cli.domain.arrays import Buffer

PIECE_BYTES = 128 * 1024


class Compression(IntEnum):
    """The formats of RFC 1952 (gzip) and RFC 1950 (zlib), as zlib's window bits."""

    GZIP = zlib.MAX_WBITS | 16
    GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


class CorruptContent(Exception):
    """The content is not one complete stream of its format."""


class ContentTooLarge(Exception):
    """The content is larger than its bound once it is decompressed."""


def decompress(content: Buffer, format: Compression, max_bytes: int) -> bytearray:  # noqa: A002 - the word for it
    """The decompressed content, of ``max_bytes`` at most. Raises `CorruptContent`, `ContentTooLarge`."""
    decompressed = bytearray()
    for piece in decompressed_pieces(content, format, max_bytes):
        decompressed += piece
    return decompressed


def decompressed_pieces(content: Buffer, format: Compression, max_bytes: int) -> Iterator[bytes]:  # noqa: A002
    """The same in pieces of `PIECE_BYTES` at most, each of which takes half a millisecond."""
    decompressor, left = zlib.decompressobj(format), max_bytes
    for first in range(0, max(len(content), 1), PIECE_BYTES):
        piece: Buffer = memoryview(content)[first : first + PIECE_BYTES]
        while not decompressor.eof:
            try:
                found = decompressor.decompress(piece, PIECE_BYTES)
            except zlib.error as error:
                raise CorruptContent(str(error)) from None
            left -= len(found)
            if left < 0:
                raise ContentTooLarge
            if found:
                yield found
            piece = decompressor.unconsumed_tail
            if not piece and len(found) < PIECE_BYTES:
                break
        if decompressor.eof:
            if decompressor.unused_data or first + PIECE_BYTES < len(content):
                raise CorruptContent("bytes follow the compressed content")
            return
    raise CorruptContent("the compressed content is cut off")
