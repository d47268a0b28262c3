"""From a plan to what a server needs: on the devices of this machine, or on emulated ones."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import ArtefactError, DeviceUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proteus_cli.domain.catalog import Family, Variant
    from proteus_cli.domain.device import Device
    from proteus_cli.domain.plan import Plan
    from proteus_cli.domain.profile import Profile
    from proteus_cli.domain.record import Base, Origin
    from proteus_cli.planning.planner import Planner
    from proteus_cli.serving.server.deployment import Deployment
    from proteus_cli.store import Workspace

log = logging.getLogger("proteus.server")

SOLVE_LIMIT_S = 2.0  # shorter than `proteus plan` takes: a good plan soon beats a better one later


@dataclass(frozen=True, slots=True)
class Emulation:
    """The devices that are made up: those of a ``fleet`` like ``cpu:20,v100:10``, or of the plan where that is None."""

    fleet: str | None = None


@dataclass(frozen=True, slots=True)
class _Site:
    """Where a plan runs: profiles by device id, and the models that are there."""

    plan: "Plan"
    profiles: "Mapping[str, Profile]"
    devices: "Sequence[Device]"
    models: "Mapping[VariantKey, Path]"


def deployment_of(
    name: Path,
    place: "Workspace",
    *,
    replan: str,
    batching: str | None,
    emulation: Emulation | None = None,
    resume: bool = True,
    kept_plans: int = 1000,
    in_processes: bool = False,
    max_unavailable_frac: float = 0.5,
    drift_after_s: float = 60.0,
    record: bool = False,
) -> "Deployment":
    """All that serving needs, checked: the plan is current, its devices here or emulated, its models what they were.

    With ``resume``, where the last server that was started with this plan was killed, the plan is the one that was in
    force then, if that is current. ``kept_plans``: so many stay in ``plans/history/``; 0: none is written.
    ``drift_after_s``: so long a profile must be wrong to be re-estimated; 0: it never is. ``record``: that is written.
    Raises `ArtefactError`, `UsageError` or `DeviceUnavailable`.
    """
    from proteus_cli.control.policies import batcher_named, live_policy_named, with_replanning
    from proteus_cli.planning.from_workspace import planner_for
    from proteus_cli.serving.adaptation.plan_journal import JournalSettings
    from proteus_cli.serving.server.deployment import Deployment

    is_emulated = emulation is not None
    base = _base(place, name)
    started = place.plan(name)
    site = _here(place, started) if emulation is None else _emulated(place, started, emulation)
    first = _first(place, base, site, resume=resume, emulated=is_emulated)
    plan = first.plan
    place.require_current(plan.inputs)
    catalog = place.catalog()
    for placement in plan.placements:
        catalog.family(placement.family).variant(placement.variant)
    policy = with_replanning(live_policy_named(plan.policy), replan)
    if batching is not None:
        policy = replace(policy, batching=batcher_named(batching))
    planner = planner_for(
        place, policy, plan.headroom, profiles=site.profiles, rules=plan.rules, time_limit_s=SOLVE_LIMIT_S
    )
    return Deployment(
        plan=plan,
        catalog=catalog,
        profiles=site.profiles,
        devices=site.devices,
        models=site.models,
        policy=policy,
        source=_WorkspacePlans(place, name, site, emulation, planner),
        drift_after_s=drift_after_s,
        records=record,
        built=place.built_dir,
        emulated=is_emulated,
        replanning=replan if policy.replanning is not None else "off",
        solve_limit_s=SOLVE_LIMIT_S,
        journal=JournalSettings(place.history_dir, base, is_emulated, kept_plans) if kept_plans else None,
        origin=first.origin,
        reason=first.reason,
        in_processes=in_processes,
        max_unavailable_frac=max_unavailable_frac,
    )


@dataclass(frozen=True, slots=True)
class _WorkspacePlans:
    """The `PlanSource` of a server: the plan file ``name`` of a workspace, and its planner."""

    place: "Workspace"
    name: Path
    site: _Site
    emulation: Emulation | None
    planner: "Planner"

    def read_plan(self) -> "tuple[Plan, Base]":
        return _on_fleet(self.place.plan(self.name), self.site, self.emulation), _base(self.place, self.name)

    def require_current(self, plan: "Plan") -> None:
        self.place.require_current(plan.inputs)

    def replanner(self, plan: "Plan", profiles: "Mapping[str, Profile]") -> "Planner":
        return self.planner.with_changes(
            rules=plan.rules, headroom=plan.headroom, profiles=profiles, inputs=self.inputs(profiles)
        )

    def inputs(self, profiles: "Mapping[str, Profile]") -> dict[str, str]:
        """The planner's inputs; of a corrected profile, the digest that it has once it is written."""
        from proteus_cli.store import digest_of

        measured = self.site.profiles
        changed = {} if self.emulation is not None else {d: p for d, p in profiles.items() if p is not measured[d]}
        paths = {d: self.place.profile_path(d).relative_to(self.place.root).as_posix() for d in changed}
        return {**self.planner.inputs, **{paths[d]: digest_of(p) for d, p in changed.items()}}

    def write_profile(self, profile: "Profile") -> None:
        from proteus_cli.store import write_json

        write_json(self.place.profile_path(profile.device.id), profile)


