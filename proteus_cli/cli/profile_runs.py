"""Runs of `proteus profile`: devices of this machine are measured here, devices of a cluster by their agents."""

import asyncio
import math
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from msgspec.structs import replace

from proteus_cli.backends.base import Backend, BuildContext, OnBuildProgress
from proteus_cli.backends.discovery import discover, select
from proteus_cli.backends.registry import open_backend
from proteus_cli.cli import console
from proteus_cli.cli.profile_tables import cascade_lines, exit_lines
from proteus_cli.domain.catalog import Catalog, VariantKey, is_name
from proteus_cli.domain.device import Device, host_of
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import DeviceUnavailable, HostLost, UsageError
from proteus_cli.profiling.jobs import MeasurementJob, measurement_jobs
from proteus_cli.profiling.sweep import Sweep, accuracy_warnings, share
from proteus_cli.serving.agent.measuring import ALL
from proteus_cli.serving.devices.remote.channel.address import AgentAddress, HostList, agents_of
from proteus_cli.serving.devices.remote.channel.messages import MeasureOptions
from proteus_cli.serving.devices.remote.measuring import measured_by_agent
from proteus_cli.serving.devices.remote.sessions.connecting import connect
from proteus_cli.serving.devices.remote.sessions.session import Looks
from proteus_cli.serving.lifecycle import running
from proteus_cli.serving.workspace.profiles import measurable_in
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace, write_json
from proteus_cli.units import counted, format_accuracy, format_duration, format_percent, format_size


@dataclass(frozen=True, slots=True)
class DeviceWork:
    """Work on a device; ``alike`` are the devices of its type that share the result.

    ``device_type``: the type to store them under. ``accepts_noise`` as in `measurement_jobs`.

    ``sweeps_left`` sweeps, of this device and of later ones, share a budget.
    """

    sweeps_left: int
    device: Device
    alike: Sequence[Device]
    device_type: str
    backend: Backend
    jobs: Sequence[MeasurementJob]
    accepts_noise: bool


def work_on(
    workspace: Workspace,
    names: str,
    max_batch: int,
    max_slots: int,
    *,
    as_type: str | None = None,
    force: bool,
    accepts_noise: bool,
) -> Iterator[DeviceWork]:
    """The work on each of the named devices; ``force`` also repeats current cells. Raises `ProteusError`.

    ``accepts_noise`` as in `measurement_jobs`. Profiles are stored under the type ``as_type``, else under the one that
    they have, else under that of the device.
    """
    if as_type is not None and not is_name(as_type):
        raise UsageError(f"`{as_type}` is no name of a type.", hint="use letters, digits, `.`, `_`, `-`")
    catalog = workspace.catalog()
    chosen = select(discover(read_settings(workspace.root).devices), names)
    engines = BuildContext(workspace.built_dir, max_batch, console.say, _building)
    stored_as = {device.id: as_type or _stored_type(workspace, device) for device in chosen}
    groups = _grouped(chosen, stored_as)
    for sweeps_left, (device, *alike) in zip(range(len(groups), 0, -1), groups, strict=True):
        backend = open_backend(device, engines)
        jobs = measurement_jobs(
            workspace, catalog, device, backend, max_batch, max_slots, force=force, accepts_noise=accepts_noise
        )
        yield DeviceWork(sweeps_left, device, alike, stored_as[device.id], backend, jobs, accepts_noise)


def _stored_type(workspace: Workspace, device: Device) -> str:
    """The type that the profile of a device has, where it is of this very device."""
    if not workspace.profile_path(device.id).is_file():
        return device.type
    stored = workspace.profile(device.id).device
    return stored.type if stored.is_like(device) else device.type


def _grouped(devices: Sequence[Device], stored_as: Mapping[str, str]) -> list[list[Device]]:
    """Devices whose first is measured for the others: they have one type, and are stored under one, which is by id."""
    groups: dict[tuple[str, str], list[Device]] = {}
    for device in devices:
        groups.setdefault((device.type, stored_as[device.id]), []).append(device)
    return list(groups.values())


def measured(workspace: Workspace, work: Iterable[DeviceWork], budget_s: float | None) -> list[Profile]:
    """Measure devices and write profiles for all devices that share them. Raises `ProteusError`.

    Each device has an equal share of the budget that is left; builds of engines come on top.
    """
    catalog, profiles = workspace.catalog(), list[Profile]()
    stop_s = time.perf_counter() + budget_s if budget_s is not None else math.inf
    for each in work:
        device, *alike = (replace(device, type=each.device_type) for device in (each.device, *each.alike))
        share_s = (stop_s - time.perf_counter()) / each.sweeps_left
        sweep = Sweep(workspace, device, each.backend, each.jobs, share_s)
        profiles += _swept(workspace, catalog, sweep, alike, accepts_noise=each.accepts_noise)
        stop_s += sweep.built_s
    return profiles


def _swept(
    workspace: Workspace, catalog: Catalog, sweep: Sweep, alike: Sequence[Device], *, accepts_noise: bool
) -> list[Profile]:
    """Run a sweep, say what it found, and share its profile with the devices that are alike."""
    device = sweep.device
    try:
        with console.progress(f"profiling {device.id}") as advance:
            for step in sweep.run():
                advance(*step)
    except KeyboardInterrupt:
        _say_what_was_measured(workspace, catalog, sweep, accepts_noise=accepts_noise)
        raise
    for warning in accuracy_warnings(catalog, sweep.results.profile):
        console.warn(warning)
    if sweep.slowed_by:
        console.warn(
            f"the clocks of {device.id} were held down while it was measured ({', '.join(sweep.slowed_by)}), so it "
            "may be faster than its profile"
        )
    _say_what_was_measured(workspace, catalog, sweep, accepts_noise=accepts_noise)
    profile = workspace.profile(device.id)
    for line in (*exit_lines(profile, catalog), *cascade_lines(profile, sweep.results.cascades, catalog)):
        console.say(line)
    for other in alike:
        console.say(f"{other.id} is of the same type and shares this profile → {workspace.profile_path(other.id)}")
    return [profile, *(share(workspace, profile, other) for other in alike)]


