"""The part of a trace that `proteus trace convert --window` takes."""

import math
from dataclasses import dataclass

from proteus_cli.errors import UsageError
from proteus_cli.units import parse_duration

END_US = 2**62  # later than any arrival


@dataclass(frozen=True, slots=True)
class TraceWindow:
    """From ``start_us`` up to but not including ``stop_us``, in microseconds since the trace began."""

    start_us: int = 0
    stop_us: int = END_US

    def overlaps(self, start_us: int, stop_us: int) -> bool:
        """Whether it has a moment in common with that time."""
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
    start_us, stop_us = (round(min(seconds * 1e6, END_US)) for seconds in (start_s, stop_s))
    return TraceWindow(start_us, stop_us)
