"""Decompression takes one complete stream, and no more memory than its bound."""

import gzip
import random
import tracemalloc
import zlib

import pytest

from proteus_cli.serving.transport.gunzip import (
    MAX_STREAMS,
    Compression,
    ContentTooLarge,
    CorruptContent,
    decompressed,
)

PLAIN = bytes(range(256)) * 4


GZIP, ZLIB = gzip.compress(PLAIN), zlib.compress(PLAIN)


@pytest.mark.parametrize(
    ("content", "format_"),
    [(GZIP, Compression.GZIP), (GZIP, Compression.GZIP_OR_ZLIB), (ZLIB, Compression.GZIP_OR_ZLIB)],
)
def test_content_of_exactly_the_bound_is_decompressed(content: bytes, format_: Compression) -> None:
    assert decompressed(memoryview(content), format_, len(PLAIN)) == PLAIN
    with pytest.raises(ContentTooLarge):
        decompressed(content, format_, len(PLAIN) - 1)


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", ZLIB, GZIP[:-1], GZIP + b"x", GZIP + ZLIB, GZIP + GZIP[:-1], GZIP[:-8] + bytes(8)],
    ids=["empty", "no gzip", "zlib", "cut off", "a byte more", "zlib behind it", "a second cut off", "wrong checksum"],
)
def test_content_that_is_not_one_complete_gzip_stream_is_refused(content: bytes) -> None:
    with pytest.raises(CorruptContent):
        decompressed(content, Compression.GZIP, 2 * len(PLAIN))


def test_gzip_may_have_a_few_streams_one_behind_the_other() -> None:
    streams = GZIP + gzip.compress(b"") + GZIP
    for format_ in (Compression.GZIP, Compression.GZIP_OR_ZLIB):
        assert decompressed(streams, format_, 2 * len(PLAIN)) == 2 * PLAIN
        with pytest.raises(ContentTooLarge):
            decompressed(streams, format_, 2 * len(PLAIN) - 1)
    large = random.Random(0).randbytes(2**18)
    assert decompressed(gzip.compress(large) * 3, Compression.GZIP, 3 * len(large)) == 3 * large
    empty = gzip.compress(b"")
    assert decompressed(empty * MAX_STREAMS, Compression.GZIP, 0) == b""
    with pytest.raises(CorruptContent):
        decompressed(empty * (MAX_STREAMS + 1), Compression.GZIP, 0)


def test_zlib_has_one_stream() -> None:
    with pytest.raises(CorruptContent):
        decompressed(ZLIB + ZLIB, Compression.GZIP_OR_ZLIB, 2 * len(PLAIN))


def test_a_bomb_takes_little_memory() -> None:
    bomb = gzip.compress(bytes(2**26))
    tracemalloc.start()
    try:
        with pytest.raises(ContentTooLarge):
            decompressed(bomb, Compression.GZIP, 2**16)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
