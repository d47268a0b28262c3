"""The live view of `proteus serve` in a terminal: a thread draws a frame a second, and above it what was logged.

Whoever logs only leaves the line here, so a terminal that is slow, or was stopped by Ctrl-S, holds up nobody.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from proteus_cli.cli.views.live_frames import frame

if TYPE_CHECKING:
    from proteus_cli.serving.telemetry.snapshot import Snapshot

FRAME_EVERY_S = 1.0
MAX_LINES = 1000
GOODBYE_S = 1.0

log = logging.getLogger("proteus.view")


class Held:
    """A stream that writes on to ``stream``, but keeps what is written while it `holds`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock, self._holds = stream, threading.Lock(), False
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._forgotten = 0

    def write(self, text: str) -> int:
        with self._lock:
            if not self._holds:
                return self._stream.write(text)
            self._forgotten += len(self._lines) == MAX_LINES
            self._lines.append(text)
        return len(text)

    def flush(self) -> None:
        with self._lock:
            if not self._holds:
                self._stream.flush()

    def hold(self) -> None:
        """Keep what is written from now on."""
        with self._lock:
            self._holds = True

    def take(self) -> list[str]:
        """What was kept, and forget it; the oldest may have been left out."""
        with self._lock:
            lines, forgotten = list(self._lines), self._forgotten
            self._lines.clear()
            self._forgotten = 0
        return [f"… {forgotten} lines left out\n", *lines] if forgotten else lines

    def release(self) -> None:
        """Write what was kept, and all that comes."""
        left = self.take()
        with self._lock:
            self._holds = False
        for text in left:
            self.write(text)
        self.flush()


class _Terminal(Console):
    """Leaves the cursor where it is seen: a second Ctrl-C ends the process at once, and would leave it hidden."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002 - the signature of rich
        return False


class LiveView:
    """Draws on ``stdout``; ``held`` is where lines are logged to that belong on the same terminal."""

    def __init__(self, stdout: TextIO, held: Held | None = None, every_s: float = FRAME_EVERY_S) -> None:
        options: dict[str, Any] = {"highlight": False, "emoji": False, "markup": False}
        self._console = _Terminal(file=stdout, force_terminal=True, **options)
        self._held, self._every_s = held, every_s
        self._is_over = threading.Event()

    @contextmanager
    def __call__(self, now: Callable[[], "Snapshot"]) -> Iterator[None]:
        """Show what ``now`` says until leaving, in a thread of its own."""
        if self._held is not None:
            self._held.hold()
        thread = threading.Thread(target=self._run, args=(now,), name="live view", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join(GOODBYE_S)
            if self._held is not None:
                self._held.release()

    def _run(self, now: Callable[[], "Snapshot"]) -> None:
        try:
            self._draw(now)
        except Exception:  # the server must go on without its picture
            log.exception("a bug has ended the live view")
            if self._held is not None:
                self._held.release()

    def _draw(self, now: Callable[[], "Snapshot"]) -> None:
        console = self._console
        with Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        ) as live:
            while True:
                lines = self._held.take() if self._held is not None else []
                live.update(frame(now(), *console.size), refresh=not lines)
                if lines:
                    console.print(Text("".join(lines)), end="", soft_wrap=True)  # and the frame below them
                if self._is_over.wait(self._every_s):
                    return
