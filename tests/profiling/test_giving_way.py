"""A process that measures beside a server waits for its core much of the time: that is no part of what it measures."""

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from hashlib import blake2b
from typing import TypeVar

import pytest
from builders import near

from proteus_cli.backends.affinity import pinned, usable_cores
from proteus_cli.domain.profile import Point
from proteus_cli.profiling import closed_loop
from proteus_cli.profiling.closed_loop import measure_point
from proteus_cli.profiling.noise import gives_way, own_waits
from proteus_cli.serving.measuring_child import leave_time

Found = TypeVar("Found")


class Clock:
    """Each run computes for 6 ms, and every second one waits for 4 ms besides."""

    def __init__(self) -> None:
        self.now_s = self.waited_s = 0.0
        self.runs = 0

    def perf_counter(self) -> float:
        return self.now_s

    def run(self) -> None:
        self.runs += 1
        waits_s = 0.004 if self.runs % 2 else 0.0
        self.now_s += 0.006 + waits_s
        self.waited_s += waits_s


@pytest.mark.parametrize("read_s", [0.0, 0.002])
def test_neither_waits_nor_the_time_to_read_them_are_part_of_a_run(
    monkeypatch: pytest.MonkeyPatch, read_s: float
) -> None:
    clock = Clock()

    def waited_s() -> float:
        clock.now_s += read_s
        return clock.waited_s

    monkeypatch.setattr(closed_loop, "time", clock)
    monkeypatch.setattr(closed_loop, "own_waits", lambda: nullcontext(waited_s))
    alone = measure_point(clock.run, 1, 1.0)
    assert (alone.mean_s, alone.p99_s) == (near(0.006), near(0.006))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows SCHED_IDLE")
def test_only_who_gives_way_leaves_its_waits_out() -> None:
    def measures() -> tuple[bool, float]:
        leave_time()
        with own_waits() as waited_s:
            return gives_way(), waited_s()

    is_idle, waited_s = _in_a_thread(measures)
    assert is_idle
    assert waited_s >= 0.0
    assert not gives_way()
    with own_waits() as none_s:
        assert none_s() == 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows SCHED_IDLE")
def test_a_run_never_takes_less_than_it_computes() -> None:
    """Two other threads of the process wait for the same core at the same time: what they wait is not its own."""
    core, work, is_over = usable_cores()[0], bytes(2**16), threading.Event()

    def others() -> None:
        leave_time()
        while not is_over.is_set():
            blake2b(work)  # without the GIL

    def computes() -> None:
        until_s = time.thread_time() + 0.002
        while time.thread_time() < until_s:
            blake2b(work)

    def measures() -> Point:
        leave_time()
        return measure_point(computes, 1, 0.0)

    with pinned((core,)):
        waiting = [threading.Thread(target=others) for _ in range(2)]
        for thread in waiting:
            thread.start()
        try:
            point = _in_a_thread(measures)
        finally:
            is_over.set()
            for thread in waiting:
                thread.join()
    assert point.mean_s > 0.0019
    assert point.p50_s > 0.0019


def _in_a_thread(run: Callable[[], Found]) -> Found:
    """In a thread of its own, as there is no way back to the usual priority."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()
