"""Attacks over HTTP/1.1. Each function gives the pieces that one connection sends."""

import gzip
import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count, product, repeat
from math import prod

from attack_bounds import (
    ACCURACIES,
    LARGE,
    LARGE_ROWS,
    LARGE_SHAPE,
    PHOTOS,
    ROW,
    SMALL,
    SMALL_SHAPE,
    VALUES,
)

_PIECE_BYTES = 64 * 1024
_NUMBER = b"0.12345678"
_EMPTY_LISTS = 190_000
_LONG_STRING = 20_000
_LARGEST, _NARROW = (8192, 4096), (1, 2**25)  # pixels of a side: as many as are decoded
_PRIORITIES = range(1, 9)
_FILLING_BYTES = 4 * 2**20
_GZIP = b"content-encoding: gzip\r\n"


def nothing() -> Iterator[bytes]:
    return iter(())


def idle() -> Iterator[bytes]:
    """Stays open from wave to wave."""
    return repeat(b"")


def one_check() -> Iterator[bytes]:
    yield get(b"/v2/health/live")


def health_checks() -> Iterator[bytes]:
    return _in_a_row(get(b"/v2/health/live"))


def metrics() -> Iterator[bytes]:
    return _in_a_row(get(b"/metrics"))


def status() -> Iterator[bytes]:
    return _in_a_row(get(b"/v2/proteus/status"))


def unknown_paths() -> Iterator[bytes]:
    return _in_a_row(get(b"/no/such/path"))


def long_heads() -> Iterator[bytes]:
    return _in_a_row(get(b"/no/such/path", b"".join(b"a%d:\r\n" % line for line in range(120))))


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
    return repeat(_black_image(*_LARGEST))


def narrow_images() -> Iterator[bytes]:
    return repeat(_black_image(*_NARROW))


def small_image() -> bytes:
    return _black_image(32, 32)


def huge_images() -> Iterator[bytes]:
    return _in_a_row(_image_request(_png(100_000, 100_000, b"")))


def filled_images() -> Iterator[bytes]:
    return repeat(_image_request(b"\xff\xd8" + b"\xff" * _FILLING_BYTES))


def bounds() -> Iterator[bytes]:
    """Each request with another least accuracy and priority."""
    each = (_row_request(min_accuracy=least, priority=priority) for least, priority in product(ACCURACIES, _PRIORITIES))
    return repeat(b"".join(each))


def one_row() -> bytes:
    return _row_request()


@cache
def _many_values() -> bytes:
    return _post(LARGE, _large_body(b"[%b]" % b",".join([_NUMBER] * VALUES)))


@cache
def _many_values_gzipped() -> bytes:
    return _gzipped(_large_body(b"[%b]" % b",".join([_NUMBER] * VALUES)))


def _in_a_row(request: bytes) -> Iterator[bytes]:
    return repeat(request * (_PIECE_BYTES // len(request) + 1))


def get(path: bytes, lines: bytes = b"") -> bytes:
    return b"GET %b HTTP/1.1\r\nhost: localhost\r\n%b\r\n" % (path, lines)


def _post(family: str, body: bytes, lines: bytes = b"") -> bytes:
    head = b"POST /v2/models/%b/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n%b\r\n"
    return head % (family.encode(), len(body), lines) + body


def _row_request(**parameters: float) -> bytes:
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}
    return _post(ROW, json.dumps({"parameters": parameters, "inputs": [tensor]}).encode())


@cache
def _black_image(width: int, height: int) -> bytes:
    packer = zlib.compressobj(9)
    rows = bytes(3 * width + 1) * 1024
    pieces = [packer.compress(rows) for _ in range(height // 1024)]
    left = packer.compress(bytes(3 * width + 1) * (height % 1024)) + packer.flush()
    return _image_request(_png(width, height, b"".join((*pieces, left))))


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
