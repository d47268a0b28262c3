"""What is installed, which devices can be used, and how the workspace is."""

import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from proteus_cli import __version__
from proteus_cli.backends.discovery import VISIBLE, discover, has_cuda_driver
from proteus_cli.backends.nvml import nvml_device
from proteus_cli.domain.base import Value
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.device import Device
from proteus_cli.errors import ProteusError
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace, require_current_models
from proteus_cli.units import format_size

FindingState = Literal["ok", "missing", "optional"]

NEEDED = (
    "numpy",
    "onnxruntime",
    "cvxpy",
    "highspy",
    "msgspec",
    "httptools",
    "matplotlib",
    "prometheus_client",
)
_FOR_GPUS = "only for GPUs: pip install 'proteus-serving[tensorrt]'"
OPTIONAL = {"tensorrt": _FOR_GPUS, "pycuda": _FOR_GPUS, "pynvml": _FOR_GPUS, "uvloop": "pip install uvloop"}
DISTRIBUTIONS = {"pynvml": "nvidia-ml-py"}
"""What pip calls a module, where that is another name."""


class Finding(Value, frozen=True):
    """``state`` is `missing` where the main job can't be done without it."""

    what: str
    state: FindingState
    found: str
    hint: str = ""


def diagnose(workspace: Path) -> list[Finding]:
    """Everything worth knowing, in the order in which a user meets it."""
    return [*_installation(), *_devices(workspace), *_workspace(workspace)]


def _installation() -> Iterator[Finding]:
    yield Finding("proteus", "ok", f"{__version__} on Python {platform.python_version()} ({sys.executable})")
    for name in NEEDED:
        found = _version(name)
        state: FindingState = "ok" if found else "missing"
        yield Finding(name, state, found or "–", "" if found else "pip install proteus-serving")
    for name, hint in OPTIONAL.items():
        found = _version(name)
        yield Finding(name, "ok" if found else "optional", found or "–", "" if found else hint)


def _version(package: str) -> str:
    if importlib.util.find_spec(package) is None:
        return ""
    try:
        return version(DISTRIBUTIONS.get(package, package))
    except PackageNotFoundError:
        return "installed"


def _devices(workspace: Path) -> Iterator[Finding]:
    try:
        devices = discover(read_settings(workspace).devices)
    except ProteusError as error:
        yield Finding("devices", "missing", error.message, error.hint)
        return
    for device in devices:
        if device.kind == "cpu":
            yield Finding(device.id, "ok", f"{len(device.cores)} core(s), {device.name}")
        else:
            yield _gpu(device)
    if all(device.kind == "cpu" for device in devices):
        yield _no_gpu()


def _gpu(device: Device) -> Finding:
    facts = device.gpu
    told = f", compute {facts.compute_capability}, driver {facts.driver}" if facts is not None else ""
    found = f"{device.name}, {format_size(device.memory_bytes)}{told}"
    if not (_version("tensorrt") and _version("pycuda")):
        return Finding(device.id, "optional", found, "to use it: pip install 'proteus-serving[tensorrt]'")
    why = nvml_device(facts.uuid, is_slice=facts.is_slice) if facts is not None else ""
    return Finding(device.id, "ok", found, f"power is not measured: {why}" if isinstance(why, str) else "")


def _no_gpu() -> Finding:
    if has_cuda_driver():
        visible = os.environ.get(VISIBLE)
        hint = "`nvidia-smi` lists the GPUs" if visible is None else f"{VISIBLE} is `{visible}`; unset it to see all"
        return Finding("gpu", "optional", "the CUDA driver shows no device", hint)
    return Finding("gpu", "optional", "no CUDA driver (libcuda.so.1)", "only where you have an NVIDIA GPU")


def _without_models(catalog: Catalog) -> Iterator[Finding]:
    without = [variant.name for family in catalog.families for variant in family.variants if variant.onnx is None]
    if without:
        found = f"{len(without)} variants have no ONNX file: {', '.join(without)}"
        yield Finding("models", "optional", found, "they can be planned and simulated, not measured or served")


def _workspace(workspace: Path) -> Iterator[Finding]:
    place = Workspace(workspace)
    try:
        catalog = place.catalog()
        yield Finding("catalog", "ok", f"{len(catalog.families)} families, {place.catalog_path}")
        yield from _without_models(catalog)
        profiles = place.profiles()
        for profile in profiles.values():
            require_current_models(catalog, profile, place)
        yield Finding("profiles", "ok", ", ".join(profiles))
    except ProteusError as error:
        yield Finding("workspace", "optional", error.message, error.hint)
        return
    for path in sorted(place.plans_dir.glob("*.json")):
        try:
            place.require_current(place.plan(path).inputs)
            yield Finding(path.name, "ok", "plan is current")
        except ProteusError as error:
            yield Finding(path.name, "optional", error.message, error.hint)
