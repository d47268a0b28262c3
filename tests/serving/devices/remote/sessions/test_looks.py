"""Connections are looked at and pinged in groups: few wake-ups, each short, and none that depends on another's."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from virtual_loop import VirtualLoop

from proteus_cli.domain.cluster import BEAT_S
from proteus_cli.serving.devices.remote.sessions.looks import GROUP, PING_BEATS, Looks


class Noting:
    """Notes when it is looked at and pinged."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.looks_s: list[float] = []
        self.pings_s: list[float] = []

    def look(self) -> None:
        self.looks_s.append(self._clock())

    def ping(self) -> None:
        self.pings_s.append(self._clock())


@contextmanager
def virtual() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    try:
        yield loop
    finally:
        loop.close()


def watched(loop: VirtualLoop, looks: Looks, hosts: int, seconds: float) -> list[Noting]:
    """So many connections, watched for so long from a moment on that is not that of a beat."""
    noting = [Noting(loop.time) for _ in range(hosts)]

    async def watch() -> None:
        with ExitStack() as stack:
            for each in noting:
                stack.enter_context(looks.at(each))
            await pause(loop, seconds)

    loop.hold_up(0.537 * BEAT_S)
    loop.run_until_complete(watch())
    return noting


async def pause(loop: VirtualLoop, seconds: float) -> None:
    over = loop.create_future()
    loop.call_later(seconds, over.set_result, None)
    await over


@pytest.mark.parametrize("hosts", [1, 3, GROUP, 4 * GROUP + 1])
def test_each_is_looked_at_each_beat_and_pinged_once_a_second_half_a_beat_from_its_looks(hosts: int) -> None:
    with virtual() as loop:
        for each in watched(loop, Looks(), hosts, 50.5 * BEAT_S):
            first_s = each.looks_s[0]
            assert 0 < first_s - 0.537 * BEAT_S <= BEAT_S
            assert each.looks_s == pytest.approx([first_s + n * BEAT_S for n in range(len(each.looks_s))])
            assert len(each.looks_s) in {50, 51}
            beats = [(at_s - first_s) / BEAT_S for at_s in each.pings_s]
            assert [beat % 1.0 for beat in beats] == pytest.approx([0.5] * len(beats))
            assert [int(beat) % PING_BEATS for beat in beats] == [int(beats[0])] * len(beats)
            assert len(beats) in {4, 5}


def test_a_wake_up_looks_at_a_whole_group_and_pings_few_of_it() -> None:
    hosts = 4 * GROUP
    with virtual() as loop:
        noting = watched(loop, Looks(), hosts, 10 * PING_BEATS * BEAT_S)
    looks = Counter(at_s for each in noting for at_s in each.looks_s)
    assert set(looks.values()) == {GROUP}
    pings = Counter(at_s for each in noting for at_s in each.pings_s)
    assert set(pings.values()) <= {2, 3}
    phases = sorted({round(at_s / BEAT_S % 1.0, 6) % 1.0 for at_s in looks})
    assert len(phases) == 4
    assert min(b - a for a, b in zip(phases, [*phases[1:], phases[0] + 1.0], strict=True)) > 0.1


def test_a_late_look_moves_no_other_and_none_follows_at_once() -> None:
    with virtual() as loop:
        looks, late, held_s = Looks(), Noting(loop.time), [0.3 * BEAT_S, 3.2 * BEAT_S]

        async def watch() -> None:
            with looks.at(late):
                for each_s in held_s:
                    await pause(loop, 4.9 * BEAT_S)
                    loop.hold_up(each_s)
                await pause(loop, 5 * BEAT_S)

        loop.run_until_complete(watch())
    beats = [at_s / BEAT_S for at_s in late.looks_s]
    assert beats == pytest.approx([1, 2, 3, 4, 5.2, 6, 7, 8, 9, 10, 13.3, 13.8, 14.8, 15.8, 16.8, 17.8])


def test_places_that_are_left_are_taken_again_and_nothing_is_left_to_do_without_connections() -> None:
    with virtual() as loop:
        looks = Looks()
        for _ in range(20):
            watched(loop, looks, GROUP + 5, 0.1)
        assert len(looks._groups) == 2
        assert not [timer for timer in loop._scheduled if not timer.cancelled()]
        (again,) = watched(loop, looks, 1, 5 * BEAT_S)
        assert len(again.looks_s) >= 3
