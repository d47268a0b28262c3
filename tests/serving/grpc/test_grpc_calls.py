"""gRPC's framing over HTTP/2, and the methods: messages in any pieces, statuses in trailers."""

import asyncio
import gzip
from collections.abc import Callable, Coroutine, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from grpc_client import INFER, MAX_BYTES, STREAM, Client
from grpc_health.v1 import health_pb2
from http2_peer import data
from hypothesis import given
from hypothesis import strategies as st
from small_plane import FLOAT, LONG
from tritonclient.grpc import service_pb2

from proteus_cli.errors import RequestError
from proteus_cli.serving.grpc.framing import framed
from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.frames import ErrorCode
from proteus_cli.serving.http2.limits import Http2Limits
from proteus_cli.serving.oip.codes import GRPC_STATUS, HTTP_STATUS, GrpcStatus
from proteus_cli.serving.transport.connections import Connections
from proteus_cli.serving.transport.tokens import Tokens

METADATA = "/inference.GRPCInferenceService/ServerMetadata"
CHECK = "/grpc.health.v1.Health/Check"
LIVE = "/inference.GRPCInferenceService/ServerLive"


def scene(play: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(play())


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def request(first: float = 1.0, rows: int = 1, **more: Any) -> Any:
    made = service_pb2.ModelInferRequest(model_name="two", **more)
    made.inputs.add(name="x", datatype="FP32", shape=[rows, 2])
    made.inputs.add(name="k", datatype="INT64", shape=[rows, 1])
    made.raw_input_contents.append(np.full((rows, 2), first, FLOAT).tobytes())
    made.raw_input_contents.append(np.full(rows, 3, LONG).tobytes())
    return made


def infer_message(first: float = 1.0, rows: int = 1, **more: Any) -> bytes:
    return framed(request(first, rows, **more).SerializeToString())


def check_doubled(message: bytes, first: float = 1.0) -> None:
    answer = service_pb2.ModelInferResponse.FromString(message)
    assert np.frombuffer(answer.raw_output_contents[0], FLOAT)[0] == first * 2


# --- messages in their pieces


@given(st.lists(st.integers(1, 200), max_size=4), st.booleans())
def test_a_message_may_come_in_any_pieces(cuts: list[int], ends_at_once: bool) -> None:  # noqa: FBT001
    async def play() -> None:
        client, message = Client(), infer_message(5.0, id="a")
        edges = [0, *sorted(cut % len(message) for cut in cuts), len(message)]
        pieces = [message[start:stop] for start, stop in pairwise(edges) if start < stop]
        stream = client.call(INFER, *pieces[: -1 if ends_at_once else None], ended=not ends_at_once)
        if ends_at_once:
            client.peer.feed(data(stream, pieces[-1], ended=True))
        await turns()
        assert client.status(stream) is GrpcStatus.OK
        check_doubled(client.messages(stream)[0], 5.0)

    scene(play)


def test_an_answer_has_the_fields_that_grpc_wants() -> None:
    async def play() -> None:
        client = Client()
        stream = client.call(LIVE, framed(b""))
        assert client.fields(stream) == {
            ":status": "200", "content-type": "application/grpc+proto", "grpc-accept-encoding": "identity,gzip",
            "grpc-status": "0",
        }  # fmt: skip

    scene(play)


@pytest.mark.parametrize("length", [100, 255, 256, 300, 5000])
def test_an_error_of_any_length_is_sent(length: int) -> None:
    """A client may choose the text of an error, as a name that is unknown stands in it."""

    async def play() -> None:
        client = Client()
        message = service_pb2.ModelMetadataRequest(name="ü" * length).SerializeToString()
        stream = client.call("/inference.GRPCInferenceService/ModelMetadata", framed(message))
        assert client.status(stream) is GrpcStatus.NOT_FOUND
        assert "%C3%BC" * min(length, 900) in client.fields(stream)["grpc-message"]

    scene(play)


@pytest.mark.parametrize(
    ("pieces", "status", "text"),
    [
        ((), GrpcStatus.UNIMPLEMENTED, "there was none"),
        ((framed(b""), framed(b"")), GrpcStatus.UNIMPLEMENTED, "one message"),
        ((framed(b"")[:3],), GrpcStatus.INTERNAL, "cut off"),
        ((infer_message()[:-1],), GrpcStatus.INTERNAL, "cut off"),
        ((b"\0" + (MAX_BYTES + 1).to_bytes(4, "big"),), GrpcStatus.RESOURCE_EXHAUSTED, "50000 bytes"),
        ((b"\x01\0\0\0\x01x",), GrpcStatus.INTERNAL, "without a grpc-encoding"),
        ((b"\x02\0\0\0\x01x",), GrpcStatus.INTERNAL, "without a grpc-encoding"),
    ],
)
def test_messages_that_are_not_one_message_are_refused(pieces: Sequence[bytes], status: GrpcStatus, text: str) -> None:
    async def play() -> None:
        client = Client()
        stream = client.call(LIVE, *pieces)
        assert client.status(stream) is status
        assert text in client.fields(stream)["grpc-message"].replace("%20", " ")

    scene(play)


def compressed(message: bytes) -> bytes:
    packed = gzip.compress(message)
    return b"\x01" + len(packed).to_bytes(4, "big") + packed


async def unpacked(client: Client) -> None:
    await turns()
    while client.peer.turns:
        client.peer.turns.popleft()()
        await turns()


def test_a_compressed_message_is_decompressed_within_its_bound() -> None:
    async def play() -> None:
        client = Client()
        good = client.call(INFER, compressed(request(2.0).SerializeToString()), grpc_encoding="gzip")
        await unpacked(client)
        check_doubled(client.messages(good)[0], 2.0)
        packed = gzip.compress(b"x")
        cut = b"\x01" + (len(packed) - 4).to_bytes(4, "big") + packed[:-4]
        garbage = b"\x01\0\0\0\x04what"
        for message, status in (
            (compressed(bytes(MAX_BYTES + 1)), GrpcStatus.RESOURCE_EXHAUSTED),
            (garbage, GrpcStatus.INTERNAL),
            (cut, GrpcStatus.INTERNAL),
        ):
            stream = client.call(INFER, message, grpc_encoding="gzip")
            await unpacked(client)
            assert client.status(stream) is status
        unknown = client.call(INFER, infer_message(), grpc_encoding="zstd")
        assert client.status(unknown) is GrpcStatus.UNIMPLEMENTED
        assert client.fields(unknown)["grpc-accept-encoding"] == "identity,gzip"

    scene(play)


@pytest.mark.parametrize(
    ("timeout", "timeout_s"), [("1H", 3600), ("2M", 120), ("3S", 3), ("4m", 4e-3), ("5u", 5e-6), ("6n", 6e-9)]
)
def test_the_timeout_of_a_call_is_a_deadline(timeout: str, timeout_s: float) -> None:
    async def play() -> None:
        client = Client()
        client.call(INFER, infer_message(), grpc_timeout=timeout)
        assert client.plane.queries[0].options.timeout_s == pytest.approx(timeout_s)

    scene(play)


@pytest.mark.parametrize("timeout", ["", "5", "S", "123456789S", "-1S", "1.5S", "1s"])
def test_a_timeout_that_makes_no_sense_is_refused(timeout: str) -> None:
    async def play() -> None:
        client = Client()
        assert client.status(client.call(INFER, infer_message(), grpc_timeout=timeout)) is GrpcStatus.INTERNAL

    scene(play)


def test_calls_without_a_valid_token_are_refused_and_health_checks_need_none() -> None:
    """Before anything of them is read."""

    async def play() -> None:
        client = Client(tokens=Tokens(["let-me-in"]))
        assert client.status(client.call(METADATA, framed(b""))) is GrpcStatus.UNAUTHENTICATED
        assert (
            client.status(client.call(METADATA, framed(b""), authorization="Bearer guess"))
            is GrpcStatus.UNAUTHENTICATED
        )
        assert client.status(client.call(METADATA, framed(b""), authorization="Bearer let-me-in")) is GrpcStatus.OK
        assert client.status(client.call(LIVE, framed(b""))) is GrpcStatus.OK

    scene(play)


# --- methods


def test_every_error_of_a_request_has_a_status() -> None:
    direct = set(RequestError.__subclasses__())
    all_of_them = direct | {kind for parent in direct for kind in parent.__subclasses__()}
    assert set(GRPC_STATUS) == set(HTTP_STATUS) == {kind for kind in all_of_them if not kind.__subclasses__()}


def test_a_stream_answers_in_order_and_survives_what_is_wrong() -> None:
    async def play() -> None:
        client = Client()
        bad = framed(service_pb2.ModelInferRequest(model_name="nobody", id="b").SerializeToString())
        stream = client.call(
            STREAM, infer_message(1, id="a") + bad + infer_message(np.nan, id="c") + infer_message(4, id="d")[:9],
            infer_message(4, id="d")[9:],
        )  # fmt: skip
        await turns()
        assert client.status(stream) is GrpcStatus.OK
        answers = [service_pb2.ModelStreamInferResponse.FromString(m) for m in client.messages(stream)]
        assert [answer.error_message for answer in answers] == ["", "no model `nobody`", "it failed", ""]
        assert [answer.infer_response.id for answer in answers] == ["a", "", "c", "d"]
        check_doubled(answers[3].infer_response.SerializeToString(), 4)

    scene(play)


def test_a_stream_that_is_far_ahead_of_its_answers_gets_no_more_room() -> None:
    async def play() -> None:
        client = Client(Http2Limits(window_bytes=20_000))
        stream, message, sent = client.call(STREAM, ended=False), infer_message(), 0

        def room() -> int:
            updates = (frame for frame in client.peer.of_kind(frames.WINDOW_UPDATE) if frame.stream)
            return 20_000 + sum(int.from_bytes(update.payload, "big") for update in updates) - sent

        while room() >= len(message):
            client.peer.feed(data(stream, message))
            sent += len(message)
        assert len(client.plane.queries) == 256
        await turns()
        client.peer.take_turns()
        assert len(client.plane.queries) > 256
        assert room() > 10_000
        await turns()
        client.peer.feed(frames.window_update(0, 2**20), frames.window_update(stream, 2**20))
        client.peer.feed(data(stream, b"", ended=True))
        assert client.status(stream) is GrpcStatus.OK

    scene(play)


def test_a_stream_that_fails_gives_up_what_it_has_inside() -> None:
    async def play() -> None:
        client = Client()
        stream = client.call(STREAM, infer_message(), b"\0" + (MAX_BYTES + 1).to_bytes(4, "big"), ended=False)
        assert client.status(stream) is GrpcStatus.RESOURCE_EXHAUSTED
        assert len(client.plane.cancelled) == 1
        sent = client.peer.got
        await turns()
        assert client.peer.got == sent

    scene(play)


def test_a_connection_past_the_limit_may_ask_for_health() -> None:
    async def play() -> None:
        connections = Connections(max_connections=1, max_body_bytes=0)
        first, second = Client(connections=connections), Client(connections=connections)
        asked = framed(health_pb2.HealthCheckRequest().SerializeToString())
        for path, message in ((CHECK, asked), (LIVE, framed(b"")), (CHECK, asked)):
            assert second.status(second.call(path, message)) is GrpcStatus.OK
        assert second.peer.goaway is None
        refused = second.call(METADATA, framed(b""))
        assert second.status(refused) is GrpcStatus.UNAVAILABLE
        assert second.fields(refused)["grpc-message"] == "too many connections"
        assert second.peer.goaway is ErrorCode.NO_ERROR
        assert second.peer.transport.is_closed
        assert first.status(first.call(METADATA, framed(b""))) is GrpcStatus.OK

    scene(play)
