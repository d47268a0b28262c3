"""Decompression takes one complete stream, and no more memory than its bound."""

import gzip
import tracemalloc
import zlib

import pytest

from proteus_cli.serving.transport.gunzip import Compression, ContentTooLarge, CorruptContent, decompress

PLAIN = bytes(range(256)) * 4
GZIP, ZLIB = gzip.compress(PLAIN), zlib.compress(PLAIN)


@pytest.mark.parametrize(
    ("content", "format_"),
    [(GZIP, Compression.GZIP), (GZIP, Compression.GZIP_OR_ZLIB), (ZLIB, Compression.GZIP_OR_ZLIB)],
)
def test_content_of_exactly_the_bound_is_decompressed(content: bytes, format_: Compression) -> None:
    assert decompress(memoryview(content), format_, len(PLAIN)) == PLAIN
    with pytest.raises(ContentTooLarge):
        decompress(content, format_, len(PLAIN) - 1)


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", ZLIB, GZIP[:-1], GZIP + b"x", GZIP + GZIP, GZIP[:-8] + bytes(8)],
    ids=["empty", "no gzip", "zlib", "cut off", "a byte more", "two streams", "wrong checksum"],
)
def test_content_that_is_not_one_complete_gzip_stream_is_refused(content: bytes) -> None:
    with pytest.raises(CorruptContent):
        decompress(content, Compression.GZIP, 2 * len(PLAIN))


def test_a_bomb_takes_little_memory() -> None:
    bomb = gzip.compress(bytes(2**26))
    tracemalloc.start()
    try:
        with pytest.raises(ContentTooLarge):
            decompress(bomb, Compression.GZIP, 2**16)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
