"""The HTTP/2 connection: what is right is answered, in any pieces; what is wrong ends with the code of RFC 9113."""

import struct
from collections.abc import Callable

import pytest
from http2_peer import FIELDS, START, Echo, Peer, data, in_loop, play

from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.frames import ErrorCode, frame
from proteus_cli.serving.http2.limits import Http2Limits

SMALL = Http2Limits(flood_budget=20, streams=4, window_bytes=1000, connection_window_bytes=100_000)
REQUEST = b"".join(frames.literal_field(name.encode(), value.encode()) for name, value in FIELDS)


def headers(stream: int = 1, flags: int = frames.END_HEADERS, block: bytes = REQUEST) -> bytes:
    return frame(frames.HEADERS, flags, stream, block)


def settings(name: int, value: int) -> bytes:
    return frames.settings({name: value})


GET = headers(1, frames.END_HEADERS | frames.END_STREAM)


# --- what is right


def test_a_request_is_answered_with_headers_data_and_trailers() -> None:
    peer = play(START + headers() + data(1, b"hello", ended=True))
    assert peer.body() == b"hello"
    assert peer.is_answered()
    assert peer.goaway is None
    assert not peer.resets


def test_settings_are_sent_first_and_acknowledged() -> None:
    peer = play(START)
    assert peer.got[0].kind == frames.SETTINGS
    assert not peer.got[0].flags
    assert [f.flags for f in peer.of_kind(frames.SETTINGS)] == [0, frames.ACK]


def test_padding_and_priority_are_passed_over() -> None:
    padded = frame(frames.DATA, frames.PADDED | frames.END_STREAM, 1, b"\x03hello\0\0\0")
    with_both = headers(
        1, frames.END_HEADERS | frames.PADDED | frames.HAS_PRIORITY, b"\x02\0\0\0\0\x10" + REQUEST + b"\0\0"
    )
    peer = play(START + frame(frames.PRIORITY, 0, 3, b"\0\0\0\0\x10") + with_both + padded)
    assert peer.body() == b"hello"


def test_a_header_block_may_come_in_parts() -> None:
    parts = headers(1, frames.END_STREAM, REQUEST[:7]) + frame(frames.CONTINUATION, 0, 1, REQUEST[7:20])
    peer = play(START + parts + frame(frames.CONTINUATION, frames.END_HEADERS, 1, REQUEST[20:]))
    assert peer.is_answered()


def test_trailers_end_a_request() -> None:
    trailers = headers(1, frames.END_HEADERS | frames.END_STREAM, frames.literal_field(b"checksum", b"1"))
    assert play(START + headers() + data(1, b"hello") + trailers).body() == b"hello"


def test_frames_of_unknown_kinds_are_passed_over() -> None:
    assert play(START + frame(0xEE, 0xFF, 1, b"whatever") + GET).is_answered()


def test_a_ping_is_answered_with_its_bytes() -> None:
    peer = play(START + frame(frames.PING, 0, 0, b"8 bytes!") + frame(frames.PING, frames.ACK, 0, b"ignored!"))
    assert [(f.flags, f.payload) for f in peer.of_kind(frames.PING)] == [(frames.ACK, b"8 bytes!")]


def test_equal_header_blocks_say_the_same_only_while_the_table_is_the_same() -> None:
    """The same indices mean other fields once an entry came in front of them."""

    def scene() -> None:
        peer = Peer(Echo(waits=True))
        peer.feed(START)
        encoder = peer.encoder
        paths = []
        for stream, path in enumerate(["/a", "/b", "/a", "/b", "/b", "/a"]):
            block = encoder.encode([*FIELDS[:2], (":path", path), FIELDS[3]], huffman=False)
            peer.feed(headers(2 * stream + 1, frames.END_HEADERS | frames.END_STREAM, block))
            paths.append(path)
        assert peer.goaway is None
        requests = [call.request for call in peer.application.calls]
        assert [fields[b":path"].decode() for fields in requests] == paths

    in_loop(scene)


