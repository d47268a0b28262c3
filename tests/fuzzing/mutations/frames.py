"""Mutations of what an HTTP/2 client sends: frames stay whole, so that the server reads what is behind the change."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random

from fuzzing.in_process.http2_messages import Frame, parsed
from hpack import Encoder

from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.frames import FRAME_HEADER, PREFACE

MAX_FRAMES = 1_000
"""Only the first frames are mutated, as a mutation must not cost more than what it tests."""

_MAX_BYTES = 900_000
_TIMES = (1, 2, 10, 200, 2_000, 30_000)
_VALUES = (0, 1, 2, 16_383, 16_384, 65_535, 65_536, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1)
_FLAGS = (0x1, 0x4, 0x8, 0x20, 0x80)
_KINDS = (*range(10), 0x10, 0xFF)
_FIELDS = (
    (":method", "POST"), (":method", "GET"), (":path", "/"), (":path", ""), (":scheme", "http"), (":status", "200"),
    (":authority", "localhost"), ("te", "trailers"), ("te", "gzip"), ("connection", "close"), ("Upper", "case"),
    ("content-type", "application/grpc"), ("content-type", "text/html"), ("grpc-timeout", "1n"), ("grpc-timeout", "9H"),
    ("grpc-timeout", "99999999H"), ("grpc-encoding", "gzip"), ("content-length", "5"), ("x", "y" * 4_000), ("", "x"),
    ("authorization", "Bearer x"), ("cookie", "a=b"), ("bad\nname", "x"), ("x", "\r\n"), ("x" * 4_000, "y"),
    (":path", "/inference.GRPCInferenceService/ModelInfer"), (":path", "/grpc.health.v1.Health/Check"),
)  # fmt: skip
_BLOCKS = (
    b"\xbe", b"\xbe" * 60, b"\xbe" * 500, b"\x82\x86\x84", b"\x3f\xe1\x1f", b"\x20", b"\x3f\xff\xff\xff\xff\x0f",
    b"\x40\x01a\x01b", b"\x40\x01a\x7f\x81\x3f" + b"x" * 8_191, b"\x00\x81\xff\x01b", b"\x80", b"\xff\xff\xff\xff\xff",
)  # fmt: skip
"""Pieces of header blocks: references to the table, changes of its size, fields that enter it, and mistakes."""


class FrameMutations:
    """Mutates one or a few frames; pieces come from ``samples``, which are whole conversations."""

    def __init__(self, samples: Sequence[bytes]) -> None:
        self._samples = [frame for sample in samples for frame in parsed(sample.removeprefix(PREFACE))[0]]
        self._kinds: tuple[Callable[[list[Frame], int, Random], None], ...] = (
            self._head, self._flags, self._stream, self._payload, self._values, self._block, self._repeat, self._split,
            self._delete, self._move, self._insert, self._repeat,
        )  # fmt: skip

    def __call__(self, content: bytes, rng: Random) -> bytes:
        start = PREFACE if content.startswith(PREFACE) else b""
        found, rest = parsed(content.removeprefix(PREFACE), MAX_FRAMES)
        if found:
            rng.choice(self._kinds)(found, rng.randrange(len(found)), rng)
        return b"".join([start, *(frame.encoded() for frame in found), rest])

    def _head(self, found: list[Frame], at: int, rng: Random) -> None:
        found[at] = found[at]._replace(kind=rng.choice(_KINDS))

    def _flags(self, found: list[Frame], at: int, rng: Random) -> None:
        found[at] = found[at]._replace(flags=found[at].flags ^ rng.choice(_FLAGS))

    def _stream(self, found: list[Frame], at: int, rng: Random) -> None:
        near = max(0, found[at].stream + rng.choice((-2, -1, 1, 2)))
        found[at] = found[at]._replace(stream=rng.choice((near, near, rng.choice(_VALUES))))

    def _payload(self, found: list[Frame], at: int, rng: Random) -> None:
        payload, piece = found[at].payload, rng.randbytes(rng.choice((1, 1, 4, 100)))
        first = rng.randint(0, len(payload))
        last = first + rng.choice((0, 1, len(piece), len(payload)))
        found[at] = found[at]._replace(payload=payload[:first] + rng.choice((b"", piece)) + payload[last:])

    def _values(self, found: list[Frame], at: int, rng: Random) -> None:
        """Numbers where settings, windows and error codes are; settings may be many."""
        value = rng.choice(_VALUES).to_bytes(4, "big")
        setting = rng.randint(0, 7).to_bytes(2, "big") + value
        settings = Frame(frames.SETTINGS, 0, 0, setting * rng.choice((1, 2, 100, 101)))
        update = Frame(frames.WINDOW_UPDATE, 0, rng.choice((0, found[at].stream)), value)
        found.insert(at, rng.choice((settings, update)))

    def _block(self, found: list[Frame], at: int, rng: Random) -> None:
        """Another header block, or more of one."""
        fields = rng.choices(_FIELDS, k=rng.choice((1, 5, 50)))
        block = rng.choice((Encoder().encode(fields, huffman=rng.random() < 0.5), rng.choice(_BLOCKS)))
        before = rng.choice((b"", found[at].payload))
        kind = rng.choice((frames.HEADERS, frames.HEADERS, frames.CONTINUATION))
        found[at] = found[at]._replace(kind=kind, payload=rng.choice((block + before, before + block)))

    def _repeat(self, found: list[Frame], at: int, rng: Random) -> None:
        """Some frames many times, on the same streams or each time on the next ones."""
        repeated = found[at : at + rng.choice((1, 1, 2, 5))]
        size = sum(len(frame.payload) + FRAME_HEADER.size for frame in repeated)
        streams = {frame.stream for frame in repeated}
        times, step = min(rng.choice(_TIMES), _MAX_BYTES // size), rng.choice((0, 2 * len(streams)))
        found[at:at] = [
            frame._replace(stream=frame.stream + step * number if frame.stream else 0)
            for number in range(times)
            for frame in repeated
        ]

    def _split(self, found: list[Frame], at: int, rng: Random) -> None:
        """DATA in small frames; a header block in CONTINUATION."""
        frame, size = found[at], rng.choice((1, 1, 10, 1_000))
        edges = [*range(0, len(frame.payload), size), len(frame.payload)]
        pieces = [frame.payload[first:last] for first, last in pairwise(edges)] or [b""]
        if len(pieces) * FRAME_HEADER.size > _MAX_BYTES:
            return
        last_flags, ends = frame.flags, frame.flags & frames.END_STREAM
        if frame.kind == frames.HEADERS:
            more = [Frame(frames.CONTINUATION, 0, frame.stream, piece) for piece in pieces[1:]]
            found[at : at + 1] = [frame._replace(flags=ends, payload=pieces[0]), *more]
            found[at + len(pieces) - 1] = found[at + len(pieces) - 1]._replace(flags=frames.END_HEADERS | ends)
        else:
            found[at : at + 1] = [frame._replace(flags=0, payload=piece) for piece in pieces]
            found[at + len(pieces) - 1] = found[at + len(pieces) - 1]._replace(flags=last_flags)

    def _delete(self, found: list[Frame], at: int, rng: Random) -> None:
        del found[at : at + rng.choice((1, 1, 3, 100))]

    def _move(self, found: list[Frame], at: int, rng: Random) -> None:
        found.insert(rng.randint(0, len(found) - 1), found.pop(at))

    def _insert(self, found: list[Frame], at: int, rng: Random) -> None:
        frame = rng.choice(self._samples)
        found.insert(at, frame._replace(stream=rng.choice((frame.stream, found[at].stream))))
