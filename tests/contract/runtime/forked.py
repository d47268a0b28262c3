"""Scenarios in processes that are forked from one that has imported what all of them need: most of what they take.

``python -m contract.runtime.forked`` reads a call of `scenarios` a line, as JSON: where to write what it says, and its
arguments. Its answer is the exit status. What is imported before the fork knows no driver, and no wrong adapter changes
it; a child ends as any Python does.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from contract.runtime.running import TIMEOUT_S, command_of

SCENARIOS = "contract.runtime.scenarios"


class Forked:
    """Runs scenarios in one environment, one after the other."""

    def __init__(self, process: "subprocess.Popen[str]", directory: Path) -> None:
        self._process, self._said = process, directory / "said"

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """As `running.run` does, in the environment of this one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([str(self._said), *arguments]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, f"ended: {self._process.wait()}"
        return subprocess.CompletedProcess(arguments, int(answer), self._said.read_text(errors="replace"))


@contextmanager
def forking(environment: Mapping[str, str]) -> Iterator[Forked]:
    command, where = command_of(environment, "contract.runtime.forked")
    with (
        tempfile.TemporaryDirectory() as directory,
        subprocess.Popen(command, **where, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
    ):
        yield Forked(process, Path(directory))
        assert process.stdin is not None
        process.stdin.close()


def main() -> None:
    """Until nobody asks any more. In a child, this returns, and what was asked for has been the last thing it did."""
    _import_what_all_need()
    for line in sys.stdin:
        said, *arguments = json.loads(line)
        child = os.fork()
        if not child:
            _be(said, arguments)
            return
        print(os.waitstatus_to_exitcode(_ended(child)), flush=True)  # noqa: T201 - for `Forked.run`


def _import_what_all_need() -> None:
    """Nothing that has threads: they are missing in a child, and ONNX Runtime ends badly there."""
    import asyncio  # noqa: F401, PLC0415 - here, as whoever starts this process needs none of it

    import numpy  # noqa: F401, ICN001, PLC0415
    import pytest  # noqa: F401, PLC0415
    import tiny  # noqa: F401, PLC0415
    from contract.runtime import wrong_adapters  # noqa: PLC0415

    early = {edit.module for wrong in wrong_adapters.WRONG_ADAPTERS.values() for edit in wrong.edits} & {*sys.modules}
    assert not early, f"imported before it can be changed: {early}"


def _be(said: str, arguments: Sequence[str]) -> None:
    """Become the process of a scenario."""
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(output, descriptor)
    os.close(output)
    sys.stdin.close()
    sys.argv[1:] = arguments
    runpy.run_module(SCENARIOS, run_name="__main__", alter_sys=True)


def _ended(child: int) -> int:
    """Its status; it is killed where it takes too long."""

    def kill(_number: int, _frame: FrameType | None) -> None:
        os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S)
    try:
        return os.waitpid(child, 0)[1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


if __name__ == "__main__":
    main()
