"""A process that measures beside a server waits for its core much of the time: that is no part of what it measures."""

import sys
import threading

import pytest
from builders import near

from proteus_cli.profiling.measuring import measure
from proteus_cli.profiling.measuring.measure import measure_point
from proteus_cli.profiling.measuring.noise import gives_way, own_waits, waited_s
from proteus_cli.serving.measuring_child import leave_time


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


def test_what_a_run_has_waited_is_no_part_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    alone = measure_point(clock.run, 1, 1.0, waited_s=lambda: clock.waited_s)
    assert (alone.mean_s, alone.p99_s) == (near(0.006), near(0.006))
    beside = measure_point(clock.run, 1, 1.0)
    assert (beside.mean_s, beside.p99_s) == (near(0.008), near(0.010))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows SCHED_IDLE")
def test_only_who_gives_way_leaves_its_waits_out() -> None:
    found: list[tuple[bool, bool]] = []

    def measures() -> None:
        leave_time()
        found.append((gives_way(), own_waits() is waited_s))

    thread = threading.Thread(target=measures)
    thread.start()
    thread.join()
    assert found == [(True, True)]
    assert not gives_way()
    assert own_waits()() == 0.0
    assert waited_s() >= 0.0
