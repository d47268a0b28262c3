"""``proteus doctor``: check what is here and what is missing, and say how to get it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import typer

from proteus_cli import __version__
from proteus_cli.cli import console, options
from proteus_cli.cli.command_line.defaults import require_cluster
from proteus_cli.errors import ArtefactError, DeviceUnavailable, ProteusError, printable

if TYPE_CHECKING:
    from pathlib import Path

    from proteus_cli.cli.cluster import ReachedHost
    from proteus_cli.domain.catalog import Catalog, VariantKey
    from proteus_cli.domain.device import Device
    from proteus_cli.domain.profile import Profile
    from proteus_cli.serving.devices.remote.channel.address import AgentAddress, HostList
    from proteus_cli.store import Workspace

PURPOSES = {
    "cluster": "to make the key of a cluster",
    "derive": "to derive variants",
    "images": "for `[family.input]`",
    "otlp": "for `proteus serve --set otlp=…`",
    "ray": "for clusters of Ray",
    "tensorrt": "for GPUs",
    "train": "for `proteus task`",
}
"""The purpose of each extra of the distribution."""


class Finding(NamedTuple):
    """One thing that was checked. Nothing can be served without what is ``missing``."""

    what: str
    state: Literal["ok", "missing", "optional"]
    found: str
    hint: str = ""


def doctor(
    context: typer.Context,
    *,
    cluster: options.Cluster = None,
    cluster_key: options.ClusterKey = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Check the installation, this machine's devices and the workspace. Exits with code 1 if something is missing.

    With --cluster, also its hosts: whether they can be reached, their versions, what they have free, and which of their
    devices are measured.
    """
    from proteus_cli.cli.cluster import host_list
    from proteus_cli.store import Workspace

    require_cluster(context, cluster)
    workspace = Workspace(workspace_dir)
    found = [*_installation(), *_devices_and_workspace(workspace)]
    if cluster is not None:
        found += diagnose_cluster(host_list(cluster, cluster_key, workspace_dir), workspace)
    findings = [each._replace(found=printable(each.found), hint=printable(each.hint)) for each in found]
    if json:
        console.show_json([each._asdict() for each in findings])
    else:
        _show(findings)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


def _show(findings: Sequence[Finding]) -> None:
    from proteus_cli.reporting.tables import table, text

    rows = table(*map(text, ("what", "state", "found, and what to do")))
    for what, state, found, hint in findings:
        rows.add_row(what, "MISSING" if state == "missing" else state, f"{found}\n→ {hint}" if hint else found)
    console.show(rows)


# --- the installation and this machine's devices


def _installation() -> Iterator[Finding]:
    import platform
    import re
    import shlex
    import sys
    from importlib.metadata import PackageNotFoundError, requires

    yield Finding("proteus", "ok", f"{__version__} on Python {platform.python_version()} ({sys.executable})")
    extras_of: dict[str, list[str]] = {}  # by package; empty if Proteus always requires it
    try:
        for requirement in requires("proteus-serving") or ():
            package, _, marker = requirement.partition(";")
            extras_of.setdefault(package.strip(), []).extend(re.findall("extra == ['\"]([^'\"]+)", marker))
    except PackageNotFoundError:
        yield Finding("packages", "optional", "the metadata of Proteus is not installed", "pip install . in the clone")
        return
    for package, extras in extras_of.items():
        name, install = re.split("[<>=!~ ]", package)[0], f"pip install {shlex.quote(package)}"
        if found := _version(name):
            yield Finding(name, "ok", found)
        elif extras:
            purposes = " and ".join(PURPOSES[extra] for extra in extras)
            yield Finding(name, "optional", "not installed", f"only {purposes}: {install}")
        else:
            yield Finding(name, "missing", "not installed", install)


def _version(package: str) -> str:
    """The version of a package; ``installed`` where its module is there, but no metadata of that name."""
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    package = package.partition("[")[0]
    try:
        return version(package)
    except PackageNotFoundError:
        return "installed" if find_spec(package.replace("-", "_")) else ""