def _say_what_was_measured(workspace: Workspace, catalog: Catalog, sweep: Sweep, *, accepts_noise: bool) -> None:
    """Say what was measured, which cells and accuracies are still missing, and which cells are to be repeated."""
    device = sweep.device.id
    console.say(f"measured {counted(sweep.measured, 'cell')} on {device} → {workspace.profile_path(device)}")
    missing: dict[str, list[str]] = {}
    for cell in sweep.missing:
        missing.setdefault(catalog.label(VariantKey(cell.family, cell.variant)), []).append(str(cell.batch))
    if missing:
        listed = "; ".join(f"{variant} {' '.join(batches)}" for variant, batches in missing.items())
        console.say(f"still to be measured (variant, batch sizes): {listed}")
    if found := sweep.results.no_longer_estimated:
        console.say(f"accuracies that were measured in place of the catalog's estimates: {_accuracies(catalog, found)}")
    if found := sweep.results.unverified:
        still = "accuracies that are still the catalog's, and are to be measured on"
        console.say(f"{still} {device}: {_accuracies(catalog, found)}")
    if not accepts_noise:
        _warn_of_noise(catalog, sweep.results.profile)
    if missing or sweep.results.lacks_answers:
        console.say("run `proteus profile` again to go on there; a longer `--budget`, or none, measures more at once")


def _accuracies(catalog: Catalog, variants: Sequence[VariantProfile]) -> str:
    return ", ".join(
        f"{catalog.label(each.key)} {format_accuracy(each.accuracy, estimated=each.estimated)}" for each in variants
    )


def _warn_of_noise(catalog: Catalog, profile: Profile) -> None:
    cells = {catalog.label(variant.key): variant.noisy for variant in profile.variants if variant.noisy}
    if not cells:
        return
    noisy = [point for points in cells.values() for point in points]
    worst = format_percent(max(point.noise_frac for point in noisy))
    listed = "; ".join(f"{name} {' '.join(str(point.batch) for point in points)}" for name, points in cells.items())
    console.warn(
        f"noise of up to {worst} in {counted(len(noisy), 'cell')} on {profile.device.id}: other programs used the "
        f"device, or runs scatter ({listed}). Stop these programs, and run `proteus profile` again: it measures such "
        "cells anew"
    )


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


# --- on hosts of a cluster


def measured_by_agents(workspace: Workspace, hosts: HostList, options: MeasureOptions) -> list[Profile]:
    """Measure devices of the cluster, all hosts at the same time, and write their profiles.

    The options' ``devices`` are as in `devices_by_host`. Raises `ProteusError` of the first host that can't measure,
    when all others have.
    """
    agents = agents_of(hosts)
    wanted = devices_by_host(options.devices, agents)

    async def of_all() -> list[list[Profile] | BaseException]:
        by_host = (
            _measured(workspace, agents[host], replace(options, devices=devices)) for host, devices in wanted.items()
        )
        return await asyncio.gather(*by_host, return_exceptions=True)

    profiles: list[Profile] = []
    for found in asyncio.run(of_all()):
        if isinstance(found, BaseException):
            raise found
        profiles += found
    return profiles


def devices_by_host(text: str, hosts: Mapping[str, object]) -> dict[str, str]:
    """``"a/cpu0,a/cpu1,b/cpu0"`` → the devices of each host, by the ids there; ``all``: all CPUs of all hosts.

    Raises `DeviceUnavailable`, `UsageError`.
    """
    if text == ALL:
        return dict.fromkeys(hosts, ALL)
    found: dict[str, list[str]] = {}
    for name in (part.strip() for part in text.split(",")):
        host = host_of(name)
        if not host:
            raise UsageError(
                f"`{name}` is a device of this machine.", hint=f"leave out `--cluster`, or write `HOST/{name}`"
            )
        if host not in hosts:
            raise DeviceUnavailable(f"No host `{host}` in the cluster.", hint=f"there are: {', '.join(hosts)}")
        found.setdefault(host, []).append(name.removeprefix(f"{host}/"))
    return {host: ",".join(devices) for host, devices in found.items()}


async def _measured(workspace: Workspace, agent: AgentAddress, options: MeasureOptions) -> list[Profile]:
    try:
        session = await connect(agent, uuid.uuid4().hex, 1)
    except OSError as error:
        raise HostLost(f"host {agent} can't be reached: {str(error) or 'no answer'}") from error
    async with running(session.watch, Looks()):
        try:
            profiles = await measured_by_agent(
                session,
                agent.name,
                measurable_in(workspace),
                options,
                lambda line: console.say(f"{agent.name}: {line}"),
            )
        finally:
            session.close()
    for network in {id(profile.network): profile.network for profile in profiles}.values():
        if network is not None:
            console.say(
                f"{agent.name}: to the host and back takes {format_duration(network.round_trip_s)}, and its network "
                f"carries {format_size(network.bytes_per_s)} per second; both count in its profiles"
            )
    for profile in profiles:
        write_json(workspace.profile_path(profile.device.id), profile)
    return profiles
