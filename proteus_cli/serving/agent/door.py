"""Accepts the connections to an agent: of servers, and of servers to devices, which it hands to their processes."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from proteus_cli.serving.devices.remote.channel.handing_over import HANDSHAKE_S, MAGIC, TOKEN_BYTES

MAX_AT_DOOR = 256
"""Connections that have not said who they are; one more closes the oldest."""

RETRY_S = 0.1
"""Before the next connection, where the process could not open another file."""

log = logging.getLogger("proteus.agent")

HandOver = Callable[[bytes, socket.socket], bool]
"""Takes the connection of a token; False where there is none like it."""


@asynccontextmanager
async def accepting(
    listener: socket.socket, accept: Callable[[], asyncio.BaseProtocol], hand_over: HandOver, tls: ssl.SSLContext | None
) -> AsyncIterator[None]:
    """Accept connections until left: each gets a protocol once its handshake is done, or is handed over before."""
    loop = asyncio.get_running_loop()
    at_door: dict[asyncio.Task[None], None] = {}  # oldest first

    async def let_in() -> None:
        listener.setblocking(False)
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except (OSError, MemoryError) as error:
                log.warning("cannot accept connections: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            if len(at_door) >= MAX_AT_DOOR:
                oldest = next(iter(at_door))
                del at_door[oldest]
                oldest.cancel()
            task = loop.create_task(_let_in(connection, accept, hand_over, tls))
            at_door[task] = None
            task.add_done_callback(lambda task: at_door.pop(task, None))

    accepts = loop.create_task(let_in())
    try:
        yield
    finally:
        for task in (accepts, *at_door):
            task.cancel()
        await asyncio.gather(accepts, *at_door, return_exceptions=True)
        listener.close()


async def _let_in(
    connection: socket.socket,
    accept: Callable[[], asyncio.BaseProtocol],
    hand_over: HandOver,
    tls: ssl.SSLContext | None,
) -> None:
    loop, is_taken = asyncio.get_running_loop(), False
    try:
        connection.setblocking(False)
        async with asyncio.timeout(HANDSHAKE_S):
            await _readable(connection)
            if connection.recv(1, socket.MSG_PEEK) == MAGIC[:1]:
                said = b""
                while len(said) < len(MAGIC) + TOKEN_BYTES:
                    piece = await loop.sock_recv(connection, len(MAGIC) + TOKEN_BYTES - len(said))
                    if not piece:
                        return
                    said += piece
                is_taken = said.startswith(MAGIC) and hand_over(said[len(MAGIC) :], connection)
                return
        is_taken = True
        await loop.connect_accepted_socket(
            accept, connection, ssl=tls, ssl_handshake_timeout=None if tls is None else HANDSHAKE_S
        )
    except OSError as error:  # no common version of TLS, a client that left, or a timeout
        log.debug("a connection has ended before its handshake: %s", error)
    finally:
        if not is_taken:
            connection.close()


async def _readable(connection: socket.socket) -> None:
    """Wait for the first byte, which stays to be read, or the end."""
    loop, is_readable = asyncio.get_running_loop(), asyncio.Event()
    with connection.dup() as watched:  # uvloop has a descriptor either watched or in a transport for a while
        loop.add_reader(watched, is_readable.set)
        try:
            await is_readable.wait()
        finally:
            loop.remove_reader(watched)
