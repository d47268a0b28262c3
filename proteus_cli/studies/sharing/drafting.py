"""Drafts of sharing studies, their devices, and the sharing file as their conclusion."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np

from proteus_cli import store
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
from proteus_cli.store.sharing import KnownSharing, extended, read_sharing, sharing_digest, sharing_paths, write_sharing
from proteus_cli.studies.frame import Job, JobTurn, StudyDraft, keep_nothing
from proteus_cli.studies.peak.drafts import mode_for
from proteus_cli.studies.profiled import mean_batch_s, measured_variant, of_variants, profiled_here
from proteus_cli.studies.results import FULL_LOAD, SetCheck, SharingConclusion, SharingResult, format_load
from proteus_cli.studies.sharing.cells import BatchSizes, SharingCell, SharingQuestion, cells_of, usual_variants
from proteus_cli.studies.sharing.processes import Engine, Open, opened_bench
from proteus_cli.studies.sharing.rounds import FEWEST_ROUNDS, SharingMeter, wanted_s
from proteus_cli.studies.sharing.slices import STREAM_TURN_S, Bench, EmulatedBench, largest_cache_bytes, stream_bytes
from proteus_cli.studies.study import Cell, Scalar

USUAL_PIPE = Path("/tmp/nvidia-mps")  # noqa: S108 - where CUDA looks for it


def sees_mps(environment: Mapping[str, str] = os.environ, usual: Path = USUAL_PIPE) -> bool:
    """Whether the control pipe of its daemon is where programs of this environment look for it."""
    pipe = Path(environment.get("CUDA_MPS_PIPE_DIRECTORY") or usual)
    return (pipe / "control").exists()


_CPUS = Path("/sys/devices/system/cpu")


def shares_a_core(first: Device, second: Device, cpus: Path = _CPUS) -> bool:
    """Whether a core of one device is a hardware thread of a physical core of the other; not where nothing says so."""
    siblings = {sibling for core in first.cores for sibling in _siblings(core, cpus)}
    return not siblings.isdisjoint(second.cores)


def _siblings(core: int, cpus: Path) -> Sequence[int]:
    """The hardware threads of a core's physical core, as Linux lists them: ``0,4`` or ``0-1``."""
    path = cpus / f"cpu{core}" / "topology" / "thread_siblings_list"
    if not path.is_file():
        return (core,)
    ranges = (part.split("-") for part in path.read_text(encoding="ascii").strip().split(","))
    return [thread for first, *last in ranges for thread in range(int(first), int((last or [first])[0]) + 1)]


_PAIR = 2


def costs_of(results: Iterable[SharingResult]) -> tuple[SharingCost, ...]:
    """The costs that were measured at full load, by batch. Of two of one batch, the higher counts."""
    found: dict[Place, dict[int, CostPoint]] = {}
    for result in results:
        for place, member in enumerate(result.members if result.load == FULL_LOAD else ()):
            at = (member.key, result.where, tuple(sorted(result.beside(place))))
            point, points = member.cost(result.rounds), found.setdefault(at, {})
            if member.batch not in points or points[member.batch].ratio < point.ratio:
                points[member.batch] = point
    return tuple(
        SharingCost(
            *key,
            where,
            tuple(VariantName(*other) for other in others),
            tuple(point for _, point in sorted(points.items())),
        )
        for (key, where, others), points in found.items()
    )


def pairs_only(costs: Iterable[SharingCost]) -> SharingModel:
    """The model that knows no set of three or more."""
    return SharingModel(cost for cost in costs if len(cost.beside) < _PAIR)


def checks_of(results: Mapping[str, SharingResult]) -> tuple[SetCheck, ...]:
    """What the pairs of each set of three or more predict at full load, and what was measured; by cell."""
    model = pairs_only(costs_of(results.values()))
    larger = {
        cell: result for cell, result in results.items() if len(result.members) > _PAIR and result.load == FULL_LOAD
    }
    return tuple(
        SetCheck(
            cell, qps_of(result, _predicted(model, result)), qps_of(result, [each.ratio for each in result.members])
        )
        for cell, result in larger.items()
    )


def _predicted(model: SharingModel, result: SharingResult) -> list[float]:
    return [
        model.factor(each.key, result.beside(place), batch=each.batch, where=result.where)
        for place, each in enumerate(result.members)
    ]


