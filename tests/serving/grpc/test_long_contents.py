"""Over gRPC, many typed numbers and compressed messages wait for a turn of their own; each request ends once."""

import asyncio
import gc
import gzip
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, cast

import numpy as np
import pytest
from grpc_client import INFER, STREAM, Client
from one_device import LONG, World, run
from tritonclient.grpc import service_pb2

from proteus_cli.domain.request import Outcome
from proteus_cli.serving.grpc import framing, inference
from proteus_cli.serving.grpc.framing import framed
from proteus_cli.serving.grpc.service import GrpcHandler
from proteus_cli.serving.http2.frames import ErrorCode, rst_stream
from proteus_cli.serving.lifecycle import LifecycleEvent
from proteus_cli.serving.oip.codes import GrpcStatus

ROWS = 8
TENSOR_BYTES = ROWS * 2 * LONG.itemsize
METHODS = pytest.mark.parametrize("path", [INFER, STREAM])
KINDS = pytest.mark.parametrize("is_compressed", [False, True], ids=["numbers", "compressed"])


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_AT_ONCE_BYTES", 2)


class Asked:
    """A request of `ROWS` rows of two small whole numbers, and the turns that it takes.

    Its message has ``size`` bytes. Where it ``is_compressed``, its numbers are the bytes of the tensor.
    """

    def __init__(self, world: World, path: str, values: int = 2 * ROWS, *, is_compressed: bool = False) -> None:
        handler = GrpcHandler(
            world.plane.admission, world.plane.families, models=cast("Any", None), max_message_bytes=2**20
        )
        self.world, self.client, self.handler = world, Client(handler=handler), handler
        request = service_pb2.ModelInferRequest(model_name="f", id="a")
        tensor = request.inputs.add(name="x", datatype="INT64", shape=[ROWS, 2])
        if is_compressed:
            request.raw_input_contents.append(np.arange(values, dtype=LONG).tobytes())
        else:
            tensor.contents.int64_contents.extend(range(values))
        request.parameters["timeout"].int64_param = 20_000_000
        message = request.SerializeToString()
        self.size = len(message)
        if is_compressed:
            packed = gzip.compress(message)
            frame = b"\1" + len(packed).to_bytes(4, "big") + packed
            self.stream = self.client.call(path, frame, grpc_encoding="gzip")
        else:
            self.stream = self.client.call(path, framed(message))

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


def is_of_request(task: "asyncio.Task[Any]") -> bool:
    return "_submit_long" in repr(task.get_coro())


def play(scene: Callable[[World], Awaitable[None]]) -> None:
    run(scene, dtype=LONG)


@METHODS
@KINDS
def test_they_are_read_in_a_turn_and_answered(path: str, *, is_compressed: bool) -> None:
    async def scene(world: World) -> None:
        asked = Asked(world, path, is_compressed=is_compressed)
        assert world.plane.results.in_flight_count == 0
        assert await asked.take_turns() == 1
        assert world.plane.results.in_flight_count == 1
        while not world.executor.held:
            await asyncio.sleep(0.001)
        world.executor.release()
        await asyncio.sleep(0.01)
        assert asked.client.status(asked.stream) is GrpcStatus.OK
        assert asked.ended == ({Outcome.SERVED: 1}, {}, 0)

    play(scene)


@METHODS
@KINDS
def test_too_few_of_them_are_one_refusal(path: str, *, is_compressed: bool) -> None:
    async def scene(world: World) -> None:
        asked = Asked(world, path, values=ROWS, is_compressed=is_compressed)
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
        await asyncio.sleep(0)
        asked.client.peer.connection.data_received(rst_stream(asked.stream, ErrorCode.CANCEL))
        await asked.take_turns()
        assert asked.ended == ({Outcome.DROPPED: 1}, {}, 1)

    play(scene)


@METHODS
def test_their_tensors_count_as_memory_before_they_are_read(path: str) -> None:
    async def scene(world: World) -> None:
        asked = Asked(world, path)
        connections = asked.client.peer.connections
        before = connections.body_bytes
        await asyncio.sleep(0)
        assert connections.body_bytes - before == TENSOR_BYTES
        asked.client.peer.connection.data_received(rst_stream(asked.stream, ErrorCode.CANCEL))
        assert connections.body_bytes == 0

    play(scene)


@METHODS
def test_those_for_whose_tensors_there_is_no_memory_are_refused(path: str) -> None:
    async def scene(world: World) -> None:
        asked = Asked(world, path)
        connections = asked.client.peer.connections
        connections._max_body_bytes = connections.body_bytes + TENSOR_BYTES - 1
        await asked.take_turns()
        assert asked.client.peer.is_answered(asked.stream)
        assert asked.ended == ({}, {"NotReady": 1}, 0)
        assert connections.body_bytes == 0

    play(scene)


@METHODS
@KINDS
@pytest.mark.parametrize("turns_before", [0, 1])
def test_a_client_that_goes_leaves_nothing_to_the_garbage_collector(
    path: str, turns_before: int, *, is_compressed: bool
) -> None:
    """Which may come much later, when many requests have gone."""

    async def scene(world: World) -> None:
        asked = Asked(world, path, is_compressed=is_compressed)
        for _ in range(turns_before):
            await asyncio.sleep(0)
        (task,) = (weakref.ref(task) for task in asyncio.all_tasks() - {asyncio.current_task()} if is_of_request(task))
        asked.client.peer.connection.data_received(rst_stream(asked.stream, ErrorCode.CANCEL))
        await asked.take_turns()
        assert task() is None

    gc.disable()
    try:
        play(scene)
    finally:
        gc.enable()


@METHODS
def test_what_is_unpacked_counts_as_memory(path: str) -> None:
    async def scene(world: World) -> None:
        asked = Asked(world, path, is_compressed=True)
        connections = asked.client.peer.connections
        before = connections.body_bytes
        await asked.take_turns()
        assert connections.body_bytes - before == asked.size
        world.executor.release()
        await asyncio.sleep(0.01)
        assert asked.client.status(asked.stream) is GrpcStatus.OK
        assert connections.body_bytes == 0

    play(scene)


@METHODS
def test_a_message_that_unpacks_to_more_than_is_unpacked_in_time_is_refused(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(world: World) -> None:
        asked = Asked(world, path, is_compressed=True)
        await asked.take_turns()
        assert asked.client.peer.is_answered(asked.stream)
        assert asked.ended == ({}, {"BodyTooLarge": 1}, 0)

    monkeypatch.setattr(framing, "MAX_UNPACKED_BYTES", 99)
    play(scene)


@METHODS
def test_a_message_for_which_there_is_no_memory_once_it_is_unpacked_is_refused(path: str) -> None:
    async def scene(world: World) -> None:
        asked = Asked(world, path, is_compressed=True)
        connections = asked.client.peer.connections
        connections._max_body_bytes = connections.body_bytes + asked.size // 2
        await asked.take_turns()
        assert asked.client.peer.is_answered(asked.stream)
        assert asked.ended == ({}, {"NotReady": 1}, 0)
        assert connections.body_bytes == 0

    play(scene)
