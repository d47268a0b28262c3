"""Devices that hang: their batches end long after they should, or never."""

from collections.abc import Mapping

from proteus_cli.control.decision import Launch
from proteus_cli.control.devices.breaker import CHECK_EVERY_S, hang_timeout_s

LATE_S = 2 * CHECK_EVERY_S  # s since the last look: the machine has no time for this process


def overdue(
    running: Mapping[int, tuple[Launch, float]], ended_s: float, now_s: float, slowdown: float, servers: int = 1
) -> Launch | None:
    """The oldest of the ``running`` batches of a device, each with its start, if it should have ended long ago.

    The last one ended at ``ended_s``; the device has a ``slowdown``, and so many ``servers`` share it.
    """
    if not running:
        return None
    launch, started_s = next(iter(running.values()))
    takes_s = launch.hosted.latency(launch.rows) * slowdown
    return launch if now_s - max(started_s, ended_s) > hang_timeout_s(takes_s, servers) else None


class HangWatch:
    """Says which devices hang: a batch is overdue at two looks in a row, and both of them came in time.

    While the event loop is held up, batches end without being noticed; while the machine is starved, they take long.
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self._overdue: Mapping[str, Launch] = {}
        self._looked_s = now_s

    def look(self, overdue: Mapping[str, Launch], now_s: float) -> list[str]:
        """By device, the batch that is ``overdue`` now; returns the devices that hang. Every `CHECK_EVERY_S`."""
        is_late, self._looked_s = now_s - self._looked_s > LATE_S, now_s
        before, self._overdue = self._overdue, {} if is_late else overdue
        return [device for device, launch in self._overdue.items() if launch is before.get(device)]
