"""Whom long work tells of its progress."""

from collections.abc import Callable

Advance = Callable[[str, float], object]
"""Takes the name of the current step, and how much of the total is done (0 to 1)."""

Say = Callable[[str], object]
"""Takes a line about what is going on."""


class StepCounter:
    """Counts ``total`` steps, and tells ``advance`` of each when it begins."""

    def __init__(self, advance: Advance, total: int) -> None:
        self._advance, self._total, self._begun = advance, total, 0

    def begin(self, name: str) -> None:
        """The step before this one is done."""
        self._advance(name, self._begun / self._total)
        self._begun += 1
