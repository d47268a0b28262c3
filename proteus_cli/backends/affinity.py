"""The cores that a thread runs on, and before whom. Where the system cannot restrict either, nothing changes."""

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

CAN_GIVE_WAY = sys.platform == "linux"
"""Whether each thread has a nice value of its own."""

NICE = 10
"""Linux gives a thread of this nice value a tenth (110 / 1134) of a core that another one keeps busy, else the rest."""


def usable_cores() -> tuple[int, ...]:
    """The cores that the calling thread may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def pin_this_thread(cores: Sequence[int]) -> None:
    """Keep the calling thread, and threads that it starts from now on, on these cores; no cores mean no change."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def give_way(niceness: int = NICE) -> None:
    """The calling thread, and threads that it starts from now on, leave the cores to others where it `CAN_GIVE_WAY`.

    That is for good: only a privileged process may lower a nice value. Raises `OSError` where the system refuses it.
    """
    if CAN_GIVE_WAY:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(os.getpriority(os.PRIO_PROCESS, thread) + niceness, 19))


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Keep the calling thread on these cores until left."""
    before = usable_cores()
    pin_this_thread(cores)
    try:
        yield
    finally:
        pin_this_thread(before)
