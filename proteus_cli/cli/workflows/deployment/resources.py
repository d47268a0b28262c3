"""The devices, profiles and models that a plan is served with: of this machine and of a cluster, or emulated ones."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proteus_cli.backends.discovery import discover
from proteus_cli.cli.command_line.fleet import fleet_of
from proteus_cli.control.topology.hosting import measured_for
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.fleet import ids_by_type
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ArtefactError, DeviceUnavailable, UsageError
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace
from proteus_cli.store.sharing import with_sharing


@dataclass(frozen=True, slots=True)
class Emulation:
    """The devices to emulate: of a ``fleet`` (`parse_fleet`), or if that is None those of the plan."""

    fleet: str | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """Profiles by device id, the devices, and the models that are there."""

    profiles: Mapping[str, Profile]
    devices: Sequence[Device]
    models: Mapping[VariantKey, Path]


def resources_for(
    workspace: Workspace, plan: Plan, emulation: Emulation | None, hosts: Collection[str] | None = ()
) -> Resources:
    """The resources to serve a plan with; ``hosts`` of a cluster have devices, too. None: there may be any hosts.

    Raises `DeviceUnavailable` if a device is not here, and `ArtefactError` if a model or a profile is missing.
    """
    if emulation is None:
        return _real(workspace, plan, hosts)
    resources = _emulated(workspace, plan, emulation)
    if hosts:  # else this machine emulates those of other hosts, too
        for device in resources.devices:
            if device.host:
                _require_host(device, hosts)
    return resources


def on_fleet(plan: Plan, profiles: Mapping[str, Profile], emulation: Emulation | None) -> Plan:
    """The same plan for all devices of an emulated fleet. Raises `UsageError` if that lacks a device of the plan."""
    if emulation is None or emulation.fleet is None:
        return plan
    for placement in plan.placements:
        if placement.device not in profiles:
            raise UsageError(
                f"The plan uses `{placement.device}`, which the fleet `{emulation.fleet}` doesn't have.",
                hint="give a larger fleet, or none, or make a plan for this one: `proteus plan --fleet`",
            )
    return msgspec.structs.replace(plan, fleet=ids_by_type(profiles))


# --- this machine, and hosts of a cluster


def _real(workspace: Workspace, plan: Plan, hosts: Collection[str] | None) -> Resources:
    profiles = with_sharing(workspace, workspace.profiles_of(plan))
    here = {device.id: device for device in discover(read_settings(workspace.root).devices)}
    for profile in profiles.values():
        if not profile.device.host:
            _require_here(profile.device, here)
        elif hosts is not None:
            _require_host(profile.device, hosts)
    for placement in plan.placements:
        measured_for(placement, profiles)
    again = ", then `proteus profile` and `proteus plan` again; `--emulate` needs no models"
    models = {
        VariantKey(family.name, variant.name): workspace.loaded_model_of(family, variant, to="run", hint=again)
        for family, variant in workspace.catalog().variants
    }
    return Resources(profiles, [here.get(device, profiles[device].device) for device in plan.devices], models)


def _require_host(measured: Device, hosts: Collection[str]) -> None:
    """Raise `DeviceUnavailable` unless the host of a device is known. Whether its agent has it shows once connected."""
    if measured.host not in hosts:
        known = (
            f"the cluster has {', '.join(hosts)}" if hosts else "`--cluster hosts.toml` names the hosts of a cluster"
        )
        raise DeviceUnavailable(f"The plan uses `{measured.id}`, of a host `{measured.host}`.", hint=known)


def _require_here(measured: Device, here: Mapping[str, Device]) -> None:
    """Raise `DeviceUnavailable` unless the device of a profile is on this machine, and the one that was measured."""
    hint = "run `proteus profile` and `proteus plan` here; plans for a `--fleet` are for simulation, or `--emulate`"
    found = here.get(measured.id)
    if found is None:
        raise DeviceUnavailable(
            f"The plan uses `{measured.id}`, which is not on this machine (it has {', '.join(here)}).", hint=hint
        )
    require_like(measured, found, hint)


def require_like(measured: Device, found: Device, hint: str) -> None:
    """Raise `DeviceUnavailable` with this hint where the device of a profile is other hardware than that of its id."""
    if not found.is_like(measured):
        raise DeviceUnavailable(
            f"The profile of `{measured.id}` is of a {measured.type}, {measured.name}; here it is a {found.type}, "
            f"{found.name}.",
            hint=hint,
        )


# --- emulated devices


def _emulated(workspace: Workspace, plan: Plan, emulation: Emulation) -> Resources:
    profiles: Mapping[str, Profile] = with_sharing(workspace, workspace.profiles_of(plan))
    if emulation.fleet is not None:
        profiles = fleet_of(with_sharing(workspace, workspace.profiles()), emulation.fleet)
    _require_times(on_fleet(plan, profiles, emulation), profiles)
    models = {key: path for key, path in workspace.loaded_paths().items() if path.is_file()}
    return Resources(profiles, [profile.device for profile in profiles.values()], models)


def _require_times(plan: Plan, profiles: Mapping[str, Profile]) -> None:
    """Raise `ArtefactError` unless the profiles say how long every placement's batches take."""
    for placement in plan.placements:
        profile = profiles[placement.device]
        measured = profile.of(placement.family, placement.variant)
        if measured is None or not profile.points_of(measured):
            raise ArtefactError(
                f"The plan puts `{placement.variant}` on `{placement.device}`, and no profile says how long it takes "
                f"on a `{profile.device.type}`, so that can't be emulated.",
                hint="measure it with `proteus profile`, or import it with `proteus profile --from-csv`; "
                "then `proteus plan` again",
            )
