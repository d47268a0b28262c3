"""Devices of several slots use as many of them as are worth it: looks at their tuners, and tells the controller."""

import asyncio
import logging
from weakref import WeakKeyDictionary

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import keys
from proteus_cli.control.slot_tuner import SlotTuner
from proteus_cli.domain.device import host_of
from proteus_cli.serving.fleet.fleet import Fleet
from proteus_cli.serving.fleet.worker import Clock
from proteus_cli.serving.logs import fields
from proteus_cli.units import counted

log = logging.getLogger("proteus.adaptation")

EVERY_S = 0.1
MAX_ESTIMATES = 8
"""In one turn, of all devices: each takes the event loop some 0.2 ms."""


class SlotTuning:
    """Asks the tuner of each device of several slots how many it is to use (`control.slot_tuner`)."""

    def __init__(self, controller: Controller, fleet: Fleet, clock: Clock) -> None:
        self._controller, self._fleet, self._clock = controller, fleet, clock
        self._surroundings: dict[str, object] = {}
        self._seen: tuple[object, ...] = ()
        self._told = WeakKeyDictionary[SlotTuner, int]()  # changes that were logged
        self._next = 0  # the device that is first to be looked at

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            self.look()

    def look(self) -> None:
        """Look once at the devices that have a window of batches to look at, `MAX_ESTIMATES` at most."""
        tuners, now_s = self._fleet.tuners, self._clock()
        if not tuners:
            return
        self._notice(now_s)
        devices = list(tuners)
        first = self._next % len(devices)
        due = [device for device in (*devices[first:], *devices[:first]) if tuners[device].bins.is_due(now_s)]
        for device in due[:MAX_ESTIMATES]:
            self._look_at(device, now_s)
        if len(due) > MAX_ESTIMATES:
            self._next = devices.index(due[MAX_ESTIMATES])

    def _look_at(self, device: str, now_s: float) -> None:
        tuner = self._fleet.tuners[device]
        slots = tuner.look(now_s)
        if slots != self._controller.workers[device].slots:
            self._fleet.use_slots(device, slots)
        if tuner.changed > self._told.get(tuner, 0):
            self._told[tuner] = tuner.changed
            change = tuner.changes[-1]
            log.info(
                "%s uses %d of %s from now on: %s",
                device, change.slots, counted(tuner.max_slots, "slot"), change.reason,
                extra=fields(device=device, slots=change.slots, most=tuner.max_slots, reason=change.reason),
            )  # fmt: skip

    def _notice(self, now_s: float) -> None:
        """Have tuners begin anew where the plan, the servers or the neighbours of their devices have changed."""
        fleet, controller = self._fleet, self._controller
        servers = {device: fleet.workers[device].servers for device in fleet.tuners}
        seen = (controller.placements, fleet.breaker_changes, *servers.values())
        if seen == self._seen:
            return
        self._seen = seen
        hosting = {placement.device for placement in controller.placements}
        serving = [device for device, breaker in fleet.breakers.items() if breaker.is_closed and device in hosting]
        found: dict[str, object] = {
            device: (
                keys(controller.change.hosted_on(device)),
                fleet.workers[device].servers,
                {other for other in serving if other != device and host_of(other) == host_of(device)},
            )
            for device in fleet.tuners
        }
        for device, now in found.items():
            if self._surroundings.get(device) != now:
                fleet.tuners[device].begin_anew(now_s)
        self._surroundings = found
