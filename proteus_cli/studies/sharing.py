"""`proteus study share`: the cost for variants of sharing a device.

A *cell* is a set of variants with their batch sizes. `sharing_bench.py` measures it.
The cells become the sharing file of the device, and sets of three or more are compared with the prediction of their
pairs.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations
from pathlib import Path
from typing import Annotated
from zlib import crc32

import numpy as np
from msgspec import Meta

from proteus_cli.backends.discovery import discover
from proteus_cli.domain.base import Amount, PositiveCount, Value
from proteus_cli.domain.capacity import points_in_time, slo_fraction
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.interference import (
    MAX_BESIDE,
    SHARING_FORMAT,
    CostPoint,
    Interference,
    MeasuredVariant,
    Place,
    SharingCost,
    SharingModel,
    VariantName,
)
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.progress import Advance
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace, made_by
from proteus_cli.store.sharing import extended, read_sharing, sharing_digest, write_sharing
from proteus_cli.studies.frame import Job, JobTurn, StudyDraft, default_name
from proteus_cli.studies.peak.drafts import mode_for
from proteus_cli.studies.profiled import mean_batch_s, measured_variant, models_of, profiled_here
from proteus_cli.studies.sharing_bench import (
    FEWEST_ROUNDS,
    Bench,
    Engine,
    Opening,
    Ratio,
    Sight,
    Work,
    measured_ratios,
    opened_bench,
    wanted_s,
)
from proteus_cli.studies.study import Cell

KIND = "share"
MAX_VARIANTS = 24
MAX_TOGETHER = 4
"""Maximum number of variants for a cell with all of them; plans have few on a device."""
MAX_IN_SET = 1 + MAX_BESIDE
LARGE_BATCH_S = 0.005
"""Maximum time of a batch that is measured: of a longer one, the cost is a small part, and a round takes seconds."""
USUAL_ROUNDS = 12
_LONGEST = 2
"""Maximum time of a cell, as a multiple of the usual: a cell that stays noisy leaves time for the others."""
_PAIR = 2
_WITHOUT_NAMES = 3
"""Number of variants where the user names none: pairs grow with the square."""
_MPS_PIPE = Path("/tmp/nvidia-mps")  # noqa: S108 - where CUDA looks for it

Sizes = tuple[int, int]
"""A small batch, as of a server with little to do, and a large one, as of a busy server."""


# --- results


class Served(Value, frozen=True):
    """The batches of a variant over all rounds: their number, rows per second, and the p99 of a batch's time."""

    batches: PositiveCount
    qps: Amount
    p99_s: Amount


class SharingMember(Value, frozen=True):
    """One variant of a cell, in batches of ``batch`` rows, alone and together.

    ``ratio`` is the time of its batches together over alone: the centre of the ratios of all rounds, with its 95 %
    interval. ``batch_s`` is the time of a batch alone.
    """

    family: str
    variant: str
    batch: int
    batch_s: float
    alone: Served
    together: Served
    ratio: float
    low: float
    high: float

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family, self.variant)

    def cost(self, rounds: int) -> CostPoint:
        """The cost of sharing at this batch size."""
        return CostPoint(self.batch, rounds, self.batch_s, self.ratio, self.low, self.high)


class SharingResult(Value, frozen=True):
    """A cell: variants together."""

    rounds: int
    members: Annotated[tuple[SharingMember, ...], Meta(min_length=1)]

    def beside(self, place: int) -> tuple[VariantKey, ...]:
        """The variants beside that member."""
        return tuple(each.key for other, each in enumerate(self.members) if other != place)

    def factor(self, place: int) -> float:
        """The factor by which batches of that member take longer, at least 1."""
        return self.members[place].cost(self.rounds).factor


