"""What the server does on signals: SIGTERM and SIGINT stop it, SIGHUP has it read its files again."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator

INTERRUPTED = 130
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def stopping_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """The first stop signal sets ``stop``; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)
        stop.set()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def reloading_on_hangup(reload: Callable[[], None]) -> Iterator[None]:
    """SIGHUP calls ``reload``. Afterwards it is ignored: while the server drains, a new plan comes too late."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
