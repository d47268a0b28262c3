"""What a part of the benchmark finds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.tables import Aim


@dataclass(frozen=True)
class Found:
    """Lines to print, and the aims of a part."""

    lines: Sequence[str]
    aims: Sequence[Aim]


Part = Callable[[bool], Found]
"""Takes whether only a little is to be measured, to see that it works."""
