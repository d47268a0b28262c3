"""Devices of a cluster that the server does not have yet: measured if they are unknown, then they join.

Theory of operation
===================

The links to agents follow the list of hosts (`devices/remote/links/links.py`). `Joining` looks at the hosts that are
connected: a device that the fleet does not have is new. If the workspace has a profile of it, or of a device that is
like it, the device joins at once. If not, its host is measured first, as `proteus profile --cluster` does; of devices
that are alike, one is measured for all. A host that serves is not measured, as both would disturb each other.

A device joins in one step: from then on there is its profile, a worker, and a planner that may place variants on it.
Its breaker is open, so it is tried out (`fleet/recovery.py`); once it has passed, the controller asks for a plan.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from proteus_cli.control.topology.standbys import DeviceMemory
from proteus_cli.domain.catalog import is_name
from proteus_cli.domain.device import Device, host_of
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ProteusError
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.plan_inputs import ProfileStore
from proteus_cli.serving.devices.hardware import ClusterHardware
from proteus_cli.serving.devices.remote.sessions.session import AgentSession
from proteus_cli.serving.lifecycle import count_bug
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.data_plane import DataPlane

LOOK_S = 0.5

FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 600.0
"""Before a host is tried again whose devices could not join; each pause is twice the one before."""

TRIES = 3
"""The most measurements of a host. Then its devices join, without any that were measured in vain."""

log = logging.getLogger("proteus.joining")


class ProfileSource(Protocol):
    """Profiles of devices that were not there when the server started. Methods may read files for long."""

    @property
    def measures(self) -> bool:
        """Whether devices without a profile are measured."""
        ...

    def profiles_of(self, devices: Sequence[Device]) -> Mapping[str, Profile]:
        """The profiles of the devices that are known, or like one that is known, by id. Raises `ProteusError`."""
        ...

    async def measure(self, session: AgentSession, devices: Sequence[Device]) -> None:
        """Have the agent measure devices of its host that are not open; from then on they are known.

        Raises `ProteusError`.
        """
        ...

    def memory_bytes(self, devices: Sequence[Device], free_bytes: int) -> Mapping[str, int]:
        """The memory for variants on each device of a host with ``free_bytes``, standbys included."""
        ...


class Joining:
    """Looks for new devices of the ``hardware``, and has them join. Without ``has_standbys``, none stand by there."""

    def __init__(
        self,
        hardware: ClusterHardware,
        plane: DataPlane,
        profiles: ProfileStore,
        known: ProfileSource,
        control_loop: ControlLoop,
        *,
        has_standbys: bool,
    ) -> None:
        self._hardware, self._plane, self._profiles = hardware, plane, profiles
        self._known, self._control_loop, self._has_standbys = known, control_loop, has_standbys
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._pauses: dict[str, tuple[float, float]] = {}  # by host: its length, and until when
        self._left_out: dict[str, AgentSession] = {}  # devices that do not join while that session lasts

    async def run(self) -> None:
        """Look every `LOOK_S` until cancelled."""
        try:
            while True:
                self.look()
                await asyncio.sleep(LOOK_S)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def look(self) -> None:
        """Look at all hosts once."""
        now_s, workers = self._plane.clock(), self._plane.fleet.workers
        self._tasks = {host: task for host, task in self._tasks.items() if not task.done()}
        for host, session in self._hardware.sessions():
            new = [
                replace(device, id=name)
                for device in session.inventory.devices
                for name in [f"{host}/{device.id}"]
                if name not in workers and self._left_out.get(name) is not session
                if is_name(device.id)  # it will name a file
            ]
            if new and host not in self._tasks and now_s >= self._pauses.get(host, (0.0, 0.0))[1]:
                self._tasks[host] = asyncio.create_task(self._try(host, session, new))

    async def _try(self, host: str, session: AgentSession, new: Sequence[Device]) -> None:
        """Have devices join; after a failure, not again before a pause."""
        try:
            await self._take_in(host, session, new)
        except ProteusError as error:
            problem = error.message
        except Exception as error:  # noqa: BLE001
            problem = count_bug("Joining.run", error)
        else:
            self._pauses.pop(host, None)
            return
        pause_s = min(2 * self._pauses.get(host, (FIRST_PAUSE_S / 2, 0.0))[0], LONGEST_PAUSE_S)
        self._pauses[host] = pause_s, self._plane.clock() + pause_s
        log.warning("new devices of host %s cannot join: %s", host, problem, extra=fields(host=host, pause_s=pause_s))

    async def _take_in(self, host: str, session: AgentSession, new: Sequence[Device]) -> None:
        """Measure the unknown devices, and have all join. Raises `ProteusError`."""
        found = await asyncio.to_thread(self._known.profiles_of, new)
        for _ in range(TRIES):  # what is measured while the catalog changes is of no use
            unknown = [device for device in new if device.id not in found]
            if not unknown or not self._may_measure(host, unknown):
                break
            names, start_s = ", ".join(device.id for device in unknown), self._plane.clock()
            log.info("measuring %s before they join", names, extra=fields(devices=[device.id for device in unknown]))
            await self._known.measure(session, unknown)
            log.info("measured %s in %.0f s", names, self._plane.clock() - start_s)
            found = await asyncio.to_thread(self._known.profiles_of, new)
        self._left_out |= {device.id: session for device in new if device.id not in found}
        known = [device for device in new if device.id in found]
        if not known:
            return
        limits: Mapping[str, int] = {}
        if self._has_standbys:
            limits = self._known.memory_bytes(known, session.inventory.free_bytes)
        for device in known:  # all at once, so that all parts know the same devices
            profile, limit = found[device.id], limits.get(device.id, 0)
            self._profiles.use([profile])
            self._hardware.add_device(profile.device, profile.slots)
            self._plane.fleet.add_device(device.id, DeviceMemory(limit, {}) if limit > 0 else None)
            log.info("%s joins", device.id, extra=fields(device=device.id, measured_on=profile.measured_on))
        # A plan is asked for once they have passed their probation.
        await self._control_loop.changed("devices join", self._profiles, asks=False)

    def _may_measure(self, host: str, unknown: Sequence[Device]) -> bool:
        serves = any(host_of(device) == host for device in self._plane.fleet.workers)
        if self._known.measures and not serves:
            return True
        why = "its host serves" if serves else "the server measures none"
        for device in unknown:
            log.warning(
                "%s has no profile, and %s: it stays out. Stop the server, and run `proteus profile --cluster`",
                device.id, why, extra=fields(device=device.id),
            )  # fmt: skip
        return False
