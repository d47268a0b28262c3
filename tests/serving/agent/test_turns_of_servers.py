"""Whose batch runs next on a device that servers share, and what they are told of each other."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from agents import CPU, linked, remote_device, run, running_agent, until
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import INPUTS, mlp

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import DeviceUnavailable
from proteus_cli.serving.agent import sharing
from proteus_cli.serving.agent.measuring import require_measurable
from proteus_cli.serving.agent.sharing import DeviceTurn, SharedDevices, SharedOpening
from proteus_cli.serving.devices.executor import Batch, BatchResult
from proteus_cli.serving.devices.process.device_server import Turns
from proteus_cli.serving.devices.remote.channel.messages import MeasureOptions
from proteus_cli.serving.devices.remote.links.link import AgentLink
from proteus_cli.serving.devices.remote.sessions.connecting import ask, connect
from proteus_cli.serving.measuring_child import leave_time

KEY = VariantKey("f", "v")
BATCH = Batch(KEY, [(1, (np.ones(INPUTS, np.float32).tobytes(),))], 1)


class Line:
    """Openings of one device; what they submit ``runs`` until a test ends it."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, DeviceTurn]] = []
        self.devices = SharedDevices(lambda: None)

    def join(self, server: str, slots: int = 1) -> SharedOpening:
        return self.devices.join("cpu0", server, slots)

    def submit(self, opening: SharedOpening, name: str) -> None:
        opening.submit(lambda turn: self.runs.append((name, turn)))

    def end(self) -> None:
        """The batch that runs for longest."""
        _, turn = self.runs.pop(0)
        turn.end()

    @property
    def running(self) -> list[str]:
        return [name for name, _ in self.runs]


def in_loop(test: Callable[[], object]) -> None:
    async def body() -> None:
        test()

    asyncio.run(body())


def test_a_server_that_has_a_device_to_itself_submits_what_it_wants() -> None:
    def test() -> None:
        line = Line()
        one = line.join("one")
        line.join("two")
        line.submit(one, "1")
        line.submit(one, "2")
        assert line.running == ["1", "2"]

    in_loop(test)


def test_servers_take_turns_however_much_one_of_them_submits() -> None:
    def test() -> None:
        line, order = Line(), list[str]()
        one, two, three = (line.join(server) for server in ("one", "two", "three"))
        line.submit(one, "a0")
        for name, opening in (("b", two), ("a", one), ("c", three)):
            for number in range(1, 3):
                line.submit(opening, f"{name}{number}")
        while line.runs:
            assert len(line.runs) == 1, "one batch at a time"
            order += line.running
            line.end()
        assert order == ["a0", "b1", "a1", "c1", "b2", "a2", "c2"]

    in_loop(test)


def test_as_many_batches_run_at_once_as_there_are_slots() -> None:
    def test() -> None:
        line = Line()
        one, two = line.join("one", 2), line.join("two", 2)
        for name, opening in (("a1", one), ("b1", two), ("b2", two), ("a2", one)):
            line.submit(opening, name)
        assert line.running == ["a1", "b1"]
        line.end()
        assert line.running == ["b1", "b2"]

    in_loop(test)


def test_what_is_waited_for_is_told_without_the_servers_own_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)

    def test() -> None:
        nonlocal now_s
        line = Line()
        one, two = line.join("one"), line.join("two")
        line.submit(one, "a1")
        line.submit(two, "b1")
        now_s += 0.01
        line.submit(one, "a2")
        now_s += 0.01
        line.end()  # a1
        assert line.runs[0][1].waited_s == pytest.approx(0.02)
        now_s += 0.03
        line.end()  # b1
        assert line.running == ["a2"]
        assert line.runs[0][1].waited_s == pytest.approx(0.03)

    in_loop(test)


