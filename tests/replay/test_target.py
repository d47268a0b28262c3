"""What is sent to a server, and how its answers are read: real sockets, and a server that answers as it is told."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from proteus_cli.domain.request import Outcome
from proteus_cli.replay.target import HttpTarget, Reply, http_target

METADATA = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}
STATUS = {"policy": "proteus", "slo_s": {"a": 0.1}, "best_accuracy": {"a": 0.9}, "pace": {}, "changes": []}
PAGES = {"/v2/models/a": METADATA, "/v2/proteus/status": STATUS}


class Server:
    """Keeps the JSON of each inference request, and answers it with ``answer``."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        self.connections: list[asyncio.Task[Any] | None] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(asyncio.current_task())
        while head := await reader.readline():
            headers = {}
            while (line := await reader.readline()).strip():
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            page = PAGES.get(head.decode().split()[1])
            if page is None:
                self.asked.append(msgspec.json.decode(body[: int(headers["inference-header-content-length"])]))
                writer.write(self.answer)
            else:
                json = msgspec.json.encode(page)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(json), json))
        writer.close()
        await writer.wait_closed()


def played(server: Server, use: Callable[[HttpTarget], Awaitable[Reply]]) -> Reply:
    async def play() -> Reply:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        async with listening:
            async with http_target(f"http://127.0.0.1:{port}") as target:
                await target.prepare(("a",))
                reply = await use(target)
            await asyncio.gather(*filter(None, server.connections))
            return reply

    return asyncio.run(play())


def refusing(status: int, header: str = "") -> bytes:
    return f"HTTP/1.1 {status} No\r\n{header}Content-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("minimum", "sent"), [(0.0, {}), (0.875, {"min_accuracy": 0.875}), (1e-9, {"min_accuracy": 1e-9})]
)
def test_time_left_and_minimum_are_sent_as_parameters(minimum: float, sent: dict[str, float]) -> None:
    server = Server(refusing(429))
    played(server, lambda target: target.send("a", 0, 0.05, minimum))
    assert server.asked[0]["parameters"] == {"binary_data_output": True, "timeout": 50_000, **sent}


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (refusing(429), Outcome.REJECTED),
        (refusing(503), Outcome.REJECTED),
        (refusing(504), Outcome.DROPPED),
        (refusing(504, "proteus-outcome: late\r\n"), Outcome.LATE),
        (refusing(400, "proteus-outcome: rejected\r\n"), Outcome.REJECTED),
        (refusing(400), Outcome.FAILED),
        (refusing(400, "proteus-outcome: served\r\n"), Outcome.FAILED),
        (refusing(500), Outcome.FAILED),
    ],
)
def test_the_outcome_is_that_of_the_header_or_else_of_the_status(answer: bytes, outcome: Outcome) -> None:
    assert played(Server(answer), lambda target: target.send("a", 0, 0.05, 0.9)) == Reply(outcome)
