"""Processes from start to end, and what a server costs with all that it started."""

import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

MARK = "BENCH_MARK"  # in the environment of a server and of all that it starts
STOPPED_WITHIN_S = 10.0
KILLED_WITHIN_S = 5.0  # what is killed may go on until the system comes to it
_PARENT, _TIMES, _STARTED = 1, slice(11, 15), 19  # places of fields, counted from the state
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Tree:
    """A process and all that came from it, also what was given away to another parent."""

    def __init__(self, root: int, mark: str) -> None:
        self._root, self._mark = root, f"{MARK}={mark}".encode()

    def cpu_s(self) -> float:
        """User and system time of all of them, and of their children that have ended."""
        return sum(sum(int(ticks) for ticks in stat[_TIMES]) for stat in self.members().values()) * _TICK_S

    def own_cpu_s(self) -> float:
        """User and system time of the process itself."""
        return sum(int(ticks) for ticks in _stat(self._root)[11:13]) * _TICK_S

    def members(self) -> dict[int, list[str]]:
        """The processes that run now: their fields in ``/proc/PID/stat`` by id."""
        stats: dict[int, list[str]] = {}
        children: dict[int, list[int]] = defaultdict(list)
        left = [self._root]
        for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()):
            with suppress(OSError):
                stats[pid] = _stat(pid)
                children[int(stats[pid][_PARENT])].append(pid)
                if self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    left.append(pid)
        found: dict[int, list[str]] = {}
        while left:
            pid = left.pop()
            if pid in stats and pid not in found:
                found[pid] = stats[pid]
                left += children[pid]
        return found


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the state on: the name before them may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


class NotStarted(Exception):
    """A server that didn't come up, with what it said."""


class Process:
    """A server that runs, with its log."""

    def __init__(self, popen: "subprocess.Popen[bytes]", tree: Tree, log: Path) -> None:
        self.popen, self.tree, self._log = popen, tree, log

    def require_alive(self) -> None:
        """Raise `NotStarted` where it has ended."""
        if self.popen.poll() is not None:
            raise NotStarted(f"ended with {self.popen.returncode}; {self.log_end()}")

    def log_end(self, max_characters: int = 600) -> str:
        """The end of its log, in one line."""
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return " ".join(text[-max_characters:].split()) or "it said nothing"


@contextmanager
def running(
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    *,
    log: Path,
    directory: Path,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[Process]:
    """A process, started in a directory, with all that it starts; all of it is gone on the way out.

    ``stop`` is what asks it to end: one that isn't given time to leaves shared memory behind.

    It is in a session of its own: Ctrl-C is for the benchmark, which ends it in its own time.
    """
    mark = uuid4().hex
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment) | {MARK: mark},
            cwd=directory,
            start_new_session=True,
        )
    tree = Tree(popen.pid, mark)
    try:
        yield Process(popen, tree, log)
    finally:
        _end(popen, tree, stop)


def _end(popen: "subprocess.Popen[bytes]", tree: Tree, stop: signal.Signals) -> None:
    """Ask, wait, then end what is left, each by its id."""
    before = tree.members()
    popen.send_signal(stop)
    with suppress(subprocess.TimeoutExpired):
        popen.wait(STOPPED_WITHIN_S)
    for pid in before.keys() | tree.members().keys():
        with suppress(OSError):
            if pid not in before or _stat(pid)[_STARTED] == before[pid][_STARTED]:  # not another with its number
                os.kill(pid, signal.SIGKILL)
    popen.wait()
    stop_s = time.monotonic() + KILLED_WITHIN_S
    while tree.members() and time.monotonic() < stop_s:
        time.sleep(0.01)
