"""Whom an agent serves, and what becomes of a connection: refused, replaced, silent, or full of nonsense."""

import asyncio
import logging
import os
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from agents import CPU, PATIENCE_S, RunningAgent, key_of, linked, remote_device, run, running_agent, until
from builders import make_measured, make_profile
from ports import held_port
from tiny import INPUTS, mlp

from proteus_cli import __version__
from proteus_cli.backends.emulated import STUB
from proteus_cli.backends.free_memory import HostMemory
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.cluster import FIRST_PAUSE_S
from proteus_cli.errors import ArtefactError, DeviceLost, DeviceUnavailable, EngineError, HostLost
from proteus_cli.serving.agent import agent as agent_module
from proteus_cli.serving.agent import door as door_module
from proteus_cli.serving.agent import session as beats_module
from proteus_cli.serving.agent.claim import AgentRecord, agent_in, claimed
from proteus_cli.serving.agent.hosted_device import HostedProcess
from proteus_cli.serving.devices.emulated import TimerThread
from proteus_cli.serving.devices.executor import Batch, BatchResult
from proteus_cli.serving.devices.process.messages import ENCODER, EmulatedSpec
from proteus_cli.serving.devices.remote.channel import channel as channel_module
from proteus_cli.serving.devices.remote.channel.address import AgentAddress
from proteus_cli.serving.devices.remote.channel.frames import MAX_MESSAGE_BYTES, pieces_of
from proteus_cli.serving.devices.remote.channel.messages import (
    PROTOCOL,
    AbandonDevice,
    Hello,
    MeasureOptions,
    Ping,
)
from proteus_cli.serving.devices.remote.channel.tls import cluster_tls, is_known_to_others
from proteus_cli.serving.devices.remote.links.link import AgentLink
from proteus_cli.serving.devices.remote.sessions import connecting as connecting_module
from proteus_cli.serving.devices.remote.sessions.connecting import ask, connect
from proteus_cli.store import model_digest

KEY = VariantKey("f", "v")
RECORD = AgentRecord(os.getpid(), "127.0.0.1", 7000, __version__)
BATCH = Batch(KEY, [(1, (np.ones(INPUTS, np.float32).tobytes(),))], 1)


@pytest.fixture(autouse=True)
def _patient_with_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for a while makes no connection fail."""
    monkeypatch.setattr(connecting_module, "CONNECT_S", PATIENCE_S)


def has_another_key(agent: RunningAgent, directory: Path) -> AgentAddress:
    return replaced(agent.address, tls=cluster_tls(key_of(directory, "other.pem"), listens=False))


def replaced(address: AgentAddress, **changed: Any) -> AgentAddress:
    return AgentAddress(**{**{name: getattr(address, name) for name in ("name", "host", "port", "tls")}, **changed})


# --- who is served


def test_only_who_has_the_key_is_served(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_agent(tmp_path) as agent:
            with pytest.raises(DeviceUnavailable, match="has another key"):
                await connect(has_another_key(agent, tmp_path), "s", 1)
            with pytest.raises((OSError, TimeoutError)):
                await connect(replaced(agent.address, tls=None), "s", 1)
            assert not agent.agent.sessions
            session = await connect(agent.address, "s", 1)
            assert session.inventory.devices == (CPU,)
            session.close()

    run(test)


def test_a_server_does_not_talk_to_an_agent_without_its_key(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_agent(tmp_path, has_key=False) as agent:
            with pytest.raises(OSError):
                await connect(has_another_key(agent, tmp_path), "s", 1)
            session = await connect(agent.address, "s", 1)
            session.close()

    run(test)


def test_a_key_that_others_may_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    path = key_of(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(ArtefactError, match="Others than its owner"):
        cluster_tls(path, listens=True)
    path.write_text("no key")
    path.chmod(0o600)
    with pytest.raises(ArtefactError, match="is no key of a cluster"):
        cluster_tls(path, listens=True)


@pytest.mark.parametrize(
    ("mode", "owner", "known"),
    [
        (0o600, 7, False), (0o400, 7, False), (0o640, 7, True), (0o604, 7, True), (0o620, 7, True),
        (0o440, 0, False), (0o640, 0, False), (0o460, 0, True), (0o444, 0, True), (0o401, 0, True),
    ],
)  # fmt: skip
def test_a_key_of_root_may_be_read_by_its_group(mode: int, owner: int, *, known: bool) -> None:
    """So Kubernetes gives secrets to a pod's user."""
    assert is_known_to_others(os.stat_result((mode, 0, 0, 1, owner, 9, 0, 0, 0, 0))) is known


