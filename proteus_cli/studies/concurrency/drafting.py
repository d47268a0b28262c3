"""The draft of a concurrency study: variants, their batches, and what varies."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from proteus_cli.backends.discovery import discover
from proteus_cli.domain.capacity import points_in_time, slo_fraction
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import UsageError
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
from proteus_cli.studies.frame import Job, StudyDraft, default_name
from proteus_cli.studies.profiled import mean_batch_s, measured_variant, models_of, profiled_here
from proteus_cli.studies.results import ConcurrencyConclusion, ConcurrencyResult, concluded
from proteus_cli.studies.study import Cell

KIND = "concurrency"
WITHOUT_NAMES = 3
"""Number of variants where the user names none: the most accurate one of each of the first families."""


@dataclass(frozen=True, slots=True)
class ConcurrencyQuestion:
    """The device and variants of a study. None: the batch size of plans, a few more in flight than there are slots.

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
        if device in here and (variants := best_of_families(workspace.catalog(), profile)):
            return concurrency_draft(workspace, ConcurrencyQuestion(device, variants))
    return "no device of this machine has a profile"


def concurrency_draft(workspace: Workspace, question: ConcurrencyQuestion, name: str | None = None) -> StudyDraft:
    """The draft of a study. Raises `ProteusError` where the device, a profile or a model is missing."""
    catalog, profile = workspace.catalog(), workspace.profile(question.device)
    device, models, is_emulated = profile.device, dict[VariantKey, Path](), question.emulated
    if not is_emulated:
        device = profiled_here(profile, discover(read_settings(workspace.root).devices))
        models = models_of(workspace, catalog, profile, question.variants, to="run", hint="`--emulate` needs no models")
    is_gpu = device.kind == "gpu" and not is_emulated  # with as many slots as are worth a try
    setup = DeviceSetup(catalog, models, workspace.built_dir, profile, MAX_SLOTS if is_gpu else profile.slots)
    found = {key: measured_variant(profile, key) for key in question.variants}
    batches = {key: question.batch or _planned_batch(catalog, each) for key, each in found.items()}
    cells = [
        ConcurrencyCell(key, batch, way)
        for key, batch in batches.items()
        for way in ways_of(device, emulated=is_emulated)
    ]
    digests = {f"{key.family}/{key.variant}": each.model_digest or "" for key, each in found.items()}
    times = workspace.profile_paths({profile.device.id: profile}) if is_emulated else []
    variants = ", ".join(f"{catalog.label(key)} ×{batch}" for key, batch in batches.items())
    return StudyDraft(
        kind=KIND,
        name=name or default_name(KIND, question.device, mode="emulated" if is_emulated else "measured"),
        subject={"device": f"{device.id}, {profile.device.name}", "variants": variants},
        options={
            "device": question.device,
            "variants": ",".join(digests),
            "batches": ",".join(map(str, batches.values())),
            "in_flight": question.in_flight,
            "slots": setup.slots,
            "emulated": is_emulated,
        },
        inputs=digests | workspace.digests(times),
        jobs=[_job(setup, cell, question, device) for cell in cells],
        devices=[device] if is_gpu else [],
        conclude=_conclude,
    )


def _job(setup: DeviceSetup, cell: ConcurrencyCell, question: ConcurrencyQuestion, device: Device) -> Job:
    levels = levels_of(cell.way, device, setup.slots, question.in_flight)
    batch_s = mean_batch_s(setup.profile, cell.key, cell.batch)
    return Job(
        cell.name(setup.catalog.label(cell.key)),
        "emulated" if question.emulated else "measured",
        wanted_s(levels, batch_s, USUAL_ROUNDS),
        partial(measured, setup, cell, levels, batch_s),
        min_s=wanted_s(levels, batch_s, FEWEST_ROUNDS),
    )


def _planned_batch(catalog: Catalog, each: VariantProfile) -> int:
    """The batch size that plans take by default."""
    in_time = points_in_time(each.points, slo_fraction(1) * catalog.family(each.family).slo_s)
    return max((point.batch for point in in_time), default=each.points[0].batch)


def _conclude(cells: Mapping[str, Cell]) -> ConcurrencyConclusion | None:
    results = [cell.read(ConcurrencyResult) for cell in cells.values()]
    return concluded(results) if results else None