def _devices_and_workspace(workspace: "Workspace") -> Iterator[Finding]:
    from proteus_cli.backends.discovery import discover
    from proteus_cli.settings import read_settings
    from proteus_cli.units import counted

    devices: Sequence[Device] = ()
    try:
        devices = discover(read_settings(workspace.root).devices)
        for device in devices:
            if device.kind == "cpu":
                yield Finding(device.id, "ok", f"{counted(len(device.cores), 'core')}, {device.name}")
            else:
                yield _gpu(device)
        if all(device.kind == "cpu" for device in devices):
            yield _no_gpu()
    except ProteusError as error:
        yield Finding("devices", "missing", error.message, error.hint)
    yield from _workspace(workspace, devices)


def _gpu(device: "Device") -> Finding:
    from proteus_cli.backends.nvml import nvml_device
    from proteus_cli.units import format_size

    facts = device.gpu
    details = f", compute {facts.compute_capability}, driver {facts.driver}" if facts is not None else ""
    found = f"{device.name}, {format_size(device.memory_bytes)}{details}"
    if not (_version("tensorrt") and _version("pycuda")):
        return Finding(device.id, "optional", found, "to use it: pip install 'tensorrt>=10,<12' pycuda")
    why = nvml_device(facts.uuid, is_slice=facts.is_slice) if facts is not None else ""
    return Finding(device.id, "ok", found, f"power is not measured: {why}" if isinstance(why, str) else "")


def _no_gpu() -> Finding:
    import os

    from proteus_cli.backends.discovery import VISIBLE, has_cuda_driver

    if not has_cuda_driver():
        return Finding("gpu", "optional", "no CUDA driver (libcuda.so.1)", "only needed for NVIDIA GPUs")
    visible = os.environ.get(VISIBLE)
    hint = "`nvidia-smi` lists the GPUs" if visible is None else f"{VISIBLE} is `{visible}`; unset it to see all"
    return Finding("gpu", "optional", "the CUDA driver shows no device", hint)


# --- the workspace


def _workspace(workspace: "Workspace", devices: "Sequence[Device]") -> Iterator[Finding]:
    import msgspec

    from proteus_cli.input_files import found_in, looking
    from proteus_cli.store import require_current_models
    from proteus_cli.units import counted

    try:
        catalog = workspace.catalog()
    except ProteusError as error:
        yield Finding("workspace", "optional", error.message, error.hint)
        return
    yield Finding("catalog", "ok", f"{counted(len(catalog.families), 'family', 'families')}, {workspace.catalog_path}")
    absent: Mapping[VariantKey, Sequence[Path]] = {}
    profiles: Mapping[str, Profile] = {}
    plans: Sequence[Path] = ()
    try:
        absent = _absent_models(workspace)
    except ProteusError as error:
        yield Finding("models", "missing", error.message, error.hint)
    try:
        with looking():
            profiles = workspace.profiles()
            for profile in profiles.values():
                here = tuple(measured for measured in profile.variants if measured.key not in absent)
                require_current_models(catalog, msgspec.structs.replace(profile, variants=here), workspace)
        _require_measured_here(profiles, devices)
        finding = Finding("profiles", "ok", ", ".join(profiles))
    except ProteusError as error:
        finding = Finding("profiles", "optional", error.message, error.hint)
    yield from _models(catalog, absent, profiles)
    yield finding
    try:
        with looking():
            plans = found_in(workspace.plans_dir, "*.json")
    except ProteusError as error:
        yield Finding("plans", "optional", error.message, error.hint)
    for path in plans:
        try:
            with looking():
                plan = workspace.plan(path)
                workspace.require_current(plan.inputs)
                _require_measured_here(workspace.profiles_of(plan), devices, then=", then `proteus plan` again")
            yield Finding(path.name, "ok", "plan is current")
        except ProteusError as error:
            yield Finding(path.name, "optional", error.message, error.hint)


def _absent_models(workspace: "Workspace") -> "dict[VariantKey, list[Path]]":
    """The files that are missing, by variant. Raises `ArtefactError` if a path cannot be looked at."""
    from proteus_cli.input_files import looking

    with looking():
        files_of = workspace.model_files().items()
        missing = {key: [path for path in files if not path.is_file()] for key, files in files_of}
    return {key: paths for key, paths in missing.items() if paths}


