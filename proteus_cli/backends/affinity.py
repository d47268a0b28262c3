"""The cores that a thread runs on. Where the system cannot restrict them, these are all cores."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def usable_cores() -> tuple[int, ...]:
    """The cores that the calling thread may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def pin_this_thread(cores: Sequence[int]) -> None:
    """Keep the calling thread, and threads that it starts from now on, on these cores; no cores mean no change."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Keep the calling thread on these cores until left."""
    before = usable_cores()
    pin_this_thread(cores)
    try:
        yield
    finally:
        pin_this_thread(before)
