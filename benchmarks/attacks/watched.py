"""`proteus` with its event loop watched: what it computed at a time, before it looked at others again.

A timer looks each millisecond at the processor time of the loop's thread. What was used since its last look is what
the loop has computed without a pause, and a millisecond at most; other programs of the machine do not change it.
"""

import asyncio
import mmap
import os
import sys
import time
from pathlib import Path

import numpy as np
import uvloop

FILE = "BENCH_LONGEST"  # in the environment of the server: the path
_VALUE_BYTES = 8
_EVERY_S = 0.001


class Longest:
    """The longest time so far, in seconds, in a file that two processes share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.write_bytes(bytes(_VALUE_BYTES))
        with path.open("r+b") as file:
            self._value = np.ndarray(1, np.float64, mmap.mmap(file.fileno(), _VALUE_BYTES))

    @property
    def s(self) -> float:
        return float(self._value[0])

    def note(self, took_s: float) -> None:
        self._value[0] = max(self._value[0], took_s)

    def reset(self) -> None:
        self._value[0] = 0.0


def _watch(loop: asyncio.AbstractEventLoop, longest: Longest) -> None:
    since_s = time.thread_time()

    def look() -> None:
        nonlocal since_s
        now_s = time.thread_time()
        longest.note(now_s - since_s)
        since_s = now_s
        loop.call_later(_EVERY_S, look)

    loop.call_soon(look)


def main() -> None:
    from proteus_cli.cli.main import run  # noqa: PLC0415 - only in the server's process

    new_loop, longest = uvloop.new_event_loop, Longest(Path(os.environ.pop(FILE)))

    def new_watched_loop() -> asyncio.AbstractEventLoop:
        loop = new_loop()
        _watch(loop, longest)
        return loop

    uvloop.new_event_loop = new_watched_loop  # type: ignore[assignment]
    sys.argv[0] = "proteus"
    run()


if __name__ == "__main__":
    main()
