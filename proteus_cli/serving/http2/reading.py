"""Bytes to frames: whatever the pieces in which they come, the frames are the same."""

from typing import Protocol

from proteus_cli.domain.buffer import Buffer
from proteus_cli.serving.http2.frames import (
    CONTINUATION,
    DATA,
    FRAME_HEADER,
    PADDED,
    PREFACE,
    SETTINGS,
    ConnectionFault,
    ErrorCode,
)

_FRAME_HEADER_BYTES = 9
_STREAM = 0x7FFFFFFF
_LARGE = 4096  # bytes of data from which on a view costs less than a copy


class Frames(Protocol):
    """Who takes frames."""

    is_closing: bool

    def on_frame(self, kind: int, flags: int, stream_id: int, payload: Buffer) -> None: ...


class FrameReader:
    """Reads the preface and frames of at most ``frame_bytes``, one of which it may hold back until it is complete.

    A DATA frame is handed on in the pieces that come, as if each were one. ``only`` is the one kind of frame that may
    come next, where that is so. Raises `ConnectionFault`.
    """

    __slots__ = ("_data", "_frame_bytes", "_frames", "_has_preface", "_left", "_needed", "partial", "required_kind")

    def __init__(self, frames: Frames, frame_bytes: int) -> None:
        self._frames, self._frame_bytes = frames, frame_bytes
        self.required_kind: int | None = SETTINGS
        self.partial = bytearray()
        self._needed = len(PREFACE)
        self._has_preface = False
        self._data, self._left = (0, 0), 0  # stream and flags of a DATA frame, and how much of it is to come

    @property
    def is_incomplete(self) -> bool:
        """Something has begun that the peer has to complete."""
        return bool(self.partial) or self.required_kind is not None

    def read(self, data: bytes) -> None:
        if self.partial:
            self.partial += data
            if len(self.partial) < self._needed:
                return
            data, self.partial = bytes(self.partial), bytearray()
        if not self._has_preface and len(data) < len(PREFACE) and PREFACE.startswith(data):
            self.partial += data
            return
        at = self._read_preface(data) if not self._has_preface else self._read_data(data, 0) if self._left else 0
        at = self._read_frames(data, at)
        if at < len(data):
            self.partial += data[at:]

    def _read_frames(self, data: bytes, at: int) -> int:
        """All that are complete, and DATA as far as it is there; where the next one begins."""
        end, self._needed = len(data), _FRAME_HEADER_BYTES
        while end - at >= _FRAME_HEADER_BYTES and not self._frames.is_closing:
            upper, lower, kind, flags, stream_id = FRAME_HEADER.unpack_from(data, at)
            size = upper << 8 | lower
            start = at + _FRAME_HEADER_BYTES
            if (self.required_kind is not None and kind != self.required_kind) or size > self._frame_bytes:
                self._refuse(kind, size)
            if start + size <= end:
                at = start + size
                piece = data[start:at] if kind != DATA or size < _LARGE else memoryview(data)[start:at]
                self._frames.on_frame(kind, flags, stream_id & _STREAM, piece)
            elif kind == DATA and not flags & PADDED:
                self._data, self._left = (flags, stream_id & _STREAM), size
                at = self._read_data(data, start)
            else:
                self._needed = _FRAME_HEADER_BYTES + size
                break
        return at

    def _read_preface(self, data: bytes) -> int:
        if not data.startswith(PREFACE):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this port speaks HTTP/2 with prior knowledge only")
        self._has_preface = True
        return len(PREFACE)

    def _read_data(self, data: bytes, at: int) -> int:
        piece = memoryview(data)[at : at + self._left]
        self._left -= len(piece)
        flags, stream_id = self._data
        if piece:
            self._frames.on_frame(DATA, 0 if self._left else flags, stream_id, piece)
        return at + len(piece)

    def _refuse(self, kind: int, size: int) -> None:
        if size > self._frame_bytes:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
        wanted = "continuations" if self.required_kind == CONTINUATION else "settings"
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame of kind {kind} where only {wanted} may come")
