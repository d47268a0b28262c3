"""A server that speaks HTTP and knows no inference, on a real socket, for the length of a test."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import pytest
import trustme
import uvloop

from proteus_cli.serving.http1.connection import HttpConnection
from proteus_cli.serving.http1.exchange import Answer, Exchange, Refusal
from proteus_cli.serving.http1.request_parser import KnownHeads
from proteus_cli.serving.http1.states import HttpLimits, HttpTimeouts
from proteus_cli.serving.transport.connections import MIN_BYTES_PER_S, Connections
from proteus_cli.serving.transport.listening import accepting

WITHIN_S = 20.0
TIMEOUTS = HttpTimeouts(request_s=30.0, keep_alive_s=60.0)
LIMITS = HttpLimits(body_bytes=2**20)
BYE = b"GET /bye HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n"


@dataclass
class Parrot:
    """Says at once what it was asked; ``/later`` waits for `release`, ``/large`` has an answer of 1 MiB."""

    waiting: list[Exchange] = field(default_factory=list)
    abandoned_targets: list[bytes] = field(default_factory=list)
    handled: int = 0
    may_read: Callable[[bytes, Mapping[bytes, bytes]], bool] = lambda _target, _headers: True

    def route(self, method: bytes, target: bytes, headers: Mapping[bytes, bytes]) -> Answer:
        if not self.may_read(target, headers):
            raise Refusal(401, "no", b"www-authenticate: Bearer\r\n")
        return self.handle

    def handle(self, exchange: Exchange) -> None:
        self.handled += 1
        if exchange.head.target.startswith(b"/later"):
            self.waiting.append(exchange)
        else:
            self.answer(exchange)

    def answer(self, exchange: Exchange) -> None:
        head = exchange.head
        body = bytes(2**20) if head.target == b"/large" else said(head.method, head.target, exchange.body)
        exchange.respond(200, b"text/plain", body)

    def release(self, place: int = 0) -> None:
        self.answer(self.waiting.pop(place))

    def abandoned(self, exchange: Exchange) -> None:
        self.abandoned_targets.append(exchange.head.target)
        self.waiting.remove(exchange)


def said(method: bytes, target: bytes, body: bytes | bytearray = b"") -> bytes:
    """What the parrot says to that."""
    return b"%b %b %d %b" % (method, target, len(body), bytes(body[:64]))


class Counting(HttpConnection):
    """Tells how many bytes it was given, and how long its client did nothing when it was last checked and open."""

    read_bytes, rested_s = 0, 0.0

    def check_timeouts(self, now_s: float) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self.rested_s = now_s - self._activity_since_s
        super().check_timeouts(now_s)

    def buffer_updated(self, nbytes: int) -> None:
        self.read_bytes += nbytes
        super().buffer_updated(nbytes)


@dataclass
class World:
    parrot: Parrot
    connections: Connections
    port: int
    tls: ssl.SSLContext | None = None
    made: list[Counting] = field(default_factory=list)

    async def connect(self) -> "Client":
        self.made.clear()
        if self.tls is not None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls)
            return TlsClient(reader, writer)
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port))
        return Client(client)

    async def talk(self, *pieces: bytes) -> bytes:
        """All that is answered to these pieces, each read by the server before the next one is sent."""
        client = await self.connect()
        listening = asyncio.create_task(client.rest())
        await until(lambda: bool(self.made))
        sent = list(accumulate(len(piece) for piece in pieces))
        for piece, goal in zip(pieces, sent, strict=True):
            await client.send(piece)
            await until(partial(lambda goal: self.made[-1].read_bytes >= goal or listening.done(), goal))
        answer = await listening
        client.close()
        return answer

    def later(self, after_s: float) -> None:
        """Let so much time pass for the connections: their clock stands still otherwise."""
        self.connections.check_timeouts(self.connections.now_s + after_s)

    async def given_up_late_s(self) -> float:
        """Let time pass by the second until the last connection is aborted, as nobody reads what it has to send.

        Returns how much later that was than it might have been.
        """
        connection = self.made[-1]
        async with asyncio.timeout(WITHIN_S):
            while len(self.connections):
                self.later(1.0)
                await asyncio.sleep(0.001)
        assert connection._max_unsent_bytes > 0
        return connection.rested_s - TIMEOUTS.request_s - connection._max_unsent_bytes / MIN_BYTES_PER_S

    async def is_empty(self) -> None:
        """Until nothing is left of any conversation."""
        await until(lambda: len(self.connections) == 0 and self.connections.body_bytes == 0)


class Client:
    """A plain socket."""

    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw

    async def send(self, content: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.raw, content)

    async def some(self, size: int = 2**16) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.raw, size), WITHIN_S)

    async def rest(self) -> bytes:
        """All until the server closes."""
        content = b""
        while piece := await self.some():
            content += piece
        return content

    async def until_has(self, text: bytes, times: int = 1) -> bytes:
        """What comes, up to and with the piece that has this text so often."""
        content = b""
        while content.count(text) < times:
            piece = await self.some()
            assert piece, content
            content += piece
        return content

    def say_no_more(self) -> None:
        self.raw.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.raw.close()

    def reset(self) -> None:
        """Go without a goodbye."""
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.raw.close()


class TlsClient(Client):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, content: bytes) -> None:
        self._writer.write(content)
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def some(self, size: int = 2**16) -> bytes:
        return await asyncio.wait_for(self._reader.read(size), WITHIN_S)

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        self._writer.transport.abort()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not holds():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def world(
    limits: HttpLimits = LIMITS,
    *,
    most: int = 100,
    max_body_bytes: int = 2**22,
    parrot: Parrot | None = None,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
) -> AsyncIterator[World]:
    """A server whose connections have `TIMEOUTS`."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    connections = Connections(max_connections=most, max_body_bytes=max_body_bytes)
    known_heads = KnownHeads()
    server_tls, client_tls = contexts or (None, None)
    here = World(parrot or Parrot(), connections, listener.getsockname()[1], client_tls)

    def factory() -> Counting:
        here.made.append(Counting(here.parrot, connections, known_heads, limits, TIMEOUTS))
        return here.made[-1]

    async with accepting(listener, factory, server_tls):
        try:
            yield here
        finally:
            await connections.close(0.0)


