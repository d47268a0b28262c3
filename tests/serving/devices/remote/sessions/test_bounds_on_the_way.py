"""Bounds of multi-exit models between a server and an agent, whose clocks have nothing in common."""

import asyncio
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from short_forms import parse_condition

from proteus_cli.backends.base import OutputArrays, Signature, TensorSpec
from proteus_cli.backends.exits.runner import NOTES
from proteus_cli.buffers import Buffer
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.errors import DeviceLost
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult
from proteus_cli.serving.devices.process import client as servers_module
from proteus_cli.serving.devices.process import device_server as devices_module
from proteus_cli.serving.devices.process.device_server import DeviceServer
from proteus_cli.serving.devices.process.layout import BatchLayout
from proteus_cli.serving.devices.process.messages import (
    ENCODER,
    SERVER_COMMANDS,
    SERVER_EVENTS,
    LeftEvent,
    RanEvent,
    RunCommand,
)
from proteus_cli.serving.devices.remote.channel.frames import UnreadableFrame
from proteus_cli.serving.devices.remote.sessions.crossings import Crossings, RoundTrips
from proteus_cli.serving.devices.remote.sessions.executor import RemoteExecutor

KEY = VariantKey("f", "v")
FLOAT = np.dtype(np.float32)
SIGNATURE = Signature((TensorSpec("x", FLOAT, (1,)),), (TensorSpec("scores", FLOAT, (2,)),), NOTES)
EXITS = (
    ExitProfile(0.5, 0.9, 0.6, (StagePoint(1, 0.001, 0.002),)),
    ExitProfile(0.5, 0.8, None, (StagePoint(1, 0.002, 0.003),)),
)
BOUNDS = ExitBounds(
    due_s=[5000.030, math.inf, 5000.010],
    rows=[1, 1, 1],
    exits=EXITS,
    slowdown=1.5,
    stop_when=parse_condition("latency >= 0.03"),
    min_confidence=[-math.inf, 0.5, -math.inf],
    attainment=0.99,
    may_leave=False,
    arrival_s=[4999.990, 5000.0, 4999.980],
    power_w=4.0,
    by_own=[False, True, False],
    max_energy_j=[math.inf, math.inf, 0.5],
)
SERVER_S, AGENT_S, THERE_S, BACK_S = 5000.0, 70.0, 0.001, 0.003


class Ends:
    """Both ends of a connection by hand: what one sends waits until the other is to have it, encoded meanwhile.

    ``submitted`` are the batches that the device runs.
    """

    runs_inline, sends_at_once = True, False

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server_s, self.agent_s = SERVER_S, AGENT_S
        monkeypatch.setattr(servers_module, "time", SimpleNamespace(monotonic=lambda: self.server_s))
        monkeypatch.setattr(devices_module, "time", SimpleNamespace(monotonic=lambda: self.agent_s))
        self.to_agent, self.to_server = list[tuple[bytes, bytes]](), list[tuple[bytes, bytes]]()
        self.submitted = list[tuple[Batch, BatchCallback]]()
        self.losses, self.is_full = list[DeviceLost](), False
        self.round_trips, self.crossings, self.round_trip_s = RoundTrips(), Crossings(), 2 * THERE_S
        self.executor = RemoteExecutor("a/cpu0", 0, cast("Any", self), self.losses.append)
        self.executor.channel = cast("Any", SimpleNamespace(send=self.ask, close=lambda: None))
        self.device = DeviceServer(cast("Any", self), self, print)
        self.executor._layouts[KEY] = self.device._layouts[KEY] = BatchLayout(SIGNATURE)

    def ask(self, message: msgspec.Struct, behind: Sequence[Buffer] = ()) -> int:
        self.to_agent.append((ENCODER.encode(message), b"".join(behind)))
        return 100

    def send(self, message: msgspec.Struct) -> None:
        self.to_server.append((ENCODER.encode(message), b""))

    def send_outputs(self, event: msgspec.Struct, layout: BatchLayout, given: OutputArrays, _: int) -> None:
        if self.is_full and isinstance(event, LeftEvent):
            raise UnreadableFrame("it is larger than allowed")
        self.to_server.append((ENCODER.encode(event), b"".join(layout.output_pieces(given))))

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        self.submitted.append((batch, done))

    def forget(self, _opening: int) -> None:
        pass

    def arrives(self) -> RunCommand:
        message, behind = self.to_agent.pop(0)
        command = SERVER_COMMANDS.decode(message)
        assert isinstance(command, RunCommand)
        self.device.obey(command, memoryview(behind))
        return command

    def comes_back(self) -> RanEvent | LeftEvent:
        message, behind = self.to_server.pop(0)
        event = SERVER_EVENTS.decode(message)
        assert isinstance(event, RanEvent | LeftEvent)
        self.executor.received(event, memoryview(behind))
        return event