@pytest.mark.parametrize(
    ("has_key", "logged"), [(True, ("server ",)), (False, ("server ", "a connection from "))], ids=["key", "keyless"]
)
def test_of_probes_that_connect_and_go_nothing_is_left_and_nothing_is_logged_where_there_is_a_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, has_key: bool, logged: tuple[str, ...]
) -> None:
    """Without a key, that they were no servers."""
    caplog.set_level(logging.DEBUG)

    async def test() -> None:
        async with running_agent(tmp_path, has_key=has_key) as agent:
            tasks_at_rest = len(asyncio.all_tasks())
            for linger in (struct.pack("ii", 0, 0), struct.pack("ii", 1, 0)):  # FIN, RST
                with socket.create_connection((agent.address.host, agent.address.port)) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            session = await connect(agent.address, "s", 1)  # whoever came before is accepted before
            session.close()
            await until(lambda: len(asyncio.all_tasks()) == tasks_at_rest)

    run(test)
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG] == [
        each for each in caplog.messages if each.startswith(logged)
    ]


def test_another_version_of_the_protocol_is_refused_with_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with running_agent(tmp_path) as agent:
            monkeypatch.setattr(connecting_module, "PROTOCOL", 8)
            for asking in (connect(agent.address, "s", 1), ask(agent.address)):
                with pytest.raises(DeviceUnavailable) as refusal:
                    await asking
                assert f"(proteus {__version__}) speaks version {PROTOCOL} " in refusal.value.message
                assert f"(proteus {__version__}) speaks version 8." in refusal.value.message
                assert "same version" in refusal.value.hint

    run(test)


def test_an_agent_serves_several_servers_and_tells_others_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with running_agent(tmp_path) as agent:
            assert (await ask(agent.address)).servers == ()
            first, second = [await connect(agent.address, server, 1) for server in ("one", "two")]
            found = await ask(agent.address)
            assert len(set(found.servers)) == 2
            assert all(server.startswith("127.0.0.1:") for server in found.servers)
            assert found.devices == (CPU,)
            assert {"proteus", "onnxruntime"} <= found.versions.keys()
            assert not first.has_ended.is_set()
            monkeypatch.setattr(agent_module, "MAX_SERVERS", 2)
            with pytest.raises(DeviceUnavailable, match=r"Host a \(.*\): This agent serves 2 servers, as many"):
                await connect(agent.address, "three", 1)
            first.close()
            second.close()
            await until(lambda: not agent.agent.sessions)
            (await connect(agent.address, "three", 1)).close()

    run(test)


def test_a_newer_connection_of_a_server_replaces_the_older_whose_answers_reach_nobody(tmp_path: Path) -> None:
    async def test() -> None:
        model = mlp(tmp_path / "m.onnx")
        async with running_agent(tmp_path) as agent:
            older = await connect(agent.address, "s", 1)
            lost, told = list[DeviceLost](), list[Any]()
            executor = older.open_device("cpu0", 1, lost.append)
            await executor.load(KEY, model, 4)
            executor.submit(BATCH, told.append)
            newer = await connect(agent.address, "s", 2)
            with pytest.raises(DeviceUnavailable, match="newer connection"):
                await connect(agent.address, "s", 1)
            await until(older.has_ended.is_set)
            assert len(lost) == 1
            assert isinstance(lost[0], HostLost)
            assert len(told) == 1  # as `on_lost` did not abandon it
            again = newer.open_device("cpu0", 1, print)
            await again.load(KEY, model, 4)
            again.submit(BATCH, told.append)
            await until(lambda: len(told) == 2)
            assert isinstance(told[1], BatchResult)
            newer.close()

    run(test)


def test_two_agents_do_not_share_a_directory(tmp_path: Path) -> None:
    with claimed(tmp_path / "state", RECORD):
        assert agent_in(tmp_path / "state") == RECORD
        with pytest.raises(ArtefactError, match="Another agent"), claimed(tmp_path / "state", RECORD):
            pass
        with claimed(tmp_path / "other", RECORD):
            pass
    assert agent_in(tmp_path / "state") is None
    assert agent_in(tmp_path / "nothing") is None
    with claimed(tmp_path / "state", RECORD):
        pass
    with pytest.raises(ArtefactError, match="Can't write"), claimed(tmp_path / "state" / "agent.lock", RECORD):
        pass


def test_an_agent_that_has_ended_is_none_though_another_users_process_has_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    with claimed(tmp_path, RECORD):
        assert agent_in(tmp_path) == RECORD
    assert agent_in(tmp_path) is None


