"""What a client sends at once is handled in turns, between which the others are looked at; nothing is lost."""

from collections.abc import Callable
from typing import Any

import pytest
from held import held_bytes
from http2_peer import FIELDS, START, Echo, Peer, data, in_loop

from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.frames import ErrorCode, frame
from proteus_cli.serving.http2.limits import Http2Limits
from proteus_cli.serving.transport.connections import WORK_PER_TURN

PATIENT = Http2Limits(flood_budget=10**9, streams=10**6, connection_window_bytes=2**30, window_bytes=2**30)
REQUEST = b"".join(frames.literal_field(name.encode(), value.encode()) for name, value in FIELDS)
PING = frame(frames.PING, 0, 0, b"8 bytes!")


def headers(stream: int, more: bytes = b"", flags: int = frames.END_HEADERS) -> bytes:
    return frame(frames.HEADERS, flags, stream, REQUEST + more)


class Counted:
    """A peer that has sent some frames in one read. ``handled`` are those of the turn that was taken last."""

    def __init__(self, sent: bytes, application: Any = None) -> None:
        self.peer = Peer(application or Echo(), PATIENT)
        self.peer.feed(START + headers(1))
        self.handled, handle = list[int](), self.peer.connection.on_frame

        def on_frame(kind: int, flags: int, stream_id: int, payload: Any) -> None:
            self.handled.append(kind)
            handle(kind, flags, stream_id, payload)

        self.peer.connection.on_frame = on_frame  # type: ignore[method-assign]
        self.peer.connection.turn.left = WORK_PER_TURN
        self.peer.connection.data_received(sent)

    def take_turn(self) -> None:
        self.handled.clear()
        (turn,) = self.peer.turns
        self.peer.turns.clear()
        turn()


CHEAP: dict[str, bytes] = {
    "DATA of one byte": data(1, b"x"),
    "DATA of nothing": data(1, b""),
    "DATA with padding": frame(frames.DATA, frames.PADDED, 1, b"\xfex" + bytes(254)),
    "DATA for nobody": data(1, b"", ended=True) + data(1, b"x"),
    "pings": PING,
    "settings": frames.settings({frames.MAX_FRAME_SIZE: 16_384}),
    "priorities": frame(frames.PRIORITY, 0, 1, bytes(5)),
    "window updates": frames.window_update(0, 1),
    "unknown frames": frame(0xEE, 0, 0, b""),
    "trailers": headers(1),
}


@pytest.mark.parametrize("sent", CHEAP.values(), ids=CHEAP)
def test_no_turn_has_more_frames_than_a_turn_has_units(sent: bytes) -> None:
    def scene() -> None:
        counted = Counted(sent * 1000)
        peer, turns = counted.peer, 0
        total = len(counted.handled)
        while peer.turns:
            assert len(counted.handled) <= WORK_PER_TURN
            assert peer.transport.is_reading_paused
            counted.take_turn()
            turns += 1
            total += len(counted.handled)
        assert total >= 1000
        assert turns >= total // WORK_PER_TURN
        assert not peer.transport.is_reading_paused
        assert peer.goaway is None

    in_loop(scene)


def fields_of_their_own(stream: int, count: int) -> bytes:
    """Requests that each fill the compression table with new entries."""
    entries = b"".join(
        b"\x40\x01a" + bytes((len(text),)) + text for text in (b"%d" % (stream * count + at) for at in range(count))
    )
    return headers(stream, entries, frames.END_HEADERS | frames.END_STREAM)


def varied_indices(stream: int, count: int) -> bytes:
    """Requests of many fields, each of one byte."""
    return headers(stream, frames.literal_field(b"n", b"%d" % stream) + b"\x90" * count, 5)


