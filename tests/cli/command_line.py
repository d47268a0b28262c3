"""Runs commands as a user would, and looks at what came of it."""

import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from forking.program import start_proteus

from proteus_cli.cli.main import run

WITHIN_S = 60


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    def refused(self, code: int = 2) -> str:
        """The message, where the command ended with an error in the form that all errors have."""
        assert self.code == code, self
        assert self.stdout == ""
        match = re.fullmatch(r"error: (.+)\n\nhint: .+\n", self.stderr, re.DOTALL)
        assert match is not None, self.stderr
        return str(match[1])

    def misused(self) -> str:
        """What was said, where the command line itself made no sense."""
        assert self.code == 2, self
        assert self.stdout == ""
        assert "Traceback" not in self.stderr
        return self.stderr

    def document(self) -> Any:
        """The one JSON document on stdout."""
        assert self.code == 0, self
        return json.loads(self.stdout)


def proteus(*arguments: str | Path, within_s: float = WITHIN_S) -> Ended:
    """Run a command in this process. One that serves, where a test expects an error, is stopped after ``within_s``."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        _stopped(within_s) if arguments[:1] in {("serve",), ("agent",)} else contextlib.nullcontext(),
        mock.patch.object(sys, "argv", ["proteus", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return Ended(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _stopped(after_s: float) -> Iterator[None]:
    """Stop a server. The time limit of pytest raises in a signal handler, and an event loop logs that and goes on."""
    has_ended = threading.Event()

    def stop() -> None:
        is_late = not has_ended.wait(after_s)
        while is_late and not has_ended.wait(0.1):
            if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # else nobody serves, or not yet
                os.kill(os.getpid(), signal.SIGTERM)
                return

    watching = threading.Thread(target=stop)
    watching.start()
    try:
        yield
    finally:
        has_ended.set()
        watching.join()


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "proteus_cli", *map(str, arguments)]


def proteus_process(*arguments: str | Path, cwd: Path | None = None) -> Ended:
    """Run a command in a process of its own."""
    with start_proteus(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100"},
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=WITHIN_S)
        finally:
            process.kill()
    return Ended(process.returncode, stdout, stderr)


def hearing_interrupts(call: Sequence[str]) -> list[str]:
    """The same, where whoever runs the tests has SIGINT ignored, too, as shells do for what is in the background."""
    return ["env", "--default-signal=INT", *call]


def interrupted_process(call: Sequence[str], *, once: str, env: Mapping[str, str] = os.environ) -> Ended:
    """Run a command on a terminal, and send it SIGINT once what it said on stderr has a match of ``once``."""
    ours, theirs = pty.openpty()
    how: dict[str, Any] = {
        "stdout": subprocess.PIPE, "stderr": theirs, "stdin": subprocess.DEVNULL, "text": True,
        "env": {**env, "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"},
    }  # fmt: skip
    is_ours = call[: len(command())] == command()  # then it hears interrupts, whoever runs the tests
    with (
        start_proteus(call[len(command()) :], **how) if is_ours else subprocess.Popen(hearing_interrupts(call), **how)
    ) as process:
        os.close(theirs)
        try:
            said = ""
            while not re.search(once, said):
                more = _read(ours)
                assert more, f"it ended: {said}"
                said += more
            process.send_signal(signal.SIGINT)
            while more := _read(ours):
                said += more
            stdout, _ = process.communicate(timeout=WITHIN_S)
        finally:
            process.kill()
            os.close(ours)
    return Ended(process.returncode, stdout, said)


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 4096).decode(errors="replace")
    except OSError:  # a terminal that nobody writes to any more can't be read, on Linux
        return ""


def files(root: Path) -> dict[str, bytes]:
    """Every file below a directory, hidden ones too, by path."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
