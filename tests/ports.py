"""Ports of the loopback that stay a test's own while nobody listens there."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_port() -> Iterator[int]:
    """A port that the system gives to nobody else meanwhile.

    A server that is told to may listen there, one after another, as a socket that does not listen is in nobody's way
    who asks for ``SO_REUSEADDR``. While none does, connections are refused.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
