"""What gRPC calls may hold in memory, and what they may cost before the others are looked at."""

from collections.abc import Callable

import pytest
from grpc_client import INFER, STREAM, Client
from held import held_bytes
from http2_peer import data
from test_grpc_calls import METADATA, infer_message, request, scene, turns
from tritonclient.grpc import service_pb2

from proteus_cli.serving.grpc import infer_calls
from proteus_cli.serving.grpc.framing import framed
from proteus_cli.serving.grpc.messages import varint
from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.frames import ErrorCode
from proteus_cli.serving.http2.limits import Http2Limits
from proteus_cli.serving.oip.codes import GrpcStatus
from proteus_cli.serving.transport.connections import WORK_PER_TURN


def counted_per_turn(client: Client, count: Callable[[], int]) -> list[int]:
    """How many more there are of something after each turn, until none waits."""
    counts, before = [], 0
    while True:
        counts.append(count() - before)
        before = count()
        if not client.peer.turns:
            return counts
        client.peer.turns.popleft()()


# --- work


@pytest.mark.parametrize("per_frame", [1, 10, 500])
def test_no_turn_has_more_messages_than_units_however_they_are_framed(per_frame: int) -> None:
    async def play() -> None:
        client = Client(Http2Limits(window_bytes=2**24))
        stream = client.call(STREAM, ended=False)
        message = framed(service_pb2.ModelInferRequest(model_name="no").SerializeToString())
        client.peer.connection.data_received(data(stream, message * per_frame) * (2000 // per_frame))
        handled = counted_per_turn(client, lambda: client.plane.refusals["UnknownModel"])
        assert sum(handled) == 2000
        assert max(handled) <= WORK_PER_TURN
        client.peer.feed(data(stream, b"", ended=True))
        client.peer.feed(frames.window_update(0, 2**20), frames.window_update(stream, 2**20))
        assert client.status(stream) is GrpcStatus.OK
        assert len(client.messages(stream)) == 2000

    scene(play)


# --- memory

LARGE = request(2.0).SerializeToString() + b"\xa2\x06" + varint(30_000) + b"x" * 30_000  # a field of a later version


def of_bytes(size: int) -> bytes:
    """A request of that size, with a field of a later version."""
    start = bytes(request(2.0).SerializeToString()) + b"\xa2\x06"
    return start + varint(size - len(start) - 3) + b"x" * (size - len(start) - 3)


@pytest.mark.parametrize("piece_bytes", [999, 60_000])
@pytest.mark.parametrize("path", [INFER, STREAM])
def test_a_large_message_counts_as_it_comes(path: str, piece_bytes: int) -> None:
    async def play() -> None:
        client = Client(Http2Limits(flood_budget=10**6), max_message_bytes=2**20)
        connections, sent = client.peer.connections, framed(of_bytes(65_535))
        stream = client.call(path, ended=False)
        for at in range(0, len(sent), piece_bytes):
            client.peer.feed(data(stream, sent[at : at + piece_bytes]))
            assert connections.body_bytes >= min(at + piece_bytes, 65_535)
        client.peer.feed(data(stream, b"", ended=True))
        await turns()
        assert client.status(stream) is GrpcStatus.OK
        assert len(client.messages(stream)) == 1
        assert connections.body_bytes == 0

    scene(play)


@pytest.mark.parametrize("piece_bytes", [70, 30_000, 65_000])
def test_messages_behind_a_large_one_are_read_after_it(piece_bytes: int) -> None:
    async def play() -> None:
        client = Client(Http2Limits(flood_budget=10**6), max_message_bytes=2**20)
        stream = client.call(STREAM, ended=False)
        asked = [request(float(at), id=str(at)).SerializeToString() for at in range(2)]
        large = request(7.0, id="large").SerializeToString()
        large += b"\xa2\x06" + varint(65_000) + b"x" * 65_000
        large += b"\xaa\x06" + varint(65_535 - len(large) - 3) + b"x" * (65_535 - len(large) - 3)
        sent = framed(asked[0]) + framed(large) + framed(asked[1]) + framed(large)
        for at in range(0, len(sent), piece_bytes):
            client.peer.connection.data_received(data(stream, sent[at : at + piece_bytes]))
        client.peer.connection.data_received(data(stream, b"", ended=True))
        client.peer.take_turns()
        await turns()
        answers = [service_pb2.ModelStreamInferResponse.FromString(each) for each in client.messages(stream)]
        assert [each.infer_response.id for each in answers] == ["0", "large", "1", "large"]
        assert client.status(stream) is GrpcStatus.OK
        assert client.peer.connections.body_bytes == 0

    scene(play)


def test_a_large_message_that_is_cut_off_or_given_up_counts_no_more() -> None:
    async def play() -> None:
        client = Client(max_message_bytes=2**20)
        sent = framed(of_bytes(65_535))
        cut_off = client.call(INFER, sent[:50_000])
        assert client.status(cut_off) is GrpcStatus.INTERNAL
        given_up = client.call(INFER, sent[:50_000], ended=False)
        assert client.peer.connections.body_bytes >= 50_000
        client.peer.feed(frames.rst_stream(given_up, ErrorCode.CANCEL))
        assert client.peer.connections.body_bytes == 0

    scene(play)


@pytest.mark.parametrize("path", [INFER, STREAM])
def test_a_message_counts_as_memory_until_it_is_answered(path: str) -> None:
    async def play() -> None:
        client = Client()
        connections = client.peer.connections
        streams = [client.call(path, framed(LARGE)) for _ in range(3)]
        assert 3 * len(LARGE) <= connections.body_bytes <= 3 * (len(LARGE) + 2048)
        client.peer.feed(frames.rst_stream(streams[0], ErrorCode.CANCEL))
        assert 2 * len(LARGE) <= connections.body_bytes <= 2 * (len(LARGE) + 2048)
        connections._max_body_bytes = connections.body_bytes
        refused = client.call(path, framed(LARGE))
        if path == INFER:
            assert client.status(refused) is GrpcStatus.RESOURCE_EXHAUSTED
        else:
            (answer,) = client.messages(refused)
            assert "too many" in service_pb2.ModelStreamInferResponse.FromString(answer).error_message
        await turns()
        assert [client.status(stream) for stream in streams[1:]] == [GrpcStatus.OK] * 2
        assert connections.body_bytes == 0

    scene(play)


def test_what_a_client_does_not_take_counts_as_memory_and_has_an_end() -> None:
    async def play() -> None:
        client = Client()
        connections = client.peer.connections
        client.peer.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
        first = client.call(METADATA, framed(b""))
        size = connections.body_bytes
        assert size > 0
        connections._max_body_bytes = 3 * size
        others = [client.call(METADATA, framed(b"")) for _ in range(4)]
        assert connections.body_bytes == 3 * size
        assert client.peer.resets == dict.fromkeys(others[2:], ErrorCode.ENHANCE_YOUR_CALM)
        client.peer.feed(frames.window_update(first, size))
        assert client.status(first) is GrpcStatus.OK
        client.peer.feed(frames.rst_stream(others[0], ErrorCode.CANCEL))
        assert connections.body_bytes == size
        client.peer.transport.close()
        assert connections.body_bytes == 0

    scene(play)


def test_a_stream_without_memory_for_its_answers_ends() -> None:
    async def play() -> None:
        client = Client()
        client.peer.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
        stream = client.call(STREAM, infer_message() * 20, ended=False)
        client.peer.connections._max_body_bytes = 100
        client.peer.feed(data(stream, infer_message() * 3))
        await turns()
        assert client.peer.resets == {stream: ErrorCode.ENHANCE_YOUR_CALM}
        assert client.peer.connections.body_bytes == 0

    scene(play)


def test_a_stream_goes_on_once_its_client_takes_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        monkeypatch.setattr(infer_calls, "_MAX_BACKLOG", 100)
        message = infer_message()
        client = Client(Http2Limits(window_bytes=10 * len(message)))
        client.peer.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
        stream = client.call(STREAM, ended=False)
        client.peer.feed(data(stream, message))
        await turns()
        client.peer.feed(*[data(stream, message)] * 7)
        assert len(client.plane.queries) == 1
        assert not [update for update in client.peer.of_kind(frames.WINDOW_UPDATE) if update.stream]
        client.peer.feed(frames.window_update(stream, 2**20))
        assert len(client.plane.queries) == 8
        assert [update for update in client.peer.of_kind(frames.WINDOW_UPDATE) if update.stream]

    scene(play)


def test_messages_of_methods_without_tensors_are_small() -> None:
    async def play() -> None:
        client = Client(max_message_bytes=2**20)
        stream = client.call(METADATA, framed(bytes(70_000))[:10], ended=False)
        assert client.status(stream) is GrpcStatus.RESOURCE_EXHAUSTED

    scene(play)


@pytest.mark.parametrize("path", [INFER, STREAM, METADATA])
def test_an_open_call_holds_two_kilobytes_whatever_its_header_fields(path: str) -> None:
    async def play() -> None:
        client, count = Client(), 100
        peer = client.peer

        def held() -> int:
            return held_bytes(peer.connection, peer.connections, peer.application, peer.transport, peer.turns)

        client.call(path, ended=False)
        before = held()
        for number in range(count):
            client.call(path, ended=False, number=str(number), traceparent="00-" + "a" * 400, large="x" * 14_000)
        assert not peer.resets
        assert held() - before < count * 2048 + 70_000  # with the table that compresses fields

    scene(play)
