"""Profiles of devices that join a server: those in its workspace, and those that agents measure for it."""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from proteus_cli.cli.command_line.memory import limits_of_host
from proteus_cli.cli.workflows.deployment.measuring import firsts_of_alike, measurable_in, options_of_agent
from proteus_cli.cli.workflows.deployment.workspace_plans import WorkspacePlans
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.fleet import on_device
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import ArtefactError
from proteus_cli.serving.devices.remote.measuring import measured_by_agent
from proteus_cli.serving.devices.remote.sessions.session import AgentSession
from proteus_cli.store import Workspace, require_current_models
from proteus_cli.store.sharing import with_sharing

log = logging.getLogger("proteus.joining")


@dataclass(slots=True)
class WorkspaceProfiles:
    """The `ProfileSource` of a server. ``at_start`` are the profiles that it was started with, of the models then.

    Unknown devices are measured for ``budget_s`` each; 0: not at all. ``memory`` as in `memory_limits`. What is not in
    the workspace yet is written, and ``plans`` count all that is of use as their inputs. What is current is compared
    anew once the server has read its catalog anew.
    """

    plans: WorkspacePlans
    at_start: Mapping[str, Profile]
    budget_s: float
    memory: Mapping[str, int] | None
    _measured: list[Profile] = field(default_factory=list)
    _current: list[tuple[VariantProfile, ...]] = field(default_factory=list)
    _names: Mapping[VariantKey, str] | None = None

    def __post_init__(self) -> None:
        self._current += [profile.variants for profile in self.at_start.values()]

    @property
    def workspace(self) -> Workspace:
        return self.plans.workspace

    @property
    def measures(self) -> bool:
        return self.budget_s > 0

    def profiles_of(self, devices: Sequence[Device]) -> Mapping[str, Profile]:
        """See `ProfileSource`. A profile of other hardware, or of models that have changed, is none."""
        if self._names is not self.plans.names:
            self._names = self.plans.names
            self._current.clear()
        found = {device.id: self._own(device) for device in devices}
        if None in found.values():
            others = list(self._others())
            found |= {device.id: self._alike(device, others) for device in devices if found[device.id] is None}
        return {device: self.plans.as_served(profile) for device, profile in found.items() if profile is not None}

    async def measure(self, session: AgentSession, devices: Sequence[Device]) -> None:
        """See `ProfileSource`. Of devices that are alike, the first is measured."""
        host = devices[0].host
        options = options_of_agent(firsts_of_alike(devices), self.budget_s, beside_servers=False)
        what = await asyncio.to_thread(measurable_in, self.workspace)
        profiles = await measured_by_agent(session, host, what, options, lambda line: log.debug("%s: %s", host, line))
        for profile in profiles:
            self._current.append(profile.variants)
            self._measured.append(profile)
            self._write(profile)

    def memory_bytes(self, devices: Sequence[Device], free_bytes: int) -> Mapping[str, int]:
        """See `ProfileSource`."""
        return limits_of_host(self.memory, devices, free_bytes or None)

    def _own(self, device: Device) -> Profile | None:
        measured = next((each for each in self._measured if each.device.id == device.id), None)
        if measured is not None and self._is_current(measured):
            return measured
        if not self.workspace.profile_path(device.id).is_file():
            return None
        profile = with_sharing(self.workspace, {device.id: self.workspace.profile(device.id)})[device.id]
        if not profile.device.is_like(device) or not self._is_current(profile):
            return None
        self.plans.use_profile(profile)
        return profile

    def _others(self) -> Iterator[Profile]:
        """Of devices that an unknown one may be like, the surest first."""
        yield from self._measured
        yield from self.at_start.values()
        yield from with_sharing(self.workspace, self.workspace.profiles()).values()

    def _alike(self, device: Device, others: Sequence[Profile]) -> Profile | None:
        for other in others:
            if other.device.is_like(device) and self._is_current(other):
                profile = on_device(other, device)
                self._write(profile)
                return profile
        return None

    def _is_current(self, profile: Profile) -> bool:
        """Whether its models, eval splits and accuracies are those of the catalog. Reads them once for like devices."""
        if profile.variants in self._current:
            return True
        try:
            require_current_models(self.workspace.catalog(), profile, self.workspace)
        except ArtefactError as error:
            log.warning("the profile of %s is of no use: %s", profile.device.id, error.message)
            return False
        self._current.append(profile.variants)
        return True

    def _write(self, profile: Profile) -> None:
        """A profile that cannot be written is of use until the server ends."""
        if self.workspace.state is not None:
            log.info("the profile of %s is not kept, as `--state` leaves the workspace as it is", profile.device.id)
            return
        try:
            self.plans.write_measured(profile)
        except ArtefactError as error:
            log.error("can't write the profile of %s: %s", profile.device.id, error.message)  # noqa: TRY400
