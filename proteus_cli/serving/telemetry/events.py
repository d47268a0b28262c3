"""Changes of plan, and of devices, as events for the page and the terminal."""

from collections import deque
from collections.abc import Callable, Collection
from itertools import takewhile

from proteus_cli.control.replanning.replanning import DeviceChanged, told_by_host
from proteus_cli.serving.adaptation.plan_journal import PlanChange
from proteus_cli.serving.fleet.fleet import Fleet
from proteus_cli.serving.telemetry.history.snapshot import ServerEvent, ServerEventKind
from proteus_cli.units import format_duration

MAX_EVENTS = 1000


class EventLog:
    """The last `MAX_EVENTS`, each with the number of the sample that noticed it. Times are seconds since ``start_s``.

    ``changes`` are all changes of plan so far, oldest first; ``unix_s`` gives the time of day.
    """

    def __init__(
        self, fleet: Fleet, changes: Collection[PlanChange], start_s: float, unix_s: Callable[[], float]
    ) -> None:
        self._fleet, self._changes, self._start_s, self._unix_s = fleet, changes, start_s, unix_s
        self._events: deque[tuple[int, ServerEvent]] = deque(maxlen=MAX_EVENTS)
        self._last_change: PlanChange | None = None
        self._lost_at_s = dict[str, float]()  # of the devices that did not serve at the last look
        self._known = set(fleet.breakers)
        self._breaker_changes = 0  # at the last look

    def notice(self, sample: int, now_s: float) -> None:
        """Add what has changed since the last call."""
        self._notice_plans(sample, now_s)
        if self._fleet.breaker_changes == self._breaker_changes:
            return
        self._breaker_changes = self._fleet.breaker_changes
        self._notice_devices(sample, now_s)

    def between(self, first: int, last: int) -> list[ServerEvent]:
        """Events that came with the samples from ``first`` to before ``last``."""
        return [event for number, event in self._events if first <= number < last]

    def latest(self, number: int) -> list[ServerEvent]:
        """The last events, up to so many, oldest first."""
        return [event for _, event in self._events][-number:]

    def _notice_plans(self, sample: int, now_s: float) -> None:
        new = list(takewhile(lambda change: change is not self._last_change, reversed(tuple(self._changes))))
        unix_s = self._unix_s()
        for change in reversed(new):
            ago_s = min(max(0.0, unix_s - change.unix_s), now_s - self._start_s)  # the time of day may have been set
            self._add(sample, now_s - ago_s, ServerEventKind.PLAN, change.what, change.reason)
            self._last_change = change

    def _notice_devices(self, sample: int, now_s: float) -> None:
        breakers, away, lost_at_s = self._fleet.breakers, self._fleet.away, self._lost_at_s
        lost = [(device, DeviceChanged.LOST) for device in away if device not in lost_at_s and breakers[device].opened]
        back = [
            (device, DeviceChanged.BACK if breakers[device].opened else DeviceChanged.JOINED)
            for device in breakers
            if device not in away and (device in lost_at_s or device not in self._known)
        ]
        for text, device in told_by_host([*lost, *back], breakers, away):
            if device in away:
                reason = breakers[device].reason or ""
            else:
                reason = f"after {format_duration(now_s - lost_at_s.get(device, now_s))}"
            self._add(sample, now_s, ServerEventKind.DEVICE, text, reason)
        self._known |= breakers.keys() - away.keys()
        self._lost_at_s = {device: lost_at_s.get(device, now_s) for device in away}

    def _add(self, sample: int, at_s: float, kind: ServerEventKind, text: str, reason: str) -> None:
        self._events.append((sample, ServerEvent(round(at_s - self._start_s, 3), kind, text, reason)))
