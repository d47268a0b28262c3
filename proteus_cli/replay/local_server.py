"""A server of our own for the length of a replay: ``proteus serve`` in a process beside us."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import BinaryIO

from proteus_cli.errors import ServerError

READY_WITHIN_S = 120.0
STOPPED_WITHIN_S = 30.0
_LOG_TAIL = 2000


@contextmanager
def local_server(plan: Path, workspace: Path, *, emulate: bool = False, options: Sequence[str] = ()) -> Iterator[str]:
    """Start the plan on a free port and yield the URL; stop it (SIGTERM, drains) on the way out.

    ``emulate``: its devices are emulated; ``options`` are others of `proteus serve`. Raises `ServerError` with what the
    server said where it doesn't get ready.
    """
    command = [sys.executable, "-m", "proteus_cli", "serve", str(plan), "--port", "0", "--workspace", str(workspace)]
    command += ["--no-resume", "--plan-history", "0"]  # the same run each time, and nothing left behind
    command += ["--emulate", *options] if emulate else options
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL)
        try:
            yield _ready_url(process, log)
        finally:
            process.terminate()
            try:
                process.wait(STOPPED_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _ready_url(process: "subprocess.Popen[bytes]", log: BinaryIO) -> str:
    assert process.stdout is not None  # noqa: S101 - it was opened as a pipe
    ready, _, _ = select([process.stdout], [], [], READY_WITHIN_S)
    line = process.stdout.readline().decode() if ready else ""
    if not line.startswith("ready "):
        process.terminate()
        process.wait(STOPPED_WITHIN_S)
        log.seek(0)
        said = log.read()[-_LOG_TAIL:].decode(errors="replace").strip()
        raise ServerError(f"The server did not get ready. It said:\n{said or '(nothing)'}")
    return line.split()[1]
