"""The draft of a sharing study: its devices, its cells as jobs, and the sharing file as its conclusion."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np

from proteus_cli.backends.discovery import discover
from proteus_cli.backends.free_memory import free_bytes
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.interference import (
    SHARING_FORMAT,
    CostPoint,
    Interference,
    MeasuredVariant,
    Place,
    SharingCost,
    SharingModel,
    VariantName,
)
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace, made_by
from proteus_cli.store.sharing import extended, read_sharing, sharing_digest, sharing_paths, write_sharing
from proteus_cli.studies.frame import Job, JobTurn, StudyDraft, default_name, keep_nothing
from proteus_cli.studies.peak.drafts import mode_for
from proteus_cli.studies.profiled import mean_batch_s, measured_variant, models_of, profiled_here
from proteus_cli.studies.results import FULL_LOAD, SetCheck, SharingConclusion, SharingResult, format_load
from proteus_cli.studies.sharing.bench import Bench, EmulatedBench, Engine, Opening, opened_bench, stream_bytes
from proteus_cli.studies.sharing.cells import SharingCell, SharingQuestion, Sizes, batch_sizes, cells_of, usual_variants
from proteus_cli.studies.sharing.rounds import FEWEST_ROUNDS, SharingMeter, wanted_s
from proteus_cli.studies.study import Cell, CellMode

KIND = "share"
USUAL_LOADS = (0.5, 0.9, 1.0)
USUAL_ROUNDS = 12
MAX_NEIGHBOURS = 3
"""Maximum number of neighbours: each has all engines in memory."""
_LONGEST = 2
"""Maximum time of a cell, as a multiple of the usual: a cell that stays noisy leaves time for the others."""
_PAIR = 2
_UNKNOWN_FREE_BYTES = 2**30
_CPUS = Path("/sys/devices/system/cpu")
_MPS_PIPE = Path("/tmp/nvidia-mps")  # noqa: S108 - where CUDA looks for it


# --- devices


@dataclass(frozen=True, slots=True)
class SharedDevices:
    """The devices of a study by name, the one of its profile first, and how they are opened.

    ``neighbours`` are the other devices, with how near they are. ``has_stream``: a stream of memory tells something.
    ``opened`` raises `DeviceUnavailable` and `EngineError`.
    """

    names: tuple[str, ...]
    neighbours: tuple[str, ...]
    opened: Callable[[], AbstractContextManager[Bench]]
    has_stream: bool = False


def emulated_devices(workspace: Workspace, profile: Profile) -> SharedDevices:
    """Two emulated devices of a profile, with the known costs of sharing. Raises `ArtefactError` for a damaged file."""
    known = read_sharing(workspace, profile)
    other = f"{profile.device.id} (another)"
    bench = EmulatedBench(profile, SharingModel(()) if known is None else known.model, time.sleep)
    return SharedDevices((profile.device.id, other), (other,), lambda: nullcontext(bench))


def hardware_devices(
    workspace: Workspace, catalog: Catalog, profile: Profile, sizes: Mapping[VariantKey, Sizes]
) -> SharedDevices:
    """The device of a profile and its neighbours, other CPU devices that are alike; GPUs have memory of their own.

    Raises `DeviceUnavailable`, and `ArtefactError` where a profile is stale or a model is missing.
    """
    here = discover(read_settings(workspace.root).devices)
    device = profiled_here(profile, here)
    is_cpu = device.kind == "cpu"
    models = models_of(workspace, catalog, profile, sizes, to="measure", hint=", or use `--emulate`")
    engines = tuple(Engine(key, model, tuple(dict.fromkeys(sizes[key]))) for key, model in models.items())
    alike = [each for each in here if is_cpu and each.id != device.id and each.is_like(device)]
    others = sorted(alike, key=lambda each: not shares_a_core(device, each))[:MAX_NEIGHBOURS]
    size_bytes = stream_bytes(free_bytes() or _UNKNOWN_FREE_BYTES) if is_cpu else 0
    openings = [Opening(each, workspace.built_dir, profile.slots, engines, size_bytes) for each in (device, *others)]
    near = (f"{each.id} (same physical core)" if shares_a_core(device, each) else each.id for each in others)
    names = (device.id, *(each.id for each in others))
    return SharedDevices(names, tuple(near), partial(opened_bench, openings), has_stream=is_cpu)


def shares_a_core(first: Device, second: Device, cpus: Path = _CPUS) -> bool:
    """Whether cores of two devices are hardware threads of one physical core; False where the system does not say."""
    return not {sibling for core in first.cores for sibling in _siblings(core, cpus)}.isdisjoint(second.cores)


def _siblings(core: int, cpus: Path) -> Sequence[int]:
    """The hardware threads of a core's physical core, as Linux lists them: ``0,4`` or ``0-1``."""
    path = cpus / f"cpu{core}" / "topology" / "thread_siblings_list"
    if not path.is_file():
        return (core,)
    ranges = (part.split("-") for part in path.read_text(encoding="ascii").strip().split(","))
    return [thread for first, *last in ranges for thread in range(int(first), int((last or [first])[0]) + 1)]


