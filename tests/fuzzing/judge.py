"""Judges inputs without an engine. ``python -m fuzzing.judge TARGET``: takes a path in each line, gives a verdict."""

import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import msgspec
from fuzzing.session import bound_memory, kind_of
from fuzzing.targets.table import open_target
from fuzzing.watch import Cost, ResidentMemory, Watch

_SAMPLE_EVERY_S = 0.01
_LONGEST_S = 60  # then the process is ended by SIGALRM


class Verdict(msgspec.Struct):
    """What an input costs, and its finding: a name of the kind, and a text; empty if it is none."""

    peak_bytes: int
    hold_s: float
    kind: str
    text: str


class Judge:
    """Plays inputs to one target."""

    def __init__(self, target: str) -> None:
        self._target, self._memory = open_target(target), ResidentMemory()

    def __call__(self, content: bytes) -> Verdict:
        watch, before, places = Watch(), self._memory.reset(), Counter[str]()
        error: Exception | None = None
        signal.signal(signal.SIGPROF, lambda _, frame: places.update(_place(frame)))
        signal.setitimer(signal.ITIMER_PROF, _SAMPLE_EVERY_S, _SAMPLE_EVERY_S)
        signal.alarm(_LONGEST_S)
        try:
            self._target.play(content, watch)
        except Exception as raised:  # noqa: BLE001 - whatever it is, it is found
            error = raised
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            signal.alarm(0)
        cost = Cost(max(0, self._memory.peak() - before), watch.hold_s)
        if error is not None:
            return Verdict(cost.peak_bytes, cost.hold_s, kind_of(error), f"{type(error).__name__}: {error}")
        where = "".join(f"-{place}" for place, _ in places.most_common(1))
        return Verdict(cost.peak_bytes, cost.hold_s, f"{cost.excess}{where}" if cost.excess else "", str(cost))


def _place(frame: FrameType | None) -> list[str]:
    """The innermost function of the project that runs."""
    while frame is not None and "proteus_cli" not in frame.f_code.co_filename:
        frame = frame.f_back
    return [] if frame is None else [f"{Path(frame.f_code.co_filename).stem}-{frame.f_code.co_name}"]


def main(target: str) -> None:
    judge = Judge(target)
    bound_memory()
    for line in sys.stdin:
        sys.stdout.buffer.write(msgspec.json.encode(judge(Path(line.rstrip("\n")).read_bytes())) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
