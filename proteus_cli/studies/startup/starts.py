"""A start-up study: starts of each variant on each device, with a cold and a warm file cache in turn."""

import importlib.util
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proteus_cli.backends.discovery import discover, select
from proteus_cli.domain.catalog import Family, Variant, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.errors import ArtefactError, EngineError, UsageError
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace, model_parts
from proteus_cli.studies.frame import Job, JobTurn, StudyDraft, default_name
from proteus_cli.studies.results import ProcessStart, Starts, Startup
from proteus_cli.studies.startup.child import StartSpec

KIND = "startup"
RUNS = 20
START_S = 1.0
"""Approximate time of a start, for the budget."""
TIMEOUT_S = 300.0
FEWEST = 3
"""Minimum number of starts of each condition, whatever the budget."""
MEDIAN_CONFIDENCE = 0.95
CAN_EVICT = hasattr(os, "posix_fadvise")

_BACKENDS = {"cpu": "onnxruntime", "gpu": "tensorrt"}
_PACKAGES = {"cpu": ("onnxruntime",), "gpu": ("tensorrt", "tensorrt_libs", "tensorrt_bindings", "pycuda")}
"""The packages of the backend of a kind of device, as far as they are installed."""


# --- the draft


def startup_draft(
    workspace: Workspace,
    families: Sequence[str],
    variants: Sequence[str],
    device: str | None,
    runs: int,
    name: str = "",
) -> StudyDraft:
    """A cell for each variant (none named: all with a model) on one device of each type, or on ``device``.

    ``variants`` are names, or FAMILY/NAME. Raises `ArtefactError` where a model is missing, `UsageError` where nothing
    fits.
    """
    catalog = workspace.catalog()
    for each in families:
        catalog.family(each)  # raises
    known = [(family, variant) for family, variant in catalog.variants if not families or family.name in families]
    named = {each for family, variant in known for each in (variant.name, f"{family.name}/{variant.name}")}
    if strays := [each for each in variants if each not in named]:
        raise UsageError(f"No variant `{strays[0]}`.", hint=f"there are: {', '.join(each.name for _, each in known)}")
    chosen = [
        (family, variant)
        for family, variant in known
        if (not {variant.name, f"{family.name}/{variant.name}"}.isdisjoint(variants) if variants else variant.files)
    ]
    if not chosen:
        raise ArtefactError("No variant has an ONNX file, so nothing can be started.", hint="`proteus catalog add`")
    here = discover(read_settings(workspace.root).devices)
    first_of_type = {each.type: each for each in reversed(here)}
    devices = tuple(first_of_type.values())[::-1] if device is None else select(here, device)
    subjects = [subject_of(workspace, family, variant, on) for on in devices for family, variant in chosen]
    return StudyDraft(
        kind=KIND,
        name=name or default_name(KIND, *dict.fromkeys(families), *dict.fromkeys(variants)),
        subject={
            "families": ", ".join(dict.fromkeys(family.name for family, _ in chosen)),
            "devices": ", ".join(f"{on.id} ({on.name})" for on in devices),
            "starts of each": f"up to {runs} with the file cache cold, {runs} warm",
        },
        options={"runs": runs, "devices": ",".join(on.id for on in devices)},
        inputs={
            f"{family.name}/{variant.name}": workspace.loaded_digest(family, variant) for family, variant in chosen
        },
        jobs=[_job(subject, f"{catalog.label(subject.key)} on {subject.device.id}", runs) for subject in subjects],
        devices=devices,
    )


def _job(subject: "Subject", key: str, runs: int) -> Job:
    def measure(turn: JobTurn) -> Startup:
        return startup(subject, runs, turn)

    return Job(key, "measured", 2 * runs * START_S, measure, 2 * FEWEST * START_S)


def workspace_draft(workspace: Workspace) -> StudyDraft | str:
    """The draft of `proteus study all`: the most and the least accurate variant of each family; a text if none."""
    ends = []
    try:
        for family in workspace.catalog().families:
            known = sorted((each for each in family.variants if each.files), key=lambda each: -each.accuracy)
            ends += [f"{family.name}/{each.name}" for each in (*known[:1], *known[-1:])]
        return startup_draft(workspace, (), list(dict.fromkeys(ends)), None, RUNS, KIND)
    except ArtefactError as error:
        return error.message


