"""Python imports this as it starts, where it is on the path: ends threads of the process for tests, as a bug would.

A file in `THREADS_TO_END`, called like the process's id, holds the name of a thread.
"""

import ctypes
import os
import threading
import time
from pathlib import Path


def _end_threads(asked: Path) -> None:
    while True:
        time.sleep(0.02)
        if not asked.exists():
            continue
        name = asked.read_text()
        asked.unlink()
        for thread in threading.enumerate():
            if thread.name == name:
                ident = ctypes.c_ulong(thread.ident or 0)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit))


if "THREADS_TO_END" in os.environ:
    place = Path(os.environ["THREADS_TO_END"]) / str(os.getpid())
    threading.Thread(target=_end_threads, args=(place,), name="meddling", daemon=True).start()
