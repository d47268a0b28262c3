"""All cells of a device: what is to do, and doing it so that it can be interrupted at any time."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from proteus_cli import store
from proteus_cli.backends.affinity import pinned
from proteus_cli.backends.base import Backend, NamedArrays, Runner, Signature, SlottedRunner
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import Catalog, Family, Variant, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Point, Profile, VariantProfile
from proteus_cli.errors import ArtefactError, EngineError, OutOfDeviceMemory
from proteus_cli.profiling.concurrency import measure_concurrently
from proteus_cli.profiling.measure import FEWEST_RUNS, ROUND_RUNS, measure_accuracy, measure_point
from proteus_cli.profiling.power import MIN_S, measuring_power
from proteus_cli.profiling.slots import MAX_SLOTS, best_slots, is_settled, missing_points, points_of_batch, useful_slots

CELL_S = 1.0  # a cell takes no longer than this, stable or not
TYPICAL_CELL_S = 0.25  # for estimates only …
TYPICAL_SLOTS = 3  # … and so many are tried until one more brings nothing


@dataclass(frozen=True, slots=True)
class Cell:
    """One batch size to measure, with one slot, and then with more while they bring something."""

    family: str
    variant: str
    batch: int


@dataclass(frozen=True, slots=True)
class MeasurementJob:
    """What a variant still needs: ``known`` is current, ``cells`` may end early where a batch passes the SLO."""

    family: Family
    variant: Variant
    model: Path
    eval: Path | None
    known: VariantProfile | None
    model_digest: str
    engine_digest: str
    eval_digest: str | None
    cells: tuple[Cell, ...]
    max_slots: int = 1

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family.name, self.variant.name)

    @property
    def needs_accuracy(self) -> bool:
        """There is an eval split, and what is known was not measured on it."""
        return self.eval is not None and (self.known is None or self.known.eval_digest != self.eval_digest)


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """What was just done, and how much of the work is behind (0 to 1)."""

    now: str
    done_frac: float


def measurement_jobs(
    workspace: store.Workspace,
    catalog: Catalog,
    device: Device,
    backend: Backend,
    max_batch: int,
    max_slots: int = MAX_SLOTS,
    *,
    force: bool = False,
) -> list[MeasurementJob]:
    """What each variant still needs on a device. Raises `ArtefactError` where a model is missing or not named.

    A cell is current while model, backend, its version, device type and threads are what they were; with ``force`` none
    is. Where the backend can, up to ``max_slots`` batches at once are tried.
    """
    max_slots = min(backend.max_slots, max_slots)
    path = workspace.profile_path(device.id)
    known = workspace.profile(device.id) if path.is_file() and not force else None
    return [
        _job(workspace, device, backend, known, family, variant, max_batch, max_slots)
        for family in catalog.families
        for variant in family.variants
    ]


def _job(
    workspace: store.Workspace,
    device: Device,
    backend: Backend,
    known: Profile | None,
    family: Family,
    variant: Variant,
    max_batch: int,
    max_slots: int,
) -> MeasurementJob:
    if variant.onnx is None:
        raise ArtefactError(
            f"The catalog names no ONNX file of `{family.name}/{variant.name}`, so there is nothing to measure.",
            hint="set `onnx` in engines/catalog.toml, or import what was measured elsewhere with `--from-csv`",
        )
    model, eval_path = workspace.model_path(variant.onnx), workspace.eval_path(family)
    model_digest = store.model_digest(model)
    engine_digest = _engine_digest(model_digest, backend, device)
    found = known.of(family.name, variant.name) if known is not None else None
    current = found if found is not None and found.engine_digest == engine_digest else None
    if current is not None and eval_path is None:  # then the catalog's word holds
        current = msgspec.structs.replace(current, accuracy=variant.accuracy, eval_digest=None)
    return MeasurementJob(
        family=family,
        variant=variant,
        model=model,
        eval=eval_path,
        known=current,
        model_digest=model_digest,
        engine_digest=engine_digest,
        eval_digest=store.digest(eval_path) if eval_path is not None else None,
        cells=tuple(
            Cell(family.name, variant.name, batch) for batch in _batches(current, family.slo_s, max_batch, max_slots)
        ),
        max_slots=max_slots,
    )


def _engine_digest(model_digest: str, backend: Backend, device: Device) -> str:
    versions = sorted(backend.versions.versions.items())
    key = (model_digest, backend.versions.name, versions, device.type, device.name, len(device.cores))
    return hashlib.sha256(repr(key).encode()).hexdigest()


def _batches(known: VariantProfile | None, slo_s: float, max_batch: int, max_slots: int) -> Iterator[int]:
    """What needs more slots; then 1, 2, 4, … after the last one done, but none where that one passed the SLO."""
    done = known.points if known is not None else ()
    if known is not None:
        yield from (p.batch for p in done if not is_settled(points_of_batch(known, p.batch), slo_s, max_slots))
    if done and done[-1].p95_s > slo_s:
        return
    batch = done[-1].batch * 2 if done else 1
    while batch <= max_batch:
        yield batch
        batch *= 2


def estimate_s(work: Sequence[MeasurementJob], budget_s: float | None) -> float:
    """Roughly how long the cells will take, in seconds."""
    guess_s = TYPICAL_CELL_S * sum(len(job.cells) * min(job.max_slots, TYPICAL_SLOTS) for job in work)
    return guess_s if budget_s is None else min(guess_s, budget_s)


class Sweep:
    """Measures what is to do on one device, and writes the profile after each cell.

    With a budget, the time that is left is shared equally among the cells that are left.
    """

    def __init__(
        self,
        workspace: store.Workspace,
        device: Device,
        backend: Backend,
        work: Sequence[MeasurementJob],
        budget_s: float | None = None,
    ) -> None:
        self._workspace, self._device, self._backend, self._work = workspace, device, backend, work
        self._stop_s = time.perf_counter() + budget_s if budget_s is not None else None
        self._results = {job.key: job.known for job in work if job.known is not None}
        is_there = workspace.profile_path(device.id).is_file()
        self._before = _measured_content(workspace.profile(device.id)) if is_there else (1, ())
        self._max_slots = max((job.max_slots for job in work), default=1)
        self._cells = sum(len(job.cells) for job in work)
        self._signatures: dict[str, tuple[str, Signature]] = {}
        self._behind = 0
        self._measured = 0
        self._slowed_by: dict[str, None] = {}

    @property
    def measured(self) -> int:
        """Cells that were measured and not taken over."""
        return self._measured

    @property
    def slowed_by(self) -> tuple[str, ...]:
        """Why the device's clocks were held down after a measurement, in words: it may have been slower than it is."""
        return tuple(self._slowed_by)

    @property
    def profile(self) -> Profile:
        """The profile as far as it is known now."""
        done = [(self._results[job.key], job.family.slo_s) for job in self._work if job.key in self._results]
        slots = best_slots(done, self._max_slots)
        return Profile(
            format=FORMAT,
            made_by=store.made_by(),
            device=self._device,
            measured_on=self._device.id,
            backend=self._backend.versions,
            variants=tuple(_with_power(measured, slots) for measured, _ in done),
            slots=slots,
        )

    def run(self) -> Iterator[SweepProgress]:
        """Yields after each cell. Raises `EngineError` and `ArtefactError`; what was measured before is kept.

        Where nothing is to do, the profile stays as it is, to the byte: plans that were made from it stay current.
        """
        with pinned(self._device.cores):
            for job in self._work:
                behind = self._behind
                if job.cells or job.needs_accuracy:
                    yield from self._run_variant(job)
                self._behind = behind + len(job.cells)  # a sweep that passed its SLO skips the rest
            yield from self._measure_missing_slots()
        if _measured_content(self.profile) != self._before:
            self._save()

    def _run_variant(self, job: MeasurementJob) -> Iterator[SweepProgress]:
        build_s = self._backend.prepare(job.model, job.key)
        start_s = time.perf_counter()
        with self._backend.runner(job.model, job.key) as runner:
            load_s = time.perf_counter() - start_s
            self._require_same_tensors(job, runner.signature)
            self._results[job.key] = self._loaded(job, runner, build_s, load_s)
            yield self._progress(f"{job.variant.name}, accuracy")
            for cell in job.cells:
                alone = self._measure_alone(job, runner, cell.batch)
                if isinstance(runner, SlottedRunner):
                    self._measure_more(job, runner, cell.batch)
                self._behind += 1
                self._measured += 1
                self._save()
                yield self._progress(f"{cell.variant}, batch {cell.batch}")
                if alone.p95_s > job.family.slo_s:
                    return

    def _measure_alone(self, job: MeasurementJob, runner: Runner, batch: int) -> Point:
        """One batch at a time, unless that is known."""
        known = self._results[job.key]
        if (found := next((point for point in known.points if point.batch == batch), None)) is not None:
            return found
        point = self._point(runner, batch)
        self._results[job.key] = msgspec.structs.replace(known, points=(*known.points, point))
        return point

    def _measure_more(self, job: MeasurementJob, runner: SlottedRunner, batch: int) -> None:
        """Several at once, one more each time, until that brings nothing or there is no memory for it."""
        while not is_settled(
            points := points_of_batch(self._results[job.key], batch), job.family.slo_s, self._max_slots
        ):
            if not self._measure_with(job, runner, batch, points[-1].slots + 1):
                return

    def _measure_with(self, job: MeasurementJob, runner: SlottedRunner, batch: int, slots: int) -> bool:
        """So many at once; whether there is memory for that."""
        try:
            while runner.slots < slots:
                runner.add_slot()
        except OutOfDeviceMemory:
            return False
        point, known = self._point(runner, batch, slots), self._results[job.key]
        concurrent = sorted((*known.concurrent, point), key=lambda each: (each.batch, each.slots))
        self._results[job.key] = msgspec.structs.replace(
            known, concurrent=tuple(concurrent), slot_bytes=max(known.slot_bytes, runner.slot_bytes)
        )
        return True

    def _measure_missing_slots(self) -> Iterator[SweepProgress]:
        """All variants with as many slots as any of them makes use of: they are served with one number."""
        done = [job for job in self._work if job.key in self._results]
        measured = [self._results[job.key] for job in done]
        numbers = (useful_slots(points_of_batch(each, p.batch)) for each in measured for p in each.points)
        slots = min(max(numbers, default=1), self._max_slots)
        for job in done:
            missing = list(missing_points(self._results[job.key], job.family.slo_s, slots))
            if not missing:
                continue
            with self._backend.runner(job.model, job.key) as runner:
                for batch, count in missing:
                    if not isinstance(runner, SlottedRunner) or not self._measure_with(job, runner, batch, count):
                        break
                    self._measured += 1
                    self._save()
                    yield self._progress(f"{job.variant.name}, batch {batch}, {count} slots")

    def _require_same_tensors(self, job: MeasurementJob, signature: Signature) -> None:
        """Variants that were loaded in this sweep; the server compares all of them."""
        first, expected = self._signatures.setdefault(job.family.name, (job.variant.name, signature))
        if signature != expected:
            raise EngineError(
                f"`{job.variant.name}` takes or gives other tensors than `{first}` of the same family "
                f"`{job.family.name}`.",
                hint="queries of a family must fit each of its variants; make it a family of its own",
            )

    def _loaded(self, job: MeasurementJob, runner: Runner, build_s: float, load_s: float) -> VariantProfile:
        accuracy = job.variant.accuracy
        if job.eval is not None:
            known = None if job.needs_accuracy else job.known
            accuracy = known.accuracy if known is not None else measure_accuracy(runner, job.eval)
        return VariantProfile(
            family=job.family.name,
            variant=job.variant.name,
            accuracy=accuracy,
            model_digest=job.model_digest,
            engine_digest=job.engine_digest,
            eval_digest=job.eval_digest,
            build_s=build_s,
            load_s=load_s,
            memory_bytes=runner.memory_bytes,
            points=job.known.points if job.known is not None else (),
            slot_bytes=job.known.slot_bytes if job.known is not None else 0,
            concurrent=job.known.concurrent if job.known is not None else (),
        )

    def _point(self, runner: Runner, batch: int, slots: int = 1) -> Point:
        inputs, budget_s = runner.signature.sample(batch, np.random.default_rng(0)), self._point_budget_s()
        min_s = MIN_S if self._backend.meter is not None else 0.0
        with measuring_power(self._backend.meter) as reading:
            if slots == 1:
                point = measure_point(lambda: runner.infer(inputs), batch, budget_s, min_s=min_s)
            else:
                point = measure_concurrently(lambda: runner.infer(inputs), batch, slots, budget_s, min_s=min_s)
        if slots == 1 and isinstance(runner, SlottedRunner):
            point = msgspec.structs.replace(point, compute_s=_compute_s(runner, inputs, budget_s))
        if self._backend.meter is not None:
            self._slowed_by |= dict.fromkeys(self._backend.meter.slowed_by() or ())
        return reading.of(point)

    def _point_budget_s(self) -> float:
        if self._stop_s is None:
            return CELL_S
        left_s = max(self._stop_s - time.perf_counter(), 0.0)
        return min(CELL_S, left_s / max((self._cells - self._behind) * self._max_slots, 1))

    def _progress(self, now: str) -> SweepProgress:
        return SweepProgress(now, self._behind / max(self._cells, 1))

    def _save(self) -> None:
        store.write_json(self._workspace.profile_path(self._device.id), self.profile)


