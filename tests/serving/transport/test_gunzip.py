"""Decompression takes one complete stream, and no more memory than its bound."""

import gzip
import tracemalloc
import zlib

import pytest

from proteus_cli.errors import BodyTooLarge, CorruptBody
from proteus_cli.serving.transport.gunzip import MAX_STREAMS, decompressed

PLAIN = bytes(range(256)) * 4
GZIP, ZLIB, NOTHING = gzip.compress(PLAIN), zlib.compress(PLAIN), gzip.compress(b"")


def unpacked(content: bytes, max_bytes: int = 2 * len(PLAIN), *, takes_zlib: bool = False) -> bytearray:
    return decompressed(memoryview(content), max_bytes, "body", "Content-Encoding", takes_zlib=takes_zlib)


@pytest.mark.parametrize(
    ("content", "plain", "takes_zlib"),
    [(GZIP, PLAIN, False), (GZIP, PLAIN, True), (ZLIB, PLAIN, True), (GZIP + NOTHING + GZIP, 2 * PLAIN, True)],
)
def test_content_of_exactly_the_bound_is_decompressed(content: bytes, plain: bytes, *, takes_zlib: bool) -> None:
    """gzip may have a few streams, one behind the other."""
    assert unpacked(content, len(plain), takes_zlib=takes_zlib) == plain
    with pytest.raises(BodyTooLarge, match="the body unpacks to more than"):
        unpacked(content, len(plain) - 1, takes_zlib=takes_zlib)


BROKEN = {
    "empty": b"", "no gzip": b"nonsense", "zlib": ZLIB, "cut off": GZIP[:-1], "a byte more": GZIP + b"x",
    "zlib behind it": GZIP + ZLIB, "a second cut off": GZIP + GZIP[:-1], "wrong checksum": GZIP[:-8] + bytes(8),
    "many streams": NOTHING * (MAX_STREAMS + 1),
}  # fmt: skip


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_content_that_is_not_one_complete_gzip_stream_is_refused(content: bytes) -> None:
    with pytest.raises(CorruptBody, match="is not what its Content-Encoding says"):
        unpacked(content)


def test_zlib_has_one_stream() -> None:
    with pytest.raises(CorruptBody):
        unpacked(ZLIB + ZLIB, takes_zlib=True)


def test_a_bomb_takes_little_memory() -> None:
    bomb = gzip.compress(bytes(2**26))
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            unpacked(bomb, 2**16)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
