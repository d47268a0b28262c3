"""Target `cluster`: messages between a server and an agent, or a device of its host, in any pieces.

The first byte says who receives: `A`, the agent; `D`, the device; `S` or `E`, the server, over its connection to the
agent or to the device. The rest are frames. The agent emulates devices, and afterwards it must serve another server.
The server loads a multi-exit model, runs batches that a request leaves, sends a model and measures; when the connection
ends, each of these must have ended, once.
"""

import asyncio
import dataclasses
import math
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, cast
from unittest import mock

import msgspec
import numpy as np
from builders import make_measured, make_profile
from fuzzing.in_process.loop import WatchedLoop
from fuzzing.in_process.pieces import pieces
from fuzzing.in_process.wire import Wire, connected
from fuzzing.mutations.cluster_frames import ClusterMutations
from fuzzing.targets.target import Target
from fuzzing.watch import Watch
from tiny import mlp

from proteus_cli import __version__
from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.backends.exits.runner import NOTES
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.errors import DeviceLost, EngineError, ProteusError
from proteus_cli.serving.agent import agent as agent_module
from proteus_cli.serving.agent.agent import Agent, AgentSettings
from proteus_cli.serving.agent.hosted_device import HostedEmulation
from proteus_cli.serving.agent.measuring import Measurer
from proteus_cli.serving.devices.emulated import EmulatedExecutor
from proteus_cli.serving.devices.executor import Batch, BatchResult
from proteus_cli.serving.devices.process.device_server import Turns
from proteus_cli.serving.devices.process.messages import ENCODER, EmulatedSpec, LoadedEvent, OpenedEvent
from proteus_cli.serving.devices.remote.channel.address import AgentAddress
from proteus_cli.serving.devices.remote.channel.channel import FrameChannel
from proteus_cli.serving.devices.remote.channel.frames import MAX_MESSAGE_BYTES, FrameParser, pieces_of
from proteus_cli.serving.devices.remote.channel.handing_over import ServedConnection
from proteus_cli.serving.devices.remote.channel.messages import (
    FROM_AGENT,
    PROTOCOL,
    Hello,
    Inventory,
    MeasureOptions,
    Welcome,
)
from proteus_cli.serving.devices.remote.sessions.connecting import Greeting
from proteus_cli.serving.devices.remote.sessions.executor import RemoteExecutor
from proteus_cli.serving.devices.remote.sessions.session import AgentSession
from proteus_cli.serving.devices.remote.sessions.uploads import KnownModels

ADDRESS = AgentAddress("a", "127.0.0.1", 7000, None)
KEY = VariantKey("f", "v")
BATCH = Batch(KEY, [(1, (np.ones(4, np.float32).tobytes(),)), (2, (np.ones((2, 4), np.float32).tobytes(),))], 3)
BATCHES = 3
MAX_TENSOR_BYTES = 2**22
"""In place of 1 GiB, which a receiver allocates when it is announced."""

SETTLES_S = 5.0
"""Of the loop's time, which costs nothing: loads and batches of emulated devices end."""
_TO_AGENT, _TO_SERVER, _TO_DEVICE, _FROM_DEVICE = b"A", b"S", b"D", b"E"
_SIGNATURE = Signature(
    inputs=(TensorSpec("x", np.dtype(np.float32), (4,)),), outputs=(TensorSpec("y", np.dtype(np.float32), (3,)),)
)
_HOUR_S = 3600.0
_EXITS = tuple(
    ExitProfile(share, 0.9, None, (StagePoint(4, takes_s, takes_s),))
    for share, takes_s in ((0.0, 0.001), (1.0, _HOUR_S))
)
_MEASURED = msgspec.structs.replace(make_measured("f", "v", 0.9, {1: 0.001, 4: 0.002}, load_s=0.01), exits=_EXITS)
_SPEC = EmulatedSpec(make_profile("cpu0", _MEASURED), {"f": _SIGNATURE})
_OPTIONS = MeasureOptions("cpu0", 1.0, 1, 1, accepts_noise=True, as_type=None, force=False)