def _compute_s(runner: SlottedRunner, inputs: NamedArrays, budget_s: float) -> float:
    """The mean over a round of runs, or over the fewest where there is no time for one."""
    stop_s = time.perf_counter() + budget_s
    taken_s: list[float] = []
    while len(taken_s) < FEWEST_RUNS or (len(taken_s) < ROUND_RUNS and time.perf_counter() < stop_s):
        taken_s.append(runner.compute_s(inputs))
    return sum(taken_s) / len(taken_s)


def _with_power(measured: VariantProfile, slots: int) -> VariantProfile:
    """What the device draws with so many slots: the most of all batch sizes, as a plan's budget must hold."""
    powers_w = [point.power_w for point in measured.points_at(slots) if point.power_w is not None]
    return msgspec.structs.replace(measured, power_w=max(powers_w)) if powers_w else measured


def _measured_content(profile: Profile) -> tuple[int, tuple[VariantProfile, ...]]:
    """What it says beside when and where it was made."""
    return profile.slots, profile.variants


def accuracy_warnings(catalog: Catalog, profile: Profile) -> list[str]:
    """What a user should know where the measured accuracy isn't the declared one."""
    return [
        f"{variant.name}: the catalog declares accuracy {variant.accuracy:.4f}, measured is {measured.accuracy:.4f}"
        for family in catalog.families
        for variant in family.variants
        if (measured := profile.of(family.name, variant.name)) is not None
        and abs(measured.accuracy - variant.accuracy) > store.ACCURACY_TOLERANCE
    ]


def share(workspace: store.Workspace, profile: Profile, device: Device) -> Profile:
    """Write the same measurements for another device of the same type, unless they are there already."""
    path, shared = workspace.profile_path(device.id), msgspec.structs.replace(profile, device=device)
    if not path.is_file() or workspace.profile(device.id) != shared:
        store.write_json(path, shared)
    return shared
