"""HTTP/2 on real sockets: with TLS and without, in the hands of another implementation."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import pytest
import trustme
from http2_peer import FIELDS, Echo

from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.connection import Http2Connection
from proteus_cli.serving.http2.limits import Http2Limits
from proteus_cli.serving.transport.connections import Connections

WITHIN_S = 20
uvloop = pytest.importorskip("uvloop")


@asynccontextmanager
async def listening(tls: ssl.SSLContext | None = None, limits: Http2Limits | None = None) -> AsyncIterator[int]:
    """An echo server on a port of its own."""
    connections = Connections(max_connections=10, max_body_bytes=2**24)
    server = await asyncio.get_running_loop().create_server(
        lambda: Http2Connection(Echo(), connections, limits or Http2Limits()), "127.0.0.1", 0, ssl=tls
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await connections.close(1.0)
        assert len(connections) == 0


async def exchanged(port: int, bodies: list[bytes], tls: ssl.SSLContext | None = None) -> list[bytes]:
    """What comes back for these bodies, all sent at once by a client that gives its windows back slowly."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="here" if tls else None)
    speaker = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    speaker.initiate_connection()
    left = {2 * number + 1: body for number, body in enumerate(bodies)}
    answers = dict.fromkeys(left, b"")
    for stream in left:
        speaker.send_headers(stream, FIELDS)
    is_open = set(left)
    while is_open:
        for stream in [*left]:
            while (size := min(len(left[stream]), speaker.local_flow_control_window(stream), 16_384)) > 0:
                speaker.send_data(stream, left[stream][:size])
                left[stream] = left[stream][size:]
            if not left[stream]:
                del left[stream]
                speaker.end_stream(stream)
        writer.write(speaker.data_to_send())
        for event in speaker.receive_data(await reader.read(65_536)):
            if isinstance(event, h2.events.DataReceived):
                answers[event.stream_id] += event.data
                speaker.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                is_open.discard(event.stream_id)
            assert not isinstance(event, h2.events.ConnectionTerminated | h2.events.StreamReset)
    writer.close()
    return list(answers.values())


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        await asyncio.wait_for(scene(), WITHIN_S)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(within())


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of the server, and of a client that trusts it."""
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("here").configure_cert(server)
    authority.configure_trust(client)
    server.set_alpn_protocols(["h2"])
    return server, client


BODIES = [b"", b"small", bytes(range(256)) * 5_000, b"x" * 70_000]


def test_large_and_small_bodies_come_back_through_small_windows() -> None:
    async def scene() -> None:
        async with listening(limits=Http2Limits(window_bytes=30_000, connection_window_bytes=70_000)) as port:
            assert await exchanged(port, BODIES) == BODIES

    run(scene)


def test_the_same_through_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = contexts
    client.set_alpn_protocols(["h2"])

    async def scene() -> None:
        async with listening(server) as port:
            assert await exchanged(port, BODIES, client) == BODIES

    run(scene)


def test_a_client_that_did_not_choose_http2_in_the_handshake_is_told(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    server, client = contexts
    client.set_alpn_protocols(["http/1.1"])

    async def scene() -> None:
        async with listening(server) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="here")
            assert b"ALPN did not choose h2" in await reader.read()
            writer.close()

    run(scene)


def test_a_client_that_still_sends_can_read_why_it_is_cut_off() -> None:
    async def scene() -> None:
        async with listening() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(frames.PREFACE + frames.settings({}) + frames.frame(frames.DATA, 0, 0, b"x"))
            for _ in range(50):
                writer.write(b"x" * 100_000)
            answer = await reader.read()
            assert b"a frame" in answer
            assert (
                frames.FRAME_HEADER.pack(0, 8 + len("a frame on stream 0, which is not open"), frames.GOAWAY, 0, 0)
                in answer
            )
            writer.close()

    run(scene)