class Cluster(Target):
    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=WatchedLoop)
        self._loop = cast("WatchedLoop", self._runner.get_loop())
        self._root = Path(tempfile.mkdtemp(prefix="fuzzed-"))
        self._model = mlp(self._root / "m.onnx", hidden=64)
        self._seeds = dict(
            zip(("to-agent", "to-server", "to-device", "from-device"), self._runner.run(self._recorded()), strict=True)
        )
        self._mutate = ClusterMutations([*self._seeds.values()])

    def play(self, content: bytes, watch: Watch) -> None:
        self._loop.watch = watch
        self._runner.run(self._play(content))

    def accepts(self, content: bytes) -> bool:
        """Whether the connection was kept until its end."""
        return self._runner.run(self._play(content))

    def seeds(self) -> Mapping[str, bytes]:
        return self._seeds

    def mutate(self, content: bytes, rng: Random) -> bytes:
        return self._mutate(content, rng)

    def close(self) -> None:
        self._runner.close()
        shutil.rmtree(self._root)

    async def _play(self, content: bytes) -> bool:
        self._loop.client = asyncio.current_task()
        await asyncio.sleep(0)  # this step is still timed
        try:
            plays = {_TO_SERVER: self._at_server, _TO_DEVICE: self._at_device, _FROM_DEVICE: self._from_device}
            return await plays.get(content[:1], self._at_agent)(content[1:])
        finally:
            shutil.rmtree(self._root / "state", ignore_errors=True)

    # --- an agent

    async def _at_agent(self, content: bytes) -> bool:
        with mock.patch.object(agent_module, "MAX_TENSOR_BYTES", MAX_TENSOR_BYTES):
            return await self._at_any_agent(content)

    async def _at_any_agent(self, content: bytes) -> bool:
        agent = self._agent()
        wire = Wire(agent.accept(), self._loop)
        await _send(wire, content)
        is_kept = not wire.is_closing()
        other = Wire(agent.accept(), self._loop)
        other.send(b"".join(map(bytes, pieces_of(ENCODER.encode(Hello(PROTOCOL, __version__, "another one", 1))))))
        assert isinstance(_first_of(other), Welcome), "the agent serves no other server any more"
        for end in (wire, other):
            end.end()
        await asyncio.sleep(SETTLES_S)
        assert not agent.sessions, "a session outlives its connection"
        assert not agent._shared.open_devices, "a device outlives its session"
        agent.close()
        return is_kept

    def _agent(self) -> Agent:
        agent = Agent(AgentSettings((), self._root / "state", None, emulates=True), cast("Any", LoopTimer()))
        agent._measurer = cast("Any", NoMeasurer())
        return agent

    # --- a server

    async def _at_server(self, content: bytes) -> bool:
        channel: FrameChannel[Any] = FrameChannel(FROM_AGENT, FrameParser(MAX_MESSAGE_BYTES, MAX_TENSOR_BYTES))
        channel.owner = greeting = Greeting(ADDRESS)
        wire = Wire(channel, self._loop)
        works = Works(channel, self._model)
        greeting.answer.add_done_callback(lambda _: None)  # some answers refuse
        await _send(wire, content, works.go_on)
        is_kept = not wire.is_closing()
        wire.end()
        await asyncio.sleep(SETTLES_S)
        works.check_ended()
        return is_kept

    # --- a device

    async def _at_device(self, content: bytes) -> bool:
        served = _served()
        served.channel._parser.allow(MAX_MESSAGE_BYTES, MAX_TENSOR_BYTES)
        wire = Wire(served.channel, self._loop)
        await _send(wire, content)
        is_kept = not wire.is_closing()
        wire.end()
        await asyncio.sleep(SETTLES_S)
        assert served.has_ended.is_set(), "a device outlives its connection"
        return is_kept

    async def _from_device(self, content: bytes) -> bool:
        channel: FrameChannel[Any] = FrameChannel(FROM_AGENT, FrameParser())
        wire = Wire(channel, self._loop)
        works = Works(channel, self._model)
        await works.begin()
        assert works.executor is not None
        works.executor.channel._parser.allow(MAX_MESSAGE_BYTES, MAX_TENSOR_BYTES)
        device = Wire(works.executor.channel, self._loop)
        for event in (OpenedEvent("emulated"), LoadedEvent(0, dataclasses.replace(_SIGNATURE, notes=NOTES))):
            await asyncio.sleep(0.01)
            device.send(b"".join(map(bytes, pieces_of(ENCODER.encode(event)))))
        await asyncio.sleep(0.01)  # batches are on their way
        await _send(device, content)
        is_kept = not device.is_closing()
        device.end()
        await asyncio.sleep(SETTLES_S)
        wire.end()
        await asyncio.sleep(SETTLES_S)
        works.check_ended()
        return is_kept

    # --- both

    async def _recorded(self) -> tuple[bytes, bytes, bytes, bytes]:
        """What all ends send in a conversation that goes well."""
        agent = self._agent()
        channel: FrameChannel[Any] = FrameChannel(FROM_AGENT, FrameParser(MAX_MESSAGE_BYTES, MAX_TENSOR_BYTES))
        channel.owner = greeting = Greeting(ADDRESS)
        near, far = connected(channel, agent.accept(), self._loop)
        channel.send(Hello(PROTOCOL, __version__, "s", 1))
        works = Works(channel, self._model)
        await greeting.answer
        devices = list[tuple[Wire, Wire]]()

        async def connect(to_device: FrameChannel[Any], token: bytes) -> None:
            device = agent._expected.pop(token)
            assert isinstance(device, HostedEmulation)
            devices.append(connected(to_device, device.served().channel, self._loop))

        await works.begin(connect)
        await asyncio.sleep(SETTLES_S)
        near.end()
        await asyncio.sleep(SETTLES_S)
        works.check_ended()
        assert works.told == ["BatchResult"] * BATCHES, works.told
        assert works.left == [0], works.left
        agent.close()
        shutil.rmtree(self._root / "state")
        ((to_server, to_device),) = devices
        return (
            _TO_AGENT + far.received, _TO_SERVER + near.received, _TO_DEVICE + to_device.received,
            _FROM_DEVICE + to_server.received,
        )  # fmt: skip