@dataclass(frozen=True, slots=True)
class _First:
    """The plan to begin with."""

    plan: "Plan"
    origin: "Origin"
    reason: str


def _base(place: "Workspace", name: Path) -> "Base":
    from proteus_cli.domain.record import Base
    from proteus_cli.store import digest

    return Base(str(name), digest(place.plan_path(name)))


def _first(place: "Workspace", base: "Base", site: _Site, *, resume: bool, emulated: bool) -> _First:
    """The plan that the server is started with, or the one that was in force when the last such server was killed."""
    from proteus_cli.serving.adaptation.plan_journal import claim, left_behind, records

    started = _First(site.plan, "start", "the plan that the server was started with")
    is_stale = _is_stale(place, site.plan)
    found = records(place.history_dir) if resume else iter(())
    left = left_behind(found, base, emulated=emulated, also_stopped=is_stale)
    if left is None or not claim(place.history_dir, base):
        return started
    try:
        last = place.plan(place.history_dir / left.plan)
        place.require_current(last.inputs)
        _require_devices(last, site)
    except ArtefactError as error:
        log.warning("can't go on from `%s`, the last plan in force: %s", left.plan, error.message)
        return started
    why = "what the plan was made from has changed" if is_stale else "the last server with this plan was killed"
    log.warning("%s: going on from the plan that was in force then, `%s`", why, left.plan)
    return _First(last, "resumed", f"{why} while `{left.plan}` was in force" if not is_stale else why)


def _is_stale(place: "Workspace", plan: "Plan") -> bool:
    """As it is after a server has recorded what it saw, or somebody has profiled anew."""
    try:
        place.require_current(plan.inputs)
    except ArtefactError:
        return True
    return False


def _require_devices(plan: "Plan", site: _Site) -> None:
    others = set(plan.devices) - set(site.profiles)
    if others:
        raise ArtefactError(f"It is for `{min(others)}`, which isn't served.", hint="leave out `--fleet`")


def _on_fleet(plan: "Plan", site: _Site, emulation: Emulation | None) -> "Plan":
    """A plan for the devices of an emulated fleet, where one was given. Raises `UsageError`."""
    if emulation is None or emulation.fleet is None:
        return plan
    return _moved(plan, site.profiles, emulation.fleet)


# --- this machine


