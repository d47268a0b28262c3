"""The latency of a batch size while several such batches are on the device at once."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import numpy as np

from proteus_cli.domain.profile import Point
from proteus_cli.profiling.measuring.measure import FEWEST_RUNS, ROUND_RUNS, WARM_UP_RUNS, is_stable, point_of

CHECK_EVERY_S = 0.02
ROUND_GROWTH = 1.25  # each round is longer than the last, so that percentiles don't keep the workers from running


def measure_concurrently(
    run: Callable[[], object], batch: int, slots: int, budget_s: float, *, min_s: float = 0.0
) -> Point:
    """As `measure_point`, but in ``slots`` threads, each of which runs one batch after another.

    So a batch shares the device as it does when a server is busy. Batches count that began after all threads were
    warmed up. Raises what ``run`` raises.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(_working(run)) for _ in range(slots)]
        while not all(worker.ran >= WARM_UP_RUNS for worker in workers):
            _check(workers)
        for worker in workers:
            worker.count_from_now()
        start_s = time.perf_counter()
        p95s: list[float] = []
        next_runs = float(ROUND_RUNS * slots)
        while True:
            _check(workers)
            passed_s = time.perf_counter() - start_s
            if min(worker.counted for worker in workers) < FEWEST_RUNS:
                continue
            runs = sum(worker.counted for worker in workers)
            if runs >= next_runs:
                next_runs = runs * ROUND_GROWTH
                p95s.append(float(np.percentile(_taken_s(workers), 95)))
            if passed_s >= budget_s or (is_stable(p95s) and passed_s >= min_s):
                return point_of(_taken_s(workers), batch, slots)


class _Worker:
    """Runs one batch after another in a thread of its own; another thread reads the counts."""

    def __init__(self, run: Callable[[], object]) -> None:
        self._run = run
        self._ends_s: list[float] = []
        self._first = 0
        self.error: BaseException | None = None
        self.is_running = True

    @property
    def ran(self) -> int:
        return len(self._ends_s)

    @property
    def counted(self) -> int:
        """How many batches began after `count_from_now` and ended."""
        return max(self.ran - self._first - 1, 0)

    def count_from_now(self) -> None:
        self._first = self.ran

    def taken_s(self) -> list[float]:
        """The seconds of each counted batch, from the end of the one before it."""
        return [after - before for before, after in pairwise(self._ends_s[self._first :])]

    def work(self) -> None:
        try:
            while self.is_running:
                self._run()
                self._ends_s.append(time.perf_counter())
        except BaseException as error:  # noqa: BLE001 - raised again by `_check`
            self.error = error


@contextmanager
def _working(run: Callable[[], object]) -> Iterator[_Worker]:
    worker = _Worker(run)
    thread = threading.Thread(target=worker.work, name="profile", daemon=True)
    thread.start()
    try:
        yield worker
    finally:
        worker.is_running = False
        thread.join()


def _taken_s(workers: list[_Worker]) -> list[float]:
    return [seconds for worker in workers for seconds in worker.taken_s()]


def _check(workers: list[_Worker]) -> None:
    time.sleep(CHECK_EVERY_S)
    for worker in workers:
        if worker.error is not None:
            raise worker.error
