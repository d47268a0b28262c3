"""Batches at once, on threads that really run side by side."""

import threading
import time

import pytest

from proteus_cli.profiling.closed_loop import FEWEST_RUNS, measure_point

TAKES_S = 0.005


class Machine:
    """One thing at a time, ``TAKES_S`` each, in turn, as a device does them; counts how many wait or run at most."""

    def __init__(self) -> None:
        self._counting, self._turn = threading.Lock(), threading.Condition()
        self._came = self._done = 0
        self.here = self.most = 0

    def run(self) -> None:
        with self._counting:
            self.here += 1
            self.most = max(self.most, self.here)
        with self._turn:
            mine, self._came = self._came, self._came + 1
            self._turn.wait_for(lambda: self._done == mine)
        time.sleep(TAKES_S)
        with self._turn:
            self._done += 1
            self._turn.notify_all()
        with self._counting:
            self.here -= 1


def test_batches_that_share_one_unit_take_as_long_as_all_of_them_together() -> None:
    machine = Machine()
    point = measure_point(machine.run, 4, 0.2, slots=3)
    assert (machine.most, point.batch, point.slots) == (3, 4, 3)
    assert point.mean_s >= 3 * TAKES_S * 0.9  # the first ones find less of a queue
    assert point.qps == pytest.approx(3 * 4 / point.mean_s)
    assert machine.here == 0  # all threads have ended


def test_batches_that_share_nothing_take_no_longer_than_one() -> None:
    """Three waits at once: at the least twice what one at a time would bring, on whatever machine."""
    point = measure_point(lambda: time.sleep(TAKES_S), 1, 0.2, slots=3)
    assert point.mean_s >= TAKES_S
    assert point.qps > 2 / point.mean_s


def test_without_a_budget_each_thread_runs_the_fewest() -> None:
    point = measure_point(lambda: time.sleep(0.001), 1, 0.0, slots=2)
    assert point.runs >= 2 * FEWEST_RUNS


def test_what_a_batch_raises_is_raised_and_the_others_end() -> None:
    count, running = iter(range(1000)), threading.active_count()

    def run() -> None:
        if next(count) == 12:
            raise ZeroDivisionError
        time.sleep(0.001)

    with pytest.raises(ZeroDivisionError):
        measure_point(run, 1, 5.0, slots=2)
    assert threading.active_count() == running
