"""A study of concurrency is drafted: which variants, with which batches, and what varies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from proteus_cli import store
from proteus_cli.backends.discovery import discover
from proteus_cli.domain.capacity import points_in_time, slo_fraction
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import DeviceUnavailable, UsageError
from proteus_cli.profiling.slots import MAX_SLOTS
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace
from proteus_cli.studies.concurrency.measuring import (
    FEWEST_ROUNDS,
    MAX_IN_FLIGHT,
    USUAL_ROUNDS,
    ConcurrencyCell,
    DeviceSetup,
    levels_of,
    measured,
    wanted_s,
    ways_of,
)
from proteus_cli.studies.frame import Job, StudyDraft
from proteus_cli.studies.profiled import mean_batch_s, measured_variant, of_variants
from proteus_cli.studies.results import ConcurrencyConclusion, ConcurrencyResult, concluded
from proteus_cli.studies.study import Cell, CellMode

KIND = "concurrency"
WITHOUT_NAMES = 3
"""So many variants are studied where none is named: the most accurate one of each of the first families."""


@dataclass(frozen=True, slots=True)
class ConcurrencyQuestion:
    """How much at once a device should do of these variants. None: the batch size of plans, a few more than its slots.

    ``emulated``: on the emulated device of its profile. Raises `UsageError` where it makes no sense.
    """

    device: str
    variants: tuple[VariantKey, ...]
    batch: int | None = None
    in_flight: int | None = None
    emulated: bool = False

    def __post_init__(self) -> None:
        if not self.variants:
            raise UsageError(
                f"Nothing was profiled on `{self.device}` that the catalog has.",
                hint=f"run `proteus profile --device {self.device}`",
            )
        if self.in_flight is not None and not 1 < self.in_flight <= MAX_IN_FLIGHT:
            raise UsageError(
                f"From 2 to {MAX_IN_FLIGHT} batches can be in flight.", hint="leave out `--in-flight`, or give 8"
            )


def best_of_families(catalog: Catalog, profile: Profile) -> tuple[VariantKey, ...]:
    """The most accurate profiled variant of each of the first families."""
    best: dict[str, VariantProfile] = {}
    for each in profile.variants:
        if each.key in catalog.keys and each.points:
            best[each.family] = max(best.get(each.family, each), each, key=lambda variant: variant.accuracy)
    return tuple(each.key for each in list(best.values())[:WITHOUT_NAMES])


def workspace_draft(workspace: Workspace) -> StudyDraft | str:
    """A study of the first device of this machine that has a profile; a text where there is none."""
    here = {device.id for device in discover(read_settings(workspace.root).devices)}
    for device, profile in workspace.profiles().items():
        variants = best_of_families(workspace.catalog(), profile) if device in here else ()
        if variants:
            return concurrency_draft(workspace, ConcurrencyQuestion(device, variants))
    return "no device of this machine has a profile"


def concurrency_draft(workspace: Workspace, question: ConcurrencyQuestion, name: str | None = None) -> StudyDraft:
    """What is to be measured. Raises `ProteusError` where the device, a profile or a model is missing."""
    catalog, profile = workspace.catalog(), workspace.profile(question.device)
    device = profile.device if question.emulated else _here(workspace, profile)
    setup = _setup(workspace, catalog, profile, question)
    found = {key: measured_variant(profile, key) for key in question.variants}
    jobs = [
        _job(setup, device, catalog, ConcurrencyCell(key, _batch(question, catalog, each), way), question)
        for key, each in found.items()
        for way in ways_of(device, emulated=question.emulated)
    ]
    batches = {key: _batch(question, catalog, each) for key, each in found.items()}
    return StudyDraft(
        kind=KIND,
        name=name or f"{KIND}-{question.device.replace('/', '-')}{'-emulated' if question.emulated else ''}",
        subject=_subject(catalog, profile, device, batches),
        options={
            "device": question.device,
            "variants": ",".join(f"{key.family}/{key.variant}" for key in question.variants),
            "batches": ",".join(map(str, batches.values())),
            "in_flight": question.in_flight,
            "slots": setup.slots,
            "emulated": question.emulated,
        },
        inputs=_inputs(workspace, profile, found, question),
        jobs=jobs,
        devices=[device] if device.kind == "gpu" and not question.emulated else [],
        conclude=_conclude,
    )


def _inputs(
    workspace: Workspace, profile: Profile, found: Mapping[VariantKey, VariantProfile], question: ConcurrencyQuestion
) -> dict[str, str]:
    """What the cells depend on: the models; on an emulated device the times of its profile, too."""
    models = {f"{key.family}/{key.variant}": each.model_digest or "" for key, each in found.items()}
    times = workspace.profile_paths({profile.device.id: profile}) if question.emulated else []
    return models | workspace.digests(times)


def _job(
    setup: DeviceSetup, device: Device, catalog: Catalog, cell: ConcurrencyCell, question: ConcurrencyQuestion
) -> Job:
    levels = levels_of(cell.way, device, setup.slots, question.in_flight)
    batch_s = mean_batch_s(setup.profile, cell.key, cell.batch)
    mode: CellMode = "emulated" if question.emulated else "measured"
    return Job(
        cell.name(catalog.label(cell.key)),
        mode,
        wanted_s(levels, batch_s, USUAL_ROUNDS),
        partial(measured, setup, cell, levels, batch_s),
        min_s=wanted_s(levels, batch_s, FEWEST_ROUNDS),
    )


def _setup(workspace: Workspace, catalog: Catalog, profile: Profile, question: ConcurrencyQuestion) -> DeviceSetup:
    """A GPU is opened with as many slots as are worth trying; nothing else has more than its profile says.

    Raises `ArtefactError` where a model is missing, or is another one than was profiled.
    """
    is_gpu = profile.device.kind == "gpu" and not question.emulated
    models = {}
    if not question.emulated:
        store.require_current_models(catalog, of_variants(profile, question.variants), workspace)
    for key in question.variants if not question.emulated else ():
        family = catalog.family(key.family)
        hint = "`--emulate` needs no models"
        models[key] = workspace.loaded_model_of(family, family.variant(key.variant), to="run", hint=hint)
    return DeviceSetup(catalog, models, workspace.built_dir, profile, MAX_SLOTS if is_gpu else profile.slots)


def _here(workspace: Workspace, profile: Profile) -> Device:
    """The device itself. Raises `DeviceUnavailable` where it is not here, or is another one than was profiled."""
    here = {device.id: device for device in discover(read_settings(workspace.root).devices)}
    found = here.get(profile.device.id)
    if found is None or not found.is_like(profile.device):
        raise DeviceUnavailable(
            f"The device `{profile.device.id}` of that profile is not on this machine (it has {', '.join(here)}).",
            hint="`--emulate` studies the emulated device of a profile",
        )
    return found


def _batch(question: ConcurrencyQuestion, catalog: Catalog, each: VariantProfile) -> int:
    """The batch size that plans take by default, unless another one is asked for."""
    if question.batch is not None:
        return question.batch
    in_time = points_in_time(each.points, slo_fraction(1) * catalog.family(each.family).slo_s)
    return max((point.batch for point in in_time), default=each.points[0].batch)


def _subject(catalog: Catalog, profile: Profile, device: Device, batches: Mapping[VariantKey, int]) -> dict[str, str]:
    variants: Sequence[str] = [f"{catalog.label(key)} ×{batch}" for key, batch in batches.items()]
    return {"device": f"{device.id}, {profile.device.name}", "variants": ", ".join(variants)}


def _conclude(cells: Mapping[str, Cell]) -> ConcurrencyConclusion | None:
    results = [cell.read(ConcurrencyResult) for cell in cells.values()]
    return concluded(results) if results else None
