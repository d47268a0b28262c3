"""Readings of counters, and what lies between two."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters at a time. ``totals`` only grow, such as seconds of a core; ``levels`` are of now, such as memory.

    Names are those of `studies.study.MEASURES`: of a total, the measure is what it grows by per second.
    """

    at_s: float
    totals: Mapping[str, float] = field(default_factory=dict)
    levels: Mapping[str, float] = field(default_factory=dict)


def measures(before: Reading, after: Reading) -> dict[str, float]:
    """The measures from one reading to a later one; a total that fell, as a process ended unseen, grew by 0."""
    passed_s = after.at_s - before.at_s
    rates = {
        name: max(0.0, total - before.totals[name]) / passed_s
        for name, total in after.totals.items()
        if name in before.totals and passed_s > 0
    }
    return {**rates, **after.levels}
