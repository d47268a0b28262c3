"""What fuzzing has found stays mended: an input in ``tests/corpus`` shows no bug, and takes little memory and work.

Work is counted in calls of functions, not in time, so that the machine's speed makes no difference.
"""

import sys
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pytest
from fuzzing.targets.table import TARGETS, open_target
from fuzzing.targets.target import Target
from fuzzing.watch import MIB, Watch

T = TypeVar("T")

CORPUS = Path(__file__).parents[1] / "corpus"

MAX_ALLOCATED_BYTES = 32 * MIB
"""An eighth of a finding: what valid inputs take is a tenth of it."""

MAX_CALLS = 100_000
"""Of one callback of the loop. So many take some 20 ms; a finding takes 250 ms."""


class CountingWatch(Watch):
    """Counts the calls of functions, of Python and of C, in place of seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def call(self, callback: Callable[..., T], *args: Any) -> T:
        before = self._count
        sys.setprofile(self._called)
        try:
            return callback(*args)
        finally:
            sys.setprofile(None)
            self.hold_s = max(self.hold_s, self._count - before)

    def _called(self, _frame: FrameType, event: str, _argument: Any) -> None:
        if event in {"call", "c_call"}:
            self._count += 1


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_and_what_is_valid_is_cheap(name: str) -> None:
    found = {str(path): path.read_bytes() for path in (CORPUS / name).glob("*")}
    with closing(open_target(name)) as target:
        target.play(next(iter(target.seeds().values())), Watch())  # what it imports is no cost of an input
        for case, content in {**target.seeds(), **found}.items():
            try:
                check_cheap(target, content)
            except Exception as error:
                error.add_note(f"by the input {case}")
                raise


def check_cheap(target: Target, content: bytes) -> None:
    """Raises what the target raises, too."""
    watch = CountingWatch()
    tracemalloc.start()
    try:
        target.play(content, watch)
        allocated_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert allocated_bytes <= MAX_ALLOCATED_BYTES, "too much memory"
    assert watch.hold_s <= MAX_CALLS, "too much work"
