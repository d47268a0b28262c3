"""Profiles of devices: measured here, or shared by devices of the same type."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from proteus_cli.backends.base import Backend, BuildContext, OnBuildProgress
from proteus_cli.backends.discovery import discover, select
from proteus_cli.backends.registry import open_backend
from proteus_cli.cli import console
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile
from proteus_cli.profiling.jobs import MeasurementJob, measurement_jobs
from proteus_cli.profiling.sweep import Sweep, accuracy_warnings, share
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace

ALL = "all"


@dataclass(frozen=True, slots=True)
class DeviceWork:
    """What to measure on a device; ``alike`` are the devices of its type that share the result."""

    device: Device
    alike: Sequence[Device]
    backend: Backend
    jobs: Sequence[MeasurementJob]


def work_on(workspace: Workspace, names: str, max_batch: int, max_slots: int, *, force: bool) -> Iterator[DeviceWork]:
    """What to measure on each of the named devices; with ``force`` also what is current. Raises `ProteusError`."""
    catalog = workspace.catalog()
    chosen = select(discover(read_settings(workspace.root).devices), names)
    engines = BuildContext(workspace.built_dir, max_batch, console.say, _building)
    for device, *alike in _grouped(chosen, by_type=names == ALL):
        backend = open_backend(device, engines)
        jobs = measurement_jobs(workspace, catalog, device, backend, max_batch, max_slots, force=force)
        yield DeviceWork(device, alike, backend, jobs)


def _grouped(devices: Sequence[Device], *, by_type: bool) -> list[list[Device]]:
    """Devices whose first is measured for the others."""
    groups: dict[str, list[Device]] = {}
    for device in devices:
        groups.setdefault(device.type if by_type else device.id, []).append(device)
    return list(groups.values())


def measured(workspace: Workspace, catalog: Catalog, work: DeviceWork, budget_s: float | None) -> list[Profile]:
    """Measure a device, and write its profile and those of the devices that share it. Raises `ProteusError`."""
    device = work.device
    sweep = Sweep(workspace, device, work.backend, work.jobs, budget_s)
    with console.progress(f"profiling {device.id}") as advance:
        for step in sweep.run():
            advance(*step)
    for warning in accuracy_warnings(catalog, sweep.profile):
        console.warn(warning)
    if sweep.slowed_by:
        console.warn(
            f"the clocks of {device.id} were held down while it was measured ({', '.join(sweep.slowed_by)}), so it "
            "may be faster than its profile"
        )
    console.say(f"measured {sweep.measured} cells on {device.id} → {workspace.profile_path(device.id)}")
    profile = workspace.profile(device.id)
    for other in work.alike:
        console.say(f"{other.id} is of the same type and shares this profile → {workspace.profile_path(other.id)}")
    return [profile, *(share(workspace, profile, other) for other in work.alike)]


@contextmanager
def _building(name: str) -> Iterator[OnBuildProgress]:
    """The progress of an engine's build. Ctrl-C cancels the build, which then leaves no file."""

    def follow(now: str, done_frac: float) -> bool:
        advance(now, done_frac)
        return True

    try:
        with console.progress(f"building {name}") as advance:
            yield follow
    except KeyboardInterrupt:
        console.say(f"building {name} was cancelled and left nothing; earlier measurements are kept")
        raise
