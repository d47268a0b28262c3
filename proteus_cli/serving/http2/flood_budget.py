"""How many frames that ask for nothing a peer may send, such as resets, pings and empty DATA."""

from proteus_cli.serving.http2.frames import ConnectionFault, ErrorCode

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
        """Give back what so much time allows."""
        self.left = min(self.left + elapsed_s * self._refill_per_s, self._size)
        self._updates_due = max(0, min(self._updates_due, _MAX_UPDATES_DUE))