@dataclass(frozen=True, slots=True)
class Subject:
    """A variant on a device: its loaded model, the directory of built engines, and the files that are evicted."""

    key: VariantKey
    device: Device
    model: Path
    built: Path
    files: Sequence[Path]


def subject_of(workspace: Workspace, family: Family, variant: Variant, device: Device) -> Subject:
    """The subject of a cell. Raises `ArtefactError` where its model is missing."""
    model = workspace.loaded_model_of(family, variant, to="start")
    files = backend_files(device)
    for path in {model, *workspace.files_of(variant)}:
        files += model_parts(path) if path.suffix == ".onnx" else [path]
    built = workspace.built_dir / device.type / f"{family.name}__{variant.name}"
    files += [path for path in built.rglob("*") if path.is_file()]
    return Subject(VariantKey(family.name, variant.name), device, model, workspace.built_dir, files)


def backend_files(device: Device) -> list[Path]:
    """The files of the backend of a device, found without importing it."""
    found = []
    for name in _PACKAGES[device.kind]:
        spec = importlib.util.find_spec(name)
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            found += [path for path in Path(place).rglob("*") if path.is_file()]
    return found


def evict(files: Iterable[Path]) -> None:
    """Ask the system to drop files from its cache. Pages that are not on the disk yet, or mapped, may stay."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


# --- starts


def start_once(subject: Subject) -> ProcessStart:
    """One fresh process. Raises `EngineError` where it fails."""
    spec = StartSpec(time.monotonic(), subject.device, str(subject.model), *subject.key, built=str(subject.built))
    command = [sys.executable, "-m", StartSpec.__module__, msgspec.json.encode(spec).decode()]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT_S, check=False, process_group=0
        )
    except subprocess.TimeoutExpired:
        problem = f"gave no answer within {TIMEOUT_S:.0f} s of its start."
    else:
        if not done.returncode:
            return msgspec.json.decode(done.stdout, type=ProcessStart)
        why = done.stderr.decode(errors="replace").strip().splitlines()
        problem = f"does not start: {why[-1] if why else 'it said nothing'}"
    hint = f"`proteus doctor` checks {subject.device.id} and its software"
    raise EngineError(f"`{subject.key.variant}` {problem}", hint=hint)


def startup(
    subject: Subject,
    runs: int,
    turn: JobTurn,
    *,
    once: Callable[[Subject], ProcessStart] = start_once,
    evicting: Callable[[Sequence[Path]], None] | None = evict if CAN_EVICT else None,
    now_s: Callable[[], float] = time.monotonic,
) -> Startup:
    """``runs`` starts of each condition; fewer if the time is over, but at least `FEWEST`. Raises `EngineError`."""
    ends_s = now_s() + turn.allowed_s
    once(subject)  # it builds the engine and compiles modules, which later starts do not
    cold: list[ProcessStart] = []
    warm: list[ProcessStart] = []
    while len(warm) < runs and (len(warm) < FEWEST or now_s() < ends_s):
        if evicting is not None:
            evicting(subject.files)
            cold.append(once(subject))
        warm.append(once(subject))
        turn.advance(f"start {len(warm)} of {runs}", len(warm) / runs)
    device, found = subject.device, starts_of(cold) if cold else None
    return Startup(*subject.key, device.id, _BACKENDS[device.kind], starts_of(warm), found)


def starts_of(starts: Sequence[ProcessStart]) -> Starts:
    """Summarise starts, at least one."""
    times = sorted(start.answered_s for start in starts)
    low, high = median_ranks(len(times))
    middle = (times[(len(times) - 1) // 2] + times[len(times) // 2]) / 2
    return Starts(len(times), middle, times[low], times[high], times[-1], tuple(starts))


def median_ranks(count: int) -> tuple[int, int]:
    """The places of two sorted values, of ``count``, between which the true median lies with 95 % confidence.

    The number of values below the median is binomial (H. A. David, H. N. Nagaraja, Order Statistics, 2003, 7.1). With
    too few values these are the first and the last.
    """
    outside, rank = 0.0, 0
    while rank < (count - 1) // 2:
        outside += math.comb(count, rank) / 2**count
        if 2 * outside > 1 - MEDIAN_CONFIDENCE:
            break
        rank += 1
    rank = max(rank - 1, 0)
    return rank, count - 1 - rank
