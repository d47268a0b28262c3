"""The heartbeat of a server: when connections are looked at and pinged, and when a silent one ends."""

from collections import Counter
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from virtual_loop import VirtualLoop

from proteus_cli.domain.cluster import BEAT_S, MAX_SILENT
from proteus_cli.serving.devices.remote.sessions.session import MAX_SILENT_MEASURING, PING_BEATS, AgentSession, Looks


class Noting:
    """Notes when it is looked at and pinged, in beats."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.looks, self.pings = list[float](), list[float]()

    def look(self) -> None:
        self.looks.append(self._loop.time() / BEAT_S)

    def ping(self) -> None:
        self.pings.append(self._loop.time() / BEAT_S)


def watched(hosts: int, beats: float, held_up: tuple[tuple[float, float], ...] = ()) -> list[Noting]:
    """Connections that are watched for so long; the loop is held up from a beat on, for so many beats."""
    loop = VirtualLoop()
    looks, noting = Looks(), [Noting(loop) for _ in range(hosts)]

    async def watch() -> None:
        with ExitStack() as stack:
            for each in noting:
                stack.enter_context(looks.at(each))
            for at, length in held_up:
                loop.call_at(at * BEAT_S, loop.hold_up, length * BEAT_S)
            over = loop.create_future()
            loop.call_later(beats * BEAT_S, over.set_result, None)
            await over

    try:
        loop.run_until_complete(watch())
    finally:
        loop.close()
    return noting


@pytest.mark.parametrize("hosts", [1, 3, 101])
def test_each_is_looked_at_each_beat_and_pinged_once_a_second_few_at_a_time(hosts: int) -> None:
    noting = watched(hosts, 50.5)
    for each in noting:
        assert each.looks == pytest.approx(range(1, 51))
        assert len(each.pings) == 50 / PING_BEATS
    at_once = Counter(round(at) for each in noting for at in each.pings)
    assert max(at_once.values()) <= hosts / PING_BEATS + 1


def test_after_a_loop_that_was_held_up_comes_one_look_and_none_follows_at_once() -> None:
    (late,) = watched(1, 8.5, held_up=((2.5, 3.2),))
    assert late.looks == pytest.approx([1, 2, 5.7, 6.7, 7.7])


@pytest.mark.parametrize(("is_measuring", "allowed"), [(False, MAX_SILENT), (True, MAX_SILENT_MEASURING)])
def test_a_host_is_dead_after_so_many_looks_in_vain_and_anything_that_comes_is_a_sign_of_life(
    allowed: int, *, is_measuring: bool
) -> None:
    ends = list[str]()
    session: Any = SimpleNamespace(bytes_received=0, is_measuring=is_measuring, ended=ends.append, _seen=-1, _silent=0)
    for _ in range(3):
        session.bytes_received += 1
        for _ in range(allowed):  # the first finds something
            AgentSession.look(session)
    assert not ends
    AgentSession.look(session)
    assert ends == [f"nothing came from it for {allowed * 100} ms"]
