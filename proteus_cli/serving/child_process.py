"""Processes that the server starts: they end with the server, and only with it."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

GROUP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
"""A terminal or a service manager sends these to the whole process group. Only the server acts on them."""

LIMITS_HINT = "`ulimit -a` shows what this user may have"

_PR_SET_PDEATHSIG = 1  # prctl(2)
_STDERR = 2


def start_process(module: str, descriptor: int) -> "subprocess.Popen[bytes]":
    """Start ``python -m module DESCRIPTOR``, with the file of that descriptor open. Raises `OSError`.

    The process begins with `GROUP_SIGNALS` blocked, until it calls `depend_on_parent`.
    """
    with group_signals_blocked():
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(descriptor)],
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
            pass_fds=[descriptor],
            env=environment(),
        )


def waited_s(process: int) -> float:
    """Seconds that the threads of a process were ready to run and had no core; 0 where the system does not say."""
    waited_ns = 0
    with contextlib.suppress(OSError):  # it has ended, or this is not Linux
        for task in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(OSError):  # the thread has ended
                waited_ns += int((task / "schedstat").read_text(encoding="ascii").split()[1])
    return waited_ns / 1e9


def environment() -> dict[str, str]:
    """Our own, in which Python finds this package as we did."""
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return {**os.environ, "PYTHONPATH": paths}


@contextlib.contextmanager
def group_signals_blocked() -> Iterator[None]:
    """Block `GROUP_SIGNALS` in this thread, for a process that is started meanwhile to inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def depend_on_parent() -> None:
    """Ignore `GROUP_SIGNALS`, and have the kernel kill this process when the thread that started it ends.

    The kernel does so on Linux only. Elsewhere the process ends when it reads the end of its connection to the server.
    """
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