def qps_of(result: SharingResult, factors: Sequence[float]) -> float:
    """Rows per second of all variants, whose batches take so many times what they take alone.

    In turn on one device, a round of turns has a batch of each; on neighbours each goes on by itself.
    """
    batches_s = [factor * each.batch_s for factor, each in zip(factors, result.members, strict=True)]
    if result.where == "device":
        return sum(each.batch for each in result.members) / sum(batches_s)
    return sum(each.batch / batch_s for each, batch_s in zip(result.members, batches_s, strict=True))


MAX_NEIGHBOURS = 3
"""That a study uses: each has all engines in memory."""
_UNKNOWN_FREE_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class HardwareBench:
    """The device of a profile, and neighbours that are like it, as they are on this machine."""

    devices: tuple[Device, ...]
    openings: tuple[Open, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(device.id for device in self.devices)

    @property
    def neighbours(self) -> tuple[str, ...]:
        """The other devices, and which of them are as near as can be."""
        first, *others = self.devices
        return tuple(f"{each.id} (same physical core)" if shares_a_core(first, each) else each.id for each in others)

    @property
    def has_stream(self) -> bool:
        """Whether a stream of memory says anything of these devices."""
        return self.devices[0].kind == "cpu"

    @contextmanager
    def opened(self) -> Iterator[Bench]:
        """The devices, open. Raises `DeviceUnavailable`, `EngineError`."""
        with opened_bench(self.openings) as bench:
            yield bench


@dataclass(frozen=True, slots=True)
class EmulatedPair:
    """Two emulated devices of a profile, with the costs of sharing that are known of it."""

    profile: Profile
    sharing: SharingModel
    has_stream = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.profile.device.id, *self.neighbours)

    @property
    def neighbours(self) -> tuple[str, ...]:
        return (f"{self.profile.device.id} (another)",)

    @property
    def devices(self) -> tuple[Device, ...]:
        return ()

    @contextmanager
    def opened(self) -> Iterator[Bench]:
        yield EmulatedBench(self.profile, self.sharing, time.sleep)


def emulated_devices(workspace: Workspace, profile: Profile) -> EmulatedPair:
    """Raises `ArtefactError` where the sharing file is damaged."""
    known = read_sharing(workspace, profile)
    return EmulatedPair(profile, SharingModel(()) if known is None else known.model)


def hardware_bench(
    workspace: Workspace, catalog: Catalog, profile: Profile, sizes: Mapping[VariantKey, BatchSizes]
) -> HardwareBench:
    """What must be opened to measure. Raises `DeviceUnavailable`, and `ArtefactError` where a profile is stale."""
    here = discover(read_settings(workspace.root).devices)
    device = profiled_here(profile, here)
    engines = _engines(workspace, catalog, profile, sizes)
    devices = (device, *_neighbours(device, here))
    size_bytes = stream_bytes(free_bytes() or _UNKNOWN_FREE_BYTES, largest_cache_bytes()) if device.kind == "cpu" else 0
    built = str(workspace.built_dir)
    return HardwareBench(devices, tuple(Open(each, built, profile.slots, engines, size_bytes) for each in devices))


def _neighbours(device: Device, here: Sequence[Device]) -> tuple[Device, ...]:
    """Other CPU devices that are alike, first those on the same physical core. GPUs have memory of their own."""
    if device.kind != "cpu":
        return ()
    alike = [each for each in here if each.id != device.id and each.is_like(device)]
    return tuple(sorted(alike, key=lambda each: not shares_a_core(device, each)))[:MAX_NEIGHBOURS]


def _engines(
    workspace: Workspace, catalog: Catalog, profile: Profile, sizes: Mapping[VariantKey, BatchSizes]
) -> tuple[Engine, ...]:
    found = []
    for key, batches in sizes.items():
        family = catalog.family(key.family)
        variant = family.variant(key.variant)
        model = workspace.loaded_model_of(family, variant, to="measure", hint=", or use `--emulate`")
        found.append(Engine(key, str(model), batches.all))
    store.require_current_models(catalog, of_variants(profile, sizes), workspace)
    return tuple(found)


