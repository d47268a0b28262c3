"""Tells that a process of low priority gets no time: it is not broken, but measures nothing meanwhile."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

LOOK_S = 5.0
MIN_SHARE = 0.05
"""The share of a core below which a process counts as waiting. One that measures uses all the time that it gets."""
WAITS, GOES_ON = "waits: the cores are busy", "goes on: the cores have time"

_FIRST_TIME = 11  # of the fields behind the name: user and system time, and both of the children that have ended
_TIMES = 4


def cpu_s(pid: int) -> float | None:
    """The time that a process has had of all cores; None where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        ticks = sum(map(int, fields[_FIRST_TIME : _FIRST_TIME + _TIMES]))
    except (OSError, ValueError):  # no process, or no Linux
        return None
    return ticks / os.sysconf("SC_CLK_TCK")


def tells_of_waits(line: str) -> bool:
    """A line that measuring has told, here or on a host, is about a wait for time."""
    return line.endswith((WAITS, GOES_ON))


async def tell_waits(pid: int, say: Callable[[str], object], cpu_s: Callable[[int], float | None] = cpu_s) -> None:
    """Say `WAITS` once a process gets next to no time, and `GOES_ON` once it gets some again, until it has ended."""
    before, waited = cpu_s(pid), False
    while before is not None:
        await asyncio.sleep(LOOK_S)
        now = cpu_s(pid)
        if now is None:
            return
        waits = now - before < MIN_SHARE * LOOK_S
        if waits != waited:
            say(WAITS if waits else GOES_ON)
        before, waited = now, waits
