"""A stream: reading memory, and nothing else."""

from pathlib import Path

import numpy as np

TURN_BYTES = 64 * 2**20
"""Of a turn on a device that is shared: more than the engines that share a device read between two batches."""

STREAM_TURN_S = 0.01
"""What a turn takes, about."""

LARGEST_BYTES = 2**30
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
_UNKNOWN_CACHE_BYTES = 64 * 2**20


def largest_cache_bytes(caches: Path = _CACHES) -> int:
    """The size of the largest cache of the first core; 64 MiB where the system does not say it."""
    sizes = []
    for path in caches.glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        if text[:-1].isdigit() and text[-1:] in _UNITS:
            sizes.append(int(text[:-1]) * _UNITS[text[-1]])
    return max(sizes, default=_UNKNOWN_CACHE_BYTES)


def stream_bytes(free_bytes: int, cache_bytes: int) -> int:
    """How much memory to stream: twice the largest cache, but no more than 1 GiB or an eighth of what is free."""
    return max(min(2 * cache_bytes, LARGEST_BYTES, free_bytes // 8), 2**20)


class Stream:
    """Reads so many bytes over and over, `TURN_BYTES` at a time."""

    def __init__(self, size_bytes: int) -> None:
        self._words = np.ones(max(size_bytes, 8) // 8, np.int64)  # ones, as zeros may be one page of the system
        self._at = 0

    def read_on(self) -> int:
        """Read the next part; returns the sum of its words."""
        if self._at >= len(self._words):
            self._at = 0
        part = self._words[self._at : self._at + TURN_BYTES // 8]
        self._at += len(part)
        return int(part.sum())
