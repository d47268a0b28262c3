"""The profiles of a workspace, for a server: for devices that join, and for measurements beside the server.

`proteus profile` measures the CPUs of this machine, and agents the CPUs of other hosts. All hosts measure at the same
time. Where devices of a host are alike, one is measured for all.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.fleet import on_device
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.profile_changes import with_missing
from proteus_cli.errors import ArtefactError, ProteusError
from proteus_cli.progress import Say
from proteus_cli.serving.adaptation.catalog_reading import MeasurableDevices
from proteus_cli.serving.devices.remote.channel.messages import MeasureOptions
from proteus_cli.serving.devices.remote.measuring import Measurable, measured_by_agent
from proteus_cli.serving.devices.remote.sessions.session import AgentSession
from proteus_cli.serving.lifecycle import in_thread
from proteus_cli.serving.measuring_process import measured
from proteus_cli.serving.workspace.memory import limits_of_host
from proteus_cli.serving.workspace.plans import WorkspacePlans
from proteus_cli.store import Workspace, require_current_models, write_json
from proteus_cli.store.sharing import with_sharing

MAX_BATCH, MAX_SLOTS = 64, 4
"""As `proteus profile` without options."""

log = logging.getLogger("proteus.catalog")


async def measure_missing(workspace: Workspace, lacking: MeasurableDevices, budget_s: float, say: Say) -> None:
    """Measure, and write, for ``budget_s`` on each host.

    A host that can't measure is logged, and the others go on. Raises `ProteusError` where this machine can't.
    """
    by_host = _by_host(lacking.devices)
    here = by_host.pop("", [])
    work = [_on_host(workspace, lacking.sessions[host], devices, budget_s, say) for host, devices in by_host.items()]
    if here:
        work.append(_here(workspace, here, budget_s, say))
    for problem in await asyncio.gather(*work, return_exceptions=True):
        if problem is not None:
            raise problem


def firsts_of_alike(devices: Sequence[Device]) -> list[Device]:
    """The devices that are measured for all that are like them."""
    return [device for at, device in enumerate(devices) if not any(device.is_like(each) for each in devices[:at])]


def options_of_agent(devices: Sequence[Device], budget_s: float, *, beside_servers: bool) -> MeasureOptions:
    """The options with which an agent measures these devices of its host."""
    return MeasureOptions(
        ",".join(device.id.removeprefix(f"{device.host}/") for device in devices),
        budget_s, MAX_BATCH, MAX_SLOTS, accepts_noise=True, as_type=None, force=False, beside_servers=beside_servers,
    )  # fmt: skip


async def _here(workspace: Workspace, devices: Sequence[Device], budget_s: float, say: Say) -> None:
    """A figure that is wrong beside a server is recalibrated while it serves."""
    names = ",".join(device.id for device in firsts_of_alike(devices))
    options = [f"--device={names}", f"--budget={budget_s}s", "--accept-noise"]
    await measured(workspace.root.absolute(), options, say, leaves_time=True)
    await in_thread(_share_here, workspace, devices)


def _share_here(workspace: Workspace, devices: Sequence[Device]) -> None:
    firsts = firsts_of_alike(devices)
    _share(workspace, [workspace.profile(device.id) for device in firsts], [d for d in devices if d not in firsts])


async def _on_host(
    workspace: Workspace, session: AgentSession, devices: Sequence[Device], budget_s: float, say: Say
) -> None:
    host = devices[0].host
    try:
        known = await asyncio.to_thread(_known, workspace, devices)
        what = await asyncio.to_thread(measurable_in, workspace)
        options = options_of_agent(firsts_of_alike(devices), budget_s, beside_servers=True)
        network = known[devices[0].id].network
        found = await measured_by_agent(session, host, what, options, lambda line: say(f"{host}: {line}"), network)
        await in_thread(_share, workspace, found, devices)
    except ProteusError as error:
        log.warning("host %s does not measure what is new: %s", host, error.message)
    except Exception:  # whatever is wrong there, the others go on
        log.exception("a bug while host %s measured what is new", host)


def _known(workspace: Workspace, devices: Sequence[Device]) -> dict[str, Profile]:
    return workspace.profiles_for({device.id: device.type for device in devices})


def _share(workspace: Workspace, found: Sequence[Profile], devices: Sequence[Device]) -> None:
    """Write the profiles of measured devices also for devices that are like them, each in a file of its own."""
    known = _known(workspace, devices)
    for device in devices:
        for profile in found:
            own = known[device.id]
            if profile.device.is_like(device) and (news := with_missing(own, profile)) != own:
                write_json(workspace.profile_path(device.id), news)


def _by_host(devices: Sequence[Device]) -> dict[str, list[Device]]:
    found: dict[str, list[Device]] = {}
    for device in devices:
        found.setdefault(device.host, []).append(device)
    return found


def measurable_in(workspace: Workspace) -> Measurable:
    """The families, models and eval splits of the catalog. Raises `ArtefactError` where a model is missing."""
    families = workspace.catalog().families
    models = {
        VariantKey(family.name, variant.name): workspace.loaded_model_of(family, variant, to="measure")
        for family in families
        for variant in family.variants
    }
    splits = {family.name: path for family in families if (path := workspace.eval_path(family)) is not None}
    return Measurable(families, models, splits)


joining = logging.getLogger("proteus.joining")


@dataclass(slots=True)
class WorkspaceProfiles:
    """The `ProfileSource` of a server. ``at_start`` are the profiles that it was started with, of the models then.

    Unknown devices are measured for ``budget_s`` each; 0: not at all. ``memory`` as in `memory_limits`. Profiles that
    are not in the workspace yet are written, and ``plans`` count all useful ones as inputs. They are compared again
    once the server has read its catalog again.
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
        """See `ProfileSource`. Where devices are alike, the first is measured."""
        host = devices[0].host
        options = options_of_agent(firsts_of_alike(devices), self.budget_s, beside_servers=False)
        what = await asyncio.to_thread(measurable_in, self.workspace)
        profiles = await measured_by_agent(
            session, host, what, options, lambda line: joining.debug("%s: %s", host, line)
        )
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
        """The devices that an unknown one may be like, the surest first."""
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
        """Whether its models, eval splits and accuracies agree with the catalog. Reads them once for like devices."""
        if profile.variants in self._current:
            return True
        try:
            require_current_models(self.workspace.catalog(), profile, self.workspace)
        except ArtefactError as error:
            joining.warning("the profile of %s is of no use: %s", profile.device.id, error.message)
            return False
        self._current.append(profile.variants)
        return True

    def _write(self, profile: Profile) -> None:
        """A profile that cannot be written is of use until the server ends."""
        if self.workspace.state is not None:
            joining.info("the profile of %s is not kept, `state` leaves the workspace as it is", profile.device.id)
            return
        try:
            self.plans.write_measured(profile)
        except ArtefactError as error:
            joining.error("can't write the profile of %s: %s", profile.device.id, error.message)
