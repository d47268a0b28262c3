"""The meter of closed loops: the latency of a batch size while a number of batches is on the device all the time.

Each slot runs one batch after another: one slot in the calling thread, several in a thread each. Runs count once all
slots are warm. The loop ends when two rounds in a row move the p95 by at most `STABLE_FRAC`, when runs have taken
`CELL_S`, or with the budget. Each slot has about `FEWEST_RUNS` at least. A thread that gives way to other programs
waits for its core: this wait is no part of a run, but of the budget.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from proteus_cli.domain.profile import Point
from proteus_cli.profiling.noise import own_waits

CELL_S = 1.0
"""Maximum time of the runs of a cell, stable or not."""
WARM_UP_RUNS = 3
FEWEST_RUNS = 5
ROUND_RUNS = 20
STABLE_FRAC = 0.03
EMPTY_RUNS = 20
"""Number of runs without work. The shortest is the time that timing takes, which no run is charged for."""


def measure_point(
    run: Callable[[], object], batch: int, budget_s: float, *, slots: int = 1, min_s: float = 0.0
) -> Point:
    """The latency of ``run``, which computes one batch, with ``slots`` batches at once.

    Takes at least ``min_s``, unless the budget is smaller. Raises what ``run`` raises.
    """
    loop = _ClosedLoop(run, slots, budget_s, min_s)
    if slots == 1:
        loop.work()
    else:
        with ThreadPoolExecutor(slots) as pool:
            list(pool.map(lambda _: loop.work(), range(slots)))
    p50_s, p90_s, p95_s, p99_s = np.percentile(loop.taken_s, (50, 90, 95, 99)).tolist()
    mean_s = float(np.mean(loop.taken_s))
    qps = slots * batch / mean_s
    return Point(batch, len(loop.taken_s), mean_s, p50_s, p90_s, p95_s, p99_s, qps=qps, slots=slots)


def is_stable(p95s: list[float]) -> bool:
    """Whether the last two rounds moved the p95 by no more than `STABLE_FRAC` each."""
    moves = pairwise(p95s[-3:])
    return len(p95s) > 2 and all(abs(after - before) <= STABLE_FRAC * before for before, after in moves)  # noqa: PLR2004


class _ClosedLoop:
    """The state that the slots of a loop share. ``taken_s`` has the seconds of each run that counts."""

    def __init__(self, run: Callable[[], object], slots: int, budget_s: float, min_s: float) -> None:
        self.taken_s: list[float] = []
        self._run, self._slots, self._lock = run, slots, threading.Lock()
        now_s = time.perf_counter()
        self._stop_s, self._least_s = now_s + budget_s, now_s + min_s
        self._spent_s, self._p95s, self._warm, self._is_over = 0.0, list[float](), 0, False

    def work(self) -> None:
        """Run batches in this slot until the loop is over."""
        try:
            with own_waits() as waited_s:

                def timed_s(work: Callable[[], object]) -> float:
                    start_s, waited_before_s = time.perf_counter(), waited_s()
                    work()
                    waits_s = waited_s() - waited_before_s
                    return time.perf_counter() - start_s - waits_s

                reads_s = min(timed_s(lambda: None) for _ in range(EMPTY_RUNS))
                runs = 0
                while not self._is_over:
                    counts = self._warm == self._slots
                    took_s = timed_s(self._run) - reads_s
                    runs += 1
                    with self._lock:
                        self._warm += runs == WARM_UP_RUNS
                        self._spent_s += took_s / self._slots
                        if counts:
                            self._count(took_s)
        finally:
            self._is_over = True

    def _count(self, took_s: float) -> None:
        self.taken_s.append(took_s)
        now_s, runs = time.perf_counter(), len(self.taken_s)
        if self._spent_s >= CELL_S or now_s >= self._stop_s:
            self._is_over = runs >= FEWEST_RUNS * self._slots
        elif runs % (ROUND_RUNS * self._slots) == 0:
            self._p95s.append(float(np.percentile(self.taken_s, 95)))
            self._is_over = is_stable(self._p95s) and now_s >= self._least_s
