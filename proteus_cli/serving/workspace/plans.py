"""The plans of a workspace: the first plan of a server, its resources, and the source of later plans."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from proteus_cli.backends.discovery import discover
from proteus_cli.control.topology.hosting import measured_for
from proteus_cli.domain.catalog import Catalog, VariantKey, name_in_catalog
from proteus_cli.domain.device import Device
from proteus_cli.domain.fleet import fleet_of, ids_by_type
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import Base, Origin
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.profile_changes import in_catalog_names, in_server_names, written_over
from proteus_cli.domain.rules import CatalogRule, following_catalog, rules_of
from proteus_cli.errors import ArtefactError, DeviceUnavailable, UsageError, printable
from proteus_cli.planning.from_workspace import DeferredPlanner, PlannerSettings, deferred_planner
from proteus_cli.serving.adaptation.plan_journal import claim, left_behind, records
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace, write_json
from proteus_cli.store.sharing import with_sharing

log = logging.getLogger("proteus.server")


@dataclass(frozen=True, slots=True)
class Emulation:
    """The devices to emulate: the ``fleet`` (`parse_fleet`), or if that is None the devices of the plan."""

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
    """Raise `DeviceUnavailable` with this hint where a profile's device is not the hardware that has its id now."""
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


@dataclass(frozen=True, slots=True)
class StartingPlan:
    """A plan, what it is served with, and why it is the first that is in force."""

    plan: Plan
    resources: Resources
    origin: Origin = "start"
    reason: str = "the plan that the server was started with"


def starting_plan(
    workspace: Workspace,
    name: Path,
    base: Base,
    emulation: Emulation | None,
    known: Collection[str] | None,
    *,
    resume: bool,
) -> StartingPlan:
    """The plan of that name; with ``resume``, the one that was in force when the last server with it was killed.

    ``known`` hosts as in `resources_for`. Raises `ArtefactError`, `UsageError` or `DeviceUnavailable`.
    """
    plan = workspace.plan(name)
    resources = resources_for(workspace, plan, emulation, known)
    start = StartingPlan(on_fleet(plan, resources.profiles, emulation), resources)
    return _resumed(workspace, base, start, emulation, known) if resume else start


def _resumed(
    workspace: Workspace, base: Base, start: StartingPlan, emulation: Emulation | None, known: Collection[str] | None
) -> StartingPlan:
    """The plan that was in force when the last server with this plan was killed, else ``start``.

    If ``start`` is stale, as after a server has recorded profiles, the last server need not have been killed. Real
    devices may have joined that server, and devices of ``start`` may have been lost when its last plan was made.
    """
    emulated = emulation is not None
    is_stale = _is_stale(workspace, start.plan)
    left = left_behind(records(workspace.history_dir), base, emulated=emulated, also_stopped=is_stale)
    if left is None or not _claimed(workspace, base):
        return start
    try:
        last = workspace.plan(workspace.history_dir / left.plan).with_names(lambda key: name_in_catalog(key.variant))
        workspace.require_current(last.inputs)
        if not emulated:
            resources = resources_for(workspace, _with_devices_of(last, start.plan), None, known)
        else:
            resources = start.resources
            _require_devices(last, resources)
    except (ArtefactError, DeviceUnavailable) as error:
        log.warning("can't resume `%s`, the last plan in force: %s", left.plan, error.message)
        return start
    why = "the inputs of the plan have changed" if is_stale else "the last server with this plan was killed"
    log.warning("%s: resuming the plan that was in force then, `%s`", why, left.plan)
    reason = f"{why} while `{left.plan}` was in force" if not is_stale else why
    return StartingPlan(last, resources, "resumed", reason)


def _claimed(workspace: Workspace, base: Base) -> bool:
    """Claim ``base`` until this process ends. True also where no lock file can be made."""
    try:
        return claim(workspace.history_dir, base) is not None
    except OSError:
        return True


def _is_stale(workspace: Workspace, plan: Plan) -> bool:
    try:
        workspace.require_current(plan.inputs)
    except ArtefactError:
        return True
    return False