def test_what_waits_of_an_opening_that_is_over_is_forgotten_and_what_runs_holds_no_turn() -> None:
    def test() -> None:
        line = Line()
        one, two, three = (line.join(server) for server in ("one", "two", "three"))
        for name, opening in (("a1", one), ("b1", two), ("c1", three)):
            line.submit(opening, name)
        two.leave()
        one.leave()
        assert line.running == ["a1", "c1"]
        one.leave()
        line.end()
        assert line.running == ["c1"]

    in_loop(test)


def test_batches_wait_for_their_turns_only_while_others_share_the_device_and_commands_wait_for_the_batches_before() -> (
    None
):
    wanted, done = list[int](), list[str]()
    turns = Turns(lambda: wanted.append(1))

    def submit(name: str) -> None:
        def start(waited_s: float, ended: Callable[[], None]) -> None:
            done.append(f"{name} {waited_s}")
            ended()

        turns.submit(start)

    submit("alone")
    turns.after_batches(lambda: done.append("at once"))
    turns.is_shared = True
    submit("a1")
    turns.after_batches(lambda: done.append("after a1"))
    submit("a2")
    turns.is_shared = False
    submit("a3")  # those before it still wait
    assert (done, len(wanted)) == (["alone 0.0", "at once"], 3)
    for _ in range(3):
        turns.give(0.5, lambda: done.append("ended"))
    assert done[2:] == ["a1 0.5", "ended", "after a1", "a2 0.5", "ended", "a3 0.5", "ended"]


def test_a_turn_that_takes_too_long_ends_while_its_batch_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "LONGEST_TURN_S", 0.05)

    async def test() -> None:
        line = Line()
        one, two = line.join("one"), line.join("two")
        line.submit(one, "hangs")
        for name in ("b1", "b2"):
            line.submit(two, name)
        async with asyncio.timeout(20):
            while line.running != ["hangs", "b1", "b2"]:
                await asyncio.sleep(0.005)
        line.end()  # much later
        assert line.running == ["b1", "b2"]

    asyncio.run(test())


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["submit", "end", "leave"])), max_size=40))
def test_whatever_happens_each_batch_of_who_stays_runs_once_and_servers_never_run_at_once(
    steps: list[tuple[int, str]],
) -> None:
    def test() -> None:
        line, submitted, ended, left = Line(), list[str](), list[str](), set[int]()
        openings = [line.join(str(number)) for number in range(3)]
        for place, (number, what) in enumerate(steps):
            if what == "submit" and number not in left:
                submitted.append(f"{number}:{place}")
                line.submit(openings[number], submitted[-1])
            elif what == "leave":
                openings[number].leave()
                left.add(number)
                line.runs = [(name, turn) for name, turn in line.runs if int(name[0]) not in left]
            elif what == "end" and line.runs:
                ended.append(line.running[0])
                line.end()
            assert len({name[0] for name in line.running}) <= 1
        while line.runs:
            ended.append(line.running[0])
            line.end()
        staying = [name for name in submitted if int(name[0]) not in left]
        assert sorted(name for name in ended if int(name[0]) not in left) == sorted(staying)
        assert len(set(ended)) == len(ended)

    in_loop(test)


def shared(link: AgentLink) -> Mapping[str, int]:
    """How many servers have a device open, as one of them was told."""
    assert link.session is not None
    return link.session.shared


