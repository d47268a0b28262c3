"""Turns: one at a time, first come first served, with a turn of the loop between."""

from collections import deque
from collections.abc import Callable

import pytest

from proteus_cli.serving.transport.connections import WORK_AT_ONCE, WORK_IN_CROWD, WORK_PER_TURN, LoopTurn, Turn, Turns


def test_each_turn_of_the_loop_has_one_that_waits_and_they_alternate() -> None:
    soon = deque[Callable[[], None]]()
    turns, taken = Turns(soon.append), list[str]()

    def taker(name: str, times: int) -> Callable[[], None]:
        def take() -> None:
            taken.append(name)
            if taken.count(name) < times:
                turns.wait(take)

        return take

    turns.wait(taker("busy", 3))
    turns.wait(taker("brief", 1))
    turns.wait(taker("twice", 2))
    while soon:
        assert len(soon) == 1
        before = len(taken)
        soon.popleft()()
        assert len(taken) == before + 1
    assert taken == ["busy", "brief", "twice", "busy", "twice", "busy"]


def test_one_that_fails_does_not_hold_up_the_others() -> None:
    soon, taken = deque[Callable[[], None]](), list[str]()
    turns = Turns(soon.append)

    def failing() -> None:
        raise ZeroDivisionError

    turns.wait(failing)
    turns.wait(lambda: taken.append("next"))
    with pytest.raises(ZeroDivisionError):
        soon.popleft()()
    soon.popleft()()
    assert taken == ["next"]


def test_a_loop_is_crowded_from_a_bound_on_until_its_next_turn() -> None:
    soon = deque[Callable[[], None]]()
    loop_turn = LoopTurn(soon.append)
    for _ in range(3):
        loop_turn.spend(WORK_AT_ONCE - 1)
        assert not loop_turn.is_crowded
        loop_turn.spend(1)
        assert loop_turn.is_crowded
        assert len(soon) == 1
        soon.popleft()()
        assert not loop_turn.is_crowded


def test_a_turn_is_shortened_and_never_made_longer() -> None:
    turn = Turn()
    assert turn.left == WORK_PER_TURN
    turn.shorten()
    assert turn.left == WORK_IN_CROWD
    turn.left = 1
    turn.shorten()
    assert turn.left == 1