# --- what comes over a connection


def spoken(*messages: msgspec.Struct) -> bytes:
    return b"".join(bytes(piece) for message in messages for piece in pieces_of(ENCODER.encode(message)))


HELLO = Hello(PROTOCOL, __version__, "s", 1)
NONSENSE = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"\0" * 8, b"\xff" * 100,
    spoken(Ping(0.0)), spoken(HELLO, HELLO), spoken(HELLO)[:-3] + b"\xc1\xc1\xc1", spoken(HELLO) + b"\xff" * 8,
    spoken(HELLO) + (3).to_bytes(4, "big") + bytes(4) + b"abc", b"".join(map(bytes, pieces_of(b"x" * 5000))),
]  # fmt: skip


@asynccontextmanager
async def plain_agent(directory: Path) -> AsyncIterator[RunningAgent]:
    async with running_agent(directory, has_key=False) as agent:
        yield agent


def closes(agent: RunningAgent, said: bytes) -> bytes:
    """What an agent answers until it closes the connection."""
    with socket.create_connection((agent.address.host, agent.address.port), timeout=20) as client:
        client.sendall(said)
        answer = b""
        try:
            while piece := client.recv(2**16):
                answer += piece
        except ConnectionResetError:
            pass
        return answer


async def check_only_the_next_server_is_served(agent: RunningAgent) -> None:
    await until(lambda: not agent.agent.sessions)
    session = await connect(agent.address, "other", 1)
    assert len(agent.agent.sessions) == 1
    session.close()


@pytest.mark.parametrize("said", NONSENSE)
def test_nonsense_ends_its_connection_and_nothing_else(tmp_path: Path, said: bytes) -> None:
    async def test() -> None:
        async with plain_agent(tmp_path) as agent:
            answer = await asyncio.to_thread(closes, agent, said)
            assert (b"Welcome" in answer) == said.startswith(spoken(HELLO))
            await check_only_the_next_server_is_served(agent)

    run(test)


def test_commands_for_what_is_not_there_disturb_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_agent(tmp_path) as agent:
            session = await connect(agent.address, "s", 1)
            session.send(AbandonDevice(77))
            missing = session.open_device("gpu9", 1, print)
            with pytest.raises(DeviceUnavailable, match="no device `gpu9`"):
                await missing.load(KEY, mlp(tmp_path / "m.onnx"), 4)
            executor = session.open_device("cpu0", 1, print)
            await executor.load(KEY, mlp(tmp_path / "m.onnx"), 4)
            executor._layouts[VariantKey("f", "w")] = executor._layouts[KEY]
            told = list[Any]()
            executor.submit(Batch(VariantKey("f", "w"), BATCH.parts, 1), told.append)
            with pytest.raises(ValueError, match="have not the bytes"):
                executor.submit(Batch(KEY, [(2, BATCH.parts[0][1])], 2), told.append)  # too few bytes
            executor.submit(BATCH, told.append)
            await until(lambda: len(told) == 2)
            assert [isinstance(each, BatchResult) for each in told].count(True) == 1
            session.close()

    run(test)


def test_a_connection_that_says_nothing_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "HANDSHAKE_S", 0.05)

    async def test() -> None:
        async with plain_agent(tmp_path) as agent:
            assert await asyncio.to_thread(closes, agent, b"") == b""
            assert not agent.agent._greeting

    run(test)


def test_of_many_connections_that_say_nothing_the_oldest_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_module, "MAX_AT_DOOR", 3)

    async def test() -> None:
        async with plain_agent(tmp_path) as agent:
            silent = [socket.create_connection((agent.address.host, agent.address.port), timeout=10) for _ in range(10)]
            for each in silent[:-3]:
                assert await asyncio.to_thread(each.recv, 1) == b""
            (await connect(agent.address, "s", 1)).close()
            for each in silent:
                each.close()

    run(test)


def test_connections_that_show_no_key_take_no_place_of_those_that_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "MAX_GREETING", 3)

    async def test() -> None:
        async with running_agent(tmp_path) as agent:
            silent = [socket.create_connection((agent.address.host, agent.address.port)) for _ in range(10)]
            await ask(agent.address)  # is accepted after those
            assert not agent.agent._greeting
            for each in silent:
                each.close()

    run(test)


