"""A lean HTTP/1.1 client, as the load generator often shares a machine with the server that it measures."""

import asyncio
import os
import re
import ssl
from dataclasses import dataclass, field
from typing import cast

import httptools

from proteus_cli.errors import UsageError
from proteus_cli.urls import split_url

CLOSE_TIMEOUT_S = 2.0
_HEADER_BYTES = 200  # what a header takes in memory besides its text
MAX_REPLIES_BYTES = 256 << 20  # of all replies that are coming in: what a bad server can cost


@dataclass(slots=True)
class HttpReply:
    """A whole response; header names are lower-case."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


class _Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time. ``lost`` is done once it is closed."""

    def __init__(self, client: "HttpClient") -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._future: asyncio.Future[HttpReply] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reply, self._body, self._bytes = HttpReply(), bytearray(), 0
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes) -> "asyncio.Future[HttpReply]":
        """Send a request; raises `OSError` through the future where the connection breaks."""
        if self._transport is None:
            raise RuntimeError("not connected yet")
        self._future = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._future

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._count(-self._bytes)
        self.lost.set_result(None)
        self._fail(exc if isinstance(exc, OSError) else ConnectionError("the server closed the connection"))

    # httptools.HttpResponseParser

    def on_message_begin(self) -> None:
        self._reply, self._body = HttpReply(), bytearray()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + _HEADER_BYTES)
        self._reply.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._count(len(body))
        if self.is_open:
            self._body += body

    def on_message_complete(self) -> None:
        self._reply.body, self._body = bytes(self._body), bytearray()
        self._count(-self._bytes)
        self._reply.status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        if self._future is not None and not self._future.done():
            self._future.set_result(self._reply)

    def _count(self, received_bytes: int) -> None:
        """Count what the incoming reply takes; below 0, what it no longer takes."""
        self._bytes += received_bytes
        self._client.left_bytes -= received_bytes
        if self._client.left_bytes < 0:
            self._fail(ConnectionError("its replies are too large"))

    def _fail(self, error: Exception) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_exception(error)
        self.close()


def why_unreachable(error: OSError) -> str:
    """The reason that an error of a connection gives, without numbers: ``Connection refused``.

    asyncio puts addresses in place of the system's words, and joins the errors of several addresses to one text.
    """
    numbers = dict.fromkeys(map(int, re.findall(r"\[Errno (\d+)\]", str(error))))
    return ", ".join(map(os.strerror, numbers)) or error.strerror or str(error)


class HttpClient:
    """A pool of connections to one server, one for each request in flight; the one that was used last is reused first.

    ``token`` is sent with every request. ``tls`` is the context for https, by default with the system's authorities.
    `contextlib.aclosing` closes it. Raises `UsageError` where ``url`` is not the URL of a server.
    """

    def __init__(self, url: str, token: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.url = url.rstrip("/")
        parts = split_url(url, of="server", hint="write it like http://127.0.0.1:8000")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise UsageError("The token can't be sent: it holds other characters than ASCII.")
        self._host, is_tls = str(parts.hostname), parts.scheme == "https"
        self._tls = (tls or ssl.create_default_context()) if is_tls else None
        self._port = parts.port or (443 if is_tls else 80)
        self._authorization = f"Authorization: Bearer {token}\r\n" if token is not None else ""
        self._prefix = parts.path.rstrip("/")
        self._netloc = parts.netloc.rpartition("@")[2]
        self.left_bytes = MAX_REPLIES_BYTES  # for the replies that are coming in
        self._all: set[_Connection] = set()
        self._idle: list[_Connection] = []

    async def get(self, path: str) -> HttpReply:
        """Raises `OSError` where the server can't be reached."""
        return await self._ask(b"%b\r\n" % self.head("GET", path))

    async def post(self, head: bytes, headers: bytes, body: bytes) -> HttpReply:
        """``head`` is from `head`; ``headers`` are whole lines. Raises `OSError`."""
        return await self._ask(b"%bContent-Length: %d\r\n%b\r\n%b" % (head, len(body), headers, body))

    def head(self, method: str, path: str) -> bytes:
        """The first lines of a request."""
        return f"{method} {self._prefix}{path} HTTP/1.1\r\nHost: {self._netloc}\r\n{self._authorization}".encode()

    async def _ask(self, request: bytes) -> HttpReply:
        connection = await self._connection()
        try:
            return await connection.ask(request)
        except BaseException:
            connection.close()
            raise
        finally:
            if connection.is_open:
                self._idle.append(connection)

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: _Connection(self), self._host, self._port, ssl=self._tls)
        self._all.add(connection)
        connection.lost.add_done_callback(lambda _: self._all.discard(connection))
        return connection

    async def aclose(self) -> None:
        """Close all connections, and wait until they are closed: with TLS, both sides take part."""
        closing = list(self._all)
        for connection in closing:
            connection.close()
        if closing:
            await asyncio.wait([connection.lost for connection in closing], timeout=CLOSE_TIMEOUT_S)
