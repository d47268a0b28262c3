"""A study of sharing is drafted: its cells as jobs, and the sharing file as what they say together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from zlib import crc32

import numpy as np

from proteus_cli.domain.catalog.catalog import Catalog, VariantKey
from proteus_cli.domain.profile.interference import SHARING_FORMAT, Interference, MeasuredVariant, SharingCost
from proteus_cli.domain.profile.profile import LatencyTable, Profile, VariantProfile
from proteus_cli.domain.studies.sharing import SharingConclusion, SharingResult, format_load
from proteus_cli.domain.studies.study import Cell, Scalar
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.store import Workspace, made_by
from proteus_cli.store.sharing import KnownSharing, extended, read_sharing, sharing_digest, write_sharing
from proteus_cli.studies.draft import Job, StudyDraft, Turn
from proteus_cli.studies.peak.drafts import mode_for
from proteus_cli.studies.sharing.cells import BatchSizes, SharingCell, cells_of
from proteus_cli.studies.sharing.concluding import checks_of, costs_of
from proteus_cli.studies.sharing.mps import sees_mps
from proteus_cli.studies.sharing.opening import (
    EmulatedDevices,
    HardwareBench,
    OpenedBench,
    emulated_devices,
    hardware_bench,
)
from proteus_cli.studies.sharing.question import SharingQuestion, usual_variants
from proteus_cli.studies.sharing.rounds import FEWEST_ROUNDS, CellMeter, wanted_s

KIND = "share"
USUAL_LOADS = (0.5, 0.9, 1.0)
USUAL_ROUNDS = 12
_LONGEST = 2
"""Times what is usual: a cell that stays noisy leaves time for the others."""
STREAM_TURN_S = 0.01
"""What a turn of a stream takes, about."""


@dataclass(frozen=True, slots=True)
class _Measuring:
    """What the jobs of a study have in common."""

    question: SharingQuestion
    profile: Profile
    labels: Mapping[VariantKey, str]
    place: HardwareBench | EmulatedDevices
    opened: OpenedBench = field(default_factory=OpenedBench)

    def job(self, cell: SharingCell) -> Job:
        expected_s = [_batch_s(self.profile, work.key, work.batch) for work in cell.works]
        key = cell.key(self.labels)
        return Job(
            key,
            "emulated" if self.question.emulated else "measured",
            wanted_s(cell, expected_s, STREAM_TURN_S, USUAL_ROUNDS),
            partial(self._measure, key, cell, expected_s),
            least_s=wanted_s(cell, expected_s, STREAM_TURN_S, FEWEST_ROUNDS),
        )

    def _measure(self, key: str, cell: SharingCell, expected_s: Sequence[float], turn: Turn) -> SharingResult:
        assert self.opened.bench is not None  # noqa: S101 - it is open around all jobs
        rng = np.random.default_rng(crc32(key.encode()))
        meter = CellMeter(self.opened.bench, cell, self.place.names, expected_s, rng)
        most_s = _LONGEST * wanted_s(cell, expected_s, STREAM_TURN_S, USUAL_ROUNDS)
        return meter.measure(min(turn.allowed_s, most_s), turn.advance)


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
        subject=_subject(question, profile, labels, place.names),
        options=_options(question, place.names),
        inputs={f"{key.family}/{key.variant}": sharing_digest(_measured(profile, key)) for key in sizes},
        jobs=[measuring.job(cell) for cell in cells],
        devices=[device for device in place.devices if device.kind == "gpu"],
        opened=partial(place.opened, measuring.opened),
        conclude=partial(_concluded, workspace, question, profile),
    )


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
    return BatchSizes.of(_measured(profile, key), catalog.family(key.family).slo_s)


def _measured(profile: Profile, key: VariantKey) -> VariantProfile:
    measured = profile.of(*key)
    if measured is None or not measured.points:
        raise ArtefactError(
            f"`{key.family}/{key.variant}` has no times in the profile of `{profile.device.id}`.",
            hint=f"measure it with `proteus profile --device {profile.device.id}`",
        )
    return measured


def _batch_s(profile: Profile, key: VariantKey | None, batch: int) -> float:
    assert key is not None  # noqa: S101 - a stream is not among the works of a cell
    return LatencyTable(_measured(profile, key).points, of=lambda point: point.mean_s)(batch)


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
    question: SharingQuestion, profile: Profile, labels: Mapping[VariantKey, str], devices: Sequence[str]
) -> dict[str, str]:
    neighbours = ", ".join(devices[1:]) or "none that is like it"
    return {
        "device": f"{question.device}, {'emulated' if question.emulated else profile.device.name}",
        "neighbours": neighbours,
        "variants": ", ".join(labels.values()),
        "loads": ", ".join(format_load(load) for load in sorted(question.loads)),
    }


def _concluded(
    workspace: Workspace, question: SharingQuestion, profile: Profile, cells: Mapping[str, Cell]
) -> SharingConclusion:
    """Compare larger sets with their pairs, and write the sharing file, as far as the study has got."""
    results = {key: cell.read(SharingResult) for key, cell in cells.items()}
    path = _saved(workspace, question, profile, costs_of(results.values()))
    mps = "" if profile.device.kind != "gpu" else "seen" if sees_mps() else "not seen"
    return SharingConclusion(checks_of(results), path, mps)


def _saved(workspace: Workspace, question: SharingQuestion, profile: Profile, costs: Sequence[SharingCost]) -> str:
    """Where the costs are written, relative to the workspace; empty where there are none, or better ones there."""
    if not costs:
        return ""
    variants = tuple(MeasuredVariant(*key, sharing_digest(_measured(profile, key))) for key in question.variants)
    found = Interference(
        SHARING_FORMAT, made_by(), profile.device.type, profile.device.id, question.emulated, variants, tuple(costs)
    )
    known = _known(workspace, profile)
    if known is not None and question.emulated and not known.interference.emulated:
        return ""
    merged = found if known is None else extended(known.interference, found)
    if known is None or (merged.costs, merged.variants) != (known.interference.costs, known.interference.variants):
        write_sharing(workspace, profile.device.id, merged)
    return workspace.sharing_path(profile.device.id).relative_to(workspace.root).as_posix()


def _known(workspace: Workspace, profile: Profile) -> KnownSharing | None:
    """What is known before; nothing where the file is damaged or of other devices, as it is measured anew now."""
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
