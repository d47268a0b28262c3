"""A budget of time, divided between jobs and between studies."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit of ``total_s`` seconds from now on, by the clock ``now_s``; infinite: no limit."""

    total_s: float = math.inf
    now_s: Callable[[], float] = monotonic
    end_s: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "end_s", self.now_s() + self.total_s)

    @classmethod
    def of(cls, total_s: float | None) -> "Budget":
        """A budget that begins now; None: no limit."""
        return cls(math.inf if total_s is None else total_s)

    @property
    def left_s(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self.end_s - self.now_s())


def fair_parts(total_s: float, wanted_s: Mapping[str, float]) -> dict[str, float]:
    """Divide a total by max-min fairness: none gets more than it wants while another gets less than the same.

    Small wants are met in full; the others share the rest evenly.
    """
    parts, left_s, left = dict[str, float](), total_s, len(wanted_s)
    for name, wanted in sorted(wanted_s.items(), key=lambda item: item[1]):
        parts[name] = min(wanted, left_s / left)
        left_s, left = left_s - parts[name], left - 1
    return {name: parts[name] for name in wanted_s}