def sees_mps(environment: Mapping[str, str] = os.environ, usual: Path = _MPS_PIPE) -> bool:
    """Whether the control pipe of CUDA's Multi-Process Service is where programs of this environment look for it."""
    return (Path(environment.get("CUDA_MPS_PIPE_DIRECTORY") or usual) / "control").exists()


# --- the draft


def share_draft(workspace: Workspace, question: SharingQuestion, name: str = "") -> StudyDraft:
    """The draft of a study. Raises `ProteusError` where the device, a profile or a model is missing."""
    catalog, profile = workspace.catalog(), workspace.profile(question.device)
    found = {key: measured_variant(profile, key) for key in question.variants}
    sizes = {key: batch_sizes(each, catalog.family(key.family).slo_s) for key, each in found.items()}
    labels = {key: catalog.label(key) for key in question.variants}
    is_emulated = question.emulated
    mode: CellMode = "emulated" if is_emulated else "measured"
    shared = (
        emulated_devices(workspace, profile) if is_emulated else hardware_devices(workspace, catalog, profile, sizes)
    )
    number = dict.fromkeys(question.where, len(shared.names))
    cells = cells_of(sizes, question.loads, question.larger_sets, number, has_stream=shared.has_stream)
    if not cells:
        raise UsageError(
            f"No other device here is like {question.device}, so that it has no neighbour.",
            hint="leave out `--where neighbour`; `cpu` in [devices] of proteus.toml makes devices",
        )
    loads = [format_load(load) for load in sorted(question.loads)]
    digests = {f"{key.family}/{key.variant}": sharing_digest(each) for key, each in found.items()}
    told = (
        [*workspace.profile_paths({profile.device.id: profile}), *sharing_paths(workspace, [profile])]
        if is_emulated
        else []
    )
    return StudyDraft(
        kind=KIND,
        name=name or default_name(KIND, question.device, mode=mode),
        subject={
            "device": f"{question.device}, {'emulated' if is_emulated else profile.device.name}",
            "neighbours": ", ".join(shared.neighbours) or "none that is like it",
            "variants": ", ".join(labels.values()),
            "loads": ", ".join(loads),
        },
        options={
            "device": question.device,
            "variants": ",".join(f"{key.family}/{key.variant}" for key in question.variants),
            "load": ",".join(loads),
            "sets": ",".join("+".join(key.variant for key in each) for each in question.larger_sets),
            "where": ",".join(question.where),
            "neighbours": ",".join(shared.names[1:]),
            "emulated": is_emulated,
        },
        inputs=digests | workspace.digests(told),
        jobs=[_job(cell, cell.key(labels), profile, shared.names, mode) for cell in cells],
        devices=[profile.device] if profile.device.kind == "gpu" and not is_emulated else [],
        opened=shared.opened,
        conclude=partial(_concluded, workspace, question, profile),
        keep=keep_nothing if is_emulated else partial(_save, workspace, question, profile),
        notes=() if is_emulated else _notes(workspace, profile),
    )


def _job(cell: SharingCell, key: str, profile: Profile, devices: Sequence[str], mode: CellMode) -> Job:
    expected_s = [mean_batch_s(profile, work.key, work.batch) for work in cell.works if work.key is not None]
    usual_s = wanted_s(cell, expected_s, USUAL_ROUNDS)

    def measure(turn: JobTurn) -> SharingResult:
        rng = np.random.default_rng(crc32(key.encode()))
        meter = SharingMeter(turn.opened, cell, devices, expected_s, rng)
        return meter.measure(min(turn.allowed_s, _LONGEST * usual_s), turn.advance)

    return Job(key, mode, usual_s, measure, min_s=wanted_s(cell, expected_s, FEWEST_ROUNDS))


def _notes(workspace: Workspace, profile: Profile) -> tuple[str, ...]:
    """A warning where the sharing file can't be used and is replaced."""
    try:
        read_sharing(workspace, profile)
    except ArtefactError as error:
        return (f"{error.message} What is measured now replaces it, and what it knew of other variants is lost.",)
    return ()


