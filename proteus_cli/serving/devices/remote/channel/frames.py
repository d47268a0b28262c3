"""Frames between a server and an agent: a message and the bytes behind it.

A frame is a prefix of 8 bytes, the message in MessagePack, and the bytes behind it: tensors in the order of
`BatchLayout`, or a piece of a file. The prefix has the lengths of both, big-endian, 32 bits each. A frame with nothing
in it is a sign of life.
"""

import struct
from collections.abc import Callable, Sequence
from typing import TypeAlias

from proteus_cli.buffers import Buffer
from proteus_cli.serving.memory import unset_bytes

MAX_MESSAGE_BYTES = 2**20
MAX_TENSOR_BYTES = 2**30
"""The most bytes of all tensors of a batch, on their way to a device or back."""

_PREFIX = struct.Struct("!II")
SIGN_OF_LIFE = _PREFIX.pack(0, 0)
"""A frame that says nothing, but that its sender is there: a parser passes over it."""

_RECEIVE_BYTES = 2**18  # what TLS decrypts at a time at most; shorter frames cost less than a read each
_JOINED_BYTES = 2**16  # shorter frames are sent and received in one piece
_RECORD_BYTES = 2**14  # of TLS: pieces that do not fill one are joined, as each would take a record

Frame: TypeAlias = tuple[memoryview, memoryview]
"""The message, which must be read before more bytes are received, and the bytes behind it, in memory of their own."""


class UnreadableFrame(Exception):
    """The received bytes are no frame, or a frame that is larger than allowed."""


def pieces_of(message: bytes, behind: Sequence[Buffer] = ()) -> list[Buffer]:
    """A frame, to be sent in these pieces: copied into one where it is small, or has many small parts; else no copies.

    Raises `UnreadableFrame` where it is larger than what the other end takes.
    """
    size = 0
    for each in behind:
        size += memoryview(each).nbytes
    if len(message) > MAX_MESSAGE_BYTES or size > MAX_TENSOR_BYTES:
        raise UnreadableFrame(f"a frame of {len(message):,} and {size:,} bytes is larger than allowed")
    prefix = _PREFIX.pack(len(message), size)
    if size <= max(_JOINED_BYTES, len(behind) * _RECORD_BYTES):
        return [b"".join((prefix, message, *behind))]
    return [prefix + message, *behind]


class FrameParser:
    """Finds frames in a stream of bytes, which are written into its `room`.

    The bytes behind a message are copied out of that where they are few; else they are received where they stay.
    ``room`` is where the next bytes are to be written; never empty. ``is_empty``: no byte of another frame is there.
    ``behind_limit`` says how many bytes may be behind a message; it is asked before they are received, unless they are
    few, and may raise `UnreadableFrame`.
    """

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES, max_behind_bytes: int = MAX_TENSOR_BYTES) -> None:
        self._max_message_bytes, self._max_behind_bytes = max_message_bytes, max_behind_bytes
        self._received = self.room = memoryview(bytearray(_RECEIVE_BYTES))
        self._start = self._end = 0  # of what was received and not read
        self.is_empty = True
        self._large: tuple[memoryview, memoryview] | None = None  # a message, and what is behind it, not whole yet
        self._filled = 0
        self.behind_limit: Callable[[memoryview], int] = lambda _: self._max_behind_bytes

    def allow(self, max_message_bytes: int, max_behind_bytes: int) -> None:
        """Take frames of up to this size from now on."""
        self._max_message_bytes, self._max_behind_bytes = max_message_bytes, max_behind_bytes

    def feed(self, size: int = 0) -> Frame | None:
        """Take bytes that were written to the `room`; returns the next frame, or None where it is not whole.

        To be called again until it returns None, or `is_empty`. Raises `UnreadableFrame`.
        """
        if self._large is not None:
            return self._feed_large(self._large, size)
        start, end, received = self._start, self._end + size, self._received
        needed = _PREFIX.size
        while end - start >= _PREFIX.size:
            message_bytes, behind_bytes = _PREFIX.unpack_from(received, start)
            if message_bytes > self._max_message_bytes or behind_bytes > self._max_behind_bytes:
                raise UnreadableFrame(f"a frame of {message_bytes:,} and {behind_bytes:,} bytes is larger than allowed")
            first = start + _PREFIX.size
            middle, is_small = first + message_bytes, behind_bytes <= _JOINED_BYTES
            last = middle + behind_bytes
            if end < (last if is_small else middle):
                needed = (last if is_small else middle) - start
                break
            if last == first:  # a sign of life
                start = last
                continue
            self._begin(min(last, end), end)
            if is_small:
                return received[first:middle], memoryview(bytearray(received[middle:last]))
            return self._begin_large(received[first:middle], received[middle : min(last, end)], behind_bytes)
        self._begin(start, end)
        if not self.is_empty:
            self._make_room(needed)
        return None

    def _begin(self, start: int, end: int) -> None:
        """The unread bytes lie from here to there."""
        self.is_empty = start == end
        if self.is_empty:  # as after most frames
            self._start = self._end = 0
            self.room = self._received
        else:
            self._start, self._end = start, end

    def _feed_large(self, large: Frame, size: int) -> Frame | None:
        self._filled += size
        if self._filled < len(large[1]):
            self.room = large[1][self._filled :]
            return None
        self._large, self.room = None, self._received
        return large

    def _begin_large(self, message: memoryview, here: memoryview, behind_bytes: int) -> Frame | None:
        """The bytes behind a message are received where they stay, except the bytes that are ``here`` already.

        Their memory is taken as they arrive, as the other end may announce more than it sends.
        """
        if behind_bytes > self.behind_limit(message):
            raise UnreadableFrame(f"{behind_bytes:,} bytes are more than may be behind their message")
        try:
            behind = memoryview(unset_bytes(behind_bytes))
        except MemoryError as error:
            raise UnreadableFrame(f"there is no memory for a frame of {behind_bytes:,} bytes") from error
        behind[: len(here)] = here
        if len(here) == behind_bytes:
            return message, behind
        self._large, self._filled, self.room = (memoryview(bytes(message)), behind), len(here), behind[len(here) :]
        return None

    def _make_room(self, size: int) -> None:
        """Have room for a frame that begins at `_start` and takes at least that many bytes."""
        if self._start + size > len(self._received):
            left = bytes(self._received[self._start : self._end])
            if size > len(self._received):
                self._received = memoryview(bytearray(size))
            self._received[: len(left)] = left
            self._start, self._end = 0, len(left)
        self.room = self._received[self._end :]
