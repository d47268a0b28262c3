"""A part of a trace."""

import math
from dataclasses import dataclass

from proteus_cli.errors import UsageError
from proteus_cli.units import parse_duration

EVER_US = 2**62


@dataclass(frozen=True, slots=True)
class TraceWindow:
    """From ``start_us`` up to but not including ``stop_us``, in microseconds since the trace began."""

    start_us: int = 0
    stop_us: int = EVER_US

    def meets(self, start_us: int, stop_us: int) -> bool:
        """It has something in common with a span."""
        return start_us < self.stop_us and stop_us > self.start_us


ALL = TraceWindow()


def parse_window(text: str) -> TraceWindow:
    """``"10m..20m"``, ``"10m.."``, ``"..20m"``. Raises `UsageError`."""
    start, dots, stop = (part.strip() for part in text.partition(".."))
    hint = "write it like `10m..20m`, `10m..` or `..20m`"
    if not dots or not (start or stop):
        raise UsageError(f"`{text}` is no window of time.", hint=hint)
    start_s = parse_duration(start) if start else 0.0
    stop_s = parse_duration(stop) if stop else math.inf
    if not start_s < stop_s:
        raise UsageError(f"The window `{text}` is empty.", hint=hint)
    return TraceWindow(_microseconds(start_s), _microseconds(stop_s))


def _microseconds(seconds: float) -> int:
    return EVER_US if seconds * 1e6 >= EVER_US else round(seconds * 1e6)
