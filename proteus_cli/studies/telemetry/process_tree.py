"""What this process, and all that it started, take of the machine; nothing where there is no ``/proc``."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
_MINOR, _MAJOR, _TIME, _RESIDENT = slice(7, 9), slice(9, 11), slice(11, 15), 21
"""Places in /proc/PID/stat behind the name: own faults and those of ended children, likewise times; resident pages."""

_VOLUNTARY, _INVOLUNTARY = "voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"


def totals_and_levels() -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of cores, page faults and context switches so far, and the memory that is resident now.

    What ended is counted by its parent. Pages that several processes share are counted in each.
    """
    stats = [stat for pid in tree(os.getpid()) if (stat := _stat(pid)) is not None]
    if not stats:
        return {}, {}
    voluntary, involuntary = _switches()
    totals = {
        "cpu_cores": sum(sum(map(int, stat[_TIME])) for stat in stats) / os.sysconf("SC_CLK_TCK"),
        "minor_faults": float(sum(sum(map(int, stat[_MINOR])) for stat in stats)),
        "major_faults": float(sum(sum(map(int, stat[_MAJOR])) for stat in stats)),
        "voluntary_switches": float(voluntary),
        "involuntary_switches": float(involuntary),
    }
    memory_bytes = sum(int(stat[_RESIDENT]) for stat in stats) * os.sysconf("SC_PAGE_SIZE")
    return totals, {"memory_bytes": float(memory_bytes)}


def tree(root: int) -> Iterator[int]:
    """The process and its descendants, a parent before its children."""
    yield root
    for child in _children(root):
        yield from tree(child)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # the process has ended, or the system lists no children
        for task in (PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def _stat(pid: int) -> list[str] | None:
    """The fields behind the name, which may hold any character; None where the process has ended."""
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return None


def _switches() -> tuple[int, int]:
    """Context switches: of this process, of the children that ended, and of all threads of the other processes."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    voluntary, involuntary = own.ru_nvcsw + ended.ru_nvcsw, own.ru_nivcsw + ended.ru_nivcsw
    me = os.getpid()
    for pid in tree(me):
        for status in _thread_statuses(pid) if pid != me else ():
            found = dict(line.split("\t", 1) for line in status.splitlines() if "ctxt_switches:" in line)
            voluntary += int(found.get(_VOLUNTARY, 0))
            involuntary += int(found.get(_INVOLUNTARY, 0))
    return voluntary, involuntary


def _thread_statuses(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for task in (PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                yield (task / "status").read_text(encoding="utf-8", errors="replace")
