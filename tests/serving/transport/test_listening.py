"""Sockets to listen on."""

import asyncio
import socket
from contextlib import ExitStack

import pytest

from proteus_cli.errors import ServerError
from proteus_cli.serving.transport.listening import accepting, listen

AT_ONCE = 300  # asyncio's own backlog is 100
WITHIN_S = 20.0


def test_connections_that_come_while_the_loop_is_busy_wait_to_be_accepted() -> None:
    """One beyond the backlog would wait until the loop takes others out of it: here, for ever."""

    async def run() -> None:
        with listen("127.0.0.1", 0) as listener, ExitStack() as crowd:
            async with accepting(listener, asyncio.Protocol):
                at = listener.getsockname()
                for _ in range(AT_ONCE):
                    connected = crowd.enter_context(socket.create_connection(at, timeout=WITHIN_S))
                    assert connected.getpeername() == at

    asyncio.run(run())


@pytest.mark.parametrize("host", ["..", "a..b", "x" * 300])
def test_what_is_no_host_name_is_refused(host: str) -> None:
    with pytest.raises(ServerError, match="Can't listen on"):
        listen(host, 0)
