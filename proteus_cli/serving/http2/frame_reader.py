"""Bytes to frames: the same frames, whatever the pieces in which their bytes come."""

from typing import TYPE_CHECKING

from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.frames import DATA, END_HEADERS, FRAME_HEADER, HEADERS, ConnectionFault, ErrorCode
from proteus_cli.serving.http2.limits import FloodBudget, Http2Limits
from proteus_cli.serving.transport.connections import Turn

if TYPE_CHECKING:
    from proteus_cli.serving.http2.connection import Http2Connection

_FRAME_HEADER_BYTES = 9
_PRIORITY_BYTES = 5
_BLOCK_FLAGS = END_HEADERS | frames.PADDED | frames.HAS_PRIORITY
_STREAM_MASK = 0x7FFFFFFF
_SMALL_BYTES = 256  # of DATA; to handle less takes longer than to send it
_VIEWED_BYTES = 4096  # from here on, a view of DATA costs less than a copy


class FrameReader:
    """Reads the preface and frames, and hands each on once it is complete. Raises `ConnectionFault`.

    DATA is handed on in the pieces that come, each as a frame of its own. HEADERS are handed on without padding and
    priority, and joined with their CONTINUATION. ``required_kind`` is the one kind of frame that may come next, if so.
    A frame is a unit of the ``turn``; once that is over, the `rest` of what was read waits for `go_on`.
    """

    __slots__ = (
        "_block", "_block_flags", "_block_stream", "_continuations", "_data", "_data_left", "_flood_budget",
        "_has_preface", "_limits", "_needed", "_partial", "_rest", "_sink", "_turn", "required_kind",
    )  # fmt: skip

    def __init__(self, sink: "Http2Connection", limits: Http2Limits, flood_budget: FloodBudget, turn: Turn) -> None:
        self._sink, self._limits, self._flood_budget, self._turn = sink, limits, flood_budget, turn
        self._rest: tuple[bytes, int] | None = None  # what was read, and where its next frame begins
        self.required_kind: int | None = frames.SETTINGS
        self._partial, self._needed = bytearray(), len(frames.PREFACE)
        self._has_preface = False
        self._data, self._data_left = (0, 0), 0  # flags and stream of a DATA frame, and how much of it is to come
        self._block = bytearray()  # of HEADERS whose CONTINUATION is to come
        self._block_stream = self._block_flags = self._continuations = 0

    @property
    def is_incomplete(self) -> bool:
        """Whether the peer has begun something that it has to complete."""
        return self._rest is None and (bool(self._partial) or self.required_kind is not None)

    @property
    def has_rest(self) -> bool:
        """Whether a part of the last read waits for `go_on`."""
        return self._rest is not None

    def go_on(self) -> None:
        """Read what the last turn left."""
        if self._rest is not None:
            (data, at), self._rest = self._rest, None
            self._read_frames(data, at)

    def read(self, data: bytes) -> None:
        """Read what came. Raises `ConnectionFault`."""
        if self._rest is not None:  # TLS hands on what it had decrypted before it was paused
            rest, at = self._rest
            self._rest = rest[at:] + data, 0
            return
        if self._partial:
            self._partial += data
            if len(self._partial) < self._needed:
                return
            data, self._partial = bytes(self._partial), bytearray()
        if not self._has_preface and len(data) < len(frames.PREFACE) and frames.PREFACE.startswith(data):
            self._partial += data
            return
        at = self._read_preface(data) if not self._has_preface else self._read_data(data, 0) if self._data_left else 0
        self._read_frames(data, at)

    def _read_frames(self, data: bytes, at: int) -> None:
        """Read complete frames, and DATA as far as it is there, until the turn is over."""
        end, max_bytes, self._needed = len(data), self._limits.frame_bytes, _FRAME_HEADER_BYTES
        turn = self._turn
        while end - at >= _FRAME_HEADER_BYTES and not self._sink.is_closing:
            if turn.left <= 0:
                self._rest = data, at
                return
            turn.left -= 1
            upper, lower, kind, flags, stream_id = FRAME_HEADER.unpack_from(data, at)
            size = upper << 8 | lower
            start = at + _FRAME_HEADER_BYTES
            if (self.required_kind is not None and kind != self.required_kind) or size > max_bytes:
                self._refuse(kind, size)
            if kind == DATA and size < _SMALL_BYTES and not flags & frames.END_STREAM:
                self._flood_budget.charge_small_data()
            if start + size <= end:
                at = start + size
                stream_id &= _STREAM_MASK
                if kind == DATA:
                    piece = data[start:at] if size < _VIEWED_BYTES else memoryview(data)[start:at]
                    self._sink.on_frame(kind, flags, stream_id, piece)
                elif kind == HEADERS and flags & _BLOCK_FLAGS == END_HEADERS:
                    self._sink.on_frame(kind, flags, stream_id, data[start:at])
                else:
                    self._read_other(kind, flags, stream_id, data[start:at])
            elif kind == DATA and not flags & frames.PADDED:
                self._data, self._data_left = (flags, stream_id & _STREAM_MASK), size
                at = self._read_data(data, start)
            else:
                self._needed = _FRAME_HEADER_BYTES + size
                break
        if at < end:
            self._partial += data[at:]

    def _read_preface(self, data: bytes) -> int:
        if not data.startswith(frames.PREFACE):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this port speaks HTTP/2 with prior knowledge only")
        self._has_preface = True
        return len(frames.PREFACE)

    def _read_data(self, data: bytes, at: int) -> int:
        piece = memoryview(data)[at : at + self._data_left]
        self._data_left -= len(piece)
        flags, stream_id = self._data
        if piece:
            self._sink.on_frame(DATA, 0 if self._data_left else flags, stream_id, piece)
        return at + len(piece)

    def _read_other(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == HEADERS:
            self._begin_block(flags, stream_id, payload)
        elif kind == frames.CONTINUATION:
            self._continue_block(flags, stream_id, payload)
        else:
            self._sink.on_frame(kind, flags, stream_id, payload)
            if kind == frames.SETTINGS and not flags & frames.ACK:
                self.required_kind = None

    def _begin_block(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags & frames.PADDED:
            payload = bytes(frames.without_padding(payload))
        if flags & frames.HAS_PRIORITY:
            if len(payload) < _PRIORITY_BYTES:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a priority that is cut off")
            payload = payload[_PRIORITY_BYTES:]
        if flags & END_HEADERS:
            self._sink.on_frame(HEADERS, flags, stream_id, payload)
            return
        self.required_kind, self._continuations = frames.CONTINUATION, 0
        self._block_stream, self._block_flags, self._block = stream_id, flags, bytearray(payload)

    def _continue_block(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self.required_kind is None or stream_id != self._block_stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a continuation of nothing")
        self._continuations += 1
        self._block += payload
        limits = self._limits
        if self._continuations > limits.continuations or len(self._block) > limits.header_block_bytes:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block that doesn't end")
        if flags & END_HEADERS:
            self.required_kind = None
            self._sink.on_frame(HEADERS, self._block_flags, stream_id, bytes(self._block))

    def _refuse(self, kind: int, size: int) -> None:
        if size > self._limits.frame_bytes:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
        wanted = "continuations" if self.required_kind == frames.CONTINUATION else "settings"
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame of kind {kind} where only {wanted} may come")