class SetCheck(Value, frozen=True):
    """Rows per second of a larger set of variants together: predicted from pairs, and measured."""

    cell: str
    predicted_qps: float
    measured_qps: float

    @property
    def error_frac(self) -> float:
        """The error of the prediction, as a fraction of the measured rate."""
        return abs(self.predicted_qps / self.measured_qps - 1) if self.measured_qps else 0.0


class SharingConclusion(Value, frozen=True):
    """The accuracy of predictions from pairs, and the file that the costs were written to.

    ``mps`` says whether CUDA's Multi-Process Service ran; it is empty without a GPU.
    """

    checks: tuple[SetCheck, ...]
    sharing_file: str
    mps: str = ""


# --- the question and its cells


@dataclass(frozen=True, slots=True)
class SharingQuestion:
    """The variants of a study. ``sets`` come on top of pairs and all together.

    Raises `UsageError` where it makes no sense.
    """

    device: str
    variants: tuple[VariantKey, ...]
    sets: tuple[tuple[VariantKey, ...], ...] = ()

    def __post_init__(self) -> None:
        for keys in (self.variants, *self.sets):
            if len(set(keys)) < len(keys):
                twice = next(key for key in keys if keys.count(key) > 1)
                raise UsageError(f"`{twice.variant}` is named twice.", hint="a device has a variant once")
        if not _PAIR <= len(self.variants) <= MAX_VARIANTS:
            raise UsageError(
                f"Sharing is studied of 2 to {MAX_VARIANTS} variants.", hint="`--variants digits-s,digits-l`"
            )
        if not all(_PAIR < len(each) <= MAX_IN_SET for each in self.sets):
            raise UsageError(
                f"A set has 3 to {MAX_IN_SET} variants.", hint="all pairs are measured; `--sets a+b+c` adds a set"
            )
        strays = [key.variant for key in chain.from_iterable(self.sets) if key not in self.variants]
        if strays:
            raise UsageError(f"`--sets` names `{strays[0]}`, and `--variants` does not.", hint="name it there, too")

    @property
    def larger_sets(self) -> tuple[tuple[VariantKey, ...], ...]:
        """The sets of three or more: all variants together, and the ``sets``."""
        everything = [self.variants] if _PAIR < len(self.variants) <= MAX_TOGETHER else []
        asked = (tuple(sorted(each, key=self.variants.index)) for each in self.sets)
        return tuple(dict.fromkeys((*everything, *asked)))