def test_a_smaller_compression_table_is_acknowledged_in_the_next_header_block() -> None:
    peer = play(
        START + settings(frames.HEADER_TABLE_SIZE, 0) + GET + headers(3, frames.END_HEADERS | frames.END_STREAM)
    )
    assert [f.payload[:1] for f in peer.of_kind(frames.HEADERS)] == [b"\x20", b"\0", b"\x88", b"\0"]


# --- flow control


def test_an_answer_waits_for_the_windows_of_stream_and_connection() -> None:
    def scene() -> None:
        peer = Peer(Echo(), Http2Limits())
        body = bytes(range(256)) * 400
        peer.feed(START + settings(frames.INITIAL_WINDOW_SIZE, 10))
        peer.feed(headers(1), *(data(1, body[at : at + 10_000]) for at in range(0, len(body), 10_000)))
        peer.feed(data(1, b"", ended=True))
        assert peer.body() == body[:10]
        peer.feed(frames.window_update(1, 5))
        assert peer.body() == body[:15]
        peer.feed(settings(frames.INITIAL_WINDOW_SIZE, 20))
        assert peer.body() == body[:25]
        peer.feed(frames.window_update(1, 200_000))
        assert peer.body() == body[: frames.DEFAULT_WINDOW]
        assert not peer.is_answered()
        peer.feed(frames.window_update(0, 200_000))
        assert peer.body() == body
        assert peer.is_answered()
        assert max(len(f.payload) for f in peer.of_kind(frames.DATA)) <= frames.DEFAULT_FRAME

    in_loop(scene)


def test_a_window_may_shrink_below_nothing() -> None:
    def scene() -> None:
        peer = Peer(Echo())
        peer.feed(START + headers() + data(1, b"x" * 60_000) + settings(frames.INITIAL_WINDOW_SIZE, 50_000))
        peer.feed(data(1, b"", ended=True))
        assert len(peer.body()) == 50_000
        peer.feed(settings(frames.INITIAL_WINDOW_SIZE, 0))
        peer.feed(frames.window_update(1, 50_000))
        assert len(peer.body()) == 50_000
        peer.feed(frames.window_update(1, 10_000))
        assert len(peer.body()) == 60_000

    in_loop(scene)


def test_answers_that_wait_take_turns() -> None:
    def scene() -> None:
        peer = Peer(Echo(), Http2Limits())
        peer.feed(START)
        for stream in (1, 3, 5):
            peer.feed(headers(stream) + data(stream, b"x" * 60_000, ended=True))
        peer.feed(frames.window_update(0, 60_000))
        streams = [f.stream for f in peer.of_kind(frames.DATA)]
        assert set(streams[:8]) == {1, 3, 5}

    in_loop(scene)


def test_windows_are_extended_as_data_is_taken() -> None:
    def scene() -> None:
        limits = Http2Limits(window_bytes=10_000, connection_window_bytes=100_000)
        peer = Peer(Echo(), limits)
        peer.feed(START + headers())
        for _ in range(100):
            peer.feed(data(1, b"x" * 3_000))
        given = dict.fromkeys((0, 1), 0)
        for update in peer.of_kind(frames.WINDOW_UPDATE):
            given[update.stream] += int.from_bytes(update.payload, "big")
        assert 300_000 - 5_000 <= given[1] + 10_000 <= 300_000 + 10_000
        assert given[0] + frames.DEFAULT_WINDOW >= 300_000
        assert peer.goaway is None

    in_loop(scene)


