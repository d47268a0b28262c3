"""Long requests over REST wait for a turn of their own: others are served in between, and each request ends once."""

import asyncio
import gc
import gzip
import json
import logging
import weakref
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from one_device import World, run
from virtual_loop import VirtualLoop

from proteus_cli.domain.request import Outcome
from proteus_cli.serving.http1.exchange import NO_HEAD, Exchange, Head
from proteus_cli.serving.lifecycle import LifecycleEvent
from proteus_cli.serving.oip import tensors
from proteus_cli.serving.rest import inference
from proteus_cli.serving.rest.access import Access, KnownHosts
from proteus_cli.serving.rest.codec import codec, json_values
from proteus_cli.serving.rest.handler import RestHandler
from proteus_cli.serving.transport.connections import Connections
from proteus_cli.serving.transport.turns import WORK_AT_ONCE

AMPLE_US, SHORT_US = 20_000_000, 50_000
ROWS = 8
TENSOR_BYTES = ROWS * 2 * 4
VALUES = [float(value) for value in range(10, 10 + 2 * ROWS)]


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_AT_ONCE_BYTES", 160)


def body_of(values: Any = VALUES, rows: int = ROWS, **more: Any) -> bytes:
    tensor = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "data": values}
    return json.dumps({"inputs": [tensor], "parameters": {"timeout": AMPLE_US}, **more}).encode()


class Client:
    """Sends requests to a plane of two floats a row."""

    def __init__(self, world: World, connections: Connections) -> None:
        self.world, self.connections = world, connections
        self.shared: Any = None  # the connection of all requests; none: each has its own
        self.handler = RestHandler(
            world.plane.admission, world.plane.families, cast("Any", None),
            access=Access(None, KnownHosts(frozenset())), max_body_bytes=2**20,
        )  # fmt: skip

    def ask(self, values: Any = VALUES, rows: int = ROWS, *, gzipped: bool = False, **more: Any) -> Exchange:
        body = body_of(values, rows, **more)
        headers = {b"content-encoding": b"gzip"} if gzipped else {}
        return self.send(headers, gzip.compress(body) if gzipped else body)

    def send(self, headers: dict[bytes, bytes], body: bytes) -> Exchange:
        connection = self.shared or self.connect()
        asked = b"POST", b"/v2/models/f/infer", headers
        exchange = Exchange(connection, Head(*asked, self.handler.route(*asked)), body, keep_alive=True)
        exchange.head.answer(exchange)
        return exchange

    def connect(self) -> Any:
        return SimpleNamespace(response_ready=lambda _: None, connections=self.connections, reads_long=asyncio.Lock())

    def leave(self, exchange: Exchange) -> None:
        self.handler.abandoned(exchange)

    @property
    def refusals(self) -> dict[str, int]:
        return dict(self.world.plane.counts.refusals)


def answer(exchange: Exchange) -> tuple[int, Any]:
    assert exchange.response is not None
    head, _, body = b"".join(map(bytes, exchange.response)).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def play(scene: Callable[[Client], Awaitable[None]], **options: Any) -> None:
    async def with_connections(world: World) -> None:
        await scene(Client(world, Connections(max_connections=9, max_body_bytes=2**20)))

    run(with_connections, **options)


async def turns(count: int = 1) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def served(client: Client) -> None:
    """Until the batch that was launched is done, and its answers are encoded."""
    while not client.world.executor.held:
        await asyncio.sleep(0.001)
    client.world.executor.release()
    await asyncio.sleep(0.01)
    await turns(50)


# --- work


