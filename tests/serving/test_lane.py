"""A lane asks, and obeys."""

import asyncio
from collections.abc import Sequence
from typing import Any

from proteus_cli.control.decision import IDLE, Decision, WaitUntil
from proteus_cli.serving.lane import Lane


class ScriptedController:
    """Says what it was told to say, and remembers at which time it was asked; idle when the script is over."""

    def __init__(self, script: Sequence[Decision]) -> None:
        self.script, self.asked_s = list(script), list[float]()

    def decide(self, device: str, now_s: float) -> Decision:
        self.asked_s.append(now_s)
        return self.script.pop(0) if self.script else IDLE


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def asked(script: Sequence[Decision], times_s: Sequence[float]) -> list[float]:
    """The times at which the controller was asked by a lane that was woken at ``times_s``."""

    async def run() -> list[float]:
        controller, clock = ScriptedController(script), Clock()
        asks: Any = controller
        nothing_runs: Any = None
        lane = Lane("cpu0", asks, nothing_runs, nothing_runs, clock, {}, 3600.0)
        for now_s in times_s:
            clock.now_s = now_s
            lane.ask()
        return controller.asked_s

    return asyncio.run(run())


def test_a_moment_that_was_waited_for_is_not_missed_where_the_timer_is_late() -> None:
    assert asked([WaitUntil(5.0)], [1.0, 5.3]) == [1.0, 5.0]


def test_a_lane_that_is_woken_early_says_so() -> None:
    assert asked([WaitUntil(5.0), WaitUntil(5.0)], [1.0, 4.9, 5.0]) == [1.0, 4.9, 5.0]


def test_a_moment_that_is_over_is_forgotten() -> None:
    assert asked([WaitUntil(5.0)], [1.0, 5.3, 5.4]) == [1.0, 5.0, 5.4]
    assert asked([WaitUntil(5.0), IDLE], [1.0, 2.0, 9.0]) == [1.0, 2.0, 9.0]