def test_servers_are_told_how_many_share_a_device_and_both_get_their_answers(tmp_path: Path) -> None:
    model, told = mlp(tmp_path / "m.onnx"), list[Any]()

    async def test() -> None:
        async with running_agent(tmp_path) as agent, linked(agent.address) as first:
            mine = remote_device(first)
            await mine.load(KEY, model, 4)
            assert shared(first) == {}
            async with linked(agent.address) as second:
                theirs = remote_device(second)
                await until(lambda: shared(first) == shared(second) == {"cpu0": 2})
                await theirs.load(KEY, model, 4)
                submitted = 0
                while not any(isinstance(each, BatchResult) and each.waited_s > 0 for each in told):
                    for _ in range(5):
                        mine.submit(BATCH, told.append)
                        theirs.submit(BATCH, told.append)
                    submitted += 10
                    await until(lambda: len(told) == submitted)  # noqa: B023 - it has ended by the next round
                assert all(isinstance(each, BatchResult) for each in told), told
                assert all(each.compute_s + each.waited_s <= each.elapsed_s for each in told)
                again = remote_device(second)  # gives the other opening up
                await again.opened()
                assert shared(first) == {"cpu0": 2}
            await until(lambda: shared(first) == {})
            mine.submit(BATCH, told.append)
            await until(lambda: len(told) == submitted + 1)
            assert told[-1].waited_s == 0

    run(test)


def test_what_other_servers_use_is_not_measured(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_agent(tmp_path) as agent, linked(agent.address) as first:
            await remote_device(first).opened()
            measuring = await connect(agent.address, "measures", 1)
            assert measuring.inventory.shared == {}
            await measuring.open_device("cpu0", 1, print).opened()
            assert (await ask(agent.address)).shared == {"cpu0": 2}
            for devices in ("all", "cpu9,cpu0"):
                options = MeasureOptions(devices, 1.0, 1, 1, accepts_noise=True, as_type=None, force=False)
                with pytest.raises(DeviceUnavailable, match="A server uses cpu0"):
                    await measuring.measure((), options, print)
            measuring.close()

    run(test)


def shares_of(devices: SharedDevices, *servers: str) -> list[Mapping[str, int]]:
    return [devices.shared_by(server) for server in servers]


def test_beside_servers_cpus_are_measured_where_that_is_asked_for_and_gpus_are_not() -> None:
    gpu = msgspec.structs.replace(CPU, id="gpu0", kind="gpu")

    def options(devices: str, *, beside: bool) -> MeasureOptions:
        return MeasureOptions(devices, 1.0, 1, 1, False, None, False, beside_servers=beside)

    used = {"cpu0", "gpu0"}
    require_measurable(options("cpu0", beside=True), used, (CPU, gpu))
    require_measurable(options("gpu0", beside=True), {"cpu0"}, (CPU, gpu))
    for devices, beside, named in (
        ("gpu0", True, "gpu0"),
        ("all", True, "gpu0"),
        ("all", False, "cpu0, gpu0"),
        ("cpu0", False, "cpu0"),
    ):
        with pytest.raises(DeviceUnavailable, match=f"A server uses {named}:"):
            require_measurable(options(devices, beside=beside), used, (CPU, gpu))


def test_what_is_measured_beside_servers_gives_way_to_everyone_else() -> None:
    """With all threads that it starts later; this test's own thread ends, as no thread gets its priority back."""
    found = list[int]()

    def policy() -> None:
        found.append(os.sched_getscheduler(0))

    def measures() -> None:
        leave_time()
        policy()
        later = threading.Thread(target=policy)
        later.start()
        later.join()

    first = threading.Thread(target=measures)
    first.start()
    first.join()
    assert found == [os.SCHED_IDLE, os.SCHED_IDLE]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_servers_that_use_other_devices_share_nothing() -> None:
    def test() -> None:
        devices = SharedDevices(lambda: None)
        one = devices.join("cpu0", "one", 1)
        devices.join("cpu1", "two", 1)
        assert shares_of(devices, "one", "two", "three") == [{}, {}, {}]
        devices.join("cpu0", "two", 1)
        devices.join("cpu0", "two", 1)  # opened anew before the other opening is given up
        assert shares_of(devices, "one", "two", "three") == [{"cpu0": 2}, {"cpu0": 2}, {}]
        assert devices.shared_by() == {"cpu0": 2}
        one.leave()
        assert shares_of(devices, "one", "two") == [{}, {}]
        assert devices.open_devices == {CPU.id, "cpu1"}

    in_loop(test)
