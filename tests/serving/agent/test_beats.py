"""An agent's signs of life, and those that it expects of a server."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from virtual_loop import VirtualLoop

from proteus_cli.domain.cluster import BEAT_S
from proteus_cli.serving.agent import session as beats
from proteus_cli.serving.agent.session import MEMORY_S, SERVER_SILENT_S, beat
from proteus_cli.serving.devices.remote.channel import channel as channel_module
from proteus_cli.serving.devices.remote.channel.channel import FrameChannel
from proteus_cli.serving.devices.remote.channel.frames import SIGN_OF_LIFE, FrameParser
from proteus_cli.serving.devices.remote.channel.messages import TO_AGENT, ToAgent


class Wire(asyncio.Transport):
    """Notes what is sent when."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self.sent: list[tuple[float, bytes]] = []

    def write(self, data: Any) -> None:
        self.sent.append((self._clock(), bytes(data)))

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 7000) if name == "peername" else default

    @property
    def gaps_s(self) -> list[float]:
        """Between any two neighbours that were sent."""
        times = [at_s for at_s, _ in self.sent]
        return [after - before for before, after in itertools.pairwise(times)]

    @property
    def signs_of_life(self) -> int:
        return sum(content == SIGN_OF_LIFE for _, content in self.sent)


def played(
    monkeypatch: pytest.MonkeyPatch,
    play: Callable[[FrameChannel[ToAgent]], Coroutine[Any, Any, None]],
) -> tuple[Wire, list[tuple[float, str]]]:
    """What is sent while ``play`` goes on, and when and why the session ended, if it did."""
    loop, ends = VirtualLoop(), list[tuple[float, str]]()
    for module in (beats, channel_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=loop.time))
    wire, channel = Wire(loop.time), FrameChannel[ToAgent](TO_AGENT, FrameParser())
    channel.connection_made(wire)

    async def run() -> None:
        beating = asyncio.ensure_future(beat(channel, lambda reason: ends.append((loop.time(), reason))))
        await play(channel)
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)

    try:
        loop.run_until_complete(run())
        return wire, ends
    finally:
        loop.close()


def test_an_idle_agent_sends_something_each_beat_and_its_memory_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, ends = played(monkeypatch, lambda _: asyncio.sleep(5.05 * MEMORY_S))
    assert max(wire.gaps_s) == pytest.approx(BEAT_S)
    assert min(wire.gaps_s) == pytest.approx(BEAT_S)
    assert len(wire.sent) - wire.signs_of_life in {5, 6}
    assert not ends


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hear_once(channel: FrameChannel[ToAgent]) -> None:
        await asyncio.sleep(2.0)
        channel.get_buffer(-1)[: len(SIGN_OF_LIFE)] = SIGN_OF_LIFE
        channel.buffer_updated(len(SIGN_OF_LIFE))
        await asyncio.sleep(2 * SERVER_SILENT_S)

    wire, ends = played(monkeypatch, hear_once)
    ((ended_s, reason),) = ends
    assert reason == "nothing came from it for 10 s"
    assert 2.0 + SERVER_SILENT_S <= ended_s <= 2.0 + SERVER_SILENT_S + 3 * BEAT_S
    assert max(at_s for at_s, _ in wire.sent) <= ended_s
