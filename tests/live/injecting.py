"""Does to a running server from outside what machines, disks and people do to it."""

import os
import re
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from live_server import ANSWER_WITHIN_S, POLL_S, LiveServer

MEDDLING = Path(__file__).parent / "meddling"


def pid_of(live: LiveServer, device: str) -> int:
    return int(live.status()["devices"][device]["pid"])


def kill_at_work(pid: int) -> None:
    """Kill the process of a device that has not ended what it was given in the last moments."""
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """A process that does nothing until the block ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def slowed_down(pid: int, *, runs_s: float, stands_s: float) -> Iterator[None]:
    """A process that runs only for a part of the time."""
    is_over = threading.Event()

    def stop_and_go() -> None:
        while not is_over.is_set():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(stands_s)
            os.kill(pid, signal.SIGCONT)
            time.sleep(runs_s)

    thread = threading.Thread(target=stop_and_go, name="stop-and-go")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text(encoding="ascii").split()):
            found += [child, *descendants(child)]
    return found


def until(look: Any, what: object = "", within_s: float = ANSWER_WITHIN_S) -> Any:
    """What ``look`` returns, once it is true; where it hangs, fail with ``what``, which is called if it can be."""
    stop_s = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < stop_s, what() if callable(what) else what
        time.sleep(POLL_S)
    return found


def until_holds(look: Callable[[], Any], holds: Callable[[Any], bool], what: object = "") -> Any:
    """The first of what ``look`` returns for which that holds."""
    found = None

    def is_found() -> bool:
        nonlocal found
        found = look()
        return holds(found)

    until(is_found, lambda: (found, what() if callable(what) else what))
    return found


def until_said(live: LiveServer, text: str, times: int = 1) -> None:
    """Until a text stands so often in the log."""
    until(lambda: live.log.read_text().count(text) >= times, text)


def breaker_is(device: str, state: str) -> Callable[[Any], bool]:
    """A condition of the status."""
    return lambda status: bool(status["devices"][device]["breaker"] == state)


def metric(live: LiveServer, series: str) -> float:
    """One number of ``/metrics``."""
    page = live.get("/metrics").body.decode()
    found = re.search(rf"^{re.escape(series)} (\S+)$", page, re.MULTILINE)
    assert found is not None, page
    return float(found[1])


def until_asleep(pid: int, looks: int = 50) -> None:
    """Until each of so many looks in a row finds the main thread of a process asleep: it has nothing to do."""

    def is_asleep() -> bool:
        time.sleep(POLL_S)
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "S"

    until(lambda: all(is_asleep() for _ in range(looks)), "it has something to do all the time")


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class WallClock:
    """The wall clock of processes that are started with the ``environment``."""

    def __init__(self, directory: Path) -> None:
        self._file, library = directory / "shift", directory / "clock.so"
        self.jump(0)
        source = MEDDLING / "clock.c"
        subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        self.environment = {"CLOCK_SHIFT": str(self._file), "LD_PRELOAD": str(library)}

    def jump(self, by_s: int) -> None:
        """Be off by so many seconds from now on."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("@l", by_s))
