"""The live view of `proteus serve` in a terminal: a thread draws a frame each second, and new log lines above it.

The threads that log only append to a buffer, so a terminal that is slow, or stopped by Ctrl-S, never blocks them.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from proteus_cli.cli.views.live.live_frames import frame
from proteus_cli.units import counted

if TYPE_CHECKING:
    from proteus_cli.serving.telemetry.state import ServerState

FRAME_EVERY_S = 1.0
MAX_LINES = 1000
JOIN_TIMEOUT_S = 1.0

log = logging.getLogger("proteus.view")


class HoldableStream:
    """A stream that forwards to another, and while it is held keeps the newest `MAX_LINES` lines instead."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock, self._holds = stream, threading.Lock(), False
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._left_out = 0

    def write(self, text: str) -> int:
        with self._lock:
            if not self._holds:
                return self._stream.write(text)
            self._left_out += len(self._lines) == MAX_LINES
            self._lines.append(text)
        return len(text)

    def flush(self) -> None:
        with self._lock:
            if not self._holds:
                self._stream.flush()

    def hold(self) -> None:
        """Keep lines from now on."""
        with self._lock:
            self._holds = True

    def take(self) -> list[str]:
        """Return the lines that were kept, and forget them. The first says how many older ones were left out."""
        with self._lock:
            lines, left_out = list(self._lines), self._left_out
            self._lines.clear()
            self._left_out = 0
        return [f"… {counted(left_out, 'line')} left out\n", *lines] if left_out else lines

    def release(self) -> None:
        """Forward the lines that were kept, and all later ones."""
        left = self.take()
        with self._lock:
            self._holds = False
        for text in left:
            self.write(text)
        self.flush()


class _Terminal(Console):
    """Never hides the cursor: a second Ctrl-C ends the process at once, and would leave it hidden."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002 - the signature of rich
        return False


class LiveView:
    """Draws on ``stdout``; ``log_stream`` takes the log, where that goes to the same terminal and tells of events."""

    def __init__(
        self, stdout: TextIO, log_stream: HoldableStream | None = None, every_s: float = FRAME_EVERY_S
    ) -> None:
        self._console = _Terminal(file=stdout, force_terminal=True, highlight=False, emoji=False, markup=False)
        self._log_stream, self._every_s = log_stream, every_s
        self._stop = threading.Event()

    @contextmanager
    def __call__(self, now: Callable[[], "ServerState"]) -> Iterator[None]:
        """Show what ``now`` returns, in a thread of its own, until the context is left."""
        if self._log_stream is not None:
            self._log_stream.hold()
        thread = threading.Thread(target=self._run, args=(now,), name="live view", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(JOIN_TIMEOUT_S)
            if self._log_stream is not None:
                self._log_stream.release()

    def _run(self, now: Callable[[], "ServerState"]) -> None:
        try:
            self._draw(now)
        except Exception:  # the server must not end with its view
            log.exception("a bug has ended the live view")
            if self._log_stream is not None:
                self._log_stream.release()

    def _draw(self, now: Callable[[], "ServerState"]) -> None:
        console = self._console
        with Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        ) as live:
            while True:
                lines = self._log_stream.take() if self._log_stream is not None else []
                live.update(frame(now(), *console.size, has_events=self._log_stream is None), refresh=not lines)
                if lines:
                    console.print(Text("".join(lines)), end="", soft_wrap=True)  # and the frame below them
                if self._stop.wait(self._every_s):
                    return