def workspace_draft(workspace: Workspace) -> StudyDraft | str:
    """The draft of `proteus study all`: the first profiled device and up to three variants; a text if there is none."""
    if not workspace.profiles_dir.is_dir():
        return "there is no profile: `proteus profile` makes one"
    catalog, (device, profile) = workspace.catalog(), next(iter(workspace.profiles().items()))
    if mode_for(workspace, catalog, profile) != "measured":
        return f"{device} is not here, or not all models are: nothing else shows what sharing costs"
    variants = usual_variants(catalog, profile)
    if len(variants) < _PAIR:
        return "sharing takes two profiled variants"
    return share_draft(workspace, SharingQuestion(device, variants, USUAL_LOADS))


# --- the conclusion


def costs_of(results: Iterable[SharingResult]) -> tuple[SharingCost, ...]:
    """The costs at full load, by batch. The higher of two costs of one batch counts."""
    found: dict[Place, dict[int, CostPoint]] = {}
    for result in results:
        for place, member in enumerate(result.members if result.load == FULL_LOAD else ()):
            points = found.setdefault((member.key, result.where, tuple(sorted(result.beside(place)))), {})
            point = member.cost(result.rounds)
            points[member.batch] = max(points.get(member.batch, point), point, key=lambda each: each.ratio)
    return tuple(
        SharingCost(
            *key, where, tuple(VariantName(*other) for other in others), tuple(points[size] for size in sorted(points))
        )
        for (key, where, others), points in found.items()
    )


def pairs_only(costs: Iterable[SharingCost]) -> SharingModel:
    """The model without sets of three or more."""
    return SharingModel(cost for cost in costs if len(cost.beside) < _PAIR)


def checks_of(results: Mapping[str, SharingResult]) -> tuple[SetCheck, ...]:
    """The predictions of pairs for larger sets at full load, beside the measured rates; by cell."""
    model, checks = pairs_only(costs_of(results.values())), []
    for cell, result in results.items():
        if len(result.members) > _PAIR and result.load == FULL_LOAD:
            predicted = [
                model.factor(each.key, result.beside(place), batch=each.batch, where=result.where)
                for place, each in enumerate(result.members)
            ]
            measured = [each.ratio for each in result.members]
            checks.append(SetCheck(cell, qps_of(result, predicted), qps_of(result, measured)))
    return tuple(checks)


def qps_of(result: SharingResult, factors: Sequence[float]) -> float:
    """Rows per second of all variants, whose batches take ``factors`` times their time alone.

    On one device, batches of all variants take turns. On neighbours each variant goes on by itself.
    """
    batches_s = [factor * each.batch_s for factor, each in zip(factors, result.members, strict=True)]
    if result.where == "device":
        return sum(each.batch for each in result.members) / sum(batches_s)
    return sum(each.batch / batch_s for each, batch_s in zip(result.members, batches_s, strict=True))


def _concluded(
    workspace: Workspace, question: SharingQuestion, profile: Profile, cells: Mapping[str, Cell]
) -> SharingConclusion:
    """Checks of larger sets, and the file with the costs."""
    results = {key: cell.read(SharingResult) for key, cell in cells.items()}
    path = workspace.sharing_path(profile.device.id)
    is_written = not question.emulated and bool(costs_of(results.values())) and path.is_file()
    mps = "" if profile.device.kind != "gpu" else "seen" if sees_mps() else "not seen"
    return SharingConclusion(checks_of(results), path.relative_to(workspace.root).as_posix() if is_written else "", mps)


def _save(
    workspace: Workspace, question: SharingQuestion, profile: Profile, cells: Mapping[str, Cell], finished: Cell
) -> None:
    """Write the costs of the finished cell into the sharing file.

    Cells of earlier runs only add what the file lacks: another study may have measured it since. A file that cannot be
    used is replaced, as the notes of the draft have said.
    """
    costs = costs_of(cell.read(SharingResult) for cell in cells.values())
    new = {cost.place for cost in costs_of([finished.read(SharingResult)])}
    if not new:
        return
    variants = tuple(MeasuredVariant(*key, sharing_digest(measured_variant(profile, key))) for key in question.variants)
    earlier, now = (
        Interference(
            SHARING_FORMAT, made_by(), profile.device.type, profile.device.id, False, variants,
            tuple(cost for cost in costs if (cost.place in new) is is_new),
        )
        for is_new in (False, True)
    )  # fmt: skip
    try:
        known = read_sharing(workspace, profile)
    except ArtefactError:
        known = None
    if known is not None and not known.interference.emulated:
        earlier = extended(earlier, known.interference)
    write_sharing(workspace, profile.device.id, extended(earlier, now))
