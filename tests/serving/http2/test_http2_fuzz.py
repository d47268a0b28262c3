"""Whatever bytes come, in whatever pieces: no crash, whole frames back, an end for every call, bounded memory."""

from itertools import pairwise

import h2.config
import h2.connection
import h2.events
from hpack import Encoder
from http2_peer import FIELDS, START, Echo, Peer, data, in_loop
from hypothesis import example, given
from hypothesis import strategies as st

from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.frames import LARGEST_FRAME, ErrorCode
from proteus_cli.serving.http2.limits import Http2Limits
from proteus_cli.serving.transport.connections import Connections

LIMITS = Http2Limits(
    flood_budget=50,
    streams=8,
    window_bytes=5_000,
    connection_window_bytes=70_000,
    frame_bytes=16_384,
    header_list_bytes=2_000,
)
BODIES = [b"", b"hello", b"x" * 3_000]

payloads = st.binary(max_size=40)
any_frame = st.builds(
    frames.frame, st.integers(0, 12), st.integers(0, 255), st.integers(0, 12) | st.integers(0, 2**32 - 1), payloads
)
likely_frame = st.builds(
    frames.frame,
    st.sampled_from([frames.DATA, frames.HEADERS, frames.CONTINUATION, frames.RST_STREAM, frames.WINDOW_UPDATE]),
    st.sampled_from([0, 1, 4, 5, 8, 9, 0x2D]),
    st.integers(0, 9),
    payloads | st.sampled_from([b"\0\0\x10\0", b"\x83\x86\x84", b"\x83\x86\x84\x40\x01a\x01b", b"\xbe", b"\x20"]),
)
OPEN_REQUEST = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, Encoder().encode(FIELDS))
"""Its call is open when the connection ends."""


def expect_settled(peer: Peer) -> None:
    """What must hold after any conversation."""
    assert peer.got  # whole frames
    connection = peer.connection
    calls = peer.application.calls
    if connection.is_closing:
        assert all(call.is_gone or call.is_answered for call in calls)
    open_calls = [call for call in calls if not call.is_gone and not call.is_answered]
    assert len(open_calls) <= LIMITS.streams
    assert sum(len(call.body) for call in open_calls) < 200_000
    peer.transport.close()
    assert all(call.is_gone or call.is_answered for call in calls)
    assert len(peer.connections) == 0


def fed(conversation: bytes, cuts: list[int]) -> Peer:
    peer = Peer(Echo(), LIMITS)
    edges = [0, *sorted(cut % (len(conversation) + 1) for cut in cuts), len(conversation)]
    peer.feed(*(conversation[start:stop] for start, stop in pairwise(edges) if start < stop))
    return peer


@given(
    st.sampled_from([b"", START]),
    st.lists(any_frame | likely_frame, max_size=30),
    st.lists(st.integers(0, 2_000), max_size=5),
)
@example(START, [OPEN_REQUEST], [])
def test_any_frames(start: bytes, sent: list[bytes], cuts: list[int]) -> None:
    in_loop(lambda: expect_settled(fed(start + b"".join(sent), cuts)))


def client() -> h2.connection.H2Connection:
    return h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))


def good_conversation(bodies: list[bytes]) -> bytes:
    """What a client of another implementation sends that doesn't wait for what the server says."""
    speaker = client()
    speaker.initiate_connection()
    for number, body in enumerate(bodies):
        stream = 2 * number + 1
        speaker.send_headers(stream, [*FIELDS, ("number", str(number)), ("te", "trailers")], end_stream=not body)
        if body:
            speaker.send_data(stream, body, end_stream=True)
        if number % 3 == 1:
            speaker.ping(b"8 bytes!")
    return speaker.data_to_send()


