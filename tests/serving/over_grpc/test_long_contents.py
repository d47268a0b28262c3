"""Many typed values over gRPC are read in turns, and each request of them ends once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from grpc_client import INFER, STREAM, Client
from one_device import World, run
from tritonclient.grpc import service_pb2

from proteus_cli.domain.request import Outcome
from proteus_cli.serving.grpc import inference, protobuf_wire
from proteus_cli.serving.grpc.framing import framed
from proteus_cli.serving.grpc.service import GrpcHandler
from proteus_cli.serving.http2.frames import ErrorCode, rst_stream
from proteus_cli.serving.lifecycle import LifecycleEvent
from proteus_cli.serving.oip.codes import GrpcStatus

ROWS = 8
METHODS = pytest.mark.parametrize("path", [INFER, STREAM])


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (inference, protobuf_wire):
        monkeypatch.setattr(module, "SLICE_BYTES", 8)  # two values


class Asked:
    """A request of `ROWS` rows of two floats, and the turns that it takes."""

    def __init__(self, world: World, path: str, values: int = 2 * ROWS) -> None:
        handler = GrpcHandler(
            world.plane.admission, world.plane.families, models=cast("Any", None), max_message_bytes=2**20
        )
        self.world, self.client = world, Client(handler=handler)
        request = service_pb2.ModelInferRequest(model_name="f", id="a")
        request.inputs.add(
            name="x", datatype="FP32", shape=[ROWS, 2], contents={"fp32_contents": [float(at) for at in range(values)]}
        )
        request.parameters["timeout"].int64_param = 20_000_000
        self.stream = self.client.call(path, framed(request.SerializeToString()), ended=True)

    async def take_turns(self, count: int = 100) -> int:
        """How many were taken of that many, until none is left."""
        for taken in range(count):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if not self.client.peer.turns:
                return taken
            self.client.peer.turns.popleft()()
        return count

    @property
    def ended(self) -> tuple[dict[Outcome, int], dict[str, int], int]:
        counts = self.world.plane.counts
        return self.world.counted, dict(counts.refusals), counts.by_family["f"].cancelled


def play(scene: Callable[[World], Awaitable[None]]) -> None:
    run(scene)


@METHODS
def test_they_are_read_in_turns_and_answered(path: str) -> None:
    async def scene(world: World) -> None:
        asked = Asked(world, path)
        assert world.plane.results.in_flight_count == 0
        assert await asked.take_turns() >= ROWS
        assert world.plane.results.in_flight_count == 1
        while not world.executor.held:
            await asyncio.sleep(0.001)
        world.executor.release()
        await asyncio.sleep(0.01)
        assert asked.client.status(asked.stream) is GrpcStatus.OK
        assert asked.ended == ({Outcome.SERVED: 1}, {}, 0)

    play(scene)


@METHODS
def test_too_few_of_them_are_one_refusal(path: str) -> None:
    async def scene(world: World) -> None:
        asked = Asked(world, path, values=ROWS)
        await asked.take_turns()
        assert asked.client.peer.is_answered(asked.stream)
        assert asked.ended == ({}, {"BadRequest": 1}, 0)

    play(scene)


@METHODS
def test_they_are_refused_before_they_are_read_and_once(path: str) -> None:
    async def scene(world: World) -> None:
        world.plane.lifecycle.on(LifecycleEvent.STOPPED)
        asked = Asked(world, path)
        await asked.take_turns()
        assert asked.client.peer.is_answered(asked.stream)
        assert asked.ended == ({}, {"NotReady": 1}, 0)

    play(scene)


@METHODS
def test_a_client_that_goes_meanwhile_is_one_cancelled_request(path: str) -> None:
    async def scene(world: World) -> None:
        asked = Asked(world, path)
        await asked.take_turns(3)
        asked.client.peer.connection.data_received(rst_stream(asked.stream, ErrorCode.CANCEL))
        await asked.take_turns()
        assert asked.ended == ({Outcome.DROPPED: 1}, {}, 1)

    play(scene)
