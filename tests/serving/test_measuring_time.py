"""Measuring that gets no time of busy cores says so once, and when it goes on."""

import asyncio
import os
import time
from collections.abc import Sequence

import pytest
from virtual_loop import VirtualLoop

from proteus_cli.serving.measuring_process import GOES_ON, LOOK_S, WAITS, cpu_s, tell_waits


@pytest.mark.parametrize(
    ("times_s", "told"),
    [
        ([0.0, 4.0, 8.0, None], []),
        ([0.0, 4.0, 4.1, 4.2, 4.2, 8.0, 12.0, 12.0, None], [WAITS, GOES_ON, WAITS]),
        ([0.0, 0.0, None], [WAITS]),
        ([None], []),
    ],
)
def test_it_is_told_where_a_process_gets_next_to_no_time(times_s: Sequence[float | None], told: list[str]) -> None:
    left, said = iter(times_s), list[str]()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(tell_waits(1, said.append, lambda _: next(left)))
        assert runner.get_loop().time() <= len(times_s) * LOOK_S
    assert said == told


def test_the_time_of_a_process_is_what_it_has_taken() -> None:
    before, start_s = cpu_s(os.getpid()), time.process_time()
    while time.process_time() - start_s < 0.05:
        pass
    after = cpu_s(os.getpid())
    assert before is not None
    assert after is not None
    assert after - before >= 0.02  # it is told in hundredths of a second
    assert cpu_s(2**22 + 1) is None
