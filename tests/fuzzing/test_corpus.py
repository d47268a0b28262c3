"""What fuzzing has found stays mended: an input in ``tests/corpus`` shows no bug, and takes little memory and work.

Work is counted in calls of functions, not in time, so that the machine's speed makes no difference.
"""

import sys
import tracemalloc
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any, Self

import pytest
from fuzzing.targets.table import TARGETS, open_target
from fuzzing.targets.target import Target
from fuzzing.watch import MIB, Watch

CORPUS = Path(__file__).parents[1] / "corpus"

MAX_ALLOCATED_BYTES = 64 * MIB
"""A quarter of what is a finding, as only what is allocated counts here."""

MAX_CALLS = 500_000
"""Of one callback of the loop. As many take at least 50 ms of Python, and a finding is 250 ms."""


class Calls:
    """Counts all calls of functions, of Python and of C, while it is entered."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> float:
        return self.count

    def __enter__(self) -> Self:
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _called(self, _frame: FrameType, event: str, _argument: Any) -> None:
        if event in {"call", "c_call"}:
            self.count += 1


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_and_what_is_valid_is_cheap(name: str) -> None:
    found = {str(path): path.read_bytes() for path in (CORPUS / name).glob("*")}
    with closing(open_target(name)) as target:
        for case, content in {**target.seeds(), **found}.items():
            try:
                require_cheap(target, content)
            except Exception as error:
                error.add_note(f"by the input {case}")
                raise


def require_cheap(target: Target, content: bytes) -> None:
    """Raises what the target raises, too."""
    watch = Watch(calls := Calls())
    tracemalloc.start()
    try:
        with calls:
            target.play(content, watch)
        allocated_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert allocated_bytes <= MAX_ALLOCATED_BYTES, "too much memory"
    assert watch.hold_s <= MAX_CALLS, "too much work"
