"""How long batches are on their way, and the speed of the network to an agent."""

import asyncio
from pathlib import Path

import pytest
from agents import PATIENCE_S, running_agent

from proteus_cli.errors import HostLost
from proteus_cli.serving.devices.remote.sessions import crossings
from proteus_cli.serving.devices.remote.sessions.connecting import connect
from proteus_cli.serving.devices.remote.sessions.crossings import Crossings, measured_speed


def test_a_batch_is_on_its_way_for_the_shortest_time_of_its_size() -> None:
    times = Crossings()
    assert times.shortest_s(1000, 0.004, 0.0) == 0.004
    assert times.shortest_s(900, 0.050, 0.1) == 0.004, "an event loop was late"
    assert times.shortest_s(100_000, 0.050, 0.2) == 0.050, "a batch of another size"
    times.shortest_s(1000, 0.006, 1.1)
    assert times.shortest_s(1000, 0.006, 2.2) == 0.006, "the network has become slower"


class _Network:
    """A session whose echoes take 1 ms, and for each MB that goes there and comes back 10 ms more."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def echo(self, size: int) -> float:
        self.sizes.append(size)
        is_first = self.sizes.count(size) == 1
        return 0.001 + size * 2 / 1e8 + (0.03 if is_first and size else 0.0)


def test_the_speed_is_that_of_echoes_that_take_long_enough() -> None:
    network = _Network()
    round_trip_s, bytes_per_s = asyncio.run(measured_speed(network))  # type: ignore[arg-type]
    assert round_trip_s == pytest.approx(0.001)
    assert bytes_per_s == pytest.approx(1e8)
    assert max(network.sizes) == 2**22, "84 ms; a fourth of it takes 22 ms"


def test_on_a_slow_network_little_is_sent() -> None:
    class Slow(_Network):
        async def echo(self, size: int) -> float:
            await super().echo(size)
            return 0.1 + size * 2 / 5e4

    network = Slow()
    assert asyncio.run(measured_speed(network))[1] == pytest.approx(5e4)  # type: ignore[arg-type]
    assert sum(network.sizes) == crossings.FIRST_BYTES


async def _in_session(directory: Path, *, is_lost: bool = False) -> tuple[float, float]:
    async with running_agent(directory) as agent:
        session = await connect(agent.address, "server", 1)
        try:
            if is_lost:
                agent.agent.close()
            async with asyncio.timeout(PATIENCE_S):
                return await measured_speed(session)
        finally:
            session.close()


def test_an_agent_sends_back_what_it_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossings, "MAX_ECHO_BYTES", 2**18)
    round_trip_s, bytes_per_s = asyncio.run(_in_session(tmp_path))
    assert 0 < round_trip_s < PATIENCE_S
    assert 0 < bytes_per_s < float("inf")


def test_measuring_the_speed_ends_with_the_connection(tmp_path: Path) -> None:
    with pytest.raises(HostLost, match="is lost"):
        asyncio.run(_in_session(tmp_path, is_lost=True))
