"""Devices that other servers share: counted on for this server's part of them, from one change to the next."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from proteus_cli.control.devices.slowness import with_shares
from proteus_cli.domain.device import host_of
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.plan_inputs import ProfileStore
from proteus_cli.serving.fleet.fleet import Fleet
from proteus_cli.serving.logs import fields
from proteus_cli.units import counted

log = logging.getLogger("proteus.adaptation")

EVERY_S = 0.1
"""Between two looks at who shares devices."""


class Sharing:
    """Where other servers open devices of this one, or give them up: has fleet, plan and solver count with that.

    ``shared`` has the number of servers of each shared device, this one included, by connected host and by device id
    there. While a host is not connected, its devices stay as they were.
    """

    def __init__(
        self,
        shared: Callable[[], Mapping[str, Mapping[str, int]]],
        profiles: ProfileStore,
        fleet: Fleet,
        control_loop: ControlLoop,
    ) -> None:
        self._shared, self._profiles, self._fleet = shared, profiles, fleet
        self._control_loop = control_loop

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Look once at all devices that are shared, or were."""
        hosts = self._shared()
        found = {device: 1 for device in self._profiles.shared if host_of(device) in hosts}
        found |= {f"{host}/{device}": count for host, shared in hosts.items() for device, count in shared.items()}
        changed = {
            device: count
            for device, count in found.items()
            if device in self._fleet.workers and count != self._profiles.servers_of(device)
        }
        if not changed:
            return
        reason = "; ".join(_described(count, changed) for count in sorted(set(changed.values())))
        log.info("%s", reason, extra=fields(servers=changed))
        before = {device: self._profiles.servers_of(device) for device in changed}
        for device, count in changed.items():
            self._profiles.share(device, count)
            self._fleet.share(device, count)
        # The plan in force has other capacities at once. Another one follows.
        await self._control_loop.changed(
            reason, self._profiles, lambda plan: with_shares(plan, before, changed), is_recorded=False
        )


def _described(count: int, servers: Mapping[str, int]) -> str:
    devices = [device for device, each in servers.items() if each == count]
    named = devices[0] if len(devices) == 1 else counted(len(devices), "device")
    verb = "is" if len(devices) == 1 else "are"
    return f"{named} {verb} this server's alone" if count == 1 else f"{named} {verb} shared by {count} servers"