def test_a_command_that_an_agent_cannot_carry_out_is_answered_with_what_went_wrong(tmp_path: Path) -> None:
    async def test() -> None:
        model = mlp(tmp_path / "m.onnx")
        async with running_agent(tmp_path) as agent, linked(agent.address) as link:
            models = agent.state / "models"
            models.mkdir(parents=True)
            (models / f"{model_digest(model)}.partial").write_text("no directory")
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(EngineError, match="NotADirectoryError"):
                    await remote_device(link).load(KEY, model, 4)
                assert link.session is not None
                with pytest.raises(RuntimeError, match="at least one"):
                    await link.session.measure((), MeasureOptions("all", 1.0, 1, 1, False, None, False), print)

    run(test)


# --- losses


def test_a_server_that_falls_silent_is_given_up_with_its_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with running_agent(tmp_path) as agent:
            session = await connect(agent.address, "s", 1)  # without `watch`, it never pings
            executor = session.open_device("cpu0", 1, print)
            await executor.opened()
            (opened,) = agent.session._opened.values()
            assert isinstance(opened, HostedProcess)
            monkeypatch.setattr(beats_module, "SERVER_SILENT_S", 0.3)
            await until(lambda: not agent.agent.sessions)
            assert opened.process._is_released

    run(test)


def test_an_agent_that_falls_silent_loses_all_devices_of_its_host_at_once_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = [CPU, msgspec.structs.replace(CPU, id="cpu1")]

    async def test() -> None:
        async with running_agent(tmp_path, devices) as agent, linked(agent.address) as link:
            lost = list[str]()
            for device in devices:
                await remote_device(link, lambda loss: lost.append(str(loss)), device).opened()
            assert link.session is not None
            for task in agent.session._tasks:
                task.cancel()  # no beats
            monkeypatch.setattr(link.session, "send", lambda *_: None)  # no pings, which would be answered
            await until(lambda: lost)
            assert len(lost) == 2
            assert len(set(lost)) == 1
            assert "nothing came from it for 500 ms" in lost[0]
            await until(lambda: link.session is not None)  # connected again

    run(test)
    assert len([record for record in caplog.records if "is lost" in record.getMessage()]) == 1


