"""What the cores of the machine do: use by anyone, time taken by a hypervisor, clocks, and slowing by heat."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

STAT, CPUS, CPUINFO = Path("/proc/stat"), Path("/sys/devices/system/cpu"), Path("/proc/cpuinfo")
_IDLE, _WAITING, _STEAL, _COUNTED = 3, 4, 7, 8
"""Places in the first line of /proc/stat: what follows steal, the time of guests, is part of the time of users."""

KHZ_PER_MHZ = 1e3


def totals_and_levels(
    stat: Path = STAT, cpus: Path = CPUS, cpuinfo: Path = CPUINFO
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of cores in use and stolen, times slowed by heat; and the mean clock. Only what the system says."""
    totals = _core_seconds(stat)
    throttles = list(_numbers(cpus, "thermal_throttle/core_throttle_count"))
    if throttles:
        totals["throttles"] = sum(throttles)
    clocks = [khz / KHZ_PER_MHZ for khz in _numbers(cpus, "cpufreq/scaling_cur_freq")] or _cpuinfo_mhz(cpuinfo)
    return totals, {"mhz": sum(clocks) / len(clocks)} if clocks else {}


def _core_seconds(stat: Path) -> dict[str, float]:
    with contextlib.suppress(OSError):
        ticks = [int(field) for field in stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]][:_COUNTED]
        if len(ticks) == _COUNTED:
            busy = sum(ticks) - ticks[_IDLE] - ticks[_WAITING] - ticks[_STEAL]
            per_s = os.sysconf("SC_CLK_TCK")
            return {"machine_cores": busy / per_s, "steal_cores": ticks[_STEAL] / per_s}
    return {}


def _numbers(cpus: Path, name: str) -> Iterator[float]:
    """The number in that file of each core that has one."""
    for path in cpus.glob(f"cpu[0-9]*/{name}"):
        with contextlib.suppress(OSError, ValueError):  # a core that is off, or whose driver says nothing
            yield float(path.read_text(encoding="ascii"))


def _cpuinfo_mhz(cpuinfo: Path) -> list[float]:
    found: list[float] = []
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # a core whose clock the system does not know
                found += [float(line.partition(":")[2])] if line.startswith("cpu MHz") else []
    return found
