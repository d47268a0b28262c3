"""A sweep: all measurement jobs of a device, with a valid profile on the disk after each cell."""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import msgspec
import numpy as np

from proteus_cli import store
from proteus_cli.backends.affinity import pinned
from proteus_cli.backends.base import Backend, NamedArrays, Runner, Signature, SlottedRunner
from proteus_cli.backends.free_memory import within_free_memory
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Point, Profile, VariantProfile
from proteus_cli.errors import EngineError, OutOfDeviceMemory
from proteus_cli.profiling.concurrency import measure_concurrently
from proteus_cli.profiling.jobs import MeasurementJob
from proteus_cli.profiling.measure import FEWEST_RUNS, ROUND_RUNS, measure_accuracy, measure_point
from proteus_cli.profiling.power import MIN_S, measuring_power
from proteus_cli.profiling.slots import best_slots, is_settled, missing_points, points_of_batch, useful_slots

CELL_S = 1.0  # the longest that a cell takes, stable or not


SweepProgress = tuple[str, float]
"""What was done last, and the part of the work that is done (0 to 1)."""


class Sweep:
    """Does the measurement jobs of one device, and writes the profile after each cell.

    With a budget, the time that is left is shared equally among the cells that are left. ``measured`` counts the cells
    that were measured, and not taken from the profile as it was.
    """

    def __init__(
        self,
        workspace: store.Workspace,
        device: Device,
        backend: Backend,
        jobs: Sequence[MeasurementJob],
        budget_s: float | None = None,
    ) -> None:
        self._workspace, self._device, self._backend, self._jobs = workspace, device, backend, jobs
        self._stop_s = time.perf_counter() + budget_s if budget_s is not None else None
        self._results = {job.key: job.known for job in jobs if job.known is not None}
        is_there = workspace.profile_path(device.id).is_file()
        self._before = _measured_content(workspace.profile(device.id)) if is_there else (1, ())
        self._max_slots = max((job.max_slots for job in jobs), default=1)
        self._cells = sum(len(job.cells) for job in jobs)
        self._signatures: dict[str, tuple[str, Signature]] = {}
        self._finished = 0
        self.measured = 0
        self._slowed_by: dict[str, None] = {}

    @property
    def slowed_by(self) -> tuple[str, ...]:
        """Why the device's clocks were held down after a measurement, in words: it may be faster than measured."""
        return tuple(self._slowed_by)

    @property
    def profile(self) -> Profile:
        """The profile with all that is known now."""
        done = [(self._results[job.key], job.family.slo_s) for job in self._jobs if job.key in self._results]
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
        """Do the jobs; yields after each cell. Raises `EngineError` and `ArtefactError`; what was measured is kept.

        Where nothing is to be measured, the profile file stays as it is, so plans that were made from it stay current.
        """
        is_cpu = self._device.kind == "cpu"
        with pinned(self._device.cores), within_free_memory("the model") if is_cpu else nullcontext():
            for job in self._jobs:
                finished = self._finished
                if job.cells or job.needs_accuracy:
                    yield from self._run_variant(job)
                self._finished = finished + len(job.cells)  # a sweep that passed its SLO skips the rest
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
                self._finished += 1
                self.measured += 1
                self._save()
                yield self._progress(f"{cell.variant}, batch {cell.batch}")
                if alone.p95_s > job.family.slo_s:
                    return

    def _measure_alone(self, job: MeasurementJob, runner: Runner, batch: int) -> Point:
        """Measure one batch at a time, unless that is known."""
        known = self._results[job.key]
        if (found := next((point for point in known.points if point.batch == batch), None)) is not None:
            return found
        point = self._point(runner, batch)
        self._results[job.key] = msgspec.structs.replace(known, points=(*known.points, point))
        return point

    def _measure_more(self, job: MeasurementJob, runner: SlottedRunner, batch: int) -> None:
        """Measure several batches at once, one more each time, until one more adds nothing or memory is short."""
        while not is_settled(
            points := points_of_batch(self._results[job.key], batch), job.family.slo_s, self._max_slots
        ):
            if not self._measure_with(job, runner, batch, points[-1].slots + 1):
                return

    def _measure_with(self, job: MeasurementJob, runner: SlottedRunner, batch: int, slots: int) -> bool:
        """Measure ``slots`` batches at once; False where there is no memory for them."""
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
        """Measure all variants with as many slots as any of them can use: a device is served with one number."""
        done = [job for job in self._jobs if job.key in self._results]
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
                    self.measured += 1
                    self._save()
                    yield self._progress(f"{job.variant.name}, batch {batch}, {count} slots")

    def _require_same_tensors(self, job: MeasurementJob, signature: Signature) -> None:
        """Compare the variants that were loaded in this sweep; the server compares all of them."""
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
            estimated=job.eval is None and job.variant.estimated,
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
        return min(CELL_S, left_s / max((self._cells - self._finished) * self._max_slots, 1))

    def _progress(self, now: str) -> SweepProgress:
        return now, self._finished / max(self._cells, 1)

    def _save(self) -> None:
        store.write_json(self._workspace.profile_path(self._device.id), self.profile)


def _compute_s(runner: SlottedRunner, inputs: NamedArrays, budget_s: float) -> float:
    """The mean compute time over a round of runs, or over `FEWEST_RUNS` where the budget is too small for one."""
    stop_s = time.perf_counter() + budget_s
    taken_s: list[float] = []
    while len(taken_s) < FEWEST_RUNS or (len(taken_s) < ROUND_RUNS and time.perf_counter() < stop_s):
        taken_s.append(runner.compute_s(inputs))
    return sum(taken_s) / len(taken_s)


def _with_power(measured: VariantProfile, slots: int) -> VariantProfile:
    """With the power drawn with so many slots: the most of all batch sizes, as a plan's budget must hold."""
    powers_w = [point.power_w for point in measured.points_at(slots) if point.power_w is not None]
    return msgspec.structs.replace(measured, power_w=max(powers_w)) if powers_w else measured


def _measured_content(profile: Profile) -> tuple[int, tuple[VariantProfile, ...]]:
    """All that a profile says but when and where it was made."""
    return profile.slots, profile.variants


def accuracy_warnings(catalog: Catalog, profile: Profile) -> list[str]:
    """Warnings for users where the measured accuracy isn't the declared one."""
    return [
        f"{variant.name}: the catalog declares accuracy {variant.accuracy:.4f}, measured is {measured.accuracy:.4f}"
        for family, variant in catalog.variants
        if (measured := profile.of(family.name, variant.name)) is not None
        and abs(measured.accuracy - variant.accuracy) > store.ACCURACY_TOLERANCE
    ]


def share(workspace: store.Workspace, profile: Profile, device: Device) -> Profile:
    """Write the same measurements for another device of the same type, unless its profile has them already."""
    path, shared = workspace.profile_path(device.id), msgspec.structs.replace(profile, device=device)
    if not path.is_file() or workspace.profile(device.id) != shared:
        store.write_json(path, shared)
    return shared
