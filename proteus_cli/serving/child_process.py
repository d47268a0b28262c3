"""What all processes that the server starts have in common: they end with the server, and only with it."""

import contextlib
import ctypes
import signal
import sys
from collections.abc import Iterator

GROUP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
"""A terminal or a service manager sends these to the whole process group. Only the server acts on them."""

_PR_SET_PDEATHSIG = 1  # prctl(2)


@contextlib.contextmanager
def group_signals_blocked() -> Iterator[None]:
    """A process that is started meanwhile begins with `GROUP_SIGNALS` blocked, until it calls `depend_on_parent`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def depend_on_parent() -> None:
    """Ignore `GROUP_SIGNALS`, and have the kernel kill this process when the thread that started it ends.

    Only Linux can do the latter. Elsewhere the process ends when it reads the end of its connection to the server.
    """
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