def test_json_that_is_read_at_once_counts_as_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_JSON_BYTES_PER_UNIT", 10)

    async def scene(client: Client) -> None:
        asked = client.ask([1.0, 2.0], rows=1)
        assert client.world.plane.results.in_flight_count == 1
        client.connections.loop_turn.spend(WORK_AT_ONCE - len(body_of([1.0, 2.0], 1)) // 10)
        assert client.connections.loop_turn.is_crowded
        await served(client)
        assert answer(asked)[0] == 200

    play(scene)


def test_in_a_crowd_json_that_is_not_short_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_JSON_BYTES_PER_UNIT", 10)

    async def scene(client: Client) -> None:
        client.connections.loop_turn.spend(WORK_AT_ONCE)
        asked = client.ask([1.0, 2.0], rows=1)
        assert client.world.plane.results.in_flight_count == 0
        await turns(5)
        assert client.world.plane.results.in_flight_count == 1
        await served(client)
        assert answer(asked)[0] == 200

    play(scene)


# --- each ends once


@pytest.mark.parametrize("gzipped", [False, True])
def test_a_long_request_is_answered(*, gzipped: bool) -> None:
    async def scene(client: Client) -> None:
        asked = client.ask(gzipped=gzipped, id="a")
        assert client.world.plane.results.in_flight_count == 0
        await served(client)
        status, document = answer(asked)
        assert (status, document["id"]) == (200, "a")
        assert document["outputs"][0]["data"] == [2 * value for value in VALUES]
        assert (client.world.counted, client.refusals) == ({Outcome.SERVED: 1}, {})

    play(scene)


def test_a_compressed_request_with_binary_tensors_is_answered() -> None:
    """Its head, which says where its JSON ends, is gone by the time that it is unpacked."""

    async def scene(client: Client) -> None:
        content = np.array(VALUES, np.float32).tobytes()
        parameters = {"binary_data_size": len(content)}
        tensor = {"name": "x", "shape": [ROWS, 2], "datatype": "FP32", "parameters": parameters}
        body = json.dumps({"inputs": [tensor]}).encode()
        headers = {b"content-encoding": b"gzip", b"inference-header-content-length": b"%d" % len(body)}
        asked = client.send(headers, gzip.compress(body + content))
        assert asked.head is NO_HEAD
        await turns(50)
        await served(client)
        status, document = answer(asked)
        assert status == 200
        assert document["outputs"][0]["data"] == [2 * value for value in VALUES]

    play(scene)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ([*VALUES[:-1], True], "must hold FP32 values"), ([*VALUES, 1.0, 1.0], "has 18 values"),
        (VALUES[:-1], "has 15 values"), ([*VALUES[:-1], [1.0]], "must hold FP32 values"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_once(values: Any, error: str) -> None:
    async def scene(client: Client) -> None:
        asked = client.ask(values)
        await turns(9)
        status, document = answer(asked)
        assert status == 400
        assert error in document["error"]
        assert (client.world.counted, client.refusals) == ({}, {"BadRequest": 1})

    play(scene)


@pytest.mark.parametrize("turns_before", range(9))
def test_a_client_that_goes_is_counted_once(turns_before: int) -> None:
    """Whether its request is being decoded, waits, or runs."""

    async def scene(client: Client) -> None:
        asked = client.ask()
        await turns(turns_before)
        client.leave(asked)
        await turns(40)
        while client.world.executor.held:
            client.world.executor.release()
        await turns(9)
        assert asked.response is None
        assert client.world.counted in ({Outcome.DROPPED: 1}, {})
        assert client.refusals == {}
        assert client.world.plane.counts.by_family["f"].cancelled == sum(client.world.counted.values())
        assert bool(client.world.counted) == (turns_before > 0)  # a request is counted once its query is known

    play(scene)


def test_the_deadline_counts_from_the_arrival() -> None:
    async def scene(client: Client) -> None:
        asked = client.ask(parameters={"timeout": SHORT_US})
        await turns()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.hold_up(SHORT_US / 1e6 + 0.01)
        await turns(9)
        status, document = answer(asked)
        assert (status, document["error"]) == (504, "the deadline passed while the request was decoded")
        assert (client.world.counted, client.refusals) == ({Outcome.DROPPED: 1}, {})

    play(scene)


def test_a_request_that_is_not_admitted_is_refused_before_its_values_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def decoded(*_: object) -> None:
        pytest.fail("the values of a refused request were decoded")

    async def scene(client: Client) -> None:
        asked = client.ask(parameters={"min_accuracy": 1})
        await turns(9)
        assert answer(asked)[0] == 400
        assert (client.world.counted, client.refusals) == ({Outcome.REJECTED: 1}, {"NotAccurateEnough": 1})

    monkeypatch.setattr(json_values.JsonValues, "read", decoded)
    play(scene)


def test_a_request_that_is_decoded_while_the_server_begins_to_drain_is_refused() -> None:
    async def scene(client: Client) -> None:
        asked = client.ask()
        await turns()
        client.world.lifecycle.on(LifecycleEvent.STOPPED)
        await turns(60)
        assert answer(asked)[0] == 503
        assert (client.world.counted, client.refusals) == ({}, {"NotReady": 1})

    play(scene)


def test_a_bug_is_logged_and_answered(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async def scene(client: Client) -> None:
        asked = client.ask()
        await turns(50)
        assert (answer(asked)[0], client.world.counted, client.refusals) == (500, {}, {})

    monkeypatch.setattr(json_values.JsonValues, "read", broken)
    play(scene)
    assert "ZeroDivisionError" in caplog.text


def test_too_little_memory_is_answered_503(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    async def scene(client: Client) -> None:
        long, short = client.ask(), client.ask([1, 2], 1)
        await turns(50)
        for asked in (long, short):
            assert answer(asked) == (503, {"error": "there is too little memory for this request"})
        assert (client.world.counted, client.refusals) == ({}, {"NotReady": 2})

    monkeypatch.setattr(json_values.JsonValues, "read", broken)
    play(scene)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_request_for_whose_tensors_there_is_no_memory_is_refused() -> None:
    async def scene(client: Client) -> None:
        client.connections._max_body_bytes = TENSOR_BYTES - 1
        asked = client.ask()
        await turns(9)
        assert answer(asked) == (503, {"error": "too many large requests at once"})
        assert (client.world.counted, client.refusals) == ({}, {"NotReady": 1})

    play(scene)


@pytest.mark.parametrize("turns_before", [0, 1])
def test_a_client_that_goes_leaves_nothing_to_the_garbage_collector(turns_before: int) -> None:
    """Which may come much later, when many requests have gone."""

    async def scene(client: Client) -> None:
        asked = client.ask()
        await turns(turns_before)
        (task,) = map(weakref.ref, client.handler._pipeline._tasks)
        client.leave(asked)
        await turns(9)
        assert task() is None

    gc.disable()
    try:
        play(scene)
    finally:
        gc.enable()


# --- others are served in between


def test_one_request_is_decoded_in_a_turn_of_the_loop_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    read = json_values.JsonValues.read

    def counted(*given: Any) -> Any:
        decoded.append(1)
        return read(*given)

    async def scene(client: Client) -> None:
        asked = [client.ask() for _ in range(5)]
        most = 0
        while any(isinstance(exchange.in_flight, asyncio.Task) for exchange in asked):
            before = len(decoded)
            await turns()
            most = max(most, len(decoded) - before)
        assert most == 1
        assert len(decoded) == 5
        for exchange in asked:
            client.leave(exchange)
        await turns(9)

    monkeypatch.setattr(json_values.JsonValues, "read", counted)
    play(scene)


def test_a_short_request_is_served_while_a_long_one_waits() -> None:
    async def scene(client: Client) -> None:
        long, short = client.ask(), client.ask([1, 2], 1)
        assert isinstance(long.in_flight, asyncio.Task)
        await turns(5)
        assert [batch.rows for batch, _ in client.world.executor.held] == [1]
        client.world.executor.release()
        await served(client)
        assert (answer(short)[0], answer(long)[0]) == (200, 200)
        assert client.world.counted == {Outcome.SERVED: 2}

    play(scene)


def test_the_memory_of_a_body_that_is_unpacked_is_counted() -> None:
    async def scene(client: Client) -> None:
        asked = client.ask(gzipped=True)
        while isinstance(asked.in_flight, asyncio.Task):
            await turns()
        assert asked.reserved_bytes == client.connections.body_bytes == len(body_of()) + TENSOR_BYTES
        await served(client)
        assert answer(asked)[0] == 200

    play(scene)


@pytest.mark.parametrize(
    ("cap", "status", "refusal"), [("MAX_JSON_BYTES", 413, "BodyTooLarge"), ("MAX_JSON_VALUES", 400, "BadRequest")]
)
def test_more_json_than_is_decoded_in_time_is_refused(
    cap: str, status: int, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, cap, 2 * ROWS - 1)

    async def scene(client: Client) -> None:
        asked = client.ask()
        await turns(9)
        found, document = answer(asked)
        assert found == status
        assert "send binary tensors" in document["error"]
        assert (client.world.counted, client.refusals) == ({}, {refusal: 1})

    play(scene)


def test_a_body_that_unpacks_to_more_than_is_unpacked_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "MAX_UNPACKED_BYTES", 99)

    async def scene(client: Client) -> None:
        asked = client.ask(gzipped=True)
        await turns(9)
        assert answer(asked) == (413, {"error": "the body unpacks to more than 99 bytes: send it as it is"})

    play(scene)


TURN_S = 0.05


def slowly(client: Client) -> None:
    """All requests come by one connection, and each long one waits `TURN_S` for its turn."""
    shared, loop = client.connect(), asyncio.get_running_loop()
    shared.connections = SimpleNamespace(
        long_turns=SimpleNamespace(wait=lambda take: loop.call_later(TURN_S, take)),
        loop_turn=client.connections.loop_turn, reserve=client.connections.reserve, free=client.connections.free,
        is_draining=False,
    )  # fmt: skip
    client.shared = shared


def test_a_request_that_waits_for_its_turn_is_answered_at_its_deadline() -> None:
    async def scene(client: Client) -> None:
        slowly(client)
        asked = client.ask(parameters={"timeout": round(TURN_S * 1e6 / 2)})
        await asyncio.sleep(TURN_S)
        assert answer(asked)[0] == 504
        assert client.world.counted == {Outcome.DROPPED: 1}

    play(scene)


def test_a_client_that_goes_while_its_request_waits_for_its_turn_is_counted() -> None:
    async def scene(client: Client) -> None:
        slowly(client)
        asked = client.ask(parameters={"timeout": AMPLE_US})
        await asyncio.sleep(TURN_S / 2)
        client.leave(asked)
        await asyncio.sleep(TURN_S)
        assert client.world.plane.counts.by_family["f"].cancelled == 1
        assert client.world.counted == {Outcome.DROPPED: 1}

    play(scene)
