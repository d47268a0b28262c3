"""From an input that an engine stopped at to a small one in the corpus, which fails on its own."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path
from typing import IO, cast

import msgspec
from fuzzing.judge import Verdict

_TRIES = 3  # of which the best counts: what the machine does meanwhile is no finding
_LONGEST_S = 60.0
_NATIVE = Verdict(0, 0.0, "native", "the process died")


class JudgeProcess(AbstractContextManager["JudgeProcess"]):
    """A judge in a process of its own, which is started anew when an input ends it."""

    def __init__(self, target: str, folder: Path) -> None:
        self._target, self._input = target, folder / "judged"
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, content: bytes) -> Verdict:
        """The mildest verdict of a few."""
        verdict = self._once(content)
        for _ in range(_TRIES - 1):
            if not verdict.kind:
                break
            again = self._once(content)
            verdict = again if not again.kind else verdict
        return verdict

    def _once(self, content: bytes) -> Verdict:
        self._input.write_bytes(content)
        if self._process is None:
            command = [sys.executable, "-m", "fuzzing.judge", self._target]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        stdin, stdout = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        stdin.write(f"{self._input}\n".encode())
        stdin.flush()
        line = stdout.readline()
        if not line:
            self.__exit__()
            return _NATIVE
        return msgspec.json.decode(line, type=Verdict)

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.communicate()


def minimised(content: bytes, kind: str, judge: Callable[[bytes], Verdict]) -> bytes:
    """A shorter input with a finding of the same kind: pieces are left out, halves first, as long as it stays one."""
    stop_s, size = time.monotonic() + _LONGEST_S, len(content) // 2
    while size and time.monotonic() < stop_s:
        shorter = next((each for each in _shorter(content, size, stop_s) if judge(each).kind == kind), None)
        if shorter is None:
            size //= 2
        else:
            content = shorter
    return content


def _shorter(content: bytes, size: int, stop_s: float) -> Iterator[bytes]:
    """Without ``size`` bytes, from each place that is a multiple of that, until it is too late."""
    for at in range(0, len(content), size):
        if time.monotonic() < stop_s:
            yield content[:at] + content[at + size :]


def file_name(kind: str, content: bytes) -> str:
    return f"{kind.lower().replace('_', '')}-{sha256(content).hexdigest()[:8]}"
