"""Arrivals in any order → sorted by time, without all of them in memory.

An external merge sort: chunks are sorted and written to one temporary file as runs, which are then merged block by
block. A chunk that begins where the run before it ended makes that run longer, so a sorted source is one run.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt

from proteus_cli.replay.trace import OWN_NAMES

CHUNK = 1 << 16  # arrivals in memory at once, several times over
MIN_BLOCK = 1 << 9  # arrivals of a run in memory while it is merged
RECORD = np.dtype([("time_us", "<i8"), *((name, "<f8") for name in OWN_NAMES), ("family", "<i4")])

Records = npt.NDArray[np.void]


@dataclass(slots=True)
class _SortedRun:
    """Records ``start`` … ``stop`` of the file, in order, from ``first_us`` to ``last_us``."""

    start: int
    stop: int
    first_us: int
    last_us: int


class ArrivalSorter:
    """Takes chunks of records, and gives them back by time, as often as asked; those of one time keep their order."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._runs: list[_SortedRun] = []
        self._length = 0

    @property
    def ends_us(self) -> tuple[int, int] | None:
        """The first and the last time; None where nothing was added."""
        if not self._runs:
            return None
        return min(run.first_us for run in self._runs), max(run.last_us for run in self._runs)

    def add(self, records: Records) -> None:
        """Add a chunk. Raises `OSError` where the disk is full."""
        if not len(records):
            return
        times_us = records["time_us"]
        if np.any(times_us[1:] < times_us[:-1]):
            records = _by_time(records)
        start, stop = self._length, self._length + len(records)
        first_us, last_us = int(records["time_us"][0]), int(records["time_us"][-1])
        self._file.write(records.tobytes())
        self._length = stop
        if self._runs and first_us >= self._runs[-1].last_us:
            self._runs[-1].stop, self._runs[-1].last_us = stop, last_us
        else:
            self._runs.append(_SortedRun(start, stop, first_us, last_us))

    def merged(self) -> Iterator[Records]:
        """All records in order, in blocks of a few chunks at most."""
        self._file.flush()
        block = max(MIN_BLOCK, CHUNK // max(len(self._runs), 1))
        cursors = [_Cursor(self._file.fileno(), run, block) for run in self._runs]
        while cursors:
            ends = [(cursor.last_us, index) for index, cursor in enumerate(cursors) if cursor.has_more]
            last_us, first_to_end = min(ends, default=(None, 0))
            # Records at that very time in later runs wait: the run whose block ends there may have more of them.
            parts = [
                cursor.take(last_us, also_equal=index <= first_to_end) if last_us is not None else cursor.take_all()
                for index, cursor in enumerate(cursors)
            ]
            cursors = [cursor for cursor in cursors if cursor.fill()]
            merged = np.concatenate(parts)
            yield _by_time(merged) if len(parts) > 1 else merged


class _Cursor:
    """A run that is read from the disk: one block of records in memory."""

    def __init__(self, handle: int, run: _SortedRun, block: int) -> None:
        self._handle, self._block = handle, block
        self._next, self._stop = run.start, run.stop
        self._records: Records = np.empty(0, dtype=RECORD)
        self.fill()

    @property
    def has_more(self) -> bool:
        """Whether more of the run is on the disk."""
        return self._next < self._stop

    @property
    def last_us(self) -> int:
        """The time of the last record in memory."""
        return int(self._records["time_us"][-1])

    def take(self, until_us: int, *, also_equal: bool) -> Records:
        """Remove the records before a time, with ``also_equal`` those at that time, too."""
        side = "right" if also_equal else "left"
        count = int(np.searchsorted(self._records["time_us"], until_us, side=side))  # type: ignore[call-overload]
        taken, self._records = self._records[:count], self._records[count:]
        return taken

    def take_all(self) -> Records:
        """Remove all records in memory."""
        taken, self._records = self._records, self._records[:0]
        return taken

    def fill(self) -> bool:
        """Read the next block where none is in memory. False where the run has ended."""
        if not len(self._records) and self.has_more:
            count = min(self._block, self._stop - self._next)
            size = RECORD.itemsize
            content = os.pread(self._handle, count * size, self._next * size)
            self._records = np.frombuffer(content, dtype=RECORD)
            self._next += count
        return bool(len(self._records))


def _by_time(records: Records) -> Records:
    return records[np.argsort(records["time_us"], kind="stable")]
