"""Accepts connections; with TLS, it bounds handshakes in number and time."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from proteus_cli.serving.transport.listening import BACKLOG

MAX_HANDSHAKES = 256  # at once; one more cancels the oldest
HANDSHAKE_TIMEOUT_S = 10.0
SHUTDOWN_TIMEOUT_S = 2.0  # for the client to answer our close_notify
MAX_ACCEPTS_PER_WAKE_UP = 64
ACCEPT_RETRY_S = 0.1  # after the process could not open another file

log = logging.getLogger("proteus.tls")

Factory = Callable[[], asyncio.BaseProtocol]


@asynccontextmanager
async def accepting(
    listener: socket.socket, factory: Factory, tls: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """Accept connections, each with a protocol from ``factory``, until the context is left."""
    if tls is not None:
        async with _TlsListener(listener, factory, tls):
            yield
        return
    server = await asyncio.get_running_loop().create_server(factory, sock=listener, backlog=BACKLOG)
    try:
        yield
    finally:
        server.close()


class _TlsListener:
    """Accepts connections, and gives each a protocol once its handshake is done.

    During the handshake a connection has no protocol that could count it, so handshakes are bounded here.
    """

    def __init__(self, listener: socket.socket, factory: Factory, tls: ssl.SSLContext) -> None:
        self._listener, self._factory, self._tls = listener, factory, tls
        self._loop = asyncio.get_running_loop()
        self._handshakes: dict[asyncio.Task[None], None] = {}  # oldest first
        self._is_open = False

    async def __aenter__(self) -> None:
        self._listener.setblocking(False)
        self._is_open = True
        self._loop.add_reader(self._listener, self._accept)

    async def __aexit__(self, *_: object) -> None:
        self._is_open = False
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for task in self._handshakes:
            task.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTS_PER_WAKE_UP):
            try:
                client, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("cannot accept connections: %s", error.strerror)
                self._loop.remove_reader(self._listener)
                self._loop.call_later(ACCEPT_RETRY_S, self._resume_accepting)
                return
            if len(self._handshakes) >= MAX_HANDSHAKES:
                oldest = next(iter(self._handshakes))
                del self._handshakes[oldest]
                oldest.cancel()
            task = self._loop.create_task(self._handshake(client))
            self._handshakes[task] = None
            task.add_done_callback(lambda task: self._handshakes.pop(task, None))

    def _resume_accepting(self) -> None:
        if self._is_open:
            self._loop.add_reader(self._listener, self._accept)

    async def _handshake(self, client: socket.socket) -> None:
        client.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(
                self._factory,
                client,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            )
        except OSError as error:  # no common version of TLS, a client that left, or a timeout
            log.debug("TLS handshake failed: %s", error)