def result_of(rows: Sequence[int], ended_s: float) -> BatchResult:
    """Rows are told apart by their scores; the second was cut short."""
    places = np.array(rows)
    scores = np.stack([places, -places], axis=1).astype(np.float32)
    exits, confidence, held = (places + 1).astype(np.uint8), places.astype(np.float32), np.zeros(len(rows), np.uint8)
    notes = exits, confidence, places == 1, held, np.zeros(len(rows))
    return BatchResult((scores,), 0.002, notes=notes, ended_s=ended_s)


def sent(ends: Ends, bounds: ExitBounds | None) -> tuple[list[tuple[Sequence[int], BatchResult]], list[Any]]:
    """What leaves the batch that is sent, and what becomes of it."""
    left, ended = list[tuple[Sequence[int], BatchResult]](), list[Any]()
    parts = [(1, (np.float32(place).tobytes(),)) for place in range(3)]
    leaving = None if bounds is None else lambda *each: left.append(each)
    ends.executor.submit(Batch(KEY, parts, 3, bounds, leaving=leaving), ended.append)
    return left, ended


def check_lost(ends: Ends) -> None:
    assert [type(loss) for loss in ends.losses] == [DeviceLost]
    assert "can't be reached" in ends.losses[0].message


def on_loop(test: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        test(Ends(monkeypatch))

    asyncio.run(run())


def test_times_count_from_the_sending_and_from_when_the_agent_has_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent has it at 70.004 s of its own clock; all that is no time stays as it is."""

    def test(ends: Ends) -> None:
        sent(ends, BOUNDS)
        ends.agent_s += 0.004
        command = ends.arrives()
        assert command.bounds is not None
        assert command.bounds.due_s == pytest.approx([0.030, math.inf, 0.010])
        ((batch, _),) = ends.submitted
        assert batch.bounds is not None
        assert batch.bounds.due_s == pytest.approx([70.034, math.inf, 70.014])
        assert batch.bounds.arrival_s == pytest.approx([t + 0.004 - THERE_S for t in (69.990, 70.0, 69.980)])
        names = [name for name in BOUNDS.__struct_fields__ if name not in {"due_s", "arrival_s", "exits"}]
        assert [getattr(batch.bounds, name) for name in names] == [getattr(BOUNDS, name) for name in names]
        assert tuple(batch.bounds.exits) == EXITS

    on_loop(test, monkeypatch)


def test_parts_come_back_before_their_batch_and_the_way_is_that_of_both_directions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last stage ends 20 ms after the agent had the batch, and the agent has its outputs 5 ms after that."""

    def test(ends: Ends) -> None:
        left, ended = sent(ends, BOUNDS)
        ends.arrives()
        ((batch, done),) = ends.submitted
        assert batch.leaving is not None
        batch.leaving([1], result_of([1], AGENT_S + 0.012))
        ends.agent_s += 0.025
        done(result_of([0, 1, 2], AGENT_S + 0.020))
        ends.server_s += 0.012 + THERE_S + BACK_S
        ends.comes_back()
        assert not ended
        ((places, of_one),) = left
        assert (list(places), of_one.outputs[0].tolist()) == ([1], [[1.0, -1.0]])
        assert [values.tolist() for values in of_one.notes] == [[2], [1.0], [True], [0], [0.0]]
        assert ends.server_s - of_one.ended_s == pytest.approx(THERE_S + BACK_S)
        ends.server_s = SERVER_S + 0.025 + THERE_S + BACK_S
        ends.comes_back()
        (whole,) = ended
        assert whole.notes[0].tolist() == [1, 2, 3]
        assert ends.server_s - whole.ended_s == pytest.approx(THERE_S + BACK_S + 0.005)
        assert ends.round_trips.shortest_s == pytest.approx(THERE_S + BACK_S)

    on_loop(test, monkeypatch)


def test_a_batch_without_bounds_is_sent_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def test(ends: Ends) -> None:
        _, ended = sent(ends, None)
        assert ends.arrives().bounds is None
        ((batch, done),) = ends.submitted
        assert (batch.bounds, batch.leaving) == (None, None)
        done(result_of([0, 1, 2], 0.0))  # of a device that does not know when it ended
        assert ends.comes_back().ended_s == 0.0
        assert len(ended) == 1

    on_loop(test, monkeypatch)


@pytest.mark.parametrize(("parts", "rows", "size"), [([0], 1, 3), ([0], 2, 999), ([1, 2], 1, 999), ([3], 1, 999)])
def test_parts_whose_outputs_are_not_whole_lose_the_device(
    monkeypatch: pytest.MonkeyPatch, parts: Sequence[int], rows: int, size: int
) -> None:
    def test(ends: Ends) -> None:
        left, ended = sent(ends, BOUNDS)
        shapes: Any = [(rows, 2), *[(rows,)] * 5]
        ends.executor.received(LeftEvent(0, parts, 0.1, 0.1, shapes), memoryview(bytes(size)))
        check_lost(ends)
        assert left == []
        assert [type(each) for each in ended] == [DeviceLost]

    on_loop(test, monkeypatch)


@pytest.mark.parametrize("told_s", [86_400.0, 1e300])
def test_no_time_that_an_agent_tells_counts_beyond_what_passed_here(
    monkeypatch: pytest.MonkeyPatch, told_s: float
) -> None:
    def test(ends: Ends) -> None:
        left, ended = sent(ends, BOUNDS)
        ends.arrives()
        ((batch, done),) = ends.submitted
        ends.agent_s += told_s
        assert batch.leaving is not None
        batch.leaving([0], msgspec.structs.replace(result_of([0], ends.agent_s), compute_s=told_s))
        done(msgspec.structs.replace(result_of([0, 1, 2], ends.agent_s), compute_s=told_s))
        ends.server_s += 0.25
        for _ in range(2):
            ends.comes_back()
        ((_, part),), (whole,) = left, ended
        assert (part.compute_s, part.ended_s) == (0.25, SERVER_S + 0.25)
        assert (whole.compute_s, whole.elapsed_s, whole.ended_s) == (0.25, 0.25, SERVER_S + 0.25)

    on_loop(test, monkeypatch)


@pytest.mark.parametrize("shapes", [[(1, 2)], [(4, 2)], [()], [(3, 2), (3,), (3,), (3,), (2,), (3,)]])
def test_a_batch_with_other_rows_than_were_sent_loses_the_device(
    monkeypatch: pytest.MonkeyPatch, shapes: list[tuple[int, ...]]
) -> None:
    def test(ends: Ends) -> None:
        _, ended = sent(ends, None)
        shapes_of_all = shapes if len(shapes) > 1 else [*shapes, *[(3,)] * 5]
        ends.executor.received(RanEvent(0, 0.1, 0.1, 0.1, 0.0, shapes_of_all, {}), memoryview(bytes(999)))
        check_lost(ends)
        assert [type(each) for each in ended] == [DeviceLost]

    on_loop(test, monkeypatch)


def test_parts_that_cannot_be_sent_are_in_the_result_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def test(ends: Ends) -> None:
        left, ended = sent(ends, BOUNDS)
        ends.arrives()
        ((batch, done),) = ends.submitted
        ends.is_full = True
        assert batch.leaving is not None
        batch.leaving([1], result_of([1], AGENT_S))
        done(result_of([0, 1, 2], AGENT_S))
        ends.comes_back()
        assert left == []
        assert ended[0].notes[0].tolist() == [1, 2, 3]

    on_loop(test, monkeypatch)
    assert "wait for its end: it is larger than allowed" in caplog.text