def _served() -> ServedConnection:
    executor = EmulatedExecutor(_SPEC.profile, _SPEC.signatures, time.monotonic, LoopTimer().at, print)
    return ServedConnection(executor, OpenedEvent("emulated"), Path, Turns(lambda: None))


async def _unreachable(_channel: FrameChannel[Any], _token: bytes) -> None:
    raise ConnectionError("nobody is there")


class Works:
    """What a server does at an agent: it begins once the agent has answered."""

    def __init__(self, channel: FrameChannel[Any], model: Path) -> None:
        self._channel, self._model = channel, model
        self._session: AgentSession | None = None
        self.executor: RemoteExecutor | None = None
        self._work: asyncio.Task[None] | None = None
        self._submitted, self._all_ended = 0, asyncio.Event()
        self.lost = 0
        self.told: list[str] = []
        self.left: list[int] = []

    async def go_on(self) -> None:
        """To be called after each piece of what the agent says."""
        greeting = self._channel.owner
        if self._session is None and isinstance(greeting, Greeting) and _succeeded(greeting.answer):
            await self.begin()

    async def begin(self, connect: Callable[[FrameChannel[Any], bytes], Awaitable[None]] = _unreachable) -> None:
        session = self._session = AgentSession(ADDRESS, self._channel, Inventory((), {}, 0), KnownModels())
        vars(session)["connect_to_device"] = connect
        executor = self.executor = session.open_device("cpu0", 1, self._on_lost, _SPEC)
        self._work = asyncio.create_task(self._run(executor, session))
        session.sent_model(self._model)  # nobody is told once the session has ended
        await asyncio.sleep(0)

    async def _run(self, executor: RemoteExecutor, session: AgentSession) -> None:
        await executor.load(KEY, Path(), 4)
        for _ in range(BATCHES):
            due_s = [time.monotonic() + _HOUR_S / 2, math.inf]  # the first leaves before the last stage
            bounds = ExitBounds(due_s, [rows for rows, _ in BATCH.parts], _EXITS)
            executor.submit(msgspec.structs.replace(BATCH, bounds=bounds, leaving=self._left), self._ended)
            self._submitted += 1
        await self._all_ended.wait()
        await session.measure((), _OPTIONS, lambda _: None)

    def _left(self, parts: Sequence[int], _: BatchResult) -> None:
        assert len(self.told) < BATCHES, "it leaves a batch that has ended"
        self.left += list(parts)

    def _ended(self, result: object) -> None:
        self.told.append(type(result).__name__)
        if len(self.told) == BATCHES:
            self._all_ended.set()

    def _on_lost(self, _: DeviceLost) -> None:
        self.lost += 1

    def check_ended(self) -> None:
        if self._session is None:
            return
        assert self._session.has_ended.is_set(), "a session outlives its connection"
        assert self._work is not None
        assert self._work.done(), "it waits for ever"
        error = self._work.exception()
        if error is not None and not isinstance(error, ProteusError):
            raise error
        assert len(self.told) == self._submitted, "a batch has no end, or two"
        assert self.lost <= 1


class NoMeasurer(Measurer):
    """Starts no process."""

    def __init__(self) -> None:
        super().__init__((), Path())

    async def measure(self, *_: Any) -> bytes:
        raise EngineError("nothing is measured here")


class LoopTimer:
    """In place of a `TimerThread`: calls come at once."""

    def at(self, _due_s: float, call: Any) -> None:
        asyncio.get_running_loop().call_soon(call)


async def _send(wire: Wire, content: bytes, then: Any = None) -> None:
    for piece in pieces(content):
        wire.send(piece)
        await asyncio.sleep(0)
        if then is not None:
            await then()
        await asyncio.sleep(0.01)
    await asyncio.sleep(SETTLES_S)


def _succeeded(answer: "asyncio.Future[Any]") -> bool:
    return answer.done() and not answer.cancelled() and answer.exception() is None


def _first_of(wire: Wire) -> Any:
    """The first message that was sent to the other end of a wire."""
    parser, sent = FrameParser(), b"".join(wire.sent)
    target = parser.room
    target[: len(sent)] = sent
    frame = parser.feed(len(sent))
    return FROM_AGENT.decode(frame[0]) if frame is not None else None
