"""Limits of one HTTP/2 client, in bytes, counts and seconds."""

from dataclasses import dataclass

from proteus_cli.serving.http2.frames import DEFAULT_FRAME, DEFAULT_WINDOW, ConnectionFault, ErrorCode

KIB, MIB = 2**10, 2**20


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """Limits on one connection; ``flood_budget`` and its refill are frames that ask for nothing.

    ``continuations`` and ``header_block_bytes`` bound a header block as it is sent, ``header_list_bytes`` its fields.
    """

    streams: int = 256
    header_list_bytes: int = 16 * KIB
    header_block_bytes: int = 32 * KIB
    continuations: int = 8
    frame_bytes: int = 64 * KIB
    window_bytes: int = 1 * MIB
    connection_window_bytes: int = 8 * MIB
    flood_budget: int = 1_000
    flood_budget_per_s: float = 100.0

    def __post_init__(self) -> None:
        """HTTP/2 has no smaller frames, and no smaller window of a connection to begin with."""
        if self.frame_bytes < DEFAULT_FRAME or self.connection_window_bytes < DEFAULT_WINDOW:
            raise ValueError(self)


@dataclass(frozen=True, slots=True)
class Http2Timeouts:
    """How long a connection waits for its client.

    ``request_s``: for the rest of a frame, header block or message that has begun, and for the client to read a piece
    of a response. ``idle_s``: for the next request. ``linger_s``: for the client to close after a GOAWAY.
    """

    request_s: float = 30.0
    idle_s: float = 600.0
    linger_s: float = 2.0


_SMALL_DATA = 0.1
_UPDATES_PER_FRAME = 4
_MAX_UPDATES_DUE = 10_000


class FloodBudget:
    """``left`` of ``size`` frames; ``refill_per_s`` come back each second, and one with each response.

    Window updates are free as long as some are due, for DATA that was sent. Small frames of DATA cost a part of a
    frame, which comes back with each message that is complete: only clients that send messages in crumbs pay.
    """

    __slots__ = ("_refill_per_s", "_size", "_updates_due", "left")

    def __init__(self, size: int, refill_per_s: float) -> None:
        self._size, self._refill_per_s = size, refill_per_s
        self.left = float(size)
        self._updates_due = 0

    def charge(self) -> None:
        """Count a frame that asks for nothing. Raises `ConnectionFault` if there were too many."""
        self.left -= 1.0
        if self.left < 0.0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    def charge_small_data(self) -> None:
        """Count a small frame of DATA. Raises `ConnectionFault` like `charge`."""
        self.left -= _SMALL_DATA
        if self.left < 0.0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too much DATA in small frames")

    def message_received(self) -> None:
        """A message is complete, maybe with a small frame."""
        self.left += _SMALL_DATA

    def charge_window_update(self) -> None:
        """Count a window update. Raises `ConnectionFault` like `charge`."""
        self._updates_due -= 1
        if self._updates_due < 0:
            self.charge()

    def sent_data(self) -> None:
        """Expect window updates for a frame of DATA."""
        self._updates_due += _UPDATES_PER_FRAME

    def refill(self, elapsed_s: float) -> None:
        """Give back the frames of the time that has passed."""
        self.left = min(self.left + elapsed_s * self._refill_per_s, self._size)
        self._updates_due = max(0, min(self._updates_due, _MAX_UPDATES_DUE))
