"""Memory that two processes share. It has no name, so it goes with the last of the two, however that ends."""

import mmap
import os
from collections.abc import Iterable, Sequence

from proteus_cli.buffers import Buffer

_ALIGN_BYTES = 64  # a cache line, and enough for vector instructions
_JOINED_BYTES = 2**14  # pieces of less are joined first, as each assignment to memory costs as much as that

CAN_SHARE = hasattr(os, "memfd_create")
"""Linux only."""


def offsets(sizes: Iterable[int]) -> tuple[list[int], int]:
    """The places of tensors of these sizes, one behind another, and the bytes that they take together."""
    found, end = [], 0
    for size in sizes:
        found.append(end)
        end += -(-size // _ALIGN_BYTES) * _ALIGN_BYTES
    return found, end


class TransferBuffer:
    """Memory for the inputs of a batch on their way to the device's process, and for its outputs on their way back.

    Each side makes the memory that it writes to, and makes it anew where it has to be larger. It sends a file
    descriptor of it with the message about the tensors. Neither side therefore needs to know beforehand how much the
    other writes.
    """

    def __init__(self) -> None:
        self._mine = self._theirs = memoryview(b"")
        self._unsent: int | None = None

    def outgoing(self, size: int, reserve_bytes: int = 0) -> memoryview:
        """At least ``size`` bytes to write to; memory that is made anew has at least ``reserve_bytes``."""
        if size > len(self._mine):
            self._drop_unsent()
            self._unsent = os.memfd_create("proteus-transfer", os.MFD_CLOEXEC)
            os.ftruncate(self._unsent, max(size, reserve_bytes, mmap.PAGESIZE))
            self._mine = _mapped(self._unsent)
        return self._mine

    def write(self, pieces: Sequence[Buffer], size: int, reserve_bytes: int = 0) -> None:
        """Write pieces of ``size`` bytes one behind another, as `outgoing`.

        Raises `OSError` where there is no memory, `ValueError` where they have another size.
        """
        memory = self.outgoing(size, reserve_bytes)
        if size <= _JOINED_BYTES:
            memory[:size] = b"".join(pieces)
            return
        first = 0
        for piece in pieces:
            last = first + len(piece)
            memory[first:last] = piece
            first = last
        if first != size:
            raise ValueError(f"{first} bytes do not fit into {size}")

    def take_unsent(self) -> tuple[int, ...]:
        """The file descriptor to send with the next message about this buffer, if any; the caller closes it."""
        unsent, self._unsent = self._unsent, None
        return () if unsent is None else (unsent,)

    def incoming(self, descriptors: Sequence[int]) -> memoryview:
        """The tensors that the other side wrote; ``descriptors`` came with its message, and are closed."""
        for descriptor in descriptors:
            self._theirs = _mapped(descriptor)
            os.close(descriptor)
        return self._theirs

    def close(self) -> None:
        """Release the memory; it is freed once no view of it is left."""
        self._drop_unsent()
        self._mine = self._theirs = memoryview(b"")

    def _drop_unsent(self) -> None:
        for descriptor in self.take_unsent():
            os.close(descriptor)


def _mapped(descriptor: int) -> memoryview:
    return memoryview(mmap.mmap(descriptor, os.fstat(descriptor).st_size))
