"""Listening sockets, the connections that they accept, and how many of them the process can hold open."""

import asyncio
import logging
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address

from proteus_cli.errors import ServerError
from proteus_cli.serving.transport.connections import MAX_REFUSED_OPEN

log = logging.getLogger("proteus.server")

BACKLOG = 4096  # of connections to be accepted: the most that Linux allows by default
RESERVED_FILES = 128 + MAX_REFUSED_OPEN  # open files other than admitted connections
HANDSHAKE_TIMEOUT_S = 10.0
SHUTDOWN_TIMEOUT_S = 2.0  # for the client to answer our close_notify

Factory = Callable[[], asyncio.BaseProtocol]

_HINT = "choose another with `--port` or `--grpc-port` (0 picks a free one), or with `--host`"


def listen(host: str, port: int, *, hint: str = _HINT) -> socket.socket:
    """A listening TCP socket; port 0 picks a free port. Raises `ServerError`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:  # the last of what is no host name
        raise ServerError(f"Can't listen on {host}:{port}: {error}.", hint=hint) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ServerError(f"Can't listen on {host}:{port}: {error.strerror}.", hint=hint) from error
    return listener


@asynccontextmanager
async def accepting(
    listener: socket.socket, factory: Factory, tls: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """Accept connections, each with a protocol from ``factory``, until the context is left.

    With TLS, a connection gets its protocol once its handshake is done.
    """
    server = await asyncio.get_running_loop().create_server(
        factory, sock=listener, backlog=BACKLOG, ssl=tls,
        ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if tls is not None else None,
        ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S if tls is not None else None,
    )  # fmt: skip
    try:
        yield
    finally:
        server.close()


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach the socket."""
    return ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def url_of(scheme: str, listener: socket.socket, *, uses_tls: bool) -> str:
    """The URL of a listening socket, such as ``http://127.0.0.1:8000``."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}{'s' if uses_tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"


def max_connections(wanted: int, ports: int) -> int:
    """``wanted`` connections of each port, or fewer if the process may not open that many files, even at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = ports * wanted + RESERVED_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    possible = min(wanted, max(1, (soft - RESERVED_FILES) // ports))
    if possible < wanted:
        log.warning("at most %d connections on each port, as this process may open %d files", possible, soft)
    return possible
