"""Answers are compressed where the client asks for it and it pays, and unpack to what they were."""

import gzip
import random
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.serving.http1.compression import MAX_BYTES, MIN_BYTES, compressed, preferred_encoding

UNPACK: dict[bytes, Callable[[bytes], bytes]] = {b"gzip": gzip.decompress, b"deflate": zlib.decompress}
VARY = b"vary: accept-encoding\r\n"
NOISE = random.Random(0).randbytes(MIN_BYTES * 4)


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        (b"gzip", b"gzip"),
        (b"deflate", b"deflate"),
        (b"GZip", b"gzip"),
        (b"x-gzip", b"gzip"),
        (b"gzip, deflate, br", b"gzip"),
        (b"deflate, gzip", b"gzip"),
        (b"gzip;q=0.5, deflate;q=0.8", b"deflate"),
        (b"br;q=1.0 , gzip ; q=0.1", b"gzip"),
        (b"*", b"gzip"),
        (b"gzip;q=0, *", b"deflate"),
        (b"*;q=0", None),
        (b"gzip;q=0", None),
        (b"gzip;q=0.000,deflate;q=0", None),
        (b"identity, gzip;q=0.5", None),
        (b"identity;q=0.5, gzip", b"gzip"),
        (b"br, zstd", None),
        (b"", None),
        (b"gzip;q=high", None),
        (b"gzip;q=nan", None),
        (b"gzip;level=9", None),
        (b"gzip" + b", gzip" * 100, None),
    ],
)
def test_the_client_gets_the_encoding_that_it_prefers(accepted: bytes, encoding: bytes | None) -> None:
    assert preferred_encoding(accepted) == encoding


@given(st.binary(max_size=200))
def test_any_accept_encoding_is_understood_or_ignored(accepted: bytes) -> None:
    assert preferred_encoding(accepted) in {None, b"gzip", b"deflate"}


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
@pytest.mark.parametrize("size", [MIN_BYTES, MIN_BYTES + 1, MAX_BYTES])
def test_a_compressed_response_decompresses_to_body_and_blobs(encoding: bytes, size: int) -> None:
    json = b"j" * 1000
    blobs: list[bytes | bytearray | memoryview] = [b"a" * 10, memoryview(b"b" * (size - 1010))]
    body, more, headers = compressed(encoding, json, blobs)
    assert UNPACK[encoding](body) == json + b"".join(blobs)
    assert not more
    assert len(body) < size / 4
    assert headers == b"content-encoding: " + encoding + b"\r\n" + VARY


@pytest.mark.parametrize(
    ("accepted", "body", "headers"),
    [
        (b"gzip", bytes(MIN_BYTES - 1), b""),
        (b"gzip", bytes(MAX_BYTES + 1), b""),
        (b"gzip", NOISE, VARY),
        (b"br", bytes(MIN_BYTES), VARY),
        (None, bytes(MIN_BYTES), VARY),
    ],
    ids=["small", "large", "noise", "br", "not asked for"],
)
def test_a_response_stays_as_it_is_where_compression_gains_nothing(
    accepted: bytes | None, body: bytes, headers: bytes
) -> None:
    blobs: list[bytes | bytearray | memoryview] = [body[1:]]
    assert compressed(accepted, body[:1], blobs) == (body[:1], blobs, headers)