def _models(
    catalog: "Catalog", absent: "Mapping[VariantKey, Sequence[Path]]", profiles: "Mapping[str, Profile]"
) -> Iterator[Finding]:
    """A missing file is an error, unless all profiles of the variant are imported: these need no model."""
    from proteus_cli.units import counted

    found = [measured for profile in profiles.values() for measured in profile.variants]
    imported = {each.key for each in found} - {each.key for each in found if not each.is_imported}
    needed = [str(path) for key, paths in absent.items() if key not in imported for path in paths]
    if needed:
        hint = "put the files there, or change `onnx` in the catalog: these variants cannot be measured or served"
        yield Finding("models", "missing", f"no file {', '.join(needed)}", hint)
    unnamed = [variant.name for _, variant in catalog.variants if not variant.files]
    without = [*unnamed, *(key.variant for key in absent if key in imported)]
    if without:
        what = f"no ONNX file of {counted(len(without), 'variant')}: {', '.join(without)}"
        yield Finding("models", "optional", what, "they can be planned and simulated, but not measured or served")


def _require_measured_here(profiles: "Mapping[str, Profile]", devices: "Sequence[Device]", then: str = "") -> None:
    """Raise `DeviceUnavailable` if a profile has the id of a device of this machine, but was measured on another one.

    Other profiles are of hosts, or for planning. ``then`` is appended to the hint.
    """
    from proteus_cli.serving.workspace.plans import require_like

    for device in devices:
        if device.id in profiles:
            require_like(profiles[device.id].device, device, f"run `proteus profile --device {device.id}`{then}")


# --- a cluster


def diagnose_cluster(hosts: "HostList", workspace: "Workspace") -> list[Finding]:
    """Findings on each host: whether its agent answers, its versions, and which of its devices are measured."""
    from proteus_cli.cli.cluster import reached_at
    from proteus_cli.serving.devices.remote.channel.address import agents_of

    try:
        agents = agents_of(hosts)
    except ProteusError as error:
        return [Finding("cluster", "missing", error.message, error.hint)]
    found = [each for name, reached in reached_at(agents).items() for each in _host(agents[name], reached, workspace)]
    for directory in sorted(workspace.profiles_dir.glob("*/")):
        if directory.name not in agents and any(directory.glob("*.json")):
            what = f"host {directory.name}"
            hint = f"plans for its devices can't be served; remove {directory} if it is gone for good"
            found.append(Finding(what, "optional", "has profiles, and is not in the cluster", hint))
    return found


def _host(
    agent: "AgentAddress", reached: "ReachedHost | DeviceUnavailable", workspace: "Workspace"
) -> Iterator[Finding]:
    from proteus_cli.units import counted, format_duration, format_size

    what = f"host {agent.name}"
    if isinstance(reached, DeviceUnavailable):
        yield Finding(what, "missing", reached.message, reached.hint)
        return
    inventory, away = reached.inventory, format_duration(reached.round_trip_s)
    serves = f"serves {counted(len(inventory.servers), 'server')}" if inventory.servers else "serves nobody"
    free = f"{format_size(inventory.free_bytes)} of memory and {format_size(inventory.free_disk_bytes)} of disk free"
    yield Finding(what, "ok", f"{agent.host}:{agent.port}, there and back in {away}, {serves}, {free}")
    found = ", ".join(f"{name} {version}" for name, version in inventory.versions.items())
    if inventory.versions.get("proteus") == __version__:
        yield Finding(f"versions on {agent.name}", "ok", found)
    else:
        hint = f"here it is proteus {__version__}; install the same everywhere"
        yield Finding(f"versions on {agent.name}", "optional", found, hint)
    for device in inventory.devices:
        yield _device_of_host(f"{agent.name}/{device.id}", device, workspace)


def _device_of_host(name: str, device: "Device", workspace: "Workspace") -> Finding:
    from proteus_cli.input_files import looking
    from proteus_cli.units import counted, format_size

    size = counted(len(device.cores), "core") if device.kind == "cpu" else format_size(device.memory_bytes)
    found, hint = f"{size}, {device.name}", f"`proteus profile --cluster … --device {name}` measures it"
    try:
        with looking():
            profile = workspace.profile(name) if workspace.profile_path(name).is_file() else None
    except ArtefactError as error:
        return Finding(name, "optional", f"{found}; {error.message}", error.hint)
    if profile is None:
        return Finding(name, "optional", f"{found}; no profile", hint)
    if not profile.device.is_like(device):
        return Finding(name, "missing", f"{found}; the profile is of another one: {profile.device.name}", hint)
    return Finding(name, "ok", f"{found}; measured")
