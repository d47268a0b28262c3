"""SIGTERM and SIGHUP as an exception, so that what a program has opened is closed on the way out."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALLED = 128  # plus the number of a signal: the exit code of a program that it ended, as in shells


@contextmanager
def ending_by_exception() -> Iterator[None]:
    """Within the block, the first SIGTERM or SIGHUP raises `SystemExit`, and more of them don't disturb the way out.

    A signal that is ignored, as by ``nohup``, or that has a handler stays as it is; so do all outside the main thread.
    """
    is_main = threading.current_thread() is threading.main_thread()
    ending = [each for each in (signal.SIGTERM, signal.SIGHUP) if is_main and signal.getsignal(each) is signal.SIG_DFL]

    def end(number: int, _frame: FrameType | None) -> None:
        for each in ending:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(_SIGNALLED + number)

    try:
        for number in ending:
            signal.signal(number, end)
        yield
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_DFL)
