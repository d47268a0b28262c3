"""What `proteus serve` shows in a real terminal, and that it leaves it as it was."""

import errno
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from command_line import proteus
from live_server import ANSWER_WITHIN_S
from tiny import Tiny, add_plan

pytestmark = pytest.mark.live

COLUMNS, LINES = 100, 30
WITHIN_S = 30.0
GOOD = (
    b'{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}], '
    b'"parameters": {"timeout": 20000000}}'  # it is late on no machine
)


class Terminal:
    """A server with a terminal of its own, and all that it has written there."""

    def __init__(self, process: "subprocess.Popen[bytes]", master: int, slave: int) -> None:
        self.process, self.said = process, b""
        self._master, self._slave = master, slave
        self._before = termios.tcgetattr(slave)

    @property
    def is_as_before(self) -> bool:
        return termios.tcgetattr(self._slave) == self._before

    @property
    def lines(self) -> list[str]:
        """What was written, without colours; where the cursor goes up to draw anew, another line begins."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", self.said.decode(errors="replace"))
        return re.sub(r"\r?\x1b\[[0-9;?]*[A-Za-z]", "\r\n", text).split("\r\n")

    def read(self, seconds: float) -> None:
        if select.select([self._master], [], [], seconds)[0]:
            try:
                self.said += os.read(self._master, 2**16)
            except OSError as error:
                if error.errno != errno.EIO:  # nobody is there any more
                    raise

    def until(self, holds: Callable[[], Any]) -> Any:
        stop_s = time.monotonic() + WITHIN_S
        while not (found := holds()):
            assert time.monotonic() < stop_s, "\n".join(self.lines)
            self.read(0.1)
        return found

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.until(lambda: self.process.poll() is not None)
        self.read(0.1)
        return self.process.returncode


@contextmanager
def terminal(root: Path, plan: Path, *options: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PROTEUS_", "NO_COLOR"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "proteus_cli", "serve", plan, "--port", "0", "-w", root, "--replan", "off", *options],
        stdin=subprocess.DEVNULL, stdout=slave, stderr=slave, env={**ours, "TERM": "xterm-256color"},
    )  # fmt: skip
    try:
        yield Terminal(process, master, slave)
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


def ready(there: Terminal) -> int:
    """The port, once the server is ready."""
    found = there.until(lambda: re.search(rb"^ready http://127\.0\.0\.1:(\d+)\r$", there.said, re.MULTILINE))
    return int(found[1])


def test_a_terminal_shows_families_and_devices_live_and_is_left_as_it_was(tiny: Tiny) -> None:
    plan = add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "tones-l"})
    with terminal(tiny.root, plan) as there:
        port = ready(there)
        there.until(lambda: any(line.startswith("proteus ready") for line in there.lines))
        connection = HTTPConnection("127.0.0.1", port, timeout=ANSWER_WITHIN_S)
        for _ in range(20):
            connection.request("POST", "/v2/models/shapes/infer", GOOD)
            assert connection.getresponse().read()
        connection.close()
        shown = (
            r"shapes +[0-9.]+ +[0-9.]+ +0\.0% +0% +70\.0%",
            r"tones +0 +0 +– +–",
            r"cpu0 +shapes-s +[0-9.]+% +1\.0 +working",
        )
        there.until(lambda: all(any(re.match(row, line) for line in there.lines) for row in shown))
        assert there.stop() == 0
        assert there.is_as_before
    assert b"\x1b[?25l" not in there.said  # the cursor was never hidden
    assert b"\x1b[?1049h" not in there.said  # nor the screen exchanged
    logged = [match[1] for line in there.lines if (match := re.fullmatch(r"\d\d:\d\d:\d\d ([a-z].*)", line))]
    starting, *loaded, ready_, draining, ended, stopped = logged
    assert [re.sub(r" in \d+ ms$", "", line) for line in sorted(loaded)] == [
        "loaded shapes-s on cpu0", "loaded tones-l on cpu1",
    ]  # fmt: skip
    assert (starting, ready_, draining) == ("starting", "ready", "draining: 0 requests inside")
    assert (ended, stopped) == ("requests by how they ended: 20 served", "drained, stopped")
    assert there.said.count(b"http://127.0.0.1") == 1


def test_a_plain_terminal_shows_the_ready_line_only(tiny: Tiny) -> None:
    plan = add_plan(tiny, {"cpu0": "shapes-s"})
    with terminal(tiny.root, plan, "--view", "plain") as there:
        ready(there)
        there.read(1.5)
        assert there.stop() == 0
    assert b"\x1b" not in there.said
    assert not any(line.startswith("proteus ready") for line in there.lines)


def test_a_view_needs_a_terminal(tiny: Tiny) -> None:
    plan = add_plan(tiny, {"cpu0": "shapes-s"})
    ended = proteus("serve", plan, "--view", "live", "-w", tiny.root)
    assert ended.refused(2) == "`--view live` needs a terminal on stdout."