def run(conversation: Callable[[World], Awaitable[Any]], limits: HttpLimits = LIMITS, **more: Any) -> World:
    """Have a conversation with a world, after which nothing is left of it."""

    async def go() -> World:
        async with world(limits, **more) as here:
            await conversation(here)
            await here.is_empty()
            assert here.parrot.waiting == []
            return here

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(go())


def certificates() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's side and a client's."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return server, client


def post(target: bytes, body: bytes, headers: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n%b\r\n%b" % (target, len(body), headers, body)


def chunked(target: bytes, chunks: Iterable[bytes], trailer: bytes = b"") -> bytes:
    sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
    return b"POST %b HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n%b0\r\n%b\r\n" % (
        target,
        sent,
        trailer,
    )


def answers(content: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each answer, in order; those to HEAD have no body."""
    found = []
    while content:
        head, _, content = content.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:])
        status, size = int(lines[0].split()[1]), int(headers.get(b"content-length", 0))
        found.append((status, content[:size]))
        content = content[size:]
    return found


SAID_BYE = (200, said(b"GET", b"/bye"))
TLS = certificates()
plain_and_tls = pytest.mark.parametrize("contexts", [None, TLS], ids=["plain", "TLS"])


def talk(*pieces: bytes) -> list[tuple[int, bytes]]:
    """What is answered to these pieces, in a world of its own."""
    found: list[tuple[int, bytes]] = []

    async def conversation(world: World) -> None:
        found.extend(answers(await world.talk(*pieces)))

    run(conversation)
    return found
