"""What an agent measures beside what its devices serve, for several purposes at once, and until nobody wants it."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agents import linked, remote_device, run, running_agent, until
from msgspec.structs import replace
from tiny import INPUTS, mlp

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import DeviceUnavailable, HostLost
from proteus_cli.progress import Say
from proteus_cli.serving.agent.measuring import Measurer
from proteus_cli.serving.devices.executor import Batch, BatchResult
from proteus_cli.serving.devices.remote import measuring as measuring_there
from proteus_cli.serving.devices.remote.channel.messages import MeasureDevices, MeasureOptions
from proteus_cli.serving.devices.remote.sessions.session import AgentSession

KEY = VariantKey("f", "v")
BATCH = Batch(KEY, [(1, (np.ones(INPUTS, np.float32).tobytes(),))], 1)


class Profiling:
    """Takes the place of `proteus profile` at the agent: it tells its budget, and measures until it is let go."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.begun, self.ended = list[float | None](), list[float | None]()
        self.let_go = asyncio.Event()
        patch.setattr(Measurer, "_measured", lambda _, command, *given, **how: self._measured(command, *given, **how))

    async def _measured(self, command: MeasureDevices, _: Any, say: Say, *, leaves_time: bool) -> bytes:
        assert leaves_time
        budget_s = command.options.budget_s
        self.begun.append(budget_s)
        say(f"{budget_s} s")
        try:
            await self.let_go.wait()
        finally:
            self.ended.append(budget_s)
        return f"{budget_s} s".encode()


def options(budget_s: float) -> MeasureOptions:
    return MeasureOptions("cpu0", budget_s, 1, 1, accepts_noise=True, as_type=None, force=False, beside_servers=True)


def measuring(session: AgentSession, budget_s: float, said: list[str]) -> "asyncio.Task[bytes]":
    return asyncio.create_task(session.measure((), options(budget_s), said.append))


def test_a_device_serves_its_server_while_it_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        profiling, told, said = Profiling(monkeypatch), list[Any](), list[str]()
        async with running_agent(tmp_path) as agent, linked(agent.address) as link:
            executor = remote_device(link)
            await executor.load(KEY, mlp(tmp_path / "m.onnx"), 4)
            assert link.session is not None
            task = measuring(link.session, 1.0, said)
            await until(lambda: said[1:] == ["1.0 s"])
            assert said[0] == "servers use cpu0: measured at low priority, in the time that they leave"
            assert not link.session.is_measuring, "a host that serves is not silent for longer than any"
            executor.submit(BATCH, told.append)
            await until(lambda: bool(told))
            assert isinstance(told[0], BatchResult), told
            profiling.let_go.set()
            assert await task == b"1.0 s"
            assert not executor.is_lost

    run(test)


def test_what_nobody_wants_any_more_ends_and_another_has_its_own_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        profiling = Profiling(monkeypatch)
        async with running_agent(tmp_path) as agent, linked(agent.address) as link:
            await remote_device(link).opened()
            assert link.session is not None
            first, second = list[str](), list[str]()
            unwanted, wanted = measuring(link.session, 1.0, first), measuring(link.session, 2.0, second)
            await until(lambda: profiling.begun == [1.0])
            unwanted.cancel()
            await until(lambda: profiling.ended == [1.0])
            await until(lambda: profiling.begun[1:] == [2.0])  # one at a time
            profiling.let_go.set()
            assert await wanted == b"2.0 s"
            assert (first[1:], second[1:]) == (["1.0 s"], ["2.0 s"])

    run(test)


def test_measuring_ends_with_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        profiling = Profiling(monkeypatch)
        async with running_agent(tmp_path) as agent, linked(agent.address) as link:
            await remote_device(link).opened()
            assert link.session is not None
            task = measuring(link.session, 1.0, [])
            await until(lambda: bool(profiling.begun))
            agent.agent.close()
            with pytest.raises(HostLost):
                await task
            await until(lambda: bool(profiling.ended))

    run(test)


@pytest.mark.parametrize("beside_servers", [False, True])
def test_a_measurement_whose_turn_comes_when_a_server_uses_the_device_leaves_it_its_time(
    beside_servers: bool,  # noqa: FBT001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leaving, let_go = list[bool](), asyncio.Event()

    async def profiled(*_: Any, leaves_time: bool, **__: Any) -> bytes:
        leaving.append(leaves_time)
        await let_go.wait()
        return b"[]"

    monkeypatch.setattr(Measurer, "_measured", profiled)
    given = replace(options(1.0), beside_servers=beside_servers)

    async def test() -> None:
        async with running_agent(tmp_path) as agent, linked(agent.address) as one, linked(agent.address) as other:
            assert one.session is not None
            assert other.session is not None
            first = asyncio.create_task(one.session.measure((), given, print))
            await until(lambda: leaving == [False])
            second = asyncio.create_task(other.session.measure((), given, print))
            await other.session.echo(1)  # so the agent has the second command
            async with linked(agent.address) as third:
                await remote_device(third).opened()
                let_go.set()
                assert await first == b"[]"
                if beside_servers:
                    assert await second == b"[]"
                    assert leaving == [False, True]
                else:
                    with pytest.raises(DeviceUnavailable, match="A server uses cpu0"):
                        await second

    run(test)


def test_a_host_that_is_lost_after_it_was_measured_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the sizes of rows are read, in a thread."""
    reads, is_lost = threading.Event(), threading.Event()

    async def profiled(*_: Any, **__: Any) -> bytes:
        return b"[]"

    def slow(_: Any) -> dict[str, int]:
        reads.set()
        is_lost.wait(60.0)
        return {}

    monkeypatch.setattr(Measurer, "_measured", profiled)
    monkeypatch.setattr(measuring_there, "_row_bytes", slow)

    async def test() -> None:
        async with running_agent(tmp_path) as agent, linked(agent.address) as link:
            session = link.session
            assert session is not None
            what = measuring_there.Measurable([], {}, {})
            task = asyncio.create_task(measuring_there.measured_by_agent(session, "a", what, options(1.0), print))
            await until(reads.is_set)
            agent.agent.close()
            await session.has_ended.wait()
            is_lost.set()
            with pytest.raises(HostLost):
                await task

    run(test)