def _with_devices_of(plan: Plan, other: Plan) -> Plan:
    """The plan, with the devices that another one may use, too."""
    types = [*plan.fleet, *(each for each in other.fleet if each not in plan.fleet)]
    fleet = {each: tuple(dict.fromkeys((*plan.fleet.get(each, ()), *other.fleet.get(each, ())))) for each in types}
    return msgspec.structs.replace(plan, fleet=fleet)


def _require_devices(plan: Plan, resources: Resources) -> None:
    others = set(plan.devices) - set(resources.profiles)
    if others:
        raise ArtefactError(f"It is for `{min(others)}`, which isn't served.", hint="leave out `--fleet`")


@dataclass(slots=True)
class WorkspacePlans:
    """The `PlanSource` of a server: plans and profiles in its workspace. ``written``: digests of profiles, by file.

    ``names``, once the catalog was read anew: what its variants are called in the server.
    """

    workspace: Workspace
    name: Path
    resources: Resources
    emulation: Emulation | None
    planner: PlannerSettings
    attainment: float | None = None
    written: dict[str, str] = field(default_factory=dict)
    names: Mapping[VariantKey, str] | None = None
    _of_catalogs: set[CatalogRule] = field(default_factory=set)  # the rules of all catalogs that were used

    def read_plan(self) -> tuple[Plan, Base]:
        """The plan file of the start, read anew, with the attainment that was set at the start."""
        plan = self.workspace.plan(self.name).with_attainment(self.attainment)
        return on_fleet(plan, self.resources.profiles, self.emulation), base_of(self.workspace, self.name)

    def require_current(self, plan: Plan) -> None:
        """Raise `ArtefactError` if an input of a plan has changed."""
        self.workspace.require_current(plan.inputs)

    def replanner(self, plan: Plan, profiles: Mapping[str, Profile]) -> DeferredPlanner:
        """A planner with the rules and the headroom of a plan, for profiles by device id."""
        if self.names is not None:
            rules = following_catalog(plan.rules, self.planner.catalog, self._of_catalogs)
            plan = msgspec.structs.replace(plan, rules=rules)
        return deferred_planner(self.planner, plan, profiles, self.inputs())

    def use_catalog(
        self,
        catalog: Catalog,
        names: Mapping[VariantKey, str],
        inputs: Mapping[str, str],
        written_before: Mapping[str, str],
    ) -> None:
        """Plans are made of another catalog from now on, and of profiles as their files were (``inputs``).

        By then, ``written_before`` writes had been made; later ones count.
        """
        self._of_catalogs |= rules_of(self.planner.catalog) | rules_of(catalog)
        self.planner = replace(self.planner, catalog=catalog, inputs=inputs)
        self.names = names
        self.written = {file: digest for file, digest in self.written.items() if written_before.get(file) != digest}

    def inputs(self) -> Mapping[str, str]:
        """Digests of a plan's inputs: a recalibrated profile counts once it is written back, and not before.

        The inputs are therefore always those files, and a server that was killed can resume its last plan.
        """
        return {**self.planner.inputs, **self.written}

    def write_profile(self, profile: Profile) -> None:
        """Write a profile that was recalibrated; what its file says besides stays. Raises `ArtefactError`."""
        known = profile if self.names is None else in_catalog_names(profile, self.names)
        has_file = self.workspace.profile_path(known.device.id).is_file()
        self.write_measured(written_over(self.workspace.profile(known.device.id), known) if has_file else known)

    def write_measured(self, profile: Profile) -> None:
        """Write a profile of a device that joins, with the names of the catalog file."""
        write_json(self.workspace.profile_path(profile.device.id), msgspec.structs.replace(profile, sharing=()))
        self.use_profile(profile)

    def as_served(self, profile: Profile) -> Profile:
        """The profile of a file, by the names that its variants have in the server."""
        return profile if self.names is None else in_server_names(profile, self.names)

    def use_profile(self, profile: Profile) -> None:
        """Plans are made from a profile as its file has it now."""
        self.written.update(self.workspace.digests([self.workspace.profile_path(profile.device.id)]))


def base_of(workspace: Workspace, name: Path) -> Base:
    """The plan file of that name, read anew. Raises `ArtefactError`."""
    return Base(printable(str(name)), workspace.plan_digest(name))
