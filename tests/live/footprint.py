"""What a server holds, as the kernel knows it: memory, threads, files, processes."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at only
_PPID, _STARTED = 1, 19  # fields of /proc/PID/stat, counted from the state
_LISTENS = "0A"
_SHARED = "/memfd:"


@dataclass(frozen=True)
class Process:
    """One process; ``started`` tells it from another that gets its number later."""

    pid: int
    started: str

    @property
    def is_there(self) -> bool:
        fields = _stat(self.pid)
        return fields is not None and fields[_STARTED] == self.started and fields[0] not in "ZX"


@dataclass(frozen=True)
class Footprint:
    """``processes`` are those that it has started.

    ``files`` are open ones, but for connections of clients and for memory that it shares with its devices: those are
    ``shared``.
    """

    at_s: float
    resident_bytes: int
    threads: int
    files: int
    shared: int
    processes: int


class Watch:
    """Looks at a server, ``every_s``, in a thread of its own, and remembers all processes that it ever had."""

    def __init__(self, pid: int, port: int, every_s: float = 0.5) -> None:
        self._pid, self._port, self._every_s = pid, port, every_s
        self._stop = threading.Event()
        self._before = shared_memory()
        self.seen: set[Process] = set()
        self.samples: list[Footprint] = []

    @contextmanager
    def looking(self) -> Iterator[None]:
        thread = threading.Thread(target=self._look, name="watch")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _look(self) -> None:
        while not self._stop.wait(self._every_s):
            children = descendants(self._pid)
            self.seen |= children
            self.samples.append(footprint(self._pid, self._port, len(children)))

    def left_behind(self, within_s: float = 10.0) -> list[str]:
        """What is still there some time after the server has ended, of all that was its own."""
        stop_s = time.monotonic() + within_s
        while (found := self._found()) and time.monotonic() < stop_s:
            time.sleep(0.1)
        return found

    def _found(self) -> list[str]:
        processes = [f"process {process.pid}" for process in self.seen if process.is_there]
        sockets = [f"a socket on port {self._port}"] if listening(self._port) else []
        return processes + sockets + sorted(shared_memory() - self._before)


def footprint(pid: int, port: int, processes: int) -> Footprint:
    process = PROC / str(pid)
    before, files = _connections(process, port), _files(process)
    connections = before | _connections(process, port)  # some come or go while files are read
    files = [file for file in files if file not in connections]
    shared = sum(file.startswith(_SHARED) for file in files)
    pages = int((process / "statm").read_text(encoding="ascii").split()[1])
    return Footprint(
        at_s=time.monotonic(),
        resident_bytes=pages * os.sysconf("SC_PAGE_SIZE"),
        threads=len(list((process / "task").iterdir())),
        files=len(files) - shared,
        shared=shared,
        processes=processes,
    )


def descendants(pid: int) -> set[Process]:
    """All processes that have come from one, those of its children included."""
    children: dict[int, list[Process]] = {}
    for path in PROC.glob("[0-9]*"):
        fields = _stat(int(path.name))
        if fields is not None:
            children.setdefault(int(fields[_PPID]), []).append(Process(int(path.name), fields[_STARTED]))
    found, waiting = set[Process](), [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.add(child)
            waiting.append(child.pid)
    return found


def shared_memory() -> set[str]:
    """What this user has in shared memory, by name."""
    mine = os.getuid()
    return {str(path) for path in SHARED_MEMORY.iterdir() if path.lstat().st_uid == mine}


def listening(port: int) -> bool:
    return any(local == port and state == _LISTENS for local, state, _ in _tcp(PROC / "self"))


def _stat(pid: int) -> list[str] | None:
    """From the state on; None where there is no such process."""
    try:
        return (PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None


def _files(process: Path) -> list[str]:
    """What each open file is."""
    found = []
    for path in (process / "fd").iterdir():
        try:
            found.append(str(path.readlink()))
        except OSError:
            continue  # closed meanwhile
    return found


def _connections(process: Path, port: int) -> set[str]:
    """Those of clients, as open files name them."""
    return {f"socket:[{inode}]" for local, state, inode in _tcp(process) if local == port and state != _LISTENS}


def _tcp(process: Path) -> Iterator[tuple[int, str, str]]:
    """Port, state, inode of each TCP socket over IPv4."""
    for line in (process / "net" / "tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        yield int(fields[1].partition(":")[2], 16), fields[3], fields[9]
