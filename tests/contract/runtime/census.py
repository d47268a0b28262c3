"""What the fake driver counts."""

from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Census:
    """In the order of the driver's own (`census.hpp`): what is alive, then what should not have been done."""

    streams: int
    events: int
    device_bytes: int
    pinned_bytes: int
    pushed_contexts: int
    calls_without_context: int
    pageable_copies: int
    default_stream_calls: int
    blocking_streams: int
    spinning_waits: int


CLEAN = Census(*[0] * len(fields(Census)))

VARIABLE = "FAKE_CUDA_CENSUS"
"""Names a directory in which each process that used the driver leaves its census when it ends."""


def left_in(directory: Path) -> dict[Path, Census]:
    """What the processes that have ended left there, by their files."""
    return {path: Census(*map(int, path.read_text(encoding="ascii").split())) for path in directory.iterdir()}
