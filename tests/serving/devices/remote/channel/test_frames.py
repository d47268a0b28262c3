"""Frames in a stream: whole whatever the pieces are that they arrive in, and bounded."""

import random
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.serving.devices.remote.channel import frames
from proteus_cli.serving.devices.remote.channel.frames import (
    MAX_MESSAGE_BYTES,
    MAX_TENSOR_BYTES,
    SIGN_OF_LIFE,
    FrameParser,
    UnreadableFrame,
    pieces_of,
)

SIZES = st.one_of(st.integers(0, 300), st.integers(0, 400_000))
READS = (1, 7, 1000, 65_536, 2**20)
FRAMES = st.lists(st.tuples(st.integers(0, 300_000), st.lists(SIZES, max_size=4)), max_size=5)


def played(
    reader: FrameParser, stream: bytes, reads: random.Random, sizes: Sequence[int] = READS
) -> list[tuple[bytes, bytes]]:
    """The frames that a reader finds in a stream that arrives in pieces of any size."""
    found, at = list[tuple[bytes, bytes]](), 0
    while at < len(stream):
        buffer = reader.room
        assert len(buffer) > 0
        size = min(len(buffer), len(stream) - at, reads.choice(sizes))
        buffer[:size] = stream[at : at + size]
        at += size
        frame = reader.feed(size)
        while frame is not None:
            found.append((bytes(frame[0]), bytes(frame[1])))
            frame = reader.feed()
    return found


@given(frames=FRAMES, seed=st.integers(0, 2**32))
def test_frames_arrive_as_they_were_sent(frames: list[tuple[int, list[int]]], seed: int) -> None:
    rng = random.Random(seed)
    sent = [(rng.randbytes(message), [rng.randbytes(size) for size in behind]) for message, behind in frames]
    stream = b"".join(bytes(piece) for message, behind in sent for piece in pieces_of(message, behind))
    sizes = READS if len(stream) < 2000 else READS[2:]  # one byte at a time takes long
    found = played(FrameParser(), stream, rng, sizes)
    told = [(message, b"".join(behind)) for message, behind in sent]
    assert found == [each for each in told if each != (b"", b"")], "frames with nothing in them are signs of life"


@given(seed=st.integers(0, 2**32), between=st.integers(0, 50))
def test_signs_of_life_are_passed_over(seed: int, between: int) -> None:
    life, framed = SIGN_OF_LIFE * between, b"".join(map(bytes, pieces_of(b"message", [b"behind"])))
    parser = FrameParser()
    found = played(parser, life + framed + life + framed + life, random.Random(seed), (1, 7, 8, 1000))
    assert found == [(b"message", b"behind")] * 2
    assert parser.is_empty


def test_memory_of_a_frame_does_not_change_while_later_ones_arrive() -> None:
    reader, sizes = FrameParser(), (10, 100_000, 5)
    stream = b"".join(bytes(piece) for size in sizes for piece in pieces_of(b"m" * size, [bytes([size % 251]) * size]))
    kept, at = [], 0
    while at < len(stream):
        buffer = reader.room
        size = min(len(buffer), len(stream) - at, 1000)
        buffer[:size] = stream[at : at + size]
        at += size
        frame = reader.feed(size)
        while frame is not None:
            kept.append(frame)
            frame = reader.feed()
    assert [(len(message), bytes(behind)) for message, behind in kept] == [
        (size, bytes([size % 251]) * size) for size in sizes
    ]


def test_memory_follows_what_was_sent_and_not_what_was_announced() -> None:
    """A frame of 1 GiB of which 8 MiB come."""
    parser, before = FrameParser(), resident_bytes()
    start = (0).to_bytes(4, "big") + MAX_TENSOR_BYTES.to_bytes(4, "big")
    assert played(parser, start + bytes(2**23), random.Random(1), READS[2:]) == []
    assert len(parser.room) == MAX_TENSOR_BYTES - 2**23
    assert resident_bytes() - before < 2**26


def resident_bytes() -> int:
    """Memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 8,
        (2**20 + 1).to_bytes(4, "big") + bytes(4),
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
    ],
)
def test_a_stream_that_has_no_frames_or_too_large_ones_is_refused_by_its_first_bytes(start: bytes) -> None:
    reader = FrameParser(max_behind_bytes=0)
    reader.room[: len(start)] = start
    with pytest.raises(UnreadableFrame, match="larger than allowed"):
        reader.feed(len(start))


def test_limits_hold_for_both_ends() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return MAX_MESSAGE_BYTES + 1

    with pytest.raises(UnreadableFrame):
        pieces_of(Huge())
    row = memoryview(bytes(2**20))
    with pytest.raises(UnreadableFrame):
        pieces_of(b"", [row] * (MAX_TENSOR_BYTES // 2**20 + 1))
    reader = FrameParser(4, 4)
    reader.allow(5, 5)
    stream = b"".join(map(bytes, pieces_of(b"12345", [b"12345"])))
    assert played(reader, stream, random.Random(1)) == [(b"12345", b"12345")]
    with pytest.raises(UnreadableFrame):
        played(reader, b"".join(map(bytes, pieces_of(b"123456"))), random.Random(1))


def test_small_pieces_are_sent_as_one_and_large_ones_as_they_are() -> None:
    assert len(pieces_of(b"m", [b"x"] * 1000)) == 1
    assert len(pieces_of(b"m", [bytes(1000)] * 1000)) == 1
    large = bytes(2**20)
    pieces = pieces_of(b"m", [large, large])
    assert pieces[1] is large
    assert len(pieces) == 3


def test_a_frame_that_there_is_no_memory_for_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> NoReturn:
        raise MemoryError

    parser, prefix = FrameParser(), (0).to_bytes(4, "big") + (2**20).to_bytes(4, "big")
    monkeypatch.setattr(frames, "unset_bytes", full)
    parser.room[: len(prefix)] = prefix
    with pytest.raises(UnreadableFrame, match="no memory for a frame of 1,048,576 bytes"):
        parser.feed(len(prefix))
