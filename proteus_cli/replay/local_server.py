"""``proteus serve`` in a process of its own, for the duration of a replay."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import BinaryIO

from proteus_cli.ending_signals import ending_by_exception
from proteus_cli.errors import ServerError

PROTEUS = (sys.executable, "-m", "proteus_cli")
READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
_LOG_TAIL = 2000  # bytes of the log in an error


@contextmanager
def local_server(plan: Path, workspace: Path, *, emulate: bool = False, options: Sequence[str] = ()) -> Iterator[str]:
    """Serve the plan on a free port and yield the URL; on the way out, drain and stop the server.

    SIGTERM and SIGHUP, too, stop the server and then end the program (`SystemExit`). To be called in the main thread.
    ``emulate``: its devices are emulated; ``options`` are others of `proteus serve`. Raises `ServerError` with the end
    of the log where the server doesn't become ready.
    """
    arguments = [str(plan), "--port", "0", "--workspace", str(workspace)]
    arguments += ["--set=resume=false", "--set=plan-history=0"]  # each run is the same, and leaves nothing behind
    arguments += ["--emulate", *options] if emulate else options
    with ending_by_exception(), tempfile.TemporaryFile() as log, start_server(arguments, log) as process:
        try:
            yield _ready_url(process, log)
        finally:
            _stop(process)


def start_server(arguments: Sequence[str], log: BinaryIO) -> "subprocess.Popen[bytes]":
    """Start ``proteus serve``, in its own process group: Ctrl-C is for the replay, which ends the server after it."""
    return subprocess.Popen(
        [*PROTEUS, "serve", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        process_group=0,
    )


def _ready_url(process: "subprocess.Popen[bytes]", log: BinaryIO) -> str:
    assert process.stdout is not None  # noqa: S101 - it was opened as a pipe
    ready, _, _ = select([process.stdout], [], [], READY_TIMEOUT_S)
    line = process.stdout.readline().decode() if ready else ""
    if not line.startswith("ready "):
        _stop(process)
        log.seek(0)
        end = log.read()[-_LOG_TAIL:].decode(errors="replace").strip()
        raise ServerError(f"The server did not get ready. Its log:\n{end or '(nothing)'}")
    return line.split()[1]


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the server: it may drain for `STOP_TIMEOUT_S`, and is killed then."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