KIND = "share"
USUAL_LOADS = (0.5, 0.9, 1.0)
USUAL_ROUNDS = 12
_LONGEST = 2
"""Times what is usual: a cell that stays noisy leaves time for the others."""


@dataclass(slots=True)
class _Measuring:
    """What the jobs of a study have in common: they run while its bench is ``opened``."""

    question: SharingQuestion
    profile: Profile
    labels: Mapping[VariantKey, str]
    place: HardwareBench | EmulatedPair
    _bench: Bench | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Open the devices. Raises `DeviceUnavailable`, `EngineError`."""
        with self.place.opened() as self._bench:
            yield

    def job(self, cell: SharingCell) -> Job:
        expected_s = [mean_batch_s(self.profile, work.key, work.batch) for work in cell.works if work.key is not None]
        key = cell.key(self.labels)
        return Job(
            key,
            "emulated" if self.question.emulated else "measured",
            wanted_s(cell, expected_s, STREAM_TURN_S, USUAL_ROUNDS),
            partial(self._measure, key, cell, expected_s),
            min_s=wanted_s(cell, expected_s, STREAM_TURN_S, FEWEST_ROUNDS),
        )

    def _measure(self, key: str, cell: SharingCell, expected_s: Sequence[float], turn: JobTurn) -> SharingResult:
        assert self._bench is not None  # noqa: S101 - it is open around all jobs
        rng = np.random.default_rng(crc32(key.encode()))
        meter = SharingMeter(self._bench, cell, self.place.names, expected_s, rng)
        max_s = _LONGEST * wanted_s(cell, expected_s, STREAM_TURN_S, USUAL_ROUNDS)
        return meter.measure(min(turn.allowed_s, max_s), turn.advance)


def share_draft(workspace: Workspace, question: SharingQuestion, name: str = "") -> StudyDraft:
    """What is to be measured. Raises `ProteusError` where the device, a profile or a model is missing."""
    catalog, profile = workspace.catalog(), workspace.profile(question.device)
    sizes = {key: _sizes(catalog, profile, key) for key in question.variants}
    labels = {key: catalog.label(key) for key in question.variants}
    place = (
        emulated_devices(workspace, profile)
        if question.emulated
        else hardware_bench(workspace, catalog, profile, sizes)
    )
    devices = dict.fromkeys(question.where, len(place.names))
    cells = cells_of(sizes, question.loads, question.larger_sets, devices, has_stream=place.has_stream)
    _require_cells(cells, question)
    measuring = _Measuring(question, profile, labels, place)
    return StudyDraft(
        kind=KIND,
        name=name or _name(question),
        subject=_subject(question, profile, labels, place.neighbours),
        options=_options(question, place.names),
        inputs=_inputs(workspace, question, profile),
        jobs=[measuring.job(cell) for cell in cells],
        devices=[device for device in place.devices if device.kind == "gpu"],
        opened=measuring.opened,
        conclude=partial(_concluded, workspace, question, profile),
        keep=keep_nothing if question.emulated else partial(_save, workspace, question, profile),
        notes=() if question.emulated else _notes(workspace, profile),
    )


def _notes(workspace: Workspace, profile: Profile) -> tuple[str, ...]:
    """That the sharing file can't be used, and what becomes of it."""
    try:
        read_sharing(workspace, profile)
    except ArtefactError as error:
        return (f"{error.message} What is measured now replaces it, and what it knew of other variants is lost.",)
    return ()


def _inputs(workspace: Workspace, question: SharingQuestion, profile: Profile) -> dict[str, str]:
    """What the cells depend on: the models; on emulated devices all that these are told."""
    models = {
        f"{key.family}/{key.variant}": sharing_digest(measured_variant(profile, key)) for key in question.variants
    }
    if not question.emulated:
        return models
    told = [*workspace.profile_paths({profile.device.id: profile}), *sharing_paths(workspace, [profile])]
    return models | workspace.digests(told)


def _require_cells(cells: Sequence[SharingCell], question: SharingQuestion) -> None:
    if not cells:
        raise UsageError(
            f"No other device here is like {question.device}, so that it has no neighbour.",
            hint="leave out `--where neighbour`; `cpu` in [devices] of proteus.toml makes devices",
        )