def test_the_window_of_a_throttled_stream_is_not_extended_until_it_is_released() -> None:
    def scene() -> None:
        peer = Peer(Echo(), Http2Limits(window_bytes=10_000))
        peer.feed(START + headers())
        stream = peer.application.calls[0].stream
        stream.throttle(is_throttled=True)
        peer.feed(data(1, b"x" * 9_000))
        assert [f.stream for f in peer.of_kind(frames.WINDOW_UPDATE)] == [0]
        stream.throttle(is_throttled=False)
        assert [f.stream for f in peer.of_kind(frames.WINDOW_UPDATE)] == [0, 1]

    in_loop(scene)


def test_a_peer_that_does_not_read_is_not_read_from_and_then_cut_off() -> None:
    def scene() -> None:
        peer = Peer(Echo(waits=True), Http2Limits())
        peer.feed(START + settings(frames.INITIAL_WINDOW_SIZE, 2**20) + frames.window_update(0, 2**20))
        for stream in (1, 3):
            peer.feed(headers(stream), *[data(stream, b"x" * 50_000)] * 4, data(stream, b"", ended=True))
        peer.transport.is_full = True
        for call in peer.application.calls:
            call.answer()
        sent = len(peer.transport.sent)
        assert peer.transport.is_reading_paused
        assert sent < 200_000
        peer.pass_time(after_s=1)
        peer.transport.is_full = False
        peer.connection.resume_writing()
        assert not peer.transport.is_reading_paused
        assert len(peer.body(1)) == len(peer.body(3)) == 200_000
        peer.connection.pause_writing()
        peer.pass_time(after_s=31)
        assert peer.transport.is_closed

    in_loop(scene)


# --- what is wrong, by the connection

