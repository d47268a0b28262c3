"""What one input costs: the peak of the process's memory, and the longest time for which it holds the event loop.

An input that costs more than `MAX_PEAK_BYTES` or `MAX_HOLD_S` is a finding, as is one that raises. Memory is resident
memory as Linux counts it, so that allocations of C code count, and memory that is never touched does not. Time is that
of the processor, as the machine may be shared.
"""

import ctypes
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

MIB = 2**20
MAX_INPUT_BYTES = 10**6
MAX_PEAK_BYTES = 256 * MIB
MAX_HOLD_S = 0.25

_KIB = 2**10
_PEAK, _NOW = re.compile(rb"VmHWM:\s*(\d+)"), re.compile(rb"VmRSS:\s*(\d+)")
_LIBC = ctypes.CDLL(None)
_RESET_PEAK = b"5"  # proc_pid_clear_refs(5)
_STATUS_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one input: bytes above what the process had before, and seconds of one callback of the loop."""

    peak_bytes: int = 0
    hold_s: float = 0.0

    @property
    def excess(self) -> str:
        """What is too much, in a word; empty if nothing is."""
        if self.peak_bytes > MAX_PEAK_BYTES:
            return "memory"
        return "stall" if self.hold_s > MAX_HOLD_S else ""

    def __or__(self, other: "Cost") -> "Cost":
        """The larger of each."""
        return Cost(max(self.peak_bytes, other.peak_bytes), max(self.hold_s, other.hold_s))

    def __str__(self) -> str:
        return f"{self.peak_bytes / MIB:.0f} MiB, {self.hold_s * 1e3:.0f} ms"


class Watch:
    """Times all that an event loop would run as one callback: `call` it."""

    def __init__(self, cpu_s: Callable[[], float] = time.thread_time) -> None:
        self._cpu_s = cpu_s
        self.hold_s = 0.0

    def call(self, callback: Callable[..., T], *args: Any) -> T:
        began_s = self._cpu_s()
        try:
            return callback(*args)
        finally:
            self.hold_s = max(self.hold_s, self._cpu_s() - began_s)


class ResidentMemory:
    """The memory of this process, and its peak since the last `reset`. Needs Linux."""

    def __init__(self) -> None:
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._clear_refs = os.open("/proc/self/clear_refs", os.O_WRONLY)

    def reset(self) -> int:
        """Forget the peak; the bytes that the process has now, without what earlier inputs have freed.

        Else that would be given back meanwhile, and hide as much of what the next input takes.
        """
        _LIBC.malloc_trim(0)
        os.write(self._clear_refs, _RESET_PEAK)
        return self._read(_NOW)

    def peak(self) -> int:
        return self._read(_PEAK)

    def _read(self, what: "re.Pattern[bytes]") -> int:
        found = what.search(os.pread(self._status, _STATUS_BYTES, 0))
        assert found is not None
        return int(found[1]) * _KIB