def _name(question: SharingQuestion) -> str:
    device = question.device.replace("/", "-")
    return f"{KIND}-{device}-emulated" if question.emulated else f"{KIND}-{device}"


def _sizes(catalog: Catalog, profile: Profile, key: VariantKey) -> BatchSizes:
    """Raises `ArtefactError` where the variant was not profiled."""
    return BatchSizes.of(measured_variant(profile, key), catalog.family(key.family).slo_s)


def _options(question: SharingQuestion, devices: Sequence[str]) -> dict[str, Scalar]:
    return {
        "device": question.device,
        "variants": ",".join(f"{key.family}/{key.variant}" for key in question.variants),
        "load": ",".join(format_load(load) for load in sorted(question.loads)),
        "sets": ",".join("+".join(key.variant for key in each) for each in question.larger_sets),
        "where": ",".join(question.where),
        "neighbours": ",".join(devices[1:]),
        "emulated": question.emulated,
    }


def _subject(
    question: SharingQuestion, profile: Profile, labels: Mapping[VariantKey, str], neighbours: Sequence[str]
) -> dict[str, str]:
    return {
        "device": f"{question.device}, {'emulated' if question.emulated else profile.device.name}",
        "neighbours": ", ".join(neighbours) or "none that is like it",
        "variants": ", ".join(labels.values()),
        "loads": ", ".join(format_load(load) for load in sorted(question.loads)),
    }


def _concluded(
    workspace: Workspace, question: SharingQuestion, profile: Profile, cells: Mapping[str, Cell]
) -> SharingConclusion:
    """Compare larger sets with their pairs, and say where the costs are."""
    results = {key: cell.read(SharingResult) for key, cell in cells.items()}
    path = workspace.sharing_path(profile.device.id)
    is_written = not question.emulated and bool(costs_of(results.values())) and path.is_file()
    mps = "" if profile.device.kind != "gpu" else "seen" if sees_mps() else "not seen"
    return SharingConclusion(checks_of(results), path.relative_to(workspace.root).as_posix() if is_written else "", mps)


def _save(
    workspace: Workspace, question: SharingQuestion, profile: Profile, cells: Mapping[str, Cell], finished: Cell
) -> None:
    """Write what a cell that has just been measured says into the sharing file.

    Cells of earlier runs only fill in what the file has not: another study may have measured it since.
    """
    costs = costs_of(cell.read(SharingResult) for cell in cells.values())
    new = {cost.place for cost in costs_of([finished.read(SharingResult)])}
    if not new:
        return
    earlier, now = (
        _found(question, profile, [cost for cost in costs if (cost.place in new) is is_new]) for is_new in (False, True)
    )
    known = _known(workspace, profile)
    if known is not None and not known.interference.emulated:
        earlier = extended(earlier, known.interference)
    write_sharing(workspace, profile.device.id, extended(earlier, now))


def _found(question: SharingQuestion, profile: Profile, costs: Sequence[SharingCost]) -> Interference:
    variants = tuple(MeasuredVariant(*key, sharing_digest(measured_variant(profile, key))) for key in question.variants)
    return Interference(
        SHARING_FORMAT, made_by(), profile.device.type, profile.device.id, False, variants, tuple(costs)
    )


def _known(workspace: Workspace, profile: Profile) -> KnownSharing | None:
    """What is known before; nothing where the file is damaged or of other devices, as `_notes` has said before."""
    try:
        return read_sharing(workspace, profile)
    except ArtefactError:
        return None


def workspace_draft(workspace: Workspace) -> StudyDraft | str:
    """What `proteus study all` measures: the first profiled device, and up to three of its variants.

    Or a text: why there is nothing to study.
    """
    if not workspace.profiles_dir.is_dir():
        return "there is no profile: `proteus profile` makes one"
    catalog, (device, profile) = workspace.catalog(), next(iter(workspace.profiles().items()))
    if mode_for(workspace, catalog, profile) != "measured":
        return f"{device} is not here, or not all models are: nothing else shows what sharing costs"
    variants = usual_variants(catalog, profile)
    if len(variants) < 2:  # noqa: PLR2004 - sharing takes two
        return "sharing takes two profiled variants"
    return share_draft(workspace, SharingQuestion(device, variants, USUAL_LOADS))
