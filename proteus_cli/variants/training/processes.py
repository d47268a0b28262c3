"""Runs a command that trains models: in a process group of its own that is ended whole, within limits."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import BinaryIO, cast

from proteus_cli.errors import TrainingFailed
from proteus_cli.progress import Say
from proteus_cli.units import format_duration, format_size
from proteus_cli.variants.training import limited

LONGEST_LINE = 2_000
"""Bytes of output that are one line at most; what goes on is another."""
GIVES_WAY = 10
"""The niceness of what is trained beside what serves: others get nine tenths of a core that both want."""
_LOOK_S = 0.05
_LAST_LINES_S = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a training: its time, the memory of each of its processes, and how far it gives way to others."""

    time_s: float
    memory_bytes: int
    niceness: int = 0


@dataclass(frozen=True, slots=True)
class EndedCommand:
    """How a command ended: its exit code, negative for a signal; ``is_late``: its time was over, so it was ended."""

    code: int
    is_late: bool


def run_command(
    command: Sequence[str], directory: Path, limits: Limits, say: Say, *, settings: Mapping[str, str] | None = None
) -> EndedCommand:
    """Run a command in ``directory``, within ``limits``, and ``say`` each line that it writes to stdout or stderr.

    It has our environment without our own variables (`PROTEUS_…`), and with ``settings``. However this ends, also by
    Ctrl-C, no process of its group is left. Raises `TrainingFailed` where it can't start.
    """
    stop_s = time.monotonic() + limits.time_s
    own = {name: value for name, value in os.environ.items() if not name.startswith("PROTEUS_")}
    with _started(command, directory, limits, own | dict(settings or {}), say) as process:
        is_late = not _has_ended_by(process, stop_s)
        _end_group(process)
        return EndedCommand(process.wait(), is_late)


def require_success(ended: EndedCommand, name: str, limits: Limits) -> None:
    """Raise `TrainingFailed` that tells how a command failed."""
    memory = f"each of its processes may take {format_size(limits.memory_bytes)}: `--memory` gives more"
    if ended.is_late:
        took = format_duration(limits.time_s)
        raise TrainingFailed(f"{name} took more than {took}, and was ended.", hint="more time: `--budget 1h`")
    if ended.code < 0:
        raise TrainingFailed(f"{name} was killed by {signal.Signals(-ended.code).name}.", hint=memory)
    if ended.code > 0:
        missing = ": there is no such command" if ended.code == limited.NOT_FOUND else ""
        raise TrainingFailed(f"{name} ended with exit code {ended.code}{missing}.", hint=f"see its output; {memory}")


@contextmanager
def _started(
    command: Sequence[str], directory: Path, limits: Limits, environment: Mapping[str, str], say: Say
) -> "Iterator[subprocess.Popen[bytes]]":
    """The process of a command, in a session of its own, and a thread that says its lines."""
    words = [sys.executable, "-I", limited.__file__, str(limits.memory_bytes), str(limits.niceness), *command]
    try:
        process = subprocess.Popen(
            words,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise TrainingFailed(f"`{command[0]}` can't start: {error}.", hint="see whether it runs by itself") from error
    output = cast("BinaryIO", process.stdout)
    teller = Thread(target=_tell, args=(output, say), daemon=True)
    try:
        teller.start()
        yield process
    finally:
        _end_group(process)
        process.wait()
        if teller.ident is not None:  # else it was interrupted before it ran
            teller.join(_LAST_LINES_S)
        if not teller.is_alive():  # else a process that left the group has the pipe; we don't wait for it
            output.close()


def _tell(output: BinaryIO, say: Say) -> None:
    while line := output.readline(LONGEST_LINE):
        say(line.decode(errors="replace").rstrip())


def _has_ended_by(process: "subprocess.Popen[bytes]", stop_s: float) -> bool:
    """Wait for the end of a process, and leave its number to it: so the number of its group stays its own, too."""
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= stop_s:
            return False
        time.sleep(_LOOK_S)
    return True


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill what is left of a group whose first process was not waited for yet."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