def _here(place: "Workspace", plan: "Plan") -> _Site:
    from proteus_cli.backends.discovery import discover
    from proteus_cli.control.hosting import measured_for
    from proteus_cli.settings import read_settings

    profiles = place.profiles_of(plan)
    here = {device.id: device for device in discover(read_settings(place.root).devices)}
    for profile in profiles.values():
        _require_here(profile.device, here)
    for placement in plan.placements:
        measured_for(placement, profiles)
    families = place.catalog().families
    models = {VariantKey(f.name, v.name): _model(place, f, v) for f in families for v in f.variants}
    return _Site(plan, profiles, [here[device] for device in plan.devices], models)


def _require_here(measured: "Device", here: "Mapping[str, Device]") -> None:
    """The device of a profile is on this machine, and is the one that was measured."""
    hint = "run `proteus profile` and `proteus plan` here; plans for a `--fleet` are for simulation, or `--emulate`"
    found = here.get(measured.id)
    if found is None:
        raise DeviceUnavailable(
            f"The plan uses `{measured.id}`, which is not on this machine (it has {', '.join(here)}).", hint=hint
        )
    if (found.type, found.name) != (measured.type, measured.name):
        raise DeviceUnavailable(
            f"The profile of `{measured.id}` is of a {measured.type}, {measured.name}; here it is a {found.type}, "
            f"{found.name}.",
            hint=hint,
        )


def _model(place: "Workspace", family: "Family", variant: "Variant") -> Path:
    if variant.onnx is None:
        raise ArtefactError(
            f"The catalog names no ONNX file of `{family.name}/{variant.name}`, so there is nothing to run.",
            hint="set `onnx` in engines/catalog.toml, then `proteus profile` and `proteus plan` again; "
            "`--emulate` needs no models",
        )
    path = place.model_path(variant.onnx)
    if not path.is_file():
        raise ArtefactError(f"No model `{path}`.", hint="the catalog names it; put the ONNX file there")
    return path


# --- emulated devices


def _emulated(place: "Workspace", plan: "Plan", emulation: Emulation) -> _Site:
    from proteus_cli.domain.fleet import fleet_of

    profiles: Mapping[str, Profile] = place.profiles_of(plan)
    if emulation.fleet is not None:
        profiles = fleet_of(place.profiles(), emulation.fleet)
        plan = _moved(plan, profiles, emulation.fleet)
    _require_times(plan, profiles)
    named = {
        VariantKey(f.name, v.name): v.onnx for f in place.catalog().families for v in f.variants if v.onnx is not None
    }
    paths = {key: place.model_path(onnx) for key, onnx in named.items()}
    models = {key: path for key, path in paths.items() if path.is_file()}
    return _Site(plan, profiles, [profile.device for profile in profiles.values()], models)


def _moved(plan: "Plan", profiles: "Mapping[str, Profile]", fleet: str) -> "Plan":
    """The same plan for all devices of a fleet, which must have those that it uses. Raises `UsageError`."""
    import msgspec

    for placement in plan.placements:
        if placement.device not in profiles:
            raise UsageError(
                f"The plan uses `{placement.device}`, which the fleet `{fleet}` doesn't have.",
                hint="give a larger fleet, or none, or make a plan for this one: `proteus plan --fleet`",
            )
    by_type: dict[str, tuple[str, ...]] = {}
    for device, profile in profiles.items():
        by_type[profile.device.type] = (*by_type.get(profile.device.type, ()), device)
    return msgspec.structs.replace(plan, fleet=by_type)


def _require_times(plan: "Plan", profiles: "Mapping[str, Profile]") -> None:
    for placement in plan.placements:
        profile = profiles[placement.device]
        device, measured = profile.device, profile.of(placement.family, placement.variant)
        if measured is None or not profile.points_of(measured):
            raise ArtefactError(
                f"The plan puts `{placement.variant}` on `{device.id}`, and no profile says how long it takes on a "
                f"`{device.type}`, so that can't be emulated.",
                hint="measure it with `proteus profile`, or import it with `proteus profile --from-csv`; "
                "then `proteus plan` again",
            )
