"""A study of sharing is drafted: its cells as jobs, and the sharing file as what they say together."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from zlib import crc32

import numpy as np

from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.interference import SHARING_FORMAT, Interference, MeasuredVariant, SharingCost
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.store import Workspace, made_by
from proteus_cli.store.sharing import KnownSharing, extended, read_sharing, sharing_digest, sharing_paths, write_sharing
from proteus_cli.studies.draft import Job, JobTurn, StudyDraft, keep_nothing
from proteus_cli.studies.peak.drafts import mode_for
from proteus_cli.studies.profiled import mean_batch_s, measured_variant
from proteus_cli.studies.results import SharingConclusion, SharingResult, format_load
from proteus_cli.studies.sharing.bench.bench import Bench
from proteus_cli.studies.sharing.bench.mps import sees_mps
from proteus_cli.studies.sharing.bench.stream import STREAM_TURN_S
from proteus_cli.studies.sharing.cells import BatchSizes, SharingCell, cells_of
from proteus_cli.studies.sharing.concluding import checks_of, costs_of
from proteus_cli.studies.sharing.opening import EmulatedPair, HardwareBench, emulated_devices, hardware_bench
from proteus_cli.studies.sharing.question import SharingQuestion, usual_variants
from proteus_cli.studies.sharing.rounds import FEWEST_ROUNDS, SharingMeter, wanted_s
from proteus_cli.studies.study import Cell, Scalar

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
