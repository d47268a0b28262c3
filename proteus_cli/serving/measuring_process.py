"""Runs ``proteus profile`` for an agent or a server, in a process of its own, and tells what it says."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from proteus_cli.errors import EngineError
from proteus_cli.progress import Say
from proteus_cli.serving.child_process import environment
from proteus_cli.serving.measuring_child import LAST, NORMAL

LOOK_S = 5.0
MIN_SHARE = 0.05
"""The share of a core below which a process counts as waiting. One that measures uses all the time that it gets."""
WAITS, GOES_ON = "waits: the cores are busy", "goes on: the cores have time"

_FIRST_TIME = 11  # of the fields behind the name: user and system time, and both of the children that have ended
_TIMES = 4


def cpu_s(pid: int) -> float | None:
    """The time that a process has had of all cores; None where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        ticks = sum(map(int, fields[_FIRST_TIME : _FIRST_TIME + _TIMES]))
    except (OSError, ValueError):  # no process, or no Linux
        return None
    return ticks / os.sysconf("SC_CLK_TCK")


def tells_of_waits(line: str) -> bool:
    """A line that measuring has told, here or on a host, is about a wait for time."""
    return line.endswith((WAITS, GOES_ON))


async def tell_waits(pid: int, say: Callable[[str], object], cpu_s: Callable[[int], float | None] = cpu_s) -> None:
    """Say `WAITS` once a process gets next to no time, and `GOES_ON` once it gets some again, until it has ended."""
    before, waited = cpu_s(pid), False
    while before is not None:
        await asyncio.sleep(LOOK_S)
        now = cpu_s(pid)
        if now is None:
            return
        waits = now - before < MIN_SHARE * LOOK_S
        if waits != waited:
            say(WAITS if waits else GOES_ON)
        before, waited = now, waits


MEASURING = "proteus_cli.serving.measuring_child"

MAX_OUTPUT_BYTES = 64 * 2**20
_MAX_LINE_BYTES = 64 * 2**10


async def measured(root: Path, options: Sequence[str], say: Say, *, leaves_time: bool) -> bytes:
    """The profiles of the workspace ``root`` as JSON, measured with these ``options``.

    ``say`` is told each line about progress. A process that ``leaves_time`` runs only on idle cores;
    ``say`` is told where it waits for one (`tell_waits`). Cancelled, it ends at once, and what it has measured so
    far is in the workspace. Raises `EngineError`.
    """
    without_options = {name: value for name, value in environment().items() if not name.startswith("PROTEUS_")}
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-P", "-m", MEASURING, str(os.getpid()), LAST if leaves_time else NORMAL, "profile"],
        *options,
        *["--workspace", str(root), "--json"],
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=without_options, limit=_MAX_LINE_BYTES,
    )  # fmt: skip
    waits = asyncio.create_task(tell_waits(process.pid, say)) if leaves_time else None
    try:
        output, last = await asyncio.gather(_read(process.stdout), _tell(process.stderr, say))
        code = await process.wait()
    finally:
        if waits is not None:
            waits.cancel()
            await asyncio.gather(waits, return_exceptions=True)
        if process.returncode is None:
            process.kill()
    if code != 0:
        raise EngineError(f"`proteus profile` can't measure: {last or f'exit code {code}'}")
    return output


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    assert stream is not None  # noqa: S101 - it is a pipe
    content = bytearray()
    while piece := await stream.read(2**16):
        content += piece
        if len(content) > MAX_OUTPUT_BYTES:
            raise EngineError("The profiles are larger than allowed.")
    return bytes(content)


async def _tell(stream: asyncio.StreamReader | None, say: Say) -> str:
    """Tell each line; returns the last error."""
    assert stream is not None  # noqa: S101 - it is a pipe
    last = ""
    try:
        while line := (await stream.readline()).decode(errors="replace"):
            if line.startswith("error: "):
                last = line.removeprefix("error: ").strip()
            elif line.strip():
                say(line.rstrip())
    except ValueError as error:  # a line above the limit of the stream
        raise EngineError(f"`proteus profile` says something that is no line: {error}") from error
    return last
