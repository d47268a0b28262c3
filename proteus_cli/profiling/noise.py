"""Whether a cell can be trusted: how much others, or scatter, may have moved its mean latency.

Two signs count, each as a part of the mean latency:

* **Waiting.** While a thread of this process could run and had no core, its runs took longer. Linux counts that time
  for each thread (``/proc/self/task/*/schedstat``) in nanoseconds. For a virtual machine it also counts the time in
  which the host gave a core to another one (*steal*).
* **Scatter.** All runs of a cell do the same work, so their mean is near their median. Other programs, other users of a
  GPU and changes of the clocks lift the mean above it. Runs of a multi-exit model do as much work as their rows need,
  so their scatter has no meaning.

A cell is noisy where either is more than `NOISE_FRAC`. On other systems than Linux, only scatter is known.

A process that measures beside a server gives way to all others (`SCHED_IDLE`) and waits much of the time. Its waits are
neither part of the times that it measures, nor noise.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import psutil

from proteus_cli.backends.affinity import pinned
from proteus_cli.domain.profile import Point

NOISE_FRAC = 0.1
"""Half of the fifth from which on a server corrects a profile: what is measured must be nearer to the truth."""

PROBE_S = 0.3  # many turns of a scheduler, which are some milliseconds long

_TASKS, _OWN = Path("/proc/self/task"), Path("/proc/thread-self/schedstat")
_LONGEST_STAT = 64  # bytes: three numbers of 20 digits at most


@dataclass(slots=True)
class Waiting:
    """``frac``: the part of the time of a block in which this process waited for a core; filled in at its end."""

    frac: float = 0.0


@contextmanager
def observing(cores: Sequence[int]) -> Iterator[Waiting]:
    """How long this process, which runs on these cores, waits for them during the block. No cores: only its threads.

    Several threads may wait at once, and the slowest decides, so their times are added.
    """
    waiting = Waiting()
    start_s, before_s, stolen_s = time.perf_counter(), waited_s(), _stolen_s(cores)
    try:
        yield waiting
    finally:
        took_s = time.perf_counter() - start_s
        lost_s = waited_s() - before_s + counted_steal_s(_stolen_s(cores) - stolen_s, len(cores))
        waiting.frac = min(max(lost_s / took_s, 0.0), 1.0) if took_s > 0 else 0.0


def gives_way() -> bool:
    """Whether this thread runs only while no other program wants its core."""
    return sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_IDLE


@contextmanager
def own_waits() -> Iterator[Callable[[], float]]:
    """A function for the seconds that this thread has waited because it gives way.

    It returns 0 if the thread does not give way, or the system does not report waits. Other threads of the process do
    not count: they wait at the same time, and the sum is more than a run has lost. A read takes two microseconds;
    `waited_s` takes longer than the waits between two looks at the clock.
    """
    if not (gives_way() and _OWN.exists()):
        yield lambda: 0.0
        return
    with _OWN.open("rb", buffering=0) as schedstat:
        yield lambda: int(os.pread(schedstat.fileno(), _LONGEST_STAT, 0).split()[1]) / 1e9


def waiting_now(cores: Sequence[int]) -> float:
    """The `Waiting.frac` of `PROBE_S` of work on each core: the noise that a measurement would meet there now."""
    work = bytes(2**20)

    def compute(stop_s: float) -> None:
        while time.perf_counter() < stop_s:
            blake2b(work)  # without the GIL

    with pinned(cores), ThreadPoolExecutor(len(cores)) as pool, observing(cores) as waiting:
        list(pool.map(compute, [time.perf_counter() + PROBE_S] * len(cores)))
    return waiting.frac


def noise_frac(point: Point, waiting_frac: float, *, runs_are_alike: bool = True) -> float:
    """The part of the mean latency that is due to others or to scatter; 0 where it is no more than `NOISE_FRAC`."""
    scatter_frac = max(point.mean_s - point.p50_s, 0.0) / point.mean_s if runs_are_alike else 0.0
    found = max(waiting_frac, scatter_frac)
    return found if found > NOISE_FRAC else 0.0


def counted_steal_s(stolen_s: float, cores: int) -> float:
    """The steal that is certain to be of a block. It is counted in ticks, and one of each core may be from before."""
    return max(stolen_s - cores / os.sysconf("SC_CLK_TCK"), 0.0)


def waited_s() -> float:
    """Seconds that the threads of this process were ready to run and had no core; 0 if the system does not say."""
    waited_ns = 0
    with contextlib.suppress(OSError):
        for task in _TASKS.iterdir():
            with contextlib.suppress(OSError):  # the thread has ended
                waited_ns += int((task / "schedstat").read_text(encoding="ascii").split()[1])
    return waited_ns / 1e9


def _stolen_s(cores: Sequence[int]) -> float:
    """Seconds of the cores that the host of a virtual machine gave to others; 0 if the system does not say."""
    times = psutil.cpu_times(percpu=True) if cores else ()
    return float(sum(getattr(times[core], "steal", 0.0) for core in cores if core < len(times)))
