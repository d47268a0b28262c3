"""Sockets to listen on, and how many connections the process can have."""

import logging
import resource
import socket
from ipaddress import ip_address

from proteus_cli.errors import ServerError
from proteus_cli.serving.transport.connections import LEAVING

log = logging.getLogger("proteus.server")

BACKLOG = 4096  # as many as Linux lets wait to be accepted
OWN_FILES = 128 + LEAVING  # what the process has open besides connections that it serves


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 picks a free one. Raises `ServerError`."""
    hint = "choose another with `--port` or `--grpc-port` (0 picks a free one), or with `--host`"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise ServerError(f"Can't listen on {host}:{port}: {error}.", hint=hint) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ServerError(f"Can't listen on {host}:{port}: {error.strerror}.", hint=hint) from error
    return listener


def is_local(listener: socket.socket) -> bool:
    """Only this machine can reach it."""
    return ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def url_of(scheme: str, listener: socket.socket, *, is_safe: bool) -> str:
    """Where it listens; ``is_safe``: with TLS."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}{'s' if is_safe else ''}://{f'[{host}]' if ':' in host else host}:{port}"


def max_connections(wanted: int) -> int:
    """As many as are wanted and as the system lets a process have, which is raised to what may be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OWN_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = min(wanted, max(1, soft - OWN_FILES))
    if most < wanted:
        log.warning("at most %d connections, as this process may open %d files", most, soft)
    return most
