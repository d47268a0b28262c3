"""Devices that several servers have open: who they are, and whose batch runs next.

Each server has engines and a process of its own on a device, and batches take turns. As many run at once as the device
has slots, so each takes as long as was profiled. A server that has a batch to run waits in the line of the device,
once; when its turn is over, it goes to the end. One that has the device to itself submits what it wants.

No server can keep others waiting: a batch that has run for `LONGEST_TURN_S` loses its turn, and the next one runs
beside it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from proteus_cli.control.devices.breaker import LONGEST_TURN_S


@dataclass(frozen=True, slots=True, eq=False)
class DeviceTurn:
    """The time of one batch on a device, which it had to wait for. To `end` it more than once is harmless."""

    opening: "SharedOpening"
    began_s: float
    waited_s: float

    def end(self) -> None:
        """The batch has ended, or will not run."""
        self.opening.device.ended(self)


StartBatch = Callable[[DeviceTurn], None]
"""Submits a batch, whose end ends the turn. It may do so at once."""


@dataclass(frozen=True, slots=True)
class WaitingBatch:
    """A batch of a server that waits for its turn, since ``arrived_s``."""

    arrived_s: float
    start: StartBatch


class SharedOpening:
    """One server's opening of a device, for a number of batches at once."""

    def __init__(self, device: "SharedDevice", server: str, slots: int) -> None:
        self.device, self.server, self.slots = device, server, max(slots, 1)
        self.ended_s = 0.0
        self.turns = 0
        self._waiting: deque[WaitingBatch] = deque()

    @property
    def is_waiting(self) -> bool:
        """Whether a batch waits for its turn."""
        return bool(self._waiting)

    def submit(self, start: StartBatch) -> None:
        """Call ``start`` when it is this batch's turn: now, or later."""
        now_s = time.monotonic()
        self._waiting.append(WaitingBatch(now_s, start))
        self.device.wants_turn(self, now_s)

    def begin(self, now_s: float) -> None:
        """Submit the first batch that waits."""
        batch = self._waiting.popleft()
        turn = DeviceTurn(self, now_s, max(0.0, now_s - max(batch.arrived_s, self.ended_s)))
        self.device.began(turn)
        batch.start(turn)

    def leave(self) -> None:
        """The opening is over: what waits is forgotten, and what runs holds no turn any more."""
        self._waiting.clear()
        self.device.leave(self)


class SharedDevice:
    """A device, and all that have it open; ``on_change`` is called when that changes."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._openings: list[SharedOpening] = []
        self._line: list[SharedOpening] = []
        self._turns: dict[DeviceTurn, None] = {}  # in the order of their beginning
        self._timer: asyncio.TimerHandle | None = None

    @property
    def servers(self) -> set[str]:
        """Who has the device open."""
        return {opening.server for opening in self._openings}

    def join(self, server: str, slots: int) -> SharedOpening:
        """A server opens the device, for a number of batches at once."""
        opening = SharedOpening(self, server, slots)
        self._openings.append(opening)
        self._on_change()
        return opening

    def leave(self, opening: SharedOpening) -> None:
        """An opening is over, with its turns; harmless a second time."""
        if opening not in self._openings:
            return
        self._openings.remove(opening)
        self._line = [each for each in self._line if each is not opening]
        for turn in [turn for turn in self._turns if turn.opening is opening]:
            self._end(turn)
        self._on_change()
        self._advance(time.monotonic())

    def wants_turn(self, opening: SharedOpening, now_s: float) -> None:
        """An opening has a batch to run: put it in the line, once, and begin what may begin."""
        if opening not in self._line:
            self._line.append(opening)
        self._advance(now_s)

    def began(self, turn: DeviceTurn) -> None:
        """A turn begins."""
        self._turns[turn] = None
        turn.opening.turns += 1

    def ended(self, turn: DeviceTurn) -> None:
        """A turn has ended: the next in the line begins."""
        turn.opening.ended_s = now_s = time.monotonic()
        if turn in self._turns:
            self._end(turn)
            self._advance(now_s)

    def _end(self, turn: DeviceTurn) -> None:
        del self._turns[turn]
        turn.opening.turns -= 1

    def _advance(self, now_s: float) -> None:
        """Begin all turns that may begin now."""
        while self._line and self._has_turn(self._line[0]):
            first = self._line.pop(0)
            first.begin(now_s)
            if first.is_waiting and first not in self._line:
                self._line.append(first)
        self._watch()

    def _has_turn(self, first: SharedOpening) -> bool:
        is_alone = len(self._line) == 1 and first.turns == len(self._turns)
        return is_alone or len(self._turns) < first.slots

    def _watch(self) -> None:
        """While anyone waits, see that no turn is too long."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._line:
            left_s = next(iter(self._turns)).began_s + LONGEST_TURN_S - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(left_s, 0.0), self._end_longest)

    def _end_longest(self) -> None:
        self._timer = None
        now_s = time.monotonic()
        for turn in [turn for turn in self._turns if now_s - turn.began_s >= LONGEST_TURN_S]:
            self._end(turn)
        self._advance(now_s)


class SharedDevices:
    """The devices of a host by id, while any server has them open. ``on_change``: other servers share some now."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._devices: dict[str, SharedDevice] = {}

    def join(self, device: str, server: str, slots: int) -> SharedOpening:
        """A server opens a device, for a number of batches at once."""
        if device not in self._devices:
            self._devices[device] = SharedDevice(self._changed)
        return self._devices[device].join(server, slots)

    @property
    def open_devices(self) -> set[str]:
        """The devices that any server has open."""
        return set(self._devices)

    def shared_by(self, server: str | None = None) -> dict[str, int]:
        """The devices that a server, or any, has open beside others, and how many servers that are together."""
        servers = {device: each.servers for device, each in self._devices.items()}
        return {
            device: len(each)
            for device, each in servers.items()
            if len(each) > 1 and (server is None or server in each)
        }

    def _changed(self) -> None:
        self._devices = {device: each for device, each in self._devices.items() if each.servers}
        self._on_change()
