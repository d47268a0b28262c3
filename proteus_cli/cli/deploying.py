"""From a plan to what a server needs: on the devices of this machine, or on emulated ones."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from proteus_cli.errors import ArtefactError, DeviceUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proteus_cli.domain.catalog import Family, Variant
    from proteus_cli.domain.device import Device
    from proteus_cli.domain.plan import Plan
    from proteus_cli.domain.profile import Profile
    from proteus_cli.serving.executor import EngineKey
    from proteus_cli.serving.server import Deployment
    from proteus_cli.store import Workspace


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
    models: "Mapping[EngineKey, Path]"


def deployment_of(
    name: Path,
    place: "Workspace",
    *,
    replan: bool,
    batching: str | None,
    emulation: Emulation | None = None,
    in_processes: bool = False,
) -> "Deployment":
    """All that serving needs, checked: the plan is current, its devices here or emulated, its models what they were.

    Raises `ArtefactError`, `UsageError` or `DeviceUnavailable`.
    """
    from proteus_cli.cli.planning import planner_for
    from proteus_cli.control.policies import batcher_named, live_policy_named
    from proteus_cli.serving.server import Deployment

    plan = place.plan(name)
    place.require_current(plan.inputs)
    site = _here(place, plan) if emulation is None else _emulated(place, plan, emulation)
    catalog = place.catalog()
    for placement in plan.placements:
        catalog.family(placement.family).variant(placement.variant)
    policy = live_policy_named(plan.policy)
    if batching is not None:
        policy = replace(policy, batching=batcher_named(batching))
    return Deployment(
        plan=site.plan,
        catalog=catalog,
        profiles=site.profiles,
        devices=site.devices,
        models=site.models,
        policy=policy if replan else replace(policy, replanning=None),
        replan=planner_for(place, policy, plan.headroom, profiles=site.profiles, rules=plan.rules),
        built=place.built_dir,
        emulated=emulation is not None,
        in_processes=in_processes,
    )


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
    models = {(f.name, v.name): _model(place, f, v) for f in families for v in f.variants}
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
    from proteus_cli.cli.planning import fleet_of

    if emulation.fleet is None:
        profiles = place.profiles_of(plan)
    else:
        profiles = fleet_of(place, emulation.fleet)
        plan = _moved(plan, profiles, emulation.fleet)
    _require_times(plan, profiles)
    named = {(f.name, v.name): v.onnx for f in place.catalog().families for v in f.variants if v.onnx is not None}
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
        device = profiles[placement.device].device
        measured = profiles[placement.device].of(placement.family, placement.variant)
        if measured is None or not measured.points:
            raise ArtefactError(
                f"The plan puts `{placement.variant}` on `{device.id}`, and no profile says how long it takes on a "
                f"`{device.type}`, so that can't be emulated.",
                hint="measure it with `proteus profile`, or import it with `proteus profile --from-csv`; "
                "then `proteus plan` again",
            )