def usual_variants(catalog: Catalog, profile: Profile) -> tuple[VariantKey, ...]:
    """Up to three profiled variants of the catalog: the fastest, the slowest, and one between them."""
    known = [measured for measured in profile.variants if measured.key in catalog.keys and measured.points]
    by_time = [each.key for each in sorted(known, key=lambda each: each.points[0].mean_s)]
    if len(by_time) <= _WITHOUT_NAMES:
        return tuple(by_time)
    return (by_time[0], by_time[len(by_time) // 2], by_time[-1])


def batch_sizes(measured: VariantProfile, slo_s: float) -> Sizes:
    """The smallest profiled batch, and the largest that takes no longer than `LARGE_BATCH_S` or the SLO allows."""
    in_time = points_in_time(measured.points, slo_fraction(1) * slo_s)
    small = measured.points[0].batch
    return small, max((small, *(point.batch for point in in_time if point.mean_s <= LARGE_BATCH_S)))


@dataclass(frozen=True, slots=True)
class SharingCell:
    """Variants with their batches, together on one device."""

    works: tuple[Work, ...]

    def key(self, labels: Mapping[VariantKey, str]) -> str:
        """The name of the cell within the study: ``"digits-s ×1 + digits-l ×1"``."""
        return " + ".join(f"{labels[work.key]} ×{work.batch}" for work in self.works)

    def measured(self, bench: Bench, expected_s: Sequence[float], allowed_s: float, advance: Advance) -> SharingResult:
        """Measure the cell; ``expected_s`` is the time of each batch. Raises `EngineError`."""
        rng = np.random.default_rng(crc32(repr(self).encode()))
        ratios = measured_ratios(bench, self.works, expected_s, allowed_s, advance, rng)
        members = (_member(work, ratio) for work, ratio in zip(self.works, ratios, strict=True))
        return SharingResult(len(ratios[0].alone), tuple(members))


def _member(work: Work, ratio: Ratio) -> SharingMember:
    batch_s = float(np.median([sight.centre_s for sight in ratio.alone]))
    alone, together = _served(ratio.alone), _served(ratio.together)
    return SharingMember(*work.key, work.batch, batch_s, alone, together, ratio.centre, ratio.low, ratio.high)


def _served(sights: Sequence[Sight]) -> Served:
    times_s = [each.ended_s - each.began_s for sight in sights for each in sight.batches]
    qps = sum(sight.rows for sight in sights) / sum(sight.span_s for sight in sights)
    return Served(len(times_s), qps, float(np.percentile(times_s, 99)))


def cells_of(sizes: Mapping[VariantKey, Sizes], sets: Iterable[tuple[VariantKey, ...]]) -> list[SharingCell]:
    """All pairs, then the ``sets`` of three or more, each with small and with large batches."""
    together = (*combinations(sizes, _PAIR), *sets)
    found = (SharingCell(tuple(Work(key, sizes[key][size]) for key in keys)) for keys in together for size in (0, 1))
    return list(dict.fromkeys(found))


# --- the draft


def opening_of(workspace: Workspace, catalog: Catalog, profile: Profile, sizes: Mapping[VariantKey, Sizes]) -> Opening:
    """The device of a profile with the engines of the variants.

    Raises `DeviceUnavailable`, and `ArtefactError` where a profile is stale or a model is missing.
    """
    device = profiled_here(profile, discover(read_settings(workspace.root).devices))
    models = models_of(workspace, catalog, profile, sizes, to="measure", hint="")
    engines = tuple(Engine(key, model, tuple(dict.fromkeys(sizes[key]))) for key, model in models.items())
    return Opening(device, workspace.built_dir, profile.slots, engines)


def sees_mps(environment: Mapping[str, str] = os.environ, usual: Path = _MPS_PIPE) -> bool:
    """Whether the control pipe of CUDA's Multi-Process Service is where programs of this environment look for it."""
    return (Path(environment.get("CUDA_MPS_PIPE_DIRECTORY") or usual) / "control").exists()


def share_draft(workspace: Workspace, question: SharingQuestion, name: str = "") -> StudyDraft:
    """The draft of a study. Raises `ProteusError` where the device, a profile or a model is missing."""
    catalog, profile = workspace.catalog(), workspace.profile(question.device)
    found = {key: measured_variant(profile, key) for key in question.variants}
    sizes = {key: batch_sizes(each, catalog.family(key.family).slo_s) for key, each in found.items()}
    labels = {key: catalog.label(key) for key in question.variants}
    opening, cells = opening_of(workspace, catalog, profile, sizes), cells_of(sizes, question.larger_sets)
    return StudyDraft(
        kind=KIND,
        name=name or default_name(KIND, question.device),
        subject={
            "device": f"{question.device}, {profile.device.name}",
            "variants": ", ".join(labels.values()),
        },
        options={
            "device": question.device,
            "variants": ",".join(f"{key.family}/{key.variant}" for key in question.variants),
            "sets": ",".join("+".join(key.variant for key in each) for each in question.larger_sets),
        },
        inputs={f"{key.family}/{key.variant}": sharing_digest(each) for key, each in found.items()},
        jobs=[_job(cell, cell.key(labels), profile) for cell in cells],
        devices=[profile.device] if profile.device.kind == "gpu" else [],
        opened=partial(opened_bench, opening),
        conclude=partial(_concluded, workspace, profile),
        keep=partial(_save, workspace, question, profile),
        notes=_notes(workspace, profile),
    )


def _job(cell: SharingCell, key: str, profile: Profile) -> Job:
    expected_s = [mean_batch_s(profile, work.key, work.batch) for work in cell.works]
    usual_s = wanted_s(expected_s, USUAL_ROUNDS)

    def measure(turn: JobTurn) -> SharingResult:
        return cell.measured(turn.opened, expected_s, min(turn.allowed_s, _LONGEST * usual_s), turn.advance)

    return Job(key, "measured", usual_s, measure, min_s=wanted_s(expected_s, FEWEST_ROUNDS))


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
    return share_draft(workspace, SharingQuestion(device, variants))


# --- the conclusion


def costs_of(results: Iterable[SharingResult]) -> tuple[SharingCost, ...]:
    """The costs by batch. The higher of two costs of one batch counts."""
    found: dict[Place, dict[int, CostPoint]] = {}
    for result in results:
        for place, member in enumerate(result.members):
            points = found.setdefault((member.key, tuple(sorted(result.beside(place)))), {})
            point = member.cost(result.rounds)
            points[member.batch] = max(points.get(member.batch, point), point, key=lambda each: each.ratio)
    return tuple(
        SharingCost(
            *key, tuple(VariantName(*other) for other in others), tuple(points[size] for size in sorted(points))
        )
        for (key, others), points in found.items()
    )


def pairs_only(costs: Iterable[SharingCost]) -> SharingModel:
    """The model without sets of three or more."""
    return SharingModel(cost for cost in costs if len(cost.beside) < _PAIR)


def checks_of(results: Mapping[str, SharingResult]) -> tuple[SetCheck, ...]:
    """The predictions of pairs for larger sets, beside the measured rates; by cell."""
    model, checks = pairs_only(costs_of(results.values())), []
    for cell, result in results.items():
        if len(result.members) > _PAIR:
            predicted = [
                model.factor(each.key, result.beside(place), batch=each.batch)
                for place, each in enumerate(result.members)
            ]
            measured = [each.ratio for each in result.members]
            checks.append(SetCheck(cell, qps_of(result, predicted), qps_of(result, measured)))
    return tuple(checks)


def qps_of(result: SharingResult, factors: Sequence[float]) -> float:
    """Rows per second of all variants, whose batches take ``factors`` times their time alone.

    Batches of all variants take turns.
    """
    batches_s = [factor * each.batch_s for factor, each in zip(factors, result.members, strict=True)]
    return sum(each.batch for each in result.members) / sum(batches_s)


def _concluded(workspace: Workspace, profile: Profile, cells: Mapping[str, Cell]) -> SharingConclusion:
    """Checks of larger sets, and the file with the costs."""
    results = {key: cell.read(SharingResult) for key, cell in cells.items()}
    path = workspace.sharing_path(profile.device.id)
    file = path.relative_to(workspace.root).as_posix() if results and path.is_file() else ""
    mps = "" if profile.device.kind != "gpu" else "seen" if sees_mps() else "not seen"
    return SharingConclusion(checks_of(results), file, mps)


def _save(
    workspace: Workspace, question: SharingQuestion, profile: Profile, cells: Mapping[str, Cell], finished: Cell
) -> None:
    """Write the costs of the finished cell into the sharing file, with all batch sizes of the study.

    A file that cannot be used is replaced, as the notes of the draft have said.
    """
    new = {cost.place for cost in costs_of([finished.read(SharingResult)])}
    costs = tuple(cost for cost in costs_of(cell.read(SharingResult) for cell in cells.values()) if cost.place in new)
    variants = tuple(MeasuredVariant(*key, sharing_digest(measured_variant(profile, key))) for key in question.variants)
    now = Interference(SHARING_FORMAT, made_by(), profile.device.type, profile.device.id, False, variants, costs)
    try:
        known = read_sharing(workspace, profile)
    except ArtefactError:
        known = None
    write_sharing(workspace, profile.device.id, now if known is None else extended(known.interference, now))
