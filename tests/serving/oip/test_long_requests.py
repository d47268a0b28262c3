"""Requests that take long to decode: each waits for a turn of its own and ends once, by each protocol alike."""

import asyncio
import gc
import logging
import weakref
from typing import Any

import pytest
from one_device import World
from protocol_clients import PACKED, PROTOCOLS, TYPED, CallClient, Client, RestClient, StreamClient, scene, served
from virtual_loop import VirtualLoop

from proteus_cli.domain.request import Outcome
from proteus_cli.errors import BodyTooLarge
from proteus_cli.serving.grpc import codec as grpc_codec
from proteus_cli.serving.grpc import framing
from proteus_cli.serving.lifecycle import LifecycleEvent
from proteus_cli.serving.oip import tensors
from proteus_cli.serving.rest import inference
from proteus_cli.serving.rest.codec import json_values
from proteus_cli.serving.transport.connections import Connections

VALUES = tuple(range(16))
AMPLE_US = 20_000_000
LONG = [(RestClient, ""), (CallClient, TYPED), (StreamClient, TYPED)]
each_kind = pytest.mark.parametrize(
    ("protocol", "form"),
    [*LONG, *((protocol, PACKED) for protocol in PROTOCOLS)],
    ids=lambda of: getattr(of, "span", of),
)
Kind = type[Client]


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "LONG_JSON_BYTES", 140)
    monkeypatch.setattr(grpc_codec, "LONG_TYPED_BYTES", 40)


def asked(
    world: World, protocol: Kind, form: str, *values: float, memory: int = 2**24, timeout_us: int = AMPLE_US
) -> Client:
    client = protocol(world, connections=Connections(max_connections=9, max_body_bytes=memory))
    client.ask(*(values or VALUES), form=form, timeout_us=timeout_us)
    return client


def ended(world: World) -> tuple[dict[Outcome, int], dict[str, int]]:
    return world.counted, dict(world.plane.counts.refusals)


async def turns(count: int = 9) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@each_kind
def test_it_is_read_in_a_turn_and_answered_and_its_memory_counts_until_then(protocol: Kind, form: str) -> None:
    async def play(world: World) -> None:
        client = asked(world, protocol, form)
        assert world.plane.results.in_flight_count == 0
        await turns()
        assert world.plane.results.in_flight_count == 1
        assert client.connections.body_bytes >= len(VALUES) * 4
        await served(world)
        assert client.answer() == "ok"
        assert ended(world) == ({Outcome.SERVED: 1}, {})
        assert client.connections.body_bytes == 0

    scene(play)


@each_kind
def test_a_wrong_number_of_values_is_one_refusal(protocol: Kind, form: str) -> None:
    async def play(world: World) -> None:
        client = asked(world, protocol, form, *VALUES, 1.0)
        await turns()
        assert "input `x` has " in (client.answer() or "")
        assert ended(world) == ({}, {"BadRequest": 1})

    scene(play)


@each_kind
def test_it_is_refused_once_where_the_server_stops_meanwhile(protocol: Kind, form: str) -> None:
    async def play(world: World) -> None:
        client = asked(world, protocol, form)
        world.plane.lifecycle.on(LifecycleEvent.STOPPED)
        await turns()
        assert client.answer() is not None
        assert ended(world) == ({}, {"NotReady": 1})

    scene(play)


@each_kind
def test_without_memory_for_what_is_decoded_it_is_refused(protocol: Kind, form: str) -> None:
    async def play(world: World) -> None:
        client = asked(world, protocol, form, memory=50)
        await turns()
        assert client.answer() == "too many large requests at once"
        assert ended(world) == ({}, {"NotReady": 1})
        assert client.connections.body_bytes == 0

    scene(play)


@each_kind
@pytest.mark.parametrize("turns_before", [0, 1, 4])
def test_a_client_that_goes_is_counted_at_most_once_and_leaves_nothing(
    protocol: Kind, form: str, turns_before: int
) -> None:
    """The garbage collector may come much later, when many requests have gone."""

    async def play(world: World) -> None:
        before = asyncio.all_tasks()
        client = asked(world, protocol, form)
        tasks = [weakref.ref(task) for task in asyncio.all_tasks() - before]
        await turns(turns_before)
        client.leave()
        await turns()
        assert not any(task() for task in tasks)
        assert world.counted in ({Outcome.DROPPED: 1}, {})
        assert world.plane.counts.by_family["f"].cancelled == sum(world.counted.values())
        assert client.connections.body_bytes == 0

    gc.disable()
    try:
        scene(play)
    finally:
        gc.enable()


@each_kind
def test_the_deadline_counts_from_the_arrival(protocol: Kind, form: str) -> None:
    async def play(world: World) -> None:
        client = asked(world, protocol, form, timeout_us=50_000)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.hold_up(0.06)
        await turns()
        assert client.answer() == "the deadline passed while the request was decoded"
        assert ended(world) == ({Outcome.DROPPED: 1}, {})

    scene(play)


@pytest.mark.parametrize(("protocol", "form"), [(protocol, PACKED) for protocol in PROTOCOLS])
def test_what_unpacks_to_more_than_is_unpacked_in_time_is_refused(
    protocol: Kind, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(world: World) -> None:
        client = asked(world, protocol, form)
        await turns()
        assert "unpacks to more than 60 bytes: send it as it is" in (client.answer() or "")
        assert ended(world) == ({}, {BodyTooLarge.__name__: 1})

    for module in (inference, framing):
        monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 60)
    scene(play)


@pytest.mark.parametrize(("cap", "refusal"), [("MAX_JSON_BYTES", "BodyTooLarge"), ("MAX_JSON_VALUES", "BadRequest")])
def test_more_json_than_is_decoded_in_time_is_refused(cap: str, refusal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(world: World) -> None:
        client = asked(world, RestClient, "")
        await turns()
        assert "send binary tensors" in (client.answer() or "")
        assert ended(world) == ({}, {refusal: 1})

    monkeypatch.setattr(tensors, cap, len(VALUES) - 1)
    scene(play)


def test_too_little_memory_is_answered_503(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    async def play(world: World) -> None:
        clients = [asked(world, RestClient, ""), asked(world, RestClient, "", 1, 2)]
        await turns()
        for client in clients:
            assert client.answer() == "there is too little memory for this request"
        assert ended(world) == ({}, {"NotReady": 2})

    monkeypatch.setattr(json_values.JsonValues, "read", broken)
    scene(play)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_one_is_decoded_in_a_turn_of_the_loop_and_short_ones_are_served_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[int] = []
    read = json_values.JsonValues.read

    def counted(*given: Any) -> Any:
        decoded.append(1)
        return read(*given)

    async def play(world: World) -> None:
        connections = Connections(max_connections=9, max_body_bytes=2**24)
        clients = [RestClient(world, connections=connections) for _ in range(5)]
        for client in clients:
            client.ask(*VALUES, timeout_us=AMPLE_US)
        while len(decoded) < 5:
            before = len(decoded)
            await turns(1)
            assert len(decoded) - before <= 1
        short = RestClient(world)
        short.ask(1, 2)
        assert world.plane.results.in_flight_count == 6
        for client in (*clients, short):
            client.leave()

    monkeypatch.setattr(json_values.JsonValues, "read", counted)
    scene(play)
