"""One engine's work on one target, in a process of its own: plays inputs, and keeps those that are worth a look.

In the folder of a session: ``found/`` has an input for each kind of finding, ``slowest`` and ``largest`` the inputs
that cost most, and ``cases`` how many were played. The process may die at any moment, so all of it is written at once.
"""

import gc
import resource
import traceback
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from fuzzing.watch import MAX_INPUT_BYTES, Cost, ResidentMemory, Watch

if TYPE_CHECKING:
    from fuzzing.targets.target import Target

ROOM_BYTES = 2**30
"""What an input may take above what the process has, before its allocations fail."""

_CASES_BETWEEN_NOTES = 100
_MAX_MUTATIONS = 4
_SLOWER = 1.1  # an input must be so much worse than the worst to replace it: written files are few


class Session:
    """Plays inputs to ``target``."""

    def __init__(self, target: "Target", folder: Path) -> None:
        self._target, self._folder = target, folder
        self._memory = ResidentMemory()
        self._kinds: set[str] = set()
        self._worst = Cost()
        self.cases = 0
        (folder / "found").mkdir(parents=True, exist_ok=True)
        (folder / "cases").write_text("0")

    def play(self, content: bytes) -> Cost:
        """What the input costs. What it finds is kept, and not raised, so that the session goes on."""
        before, watch, error = self._memory.reset(), Watch(), None
        try:
            self._target.play(content, watch)
        except Exception as raised:  # noqa: BLE001 - whatever it is, it is found
            error = raised
        cost = Cost(max(0, self._memory.peak() - before), watch.hold_s)
        self._note(content, cost, error)
        return cost

    def _note(self, content: bytes, cost: Cost, error: Exception | None) -> None:
        self.cases += 1
        if self.cases % _CASES_BETWEEN_NOTES in {0, 1}:
            (self._folder / "cases").write_text(str(self.cases))
        if cost.hold_s > self._worst.hold_s * _SLOWER:
            (self._folder / "slowest").write_bytes(content)
        if cost.peak_bytes > self._worst.peak_bytes * _SLOWER:
            (self._folder / "largest").write_bytes(content)
        self._worst |= cost
        kind = kind_of(error) if error is not None else cost.excess
        if kind and kind not in self._kinds:
            self._kinds.add(kind)
            (self._folder / "found" / f"{kind}-{len(self._kinds)}").write_bytes(content)


def mutated(target: "Target", content: bytes, rng: Random) -> bytes:
    """A few mutations of an input; those that would make it too large are left out."""
    for _ in range(rng.randint(1, _MAX_MUTATIONS)):
        longer = target.mutate(content, rng)
        content = longer if len(longer) <= MAX_INPUT_BYTES else content
    return content


def kind_of(error: BaseException) -> str:
    """Errors of one kind are one finding: type, and the innermost place in our code, or in whatever raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "proteus_cli" in frame.filename] or frames[-1:]
    return "-".join([type(error).__name__, *(f"{Path(frame.filename).stem}-{frame.name}" for frame in ours[-1:])])


def bound_memory() -> None:
    """Fail allocations that would make this process much larger than it is; later collections have less to look at."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    gc.freeze()
