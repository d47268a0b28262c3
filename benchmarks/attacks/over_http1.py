"""What attackers send over HTTP/1.1. Each function gives the pieces of one connection."""

import gzip
import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count, repeat
from math import prod

from benchmarks.attacks.target import LARGE, LARGE_ROWS, LARGE_SHAPE, PHOTOS, SMALL, SMALL_SHAPE, VALUES

_PIECE_BYTES = 64 * 1024
_NUMBER = b"0.12345678"
_EMPTY_LISTS = 190_000
_LONG_STRING = 20_000
_LARGEST = (8192, 4096)  # pixels of a side: as many as are decoded
_FILLING_BYTES = 4 * 2**20
_GZIP = b"content-encoding: gzip\r\n"


def nothing() -> Iterator[bytes]:
    return iter(())


def one_check() -> Iterator[bytes]:
    yield _get(b"/v2/health/live")


def health_checks() -> Iterator[bytes]:
    return _in_a_row(_get(b"/v2/health/live"))


def metrics() -> Iterator[bytes]:
    return _in_a_row(_get(b"/metrics"))


def status() -> Iterator[bytes]:
    return _in_a_row(_get(b"/v2/proteus/status"))


def unknown_paths() -> Iterator[bytes]:
    return _in_a_row(_get(b"/no/such/path"))


def long_heads() -> Iterator[bytes]:
    return _in_a_row(_get(b"/no/such/path", b"".join(b"a%d:\r\n" % line for line in range(120))))


def malformed_requests() -> Iterator[bytes]:
    return _in_a_row(_post(SMALL, b"{}"))


def new_outlines() -> Iterator[bytes]:
    for number in count(1):
        yield b"".join(_post(SMALL, _small_body(number * 100 + each)) for each in range(100))


def crumbs() -> Iterator[bytes]:
    yield b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    yield from repeat(b"1\r\n \r\n" * (_PIECE_BYTES // 6))


def large_heads() -> Iterator[bytes]:
    lines = b"".join(b"x%d: %s\r\n" % (line, b"v" * 500) for line in range(58))
    yield _post(SMALL, _small_body(3_600_000_000), lines) * 34


def many_values() -> Iterator[bytes]:
    return repeat(_many_values())


def many_values_once() -> Iterator[bytes]:
    yield _many_values()


def many_values_gzipped() -> Iterator[bytes]:
    return repeat(_many_values_gzipped())


def string_among_numbers() -> Iterator[bytes]:
    numbers = b"0," * (VALUES - 1)
    return repeat(_gzipped(_large_body(b'[%b"%b"]' % (numbers, b"x" * _LONG_STRING))))


def empty_lists() -> Iterator[bytes]:
    return repeat(_gzipped(_large_body(b"[%b[]]" % (b"[]," * _EMPTY_LISTS))))


def large_images() -> Iterator[bytes]:
    return repeat(_image_request(_png(*_LARGEST, zlib.compress(bytes((3 * _LARGEST[0] + 1) * _LARGEST[1]), 9))))


def huge_images() -> Iterator[bytes]:
    return _in_a_row(_image_request(_png(100_000, 100_000, b"")))


def filled_images() -> Iterator[bytes]:
    return repeat(_image_request(b"\xff\xd8" + b"\xff" * _FILLING_BYTES))


@cache
def _many_values() -> bytes:
    return _post(LARGE, _large_body(b"[%b]" % b",".join([_NUMBER] * VALUES)))


@cache
def _many_values_gzipped() -> bytes:
    return _gzipped(_large_body(b"[%b]" % b",".join([_NUMBER] * VALUES)))


def _in_a_row(request: bytes) -> Iterator[bytes]:
    return repeat(request * (_PIECE_BYTES // len(request) + 1))


def _get(path: bytes, lines: bytes = b"") -> bytes:
    return b"GET %b HTTP/1.1\r\nhost: localhost\r\n%b\r\n" % (path, lines)


def _post(family: str, body: bytes, lines: bytes = b"") -> bytes:
    head = b"POST /v2/models/%b/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n%b\r\n"
    return head % (family.encode(), len(body), lines) + body


def _image_request(image: bytes) -> bytes:
    content = struct.pack("<I", len(image)) + image
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(content)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    return _post(PHOTOS, head + content, b"inference-header-content-length: %d\r\n" % len(head))


def _png(width: int, height: int, pixels: bytes) -> bytes:
    """A file of 8-bit colours; ``pixels`` are compressed."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def _gzipped(body: bytes) -> bytes:
    return _post(LARGE, gzip.compress(body, 9), _GZIP)


def _small_body(timeout_us: int) -> bytes:
    return _body(SMALL_SHAPE, 1, b"[%b]" % b",".join([b"0.5"] * prod(SMALL_SHAPE)), timeout_us)


def _large_body(data: bytes) -> bytes:
    return _body(LARGE_SHAPE, LARGE_ROWS, data, 10_000_000)


def _body(shape: Sequence[int], rows: int, data: bytes, timeout_us: int) -> bytes:
    tensor = {"name": "x", "shape": [rows, *shape], "datatype": "FP32", "data": "DATA"}
    request = {"parameters": {"timeout": timeout_us}, "inputs": [tensor]}
    return json.dumps(request).encode().replace(b'"DATA"', data)