FAULTS: dict[str, tuple[bytes, ErrorCode]] = {
    "another protocol": (b"GET / HTTP/1.1\r\nhost: here\r\n\r\n", ErrorCode.PROTOCOL_ERROR),
    "no settings first": (frames.PREFACE + frame(frames.PING, 0, 0, b"8 bytes!"), ErrorCode.PROTOCOL_ERROR),
    "too large a frame": (
        START + frames.FRAME_HEADER.pack(2**24 - 1 >> 8, 255, frames.DATA, 0, 1),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "data on stream 0": (START + data(0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data on an idle stream": (START + data(1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "headers on stream 0": (START + headers(0), ErrorCode.PROTOCOL_ERROR),
    "headers on the server's stream": (START + headers(2), ErrorCode.PROTOCOL_ERROR),
    "a reset of an idle stream": (START + frames.rst_stream(1, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
    "a window of an idle stream": (START + frames.window_update(1, 1), ErrorCode.PROTOCOL_ERROR),
    "a window that grows by nothing": (START + frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "too large a window": (START + frames.window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "a priority on stream 0": (START + frame(frames.PRIORITY, 0, 0, b"\0" * 5), ErrorCode.PROTOCOL_ERROR),
    "a push": (
        START + frame(frames.PUSH_PROMISE, frames.END_HEADERS, 1, b"\0\0\0\2" + REQUEST),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a continuation of nothing": (START + frame(frames.CONTINUATION, 0, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "a frame within a header block": (START + headers(1, 0) + data(1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "a continuation of another": (
        START + headers(1, 0) + frame(frames.CONTINUATION, 4, 3, b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "too much padding": (START + headers() + frame(frames.DATA, frames.PADDED, 1, b"\x09x"), ErrorCode.PROTOCOL_ERROR),
    "no padding length": (START + headers() + frame(frames.DATA, frames.PADDED, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "a short priority for a stream that never opened": (
        START + frame(frames.PRIORITY, 0, 1, b"x") + headers(),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "a priority that is cut off": (START + headers(1, frames.HAS_PRIORITY | 4, b"\0\0"), ErrorCode.FRAME_SIZE_ERROR),
    "settings that are cut off": (START + frame(frames.SETTINGS, 0, 0, b"\0" * 5), ErrorCode.FRAME_SIZE_ERROR),
    "an acknowledgement with settings": (START + frame(frames.SETTINGS, 1, 0, b"\0" * 6), ErrorCode.FRAME_SIZE_ERROR),
    "settings on a stream": (START + frame(frames.SETTINGS, 0, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "push neither on nor off": (START + settings(frames.ENABLE_PUSH, 2), ErrorCode.PROTOCOL_ERROR),
    "too large an initial window": (START + settings(frames.INITIAL_WINDOW_SIZE, 2**31), ErrorCode.FLOW_CONTROL_ERROR),
    "too small a frame size": (START + settings(frames.MAX_FRAME_SIZE, 100), ErrorCode.PROTOCOL_ERROR),
    "too large a frame size": (START + settings(frames.MAX_FRAME_SIZE, 2**24), ErrorCode.PROTOCOL_ERROR),
    "a window past its limit by settings": (
        START + headers() + frames.window_update(1, 2**31 - 1 - 65_535) + settings(frames.INITIAL_WINDOW_SIZE, 65_536),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a short ping": (START + frame(frames.PING, 0, 0, b"x"), ErrorCode.FRAME_SIZE_ERROR),
    "a ping on a stream": (START + frame(frames.PING, 0, 1, b"8 bytes!"), ErrorCode.PROTOCOL_ERROR),
    "a short reset": (START + headers() + frame(frames.RST_STREAM, 0, 1, b"x"), ErrorCode.FRAME_SIZE_ERROR),
    "a short window": (START + frame(frames.WINDOW_UPDATE, 0, 0, b"x"), ErrorCode.FRAME_SIZE_ERROR),
    "a short goaway": (START + frame(frames.GOAWAY, 0, 0, b"x"), ErrorCode.FRAME_SIZE_ERROR),
    "a goaway on a stream": (START + frame(frames.GOAWAY, 0, 1, b"\0" * 8), ErrorCode.PROTOCOL_ERROR),
    "an index that is not there": (START + headers(1, 4, b"\xff\x00"), ErrorCode.COMPRESSION_ERROR),
    "a header block that is cut off": (START + headers(1, 4, b"\x00\x05ab"), ErrorCode.COMPRESSION_ERROR),
    "too large a table": (START + headers(1, 4, b"\x3f\xff\xff\x03" + REQUEST), ErrorCode.COMPRESSION_ERROR),
}


@pytest.mark.parametrize(("conversation", "code"), FAULTS.values(), ids=FAULTS)
def test_a_fault_ends_the_connection_with_its_code(conversation: bytes, code: ErrorCode) -> None:
    peer = play(conversation)
    assert peer.goaway is code
    assert peer.connection.is_closing


def test_more_data_than_the_window_of_the_connection_ends_it() -> None:
    limits = Http2Limits(connection_window_bytes=65_535, frame_bytes=70_000)
    assert play(START + headers() + data(1, b"x" * 66_000), limits=limits).goaway is ErrorCode.FLOW_CONTROL_ERROR


# --- what is wrong, by the stream

BROKEN_FIELDS = {
    "no path": [(":method", "POST"), (":scheme", "http")],
    "an empty path": [(":method", "POST"), (":scheme", "http"), (":path", "")],
    "a method twice": [*FIELDS, (":method", "POST")],
    "a pseudo-header that there isn't": [*FIELDS, (":status", "200")],
    "a pseudo-header after others": [FIELDS[0], FIELDS[1], ("a", "b"), FIELDS[2]],
    "an upper-case name": [*FIELDS, ("Accept", "x")],
    "an empty name": [*FIELDS, ("", "x")],
    "a name with a space": [*FIELDS, ("a b", "x")],
    "a line break": [*FIELDS, ("a", "b\r\nc: d")],
    "a space in front": [*FIELDS, ("a", " b")],
    "a connection header": [*FIELDS, ("connection", "close")],
    "another te": [*FIELDS, ("te", "gzip")],
    "another host than the authority": [*FIELDS, ("host", "there")],
    "an authority twice": [*FIELDS, FIELDS[3]],
    "a path twice": [*FIELDS, FIELDS[2]],
    "a host twice": [*FIELDS, ("host", "here"), ("host", "here")],
    "a host twice, without authority": [*FIELDS[:3], ("host", "here"), ("host", "here")],
    "an authorization twice": [*FIELDS, ("authorization", "Bearer a"), ("authorization", "Bearer b")],
    "a content-type twice": [*FIELDS, ("content-type", "a"), ("content-type", "a")],
    "a content-length twice": [*FIELDS, ("content-length", "0"), ("content-length", "0")],
    "two content-lengths in one": [*FIELDS, ("content-length", "0, 0")],
    "a content-length below nothing": [*FIELDS, ("content-length", "-1")],
    "a content-length that is no number": [*FIELDS, ("content-length", "0x0")],
    "a content-length of no digits": [*FIELDS, ("content-length", "")],
    "a content-length of any digits": [*FIELDS, ("content-length", "\u0661")],
    "a content-length without end": [*FIELDS, ("content-length", "0" * 5000)],
    "a content-length and no body": [*FIELDS, ("content-length", "1")],
}


@pytest.mark.parametrize("fields", BROKEN_FIELDS.values(), ids=BROKEN_FIELDS)
def test_header_fields_that_are_no_request_reset_the_stream(fields: list[tuple[str, str]]) -> None:
    block = b"".join(frames.literal_field(name.encode(), value.encode()) for name, value in fields)
    peer = play(START + headers(1, frames.END_HEADERS | frames.END_STREAM, block) + headers(3, 5))
    assert peer.resets == {1: ErrorCode.PROTOCOL_ERROR}
    assert peer.is_answered(3)
    assert not any(call.is_answered for call in peer.application.calls[:-1])


def with_length(length: int) -> bytes:
    return headers(1, frames.END_HEADERS, REQUEST + frames.literal_field(b"content-length", b"%d" % length))


TRAILERS = headers(1, 5, frames.literal_field(b"checksum", b"1"))


@pytest.mark.parametrize(
    ("length", "body"),
    [
        (4, data(1, b"hello")),
        (4, data(1, b"hello", ended=True)),
        (6, data(1, b"hello", ended=True)),
        (6, data(1, b"hel") + data(1, b"lo", ended=True)),
        (0, data(1, b"hello", ended=True)),
        (6, data(1, b"hello") + TRAILERS),
        (6, frame(frames.DATA, frames.PADDED | frames.END_STREAM, 1, b"\x01hello\0")),
        (5, data(1, b"hello") + data(1, b"!")),
    ],
)
def test_a_body_of_another_length_than_announced_resets_the_stream(length: int, body: bytes) -> None:
    peer = play(START + with_length(length) + body + headers(3, 5))
    assert peer.resets == {1: ErrorCode.PROTOCOL_ERROR}
    assert not peer.application.calls[0].is_answered
    assert peer.is_answered(3)


STREAM_FAULTS: dict[str, tuple[bytes, ErrorCode]] = {
    "data after the end": (GET + data(1, b"x"), ErrorCode.STREAM_CLOSED),
    "headers after the end": (GET + GET, ErrorCode.STREAM_CLOSED),
    "trailers that don't end it": (headers() + headers(), ErrorCode.PROTOCOL_ERROR),
    "a window that grows by nothing": (headers() + frames.window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
    "too large a window": (headers() + frames.window_update(1, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "a short priority": (headers() + frame(frames.PRIORITY, 0, 1, b"x"), ErrorCode.FRAME_SIZE_ERROR),
    "more data than its window": (headers() + data(1, b"x" * 1001), ErrorCode.FLOW_CONTROL_ERROR),
}


@pytest.mark.parametrize(("conversation", "code"), STREAM_FAULTS.values(), ids=STREAM_FAULTS)
def test_a_stream_fault_ends_that_stream_alone(conversation: bytes, code: ErrorCode) -> None:
    peer = play(START + conversation + headers(3, frames.END_HEADERS | frames.END_STREAM), limits=SMALL)
    assert peer.resets[1] is code
    assert peer.is_answered(3)
    assert peer.goaway is None


def test_late_frames_for_a_stream_that_the_server_reset_are_ignored() -> None:
    peer = play(START + headers() + headers() + data(1, b"late") + frames.window_update(1, 5), limits=SMALL)
    assert peer.resets == {1: ErrorCode.PROTOCOL_ERROR}
    assert len(peer.of_kind(frames.RST_STREAM)) == 1


def test_streams_past_the_limit_are_refused() -> None:
    peer = play(START + b"".join(headers(n, 5) for n in (1, 3, 5, 7, 9)), limits=SMALL, waits=True)
    assert peer.resets == {9: ErrorCode.REFUSED_STREAM}
    assert len(peer.application.calls) == 4


def test_a_stream_that_the_client_resets_is_cancelled() -> None:
    peer = play(START + headers(1, 5) + frames.rst_stream(1, ErrorCode.CANCEL), waits=True)
    assert peer.application.calls[0].is_gone
    assert not peer.resets


def test_a_connection_that_is_lost_cancels_its_streams() -> None:
    def scene() -> None:
        peer = Peer(Echo(waits=True))
        peer.feed(START + headers(1, 5) + headers(3, 5))
        peer.transport.close()
        assert [call.is_gone for call in peer.application.calls] == [True, True]
        assert len(peer.connections) == 0

    in_loop(scene)


# --- attacks


def rapid_resets() -> bytes:
    return b"".join(headers(n, 5) + frames.rst_stream(n, ErrorCode.CANCEL) for n in range(1, 200, 2))


def server_made_resets() -> bytes:
    """Requests that the server itself has to reset."""
    return b"".join(headers(n, 5, frames.literal_field(b":path", b"/")) for n in range(1, 200, 2))


ATTACKS: dict[str, Callable[[], bytes]] = {
    "rapid reset": rapid_resets,
    "resets that the server makes": server_made_resets,
    "settings": lambda: frames.settings({}) * 100,
    "pings": lambda: frame(frames.PING, 0, 0, b"8 bytes!") * 100,
    "empty data": lambda: headers() + data(1, b"") * 100,
    "data in crumbs": lambda: headers() + data(1, b"x") * 250,
    "data in crumbs, for nobody": lambda: GET + frames.rst_stream(1, ErrorCode.CANCEL) + data(1, b"x") * 250,
    "priorities": lambda: frame(frames.PRIORITY, 0, 1, b"\0" * 5) * 100,
    "unknown frames": lambda: frame(0xEE, 0, 0, b"") * 100,
    "window updates for nothing": lambda: frames.window_update(0, 1) * 100,
    "endless continuations": lambda: headers(1, 0) + frame(frames.CONTINUATION, 0, 1, b"") * 100,
    "a large header block": lambda: headers(1, 0) + frame(frames.CONTINUATION, 0, 1, b"x" * 40_000),
    "many settings in one": lambda: frame(frames.SETTINGS, 0, 0, struct.pack(">HL", 4, 1) * 1000),
    "trailers of a stream that was reset": lambda: headers(1) * 100,
    "a header bomb": lambda: headers(1, 4, b"\x40\x01a\x7f\x81\x1e" + b"x" * 4000 + b"\xbe" * 4000),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_ends_the_connection(attack: Callable[[], bytes]) -> None:
    peer = play(START + attack(), limits=SMALL, waits=True)
    assert peer.goaway is ErrorCode.ENHANCE_YOUR_CALM
    assert all(call.is_gone for call in peer.application.calls)


def test_responses_and_time_refill_the_flood_budget() -> None:
    def scene() -> None:
        peer = Peer(Echo(), SMALL)
        peer.feed(START)
        for stream in range(1, 401, 2):
            peer.feed(headers(stream, 5) + frame(frames.PING, 0, 0, b"8 bytes!"))
        for _ in range(20):
            peer.feed(frame(frames.PING, 0, 0, b"8 bytes!") * 15)
            peer.pass_time(after_s=1)
        assert peer.goaway is None

    in_loop(scene)


# --- time


@pytest.mark.parametrize(
    ("conversation", "code"),
    [
        (b"", ErrorCode.SETTINGS_TIMEOUT),
        (frames.PREFACE[:5], ErrorCode.SETTINGS_TIMEOUT),
        (START + headers()[:12], ErrorCode.ENHANCE_YOUR_CALM),
        (START + headers(1, 0), ErrorCode.ENHANCE_YOUR_CALM),
    ],
)
def test_a_frame_or_header_block_that_has_begun_must_be_completed_in_time(conversation: bytes, code: ErrorCode) -> None:
    def scene() -> None:
        peer = Peer(Echo())
        peer.feed(conversation)
        peer.pass_time(after_s=1)
        peer.pass_time(after_s=20)
        assert peer.goaway is None
        peer.pass_time(after_s=20)
        assert peer.goaway is code
        assert not peer.transport.is_closed  # so that the peer may read why
        peer.pass_time(after_s=3)
        assert peer.transport.is_closed

    in_loop(scene)


def test_a_stream_whose_client_takes_nothing_is_reset() -> None:
    def scene() -> None:
        peer = Peer(Echo())
        peer.feed(START + settings(frames.INITIAL_WINDOW_SIZE, 0) + headers() + data(1, b"hello", ended=True))
        peer.pass_time(after_s=20)
        assert not peer.resets
        peer.pass_time(after_s=20)
        assert peer.resets == {1: ErrorCode.CANCEL}
        assert peer.application.calls[0].is_gone

    in_loop(scene)


def test_a_request_that_does_not_go_on_is_reset() -> None:
    def scene() -> None:
        peer = Peer(Echo())
        peer.feed(START + headers())
        peer.pass_time(after_s=31)
        assert peer.resets == {1: ErrorCode.CANCEL}

    in_loop(scene)


def test_an_idle_connection_gets_a_goaway() -> None:
    def scene() -> None:
        peer = Peer(Echo())
        peer.feed(START)
        peer.pass_time(after_s=599)
        assert peer.goaway is None
        peer.pass_time(after_s=2)
        assert peer.goaway is ErrorCode.NO_ERROR
        assert peer.transport.is_closed

    in_loop(scene)


# --- results


def test_a_connection_that_drains_answers_what_is_in_flight_and_takes_no_more() -> None:
    def scene() -> None:
        peer = Peer(Echo(waits=True))
        peer.feed(START + headers(1, 5) + headers(3))
        peer.connection.drain()
        goaway = peer.of_kind(frames.GOAWAY)[0]
        assert struct.unpack(">LL", goaway.payload) == (3, ErrorCode.NO_ERROR)
        peer.feed(headers(5, 5) + frames.rst_stream(5, ErrorCode.CANCEL) + data(3, b"more", ended=True))
        assert len(peer.application.calls) == 2
        first, second = peer.application.calls
        first.answer()
        assert not peer.transport.is_closed
        second.answer()
        assert peer.transport.is_closed
        assert peer.is_answered(1)
        assert peer.body(3) == b"more"

    in_loop(scene)


def test_after_the_clients_goaway_its_streams_are_answered_and_the_connection_closed() -> None:
    def scene() -> None:
        peer = Peer(Echo(waits=True))
        peer.feed(START + headers(1, 5) + frames.goaway(0, ErrorCode.NO_ERROR, ""))
        peer.application.calls[0].answer()
        assert peer.is_answered(1)
        assert peer.transport.is_closed

    in_loop(scene)