@given(st.lists(st.sampled_from(BODIES), min_size=1, max_size=7), st.lists(st.integers(0, 20_000), max_size=8))
def test_pieces_make_no_difference(bodies: list[bytes], cuts: list[int]) -> None:
    def scene() -> None:
        conversation = good_conversation(bodies)
        whole, pieces = fed(conversation, []), fed(conversation, cuts)
        for number, body in enumerate(bodies):
            assert whole.body(2 * number + 1) == pieces.body(2 * number + 1) == body
        assert whole.goaway is pieces.goaway is None
        assert whole.of_kind(frames.PING) == pieces.of_kind(frames.PING)

    in_loop(scene)


class Speaker:
    """A client of another implementation, which checks each frame that it gets against its windows."""

    def __init__(self, settings: dict[int, int]) -> None:
        self.peer = Peer(Echo(), Http2Limits(), Connections(max_connections=1, max_body_bytes=2**24))
        self.speaker, self.seen = client(), 0
        self.taken: dict[int, int] = {}
        self.speaker.initiate_connection()
        self.speaker.update_settings(settings)
        self.exchange()
        self.exchange()

    def exchange(self) -> None:
        self.peer.feed(self.speaker.data_to_send())
        assert self.peer.got
        sent = self.peer.transport.sent
        news, self.seen = bytes(sent[self.seen :]), len(sent)
        for event in self.speaker.receive_data(news):
            assert not isinstance(event, h2.events.ConnectionTerminated | h2.events.StreamReset)
            if isinstance(event, h2.events.DataReceived):
                self.taken[event.stream_id] = self.taken.get(event.stream_id, 0) + len(event.data)

    def request(self, stream: int, size: int) -> None:
        self.speaker.send_headers(stream, FIELDS)
        for at in range(0, size, 10_000):
            self.speaker.send_data(stream, bytes(min(10_000, size - at)))
            self.exchange()
        self.speaker.end_stream(stream)
        self.exchange()

    def widen(self, streams: list[int], increment: int) -> None:
        self.speaker.increment_flow_control_window(increment, None)
        for stream in streams:
            if not self.peer.is_answered(stream):
                self.speaker.increment_flow_control_window(increment, stream)
        self.exchange()


@given(
    st.lists(st.integers(0, 40_000), min_size=1, max_size=4),
    st.integers(0, 70_000),
    st.lists(st.integers(1, 30_000), max_size=10),
    st.integers(frames.DEFAULT_FRAME, LARGEST_FRAME),
)
def test_no_window_is_ever_overrun(sizes: list[int], initial: int, updates: list[int], frame_bytes: int) -> None:
    """And in the end all has arrived."""

    def scene() -> None:
        client = Speaker(
            {frames.INITIAL_WINDOW_SIZE: initial, frames.MAX_FRAME_SIZE: frame_bytes, frames.HEADER_TABLE_SIZE: 0}
        )
        streams = [2 * number + 1 for number in range(len(sizes))]
        for stream, size in zip(streams, sizes, strict=True):
            client.request(stream, size)
        for increment in [*updates, 2**24]:
            client.widen(streams, increment)
        assert [client.taken.get(stream, 0) for stream in streams] == sizes
        assert all(client.peer.is_answered(stream) for stream in streams)

    in_loop(scene)


def test_memory_of_a_long_conversation_is_flat() -> None:
    """What is remembered of streams that are over does not grow."""

    def scene() -> None:
        peer = Peer(Echo(), Http2Limits())
        peer.feed(START)
        for stream in range(1, 20_001, 2):
            peer.feed(peer.request(stream) + data(stream, b"x"))
            if stream % 4 == 1:
                peer.feed(frames.rst_stream(stream, ErrorCode.CANCEL))
                peer.pass_time(after_s=1)
            else:
                peer.feed(data(stream, b"", ended=True))
            peer.application.calls.clear()
            peer.connection.send_queue.flush()
            peer.transport.sent.clear()
        state = vars(peer.connection)
        assert peer.connection._streams == {}
        assert len(state["_resets"]) <= 256
        assert len(peer.connection._blocks._known) <= 64

    in_loop(scene)
