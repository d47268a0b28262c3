"""`RepositoryModelLoad` answers once the catalog was read and followed; other calls go on meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from grpc_client import Client
from small_plane import SmallPlane
from tritonclient.grpc import service_pb2
from virtual_loop import VirtualLoop

from proteus_cli.errors import Unprocessable
from proteus_cli.serving.grpc.framing import framed
from proteus_cli.serving.grpc.service import GrpcHandler
from proteus_cli.serving.http2 import frames
from proteus_cli.serving.oip.codes import GrpcStatus
from proteus_cli.serving.oip.repository import ModelRepository
from proteus_cli.serving.transport.tokens import Tokens

SERVICE = "/inference.GRPCInferenceService"
READ_S = 5.0
TOKEN = "f00d" * 8


class Catalog:
    """Takes its time to be followed, and cannot be where there is a ``problem``."""

    def __init__(self, problem: str = "") -> None:
        self.problem, self.read = problem, 0

    async def refresh(self) -> None:
        await asyncio.sleep(READ_S)
        self.read += 1
        if self.problem:
            raise Unprocessable(self.problem)


def talk(catalog: Catalog, conversation: Callable[[Client], Awaitable[None]]) -> None:
    async def run() -> None:
        plane = cast("Any", SmallPlane())
        models = ModelRepository(
            plane, plane, plane.lifecycle, plane, plane.clock, platform="numpy", profiles={}, refresh=catalog.refresh
        )
        await conversation(
            Client(handler=GrpcHandler(plane, plane, models=models, tokens=Tokens([TOKEN]), max_message_bytes=2**20))
        )

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


def load(client: Client, name: str) -> int:
    request = service_pb2.RepositoryModelLoadRequest(model_name=name)
    return client.call(
        f"{SERVICE}/RepositoryModelLoad", framed(request.SerializeToString()), authorization=f"Bearer {TOKEN}"
    )


def test_a_load_is_answered_once_the_catalog_is_followed() -> None:
    catalog = Catalog()

    async def loading(client: Client) -> None:
        stream, live = load(client, "two"), client.call(f"{SERVICE}/ServerLive", framed(b""))
        await asyncio.sleep(READ_S / 2)
        assert client.status(live) is GrpcStatus.OK
        assert not client.peer.is_answered(stream)
        await asyncio.sleep(READ_S)
        assert (client.status(stream), client.messages(stream), catalog.read) == (GrpcStatus.OK, [b""], 1)

    talk(catalog, loading)


@pytest.mark.parametrize(
    ("problem", "name", "told"),
    [("the catalog can't be followed: why", "two", "the catalog can't be followed"), ("", "three", "no such model")],
)
def test_a_load_that_fails_says_why(problem: str, name: str, told: str) -> None:
    async def failing(client: Client) -> None:
        stream = load(client, name)
        await asyncio.sleep(2 * READ_S)
        assert client.status(stream) is GrpcStatus.INVALID_ARGUMENT
        assert told in client.fields(stream)["grpc-message"]

    talk(Catalog(problem), failing)


@pytest.mark.parametrize("problem", ["", "why"])
def test_a_load_goes_on_when_its_client_leaves_and_nobody_is_answered(problem: str) -> None:
    catalog = Catalog(problem)

    async def leaving(client: Client) -> None:
        stream = load(client, "two")
        await asyncio.sleep(READ_S / 2)
        client.peer.feed(frames.rst_stream(stream, frames.ErrorCode.CANCEL))
        sent = len(client.peer.of_kind(frames.HEADERS))
        await asyncio.sleep(READ_S)
        assert (catalog.read, len(client.peer.of_kind(frames.HEADERS))) == (1, sent)

    talk(catalog, leaving)