def test_an_agent_that_takes_no_more_is_lost_once_the_call_has_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker notes a batch as running only after it was submitted."""

    async def test() -> None:
        async with running_agent(tmp_path) as agent, linked(agent.address) as link:
            ended = list[Any]()
            executor = remote_device(link, ended.append)
            await executor.load(KEY, mlp(tmp_path / "m.onnx"), 4)
            monkeypatch.setattr(channel_module, "MAX_UNSENT_BYTES", -1)
            executor.submit(BATCH, ended.append)
            assert ended == []
            await until(lambda: len(ended) == 2)
            assert all(isinstance(each, DeviceLost) for each in ended)

    run(test)


def test_a_server_knows_how_much_memory_is_free_on_its_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [HostMemory(2**30)]
    monkeypatch.setattr("proteus_cli.serving.agent.session.host_memory", lambda: now[-1])

    async def test() -> None:
        async with running_agent(tmp_path) as agent, linked(agent.address) as link:
            for memory in (now[0], HostMemory(2**20, is_short=True), HostMemory(None)):
                now.append(memory)
                await until(lambda: link.session is not None and link.session.memory == now[-1])
                assert getattr(link.session, "memory", None) == memory

    run(test)


def test_a_server_whose_event_loop_is_held_up_keeps_its_hosts(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_agent(tmp_path) as agent, linked(agent.address) as link:
            session = link.session
            for _ in range(4):
                time.sleep(0.7)  # noqa: ASYNC251 - that is what is tested
                await asyncio.sleep(0.15)
            assert link.session is session

    run(test)


def test_an_engine_error_and_a_lost_process_of_a_device_come_as_such(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_agent(tmp_path) as agent, linked(agent.address) as link:
            lost, told = list[DeviceLost](), list[Any]()
            executor = remote_device(link, lost.append)
            await executor.load(KEY, mlp(tmp_path / "m.onnx"), 4)
            (tmp_path / "bad.onnx").write_bytes(b"bad")
            with pytest.raises(EngineError):
                await executor.load(VariantKey("f", "bad"), tmp_path / "bad.onnx", 4)
            (opened,) = agent.session._opened.values()
            assert isinstance(opened, HostedProcess)
            assert opened.process.pid is not None
            os.kill(opened.process.pid, signal.SIGSTOP)
            executor.submit(BATCH, told.append)
            os.kill(opened.process.pid, signal.SIGKILL)
            await until(lambda: told)
            assert [type(each) for each in (*lost, *told)] == [DeviceLost, DeviceLost]
            assert "has ended" in lost[0].message
            again = remote_device(link)
            await again.load(KEY, mlp(tmp_path / "m.onnx"), 4)
            again.abandon()

    run(test)


def test_an_agent_that_ends_soon_after_each_connection_is_tried_at_growing_pauses(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_agent(tmp_path) as agent, linked(agent.address) as link:
            began_s = time.monotonic()
            for _ in range(4):
                await until(lambda: link.is_connected and agent.agent.sessions)
                agent.session.end("it is restarted")
                await until(lambda: not link.is_connected)
            await until(lambda: link.is_connected)
            assert time.monotonic() - began_s >= sum(FIRST_PAUSE_S * 2**times for times in range(4))

    run(test)


def test_servers_and_agents_that_emulate_keep_to_each_other(tmp_path: Path) -> None:
    """So no time of an emulated device passes for a measured one, and no server emulates on a host that has devices."""

    async def test() -> None:
        with TimerThread() as timer:
            async with running_agent(tmp_path) as real, running_agent(tmp_path, timer=timer) as other:
                for agent, emulates, why in ((real, True, "emulates none"), (other, False, "emulates devices")):
                    with pytest.raises(DeviceUnavailable, match=why):
                        async with linked(agent.address, emulates=emulates):
                            pass
                    await until(lambda agent=agent: not agent.agent.sessions)  # type: ignore[misc]
                    assert (await ask(agent.address)).emulates is not emulates

    run(test)


def test_a_device_of_a_large_profile_is_emulated(tmp_path: Path) -> None:
    """Profiles of many variants, with many points, are larger than a message may be."""
    points = {rows: 0.001234567 * rows for rows in (1, 2, 4, 8, 16, 32, 64, 128)}
    at_once = dict.fromkeys((2, 3, 4), points)
    measured = [make_measured("f", f"variant-{n}", 0.9, points, at_once_s=at_once, load_s=0.0) for n in range(300)]
    spec = EmulatedSpec(make_profile("a/cpu0", *measured), {"f": STUB})
    assert len(ENCODER.encode(spec)) > MAX_MESSAGE_BYTES

    async def test() -> None:
        with TimerThread() as timer:
            async with (
                running_agent(tmp_path, (), timer=timer) as agent,
                linked(agent.address, emulates=True) as link,
            ):
                executor = remote_device(link, emulated=spec)
                await executor.load(VariantKey("f", "variant-299"), Path(), 4)
                assert link.session is not None

    run(test)


def test_a_host_that_is_not_there_has_lost_devices_until_it_is(tmp_path: Path) -> None:
    async def test(port: int) -> None:
        async with running_agent(tmp_path, port=port) as agent:
            address = agent.address
        link = AgentLink(address)
        running = asyncio.create_task(link.run())
        assert await link.tried() is None
        absent = link.open_device(msgspec.structs.replace(CPU, id="a/cpu0"), 1, print)
        with pytest.raises(HostLost, match="can't be reached"):
            await absent.load(KEY, mlp(tmp_path / "m.onnx"), 4)
        with pytest.raises(HostLost):
            absent.submit(BATCH, print)
        absent.close()
        async with running_agent(tmp_path, port=port):
            await until(lambda: link.session is not None)
            executor = remote_device(link)
            await executor.load(KEY, mlp(tmp_path / "m.onnx"), 4)
            other = msgspec.structs.replace(CPU, id="a/cpu0", name="another CPU")
            with pytest.raises(HostLost, match="is another one now: a CPU"):
                await link.open_device(other, 1, print).load(KEY, mlp(tmp_path / "m.onnx"), 4)
            executor.abandon()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with held_port() as port:
        run(partial(test, port))


def test_a_link_says_how_its_host_is_reached(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_agent(tmp_path) as agent, linked(agent.address) as link:
            await until(lambda: link.state.round_trip_s)
            up = link.state
            assert (up.is_connected, up.why, up.losses, up.address.split(":")[0]) == (True, "", 0, "127.0.0.1")
            assert min(up.bytes_sent, up.bytes_received) > 0
            assert agent.agent.sessions
            agent.agent.close()
            await until(lambda: link.state.losses == 1)
            later = link.state  # it may be connected again
            assert later.since_s > up.since_s
            assert later.bytes_sent >= up.bytes_sent
            assert later.bytes_received >= up.bytes_received
        async with linked(agent.address) as link:
            down = link.state
            assert (down.is_connected, down.losses, down.round_trip_s, down.bytes_sent) == (False, 0, None, 0)
            assert down.why.startswith("it can't be reached: ")

    run(test)
