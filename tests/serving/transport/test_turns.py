"""Turns: one at a time, first come first served, with a turn of the loop between."""

from collections import deque
from collections.abc import Callable

import pytest

from proteus_cli.serving.transport.turns import Turns


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
