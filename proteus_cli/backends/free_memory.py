"""A bound on the memory that loading a model may take: what is free.

Linux grants more memory than there is, and kills a process that then uses it. Within the bound an allocation fails
instead: the load ends with an error, and other models serve on. The bound is `RLIMIT_DATA` of the process, which counts
memory that can be written to, and not what allocators and threads only reserve. Allocations of other threads meanwhile
count, too. Without `/proc`, there is no bound.
"""

import math
import re
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from proteus_cli.errors import EngineError

KEPT_FREE_FRAC = 0.1  # of the free memory: for whatever else runs on this machine

MIN_FREE_FRAC = 0.05  # of all memory; with less, other programs and the page cache of this one start to suffer

_KIB = 1024
_CGROUP = Path("/sys/fs/cgroup")  # of a container: its own limits, by cgroup v2


@contextmanager
def within_free_memory(what: str) -> Iterator[None]:
    """Let allocations of this process fail once they take more than is free now. Raises `EngineError` where one does.

    The libraries of models raise errors of their own. For errors that they don't catch, this one says ``what`` failed.
    """
    _bound.enter()
    try:
        yield
    except MemoryError as error:
        raise EngineError(f"Not enough memory for {what}.", hint="free some, or use a smaller model") from error
    finally:
        _bound.leave()


def free_bytes() -> int | None:
    """The memory that is free on this machine, or in this container; None where it is unknown."""
    machine = _number(Path("/proc/meminfo"), "MemAvailable:")
    if machine is None:
        return None
    limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    if limit is None or used is None:
        return machine * _KIB
    cached = sum(_number(_CGROUP / "memory.stat", name) or 0 for name in ("active_file", "inactive_file"))
    return min(machine * _KIB, max(0, limit - used + cached))


@dataclass(frozen=True, slots=True)
class HostMemory:
    """The memory of a machine, or of a container: what is free, None where that is unknown.

    It ``is_short`` while less than `MIN_FREE_FRAC` of it is free.
    """

    free_bytes: int | None = None
    is_short: bool = False


def host_memory() -> HostMemory:
    """The current memory of this machine, or of this container."""
    total, free = _number(Path("/proc/meminfo"), "MemTotal:"), free_bytes()
    if total is None or free is None:
        return HostMemory(free)
    limit = _number(_CGROUP / "memory.max")
    return HostMemory(free, free < MIN_FREE_FRAC * min(total * _KIB, limit if limit is not None else math.inf))


class _ProcessBound:
    """The limit of this process while any load runs; afterwards it is as it was before."""

    def __init__(self) -> None:
        self._lock, self._loads = threading.Lock(), 0
        self._before = resource.RLIM_INFINITY

    def enter(self) -> None:
        with self._lock:
            soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
            if not self._loads:
                self._before = soft
            self._loads += 1
            free, used = free_bytes(), _number(Path("/proc/self/status"), "VmData:")
            if free is not None and used is not None:
                limits = [used * _KIB + round(free * (1 - KEPT_FREE_FRAC)), self._before, hard]
                soft = min(limit for limit in limits if limit != resource.RLIM_INFINITY)
                resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

    def leave(self) -> None:
        with self._lock:
            self._loads -= 1
            if not self._loads:
                _, hard = resource.getrlimit(resource.RLIMIT_DATA)
                resource.setrlimit(resource.RLIMIT_DATA, (self._before, hard))


_bound = _ProcessBound()


def _number(path: Path, name: str = "") -> int | None:
    """The number behind a name in a file of the system; None where there is none."""
    try:
        text = path.read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(rf"^{name}\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else None