@pytest.mark.parametrize(("make", "fields"), [(fields_of_their_own, 60), (varied_indices, 200)])
def test_no_turn_decodes_more_than_a_few_large_header_blocks(make: Callable[[int, int], bytes], fields: int) -> None:
    def scene() -> None:
        blocks = [make(stream, fields) for stream in range(3, 203, 2)]
        counted = Counted(b"".join(blocks))
        peer = counted.peer
        while peer.turns:
            assert len(blocks[0]) * (len(counted.handled) - 1) < 8 * WORK_PER_TURN
            counted.take_turn()
        assert peer.goaway is None
        assert all(peer.is_answered(stream) for stream in range(3, 203, 2))

    in_loop(scene)


def call(stream: int, size: int = 1) -> bytes:
    return headers(stream) + data(stream, b"x" * size, ended=True)


def test_calls_that_come_one_by_one_wait_for_no_turn() -> None:
    """However many connections ask so, they need not wait for each other."""

    def scene() -> None:
        counted = Counted(b"")
        peer = counted.peer
        for stream in range(3, 3 + 20 * WORK_PER_TURN, 2):
            peer.connection.data_received(call(stream))
            assert peer.is_answered(stream)
            assert not peer.transport.is_reading_paused
            peer.transport.sent.clear()

    in_loop(scene)


def test_what_comes_while_a_connection_waits_for_its_turn_is_kept_in_order() -> None:
    """TLS hands on what it has decrypted, though reading is paused."""

    def scene() -> None:
        counted = Counted(data(1, b"a" * 300) * 500)
        peer = counted.peer
        peer.connection.data_received(data(1, b"b" * 300) * 500 + data(1, b"c", ended=True)[:5])
        while peer.turns:
            counted.take_turn()
        peer.feed(data(1, b"c", ended=True)[5:])
        peer.feed(frames.window_update(0, 2**20) + frames.window_update(1, 2**20))
        assert peer.body() == b"a" * 150_000 + b"b" * 150_000 + b"c"

    in_loop(scene)


def test_the_rest_of_a_read_waits_while_the_client_does_not_read() -> None:
    def scene() -> None:
        counted = Counted(PING * 1000)
        peer = counted.peer
        peer.connection.pause_writing()
        counted.take_turn()
        assert counted.handled == []
        assert not peer.turns
        peer.connection.resume_writing()
        assert peer.transport.is_reading_paused
        while peer.turns:
            counted.take_turn()
        assert len(peer.of_kind(frames.PING)) == 1000
        assert not peer.transport.is_reading_paused

    in_loop(scene)


def test_what_comes_after_the_end_is_discarded_in_turns() -> None:
    def scene() -> None:
        counted = Counted(data(0, b"x"))
        peer = counted.peer
        assert peer.goaway is ErrorCode.PROTOCOL_ERROR
        for _ in range(3):
            peer.connection.data_received(bytes(250_000))
            assert peer.transport.is_reading_paused
            counted.take_turn()
            assert counted.handled == []
            assert not peer.transport.is_reading_paused

    in_loop(scene)


GREEDY: dict[str, bytes] = {
    "small frames": data(1, b"x") * 24_000,
    "a header block and no end": headers(3, REQUEST, 0) + frame(frames.CONTINUATION, 0, 3, bytes(31_000)),
    "a frame and no end": frame(frames.HEADERS, frames.END_HEADERS, 3, bytes(60_000))[:-1],
    "header blocks": b"".join(fields_of_their_own(stream, 60) for stream in range(3, 1003, 2)),
}


@pytest.mark.parametrize("sent", GREEDY.values(), ids=GREEDY)
def test_a_connection_holds_a_bounded_number_of_bytes(sent: bytes) -> None:
    """Besides what its calls hold: here those that are answered."""

    def scene() -> None:
        counted = Counted(sent)
        peer = counted.peer
        while True:
            peer.application.calls.clear()
            peer.connection.send_queue.flush()
            apart = (peer.connections, peer.application, peer.transport, peer.turns, counted, counted.handled)
            assert held_bytes(peer.connection, peer, *apart) < 512 * 1024
            if not peer.turns:
                break
            counted.take_turn()
        assert peer.goaway is None

    in_loop(scene)
