"""Memory that two processes share. It has no name, so the last of them takes it along, however it ends."""

import mmap
import os
from collections.abc import Iterable, Sequence

_ALIGN_BYTES = 64  # a line of the cache, and what vector instructions like

CAN_SHARE = hasattr(os, "memfd_create")
"""Linux only."""


def offsets(sizes: Iterable[int]) -> tuple[list[int], int]:
    """Where things of these sizes lie, one behind another, and how many bytes that takes."""
    found, end = [], 0
    for size in sizes:
        found.append(end)
        end += -(-size // _ALIGN_BYTES) * _ALIGN_BYTES
    return found, end


class TransferBuffer:
    """Room for the tensors of a batch on their way there, and for those on their way back.

    Each side makes what it writes to, anew where it has to be larger, and sends a file descriptor of it along with
    the message that tells of the tensors. So neither needs to know beforehand how much the other will write.
    """

    def __init__(self) -> None:
        self._mine = self._theirs = memoryview(b"")
        self._unsent: int | None = None

    def outgoing(self, size: int, at_least: int = 0) -> memoryview:
        """So many bytes to write to; what is made anew has ``at_least`` so many."""
        if size > len(self._mine):
            self._drop_unsent()
            self._unsent = os.memfd_create("proteus-slot", os.MFD_CLOEXEC)
            os.ftruncate(self._unsent, max(size, at_least, mmap.PAGESIZE))
            self._mine = _mapped(self._unsent)
        return self._mine

    def take_unsent(self) -> tuple[int, ...]:
        """What must be sent along with the next message of this slot, if anything; the receiver of this closes it."""
        unsent, self._unsent = self._unsent, None
        return () if unsent is None else (unsent,)

    def incoming(self, descriptors: Sequence[int]) -> memoryview:
        """What the other side wrote, where these came along with its message; they are closed."""
        for descriptor in descriptors:
            self._theirs = _mapped(descriptor)
            os.close(descriptor)
        return self._theirs

    def close(self) -> None:
        """Let go of it; it is gone when nothing looks at it any more."""
        self._drop_unsent()
        self._mine = self._theirs = memoryview(b"")

    def _drop_unsent(self) -> None:
        for descriptor in self.take_unsent():
            os.close(descriptor)


def _mapped(descriptor: int) -> memoryview:
    return memoryview(mmap.mmap(descriptor, os.fstat(descriptor).st_size))
