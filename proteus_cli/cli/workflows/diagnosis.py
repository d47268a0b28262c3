"""Checks of the installation, the devices and the workspace, for `proteus doctor`."""

import importlib.util
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import msgspec

from proteus_cli import __version__
from proteus_cli.backends.discovery import VISIBLE, discover, has_cuda_driver
from proteus_cli.backends.nvml import nvml_device
from proteus_cli.cli.workflows.deployment.resources import require_like
from proteus_cli.domain.base import Value
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ProteusError, printable
from proteus_cli.input_files import found_in, looking
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace, require_current_models
from proteus_cli.units import counted, format_size

FindingState = Literal["ok", "missing", "optional"]

PURPOSES = {
    "cluster": "to make the key of a cluster",
    "derive": "to derive variants",
    "images": "for `[family.input]`",
    "otlp": "for `proteus serve --otlp`",
    "ray": "for clusters of Ray",
    "tensorrt": "for GPUs",
    "train": "for `proteus task`",
}
"""The purpose of each extra of the distribution."""


class Finding(Value, frozen=True):
    """One thing that was checked; ``state`` is `missing` if nothing can be served without it."""

    what: str
    state: FindingState
    found: str
    hint: str = ""


def diagnose(workspace_dir: Path) -> list[Finding]:
    """All findings, in the order in which a user needs the tools."""
    devices: Sequence[Device] = ()
    try:
        devices = discover(read_settings(workspace_dir).devices)
        of_devices = [*_devices(devices)]
    except ProteusError as error:
        of_devices = [Finding("devices", "missing", error.message, error.hint)]
    found = [*_installation(), *of_devices, *_workspace(workspace_dir, devices)]
    return [printable_finding(each) for each in found]


def printable_finding(finding: Finding) -> Finding:
    """Without anything that would do something to a terminal."""
    return Finding(finding.what, finding.state, printable(finding.found), printable(finding.hint))


def _installation() -> Iterator[Finding]:
    yield Finding("proteus", "ok", f"{__version__} on Python {platform.python_version()} ({sys.executable})")
    try:
        extras_of = _required(requires("proteus-serving") or ())
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


def _required(requirements: Sequence[str]) -> dict[str, list[str]]:
    """The extras that require each package, from the lines `Requires-Dist`; none where Proteus always requires it."""
    extras_of: dict[str, list[str]] = {}
    for requirement in requirements:
        package, _, marker = requirement.partition(";")
        extras_of.setdefault(package.strip(), []).extend(re.findall("extra == ['\"]([^'\"]+)", marker))
    return extras_of


def _version(package: str) -> str:
    """The version of a package; ``installed`` where its module is there, but no metadata of that name."""
    package = package.partition("[")[0]
    try:
        return version(package)
    except PackageNotFoundError:
        return "installed" if importlib.util.find_spec(package.replace("-", "_")) else ""


def _devices(devices: Sequence[Device]) -> Iterator[Finding]:
    for device in devices:
        if device.kind == "cpu":
            yield Finding(device.id, "ok", f"{counted(len(device.cores), 'core')}, {device.name}")
        else:
            yield _gpu(device)
    if all(device.kind == "cpu" for device in devices):
        yield _no_gpu()


def _gpu(device: Device) -> Finding:
    facts = device.gpu
    details = f", compute {facts.compute_capability}, driver {facts.driver}" if facts is not None else ""
    found = f"{device.name}, {format_size(device.memory_bytes)}{details}"
    if not (_version("tensorrt") and _version("pycuda")):
        return Finding(device.id, "optional", found, "to use it: pip install 'tensorrt>=10,<12' pycuda")
    why = nvml_device(facts.uuid, is_slice=facts.is_slice) if facts is not None else ""
    return Finding(device.id, "ok", found, f"power is not measured: {why}" if isinstance(why, str) else "")


def _no_gpu() -> Finding:
    if has_cuda_driver():
        visible = os.environ.get(VISIBLE)
        hint = "`nvidia-smi` lists the GPUs" if visible is None else f"{VISIBLE} is `{visible}`; unset it to see all"
        return Finding("gpu", "optional", "the CUDA driver shows no device", hint)
    return Finding("gpu", "optional", "no CUDA driver (libcuda.so.1)", "only needed for NVIDIA GPUs")


def _workspace(workspace_dir: Path, devices: Sequence[Device]) -> Iterator[Finding]:
    workspace = Workspace(workspace_dir)
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
    finding: Finding
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
        yield _plan(workspace, path, devices)


@looking()
def _absent_models(workspace: Workspace) -> dict[VariantKey, list[Path]]:
    """The files that are not there, by variant. Raises `ArtefactError` where one can't be looked at."""
    missing = {key: [path for path in files if not path.is_file()] for key, files in workspace.model_files().items()}
    return {key: paths for key, paths in missing.items() if paths}


def _models(
    catalog: Catalog, absent: Mapping[VariantKey, Sequence[Path]], profiles: Mapping[str, Profile]
) -> Iterator[Finding]:
    """A file that is not there is an error, unless the variant has only imported profiles, which need no model."""
    found = [measured for profile in profiles.values() for measured in profile.variants]
    imported = {each.key for each in found} - {each.key for each in found if not each.is_imported}
    needed = [str(path) for key, paths in absent.items() if key not in imported for path in paths]
    if needed:
        hint = "put the files there, or change `onnx` in the catalog: these variants cannot be measured or served"
        yield Finding("models", "missing", f"no file {', '.join(needed)}", hint)
    unnamed = [variant.name for _, variant in catalog.variants if not variant.files]
    without = [*unnamed, *(key.variant for key in absent if key in imported)]
    if without:
        hint = "they can be planned and simulated, but not measured or served"
        yield Finding(
            "models", "optional", f"no ONNX file of {counted(len(without), 'variant')}: {', '.join(without)}", hint
        )


def _require_measured_here(profiles: Mapping[str, Profile], devices: Sequence[Device], then: str = "") -> None:
    """Raise `DeviceUnavailable` where a profile has the id of a device of this machine, and is of other hardware.

    Profiles of devices that this machine does not have are of hosts, or for planning. ``then``: what its hint adds.
    """
    for device in devices:
        if device.id in profiles:
            require_like(profiles[device.id].device, device, f"run `proteus profile --device {device.id}`{then}")


def _plan(workspace: Workspace, path: Path, devices: Sequence[Device]) -> Finding:
    try:
        with looking():
            plan = workspace.plan(path)
            workspace.require_current(plan.inputs)
            _require_measured_here(workspace.profiles_of(plan), devices, then=", then `proteus plan` again")
    except ProteusError as error:
        return Finding(path.name, "optional", error.message, error.hint)
    return Finding(path.name, "ok", "plan is current")
