"""A sweep: all measurement jobs of a device, with a valid profile on the disk after each cell."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import cycle

import msgspec
import numpy as np

from proteus_cli import store
from proteus_cli.backends.affinity import pinned
from proteus_cli.backends.base import Backend, NamedArrays, Runner, Signature, SlottedRunner
from proteus_cli.backends.exits.runner import ExitRunner
from proteus_cli.backends.free_memory import within_free_memory
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Point, Profile, VariantProfile
from proteus_cli.errors import EngineError, OutOfDeviceMemory
from proteus_cli.profiling.batch_sizes import next_size
from proteus_cli.profiling.cascades.collected import CollectedAnswers
from proteus_cli.profiling.cascades.pairs import Found
from proteus_cli.profiling.concurrency import measure_concurrently
from proteus_cli.profiling.exits import batches_of, judged, stage_points, unjudged, with_points
from proteus_cli.profiling.jobs import Cell, MeasurementJob
from proteus_cli.profiling.measure import (
    CELL_S,
    FEWEST_RUNS,
    ROUND_RUNS,
    WARM_UP_RUNS,
    confidence_output,
    measure_answers,
    measure_point,
)
from proteus_cli.profiling.noise import noise_frac, observing
from proteus_cli.profiling.power import MIN_S, measuring_power
from proteus_cli.profiling.slots import best_slots, is_settled, missing_points, points_of_batch, useful_slots
from proteus_cli.store.eval_splits import eval_rows, labelled_rows
from proteus_cli.units import counted

MAX_REPEATS = 2
"""Of a noisy cell. What disturbs it longer than that is for the next `proteus profile`, which measures it again."""

SweepProgress = tuple[str, float]
"""What was done last, and the part of the work that is done (0 to 1)."""


class Sweep:
    """Does the measurement jobs of one device, and writes the profile after each cell.

    With a budget, each variant has an equal share of the time that is left when its turn comes, and the time that is
    left after all of them is for what did not fit a share. A batch size of 2 or more is measured only if its fewest
    runs fit, or take less than to load the model again for them later. The accuracy comes last; where the catalog has
    an estimate, it comes as soon as it fits. If it never fits, that of the catalog stands. After the budget, batch
    sizes that are known are not measured with more slots. Builds of engines, which are kept, come on top. ``measured``
    counts the cells that were measured, and not taken from the profile as it was.
    """

    def __init__(
        self,
        workspace: store.Workspace,
        device: Device,
        backend: Backend,
        jobs: Sequence[MeasurementJob],
        budget_s: float | None = None,
    ) -> None:
        self._workspace, self.device, self._backend, self._jobs = workspace, device, backend, jobs
        self._stop_s = time.perf_counter() + budget_s if budget_s is not None else math.inf
        self._results = {job.key: job.known for job in jobs if job.known is not None}
        is_there = workspace.profile_path(device.id).is_file()
        before = workspace.profile(device.id) if is_there else None
        self._before = _measured_content(before) if before is not None else (device.type, 1, (), ())
        self._is_shared = before is not None and before.measured_on != device.id
        self._answers = CollectedAnswers(workspace.answers_path(device.id), jobs)
        self._max_slots = max((job.max_slots for job in jobs), default=1)
        self._eval_rows: dict[VariantKey, NamedArrays] = {}
        self._signatures: dict[str, dict[str, Signature]] = {}  # by family and variant
        self._cells, self._done_frac = sum(len(job.cells) for job in jobs), 0.0
        self._late: dict[Cell, None] = {}
        self.measured = 0
        self._slowed_by: dict[str, None] = {}

    @property
    def missing(self) -> tuple[Cell, ...]:
        """The cells that are still to be measured, or to be measured with more slots."""
        unmeasured = (cell for job in self._jobs for cell in job.unmeasured(self._results.get(job.key)))
        return (*unmeasured, *self._late)

    @property
    def unverified(self) -> tuple[VariantProfile, ...]:
        """The variants whose accuracy is that of the catalog, though there is an eval split to measure it on."""
        done = ((job, self._results[job.key]) for job in self._jobs if job.key in self._results)
        return tuple(known for job, known in done if job.lacks_accuracy(known))

    @property
    def lacks_answers(self) -> bool:
        """Whether there are variants of which accuracy or answers are still to be measured on an eval split."""
        return any(self._lacks_answers(job) for job in self._jobs)

    @property
    def no_longer_estimated(self) -> tuple[VariantProfile, ...]:
        """The variants whose accuracy was measured, while the catalog has an estimate."""
        done = ((job, self._results[job.key]) for job in self._jobs if job.key in self._results)
        measured = ((job, known) for job, known in done if job.lacks_accuracy(job.known))
        return tuple(known for job, known in measured if job.variant.estimated and not job.lacks_accuracy(known))

    @property
    def cascades(self) -> dict[str, Found]:
        """The cascades of each family with an eval split and several variants, as far as is known now."""
        return self._answers.cascades(self._results)

    @property
    def slowed_by(self) -> tuple[str, ...]:
        """Why the device's clocks were held down after a measurement, in words: it may be faster than measured."""
        return tuple(self._slowed_by)

    @property
    def profile(self) -> Profile:
        """The profile with all that is known now."""
        done = [
            (_with_marked(self._results[job.key], job.marked), job.family.slo_s)
            for job in self._jobs
            if job.key in self._results
        ]
        slots = best_slots(done, self._max_slots)
        return Profile(
            format=FORMAT,
            made_by=store.made_by(),
            device=self.device,
            measured_on=self.device.id,
            backend=self._backend.versions,
            variants=tuple(_with_power(measured, slots) for measured, _ in done),
            slots=slots,
            cascades=tuple(cascade for found in self.cascades.values() for cascade in found.cascades),
        )

    def run(self) -> Iterator[SweepProgress]:
        """Do the jobs; yields after each cell. Raises `EngineError` and `ArtefactError`; what was measured is kept.

        Where nothing is to be measured, the profile file stays as it is, so plans that were made from it stay current.
        """
        is_cpu = self.device.kind == "cpu"
        with pinned(self.device.cores), within_free_memory("the model") if is_cpu else nullcontext():
            todo = [job for job in self._jobs if job.cells or self._lacks_answers(job)]
            for count, job in zip(range(len(todo), 0, -1), todo, strict=True):
                now_s = time.perf_counter()
                yield from self._run_variant(job, now_s + (self._stop_s - now_s) / count)
            for job in todo if self._stop_s < math.inf else ():
                known = self._results[job.key]
                if self._lacks(job) and time.perf_counter() + known.load_s < self._stop_s:
                    yield from self._run_variant(job, self._stop_s)
            yield from self._measure_missing_slots()
        if _measured_content(self.profile) != self._before:
            self._save()
        elif not self._is_shared:
            self._answers.save()

    def _lacks(self, job: MeasurementJob) -> bool:
        return self._next_size(job, math.inf) is not None or self._lacks_answers(job)

    def _lacks_answers(self, job: MeasurementJob) -> bool:
        """Whether there is an eval split on which the accuracy, or single answers, are still to be measured."""
        return job.lacks_accuracy(self._results.get(job.key)) or self._answers.lack(job)

    def _run_variant(self, job: MeasurementJob, stop_s: float) -> Iterator[SweepProgress]:
        """Load a variant, and measure of it what fits until ``stop_s``."""
        prepare_s = time.perf_counter()
        build_s = self._backend.prepare(job.model, job.key)
        start_s = time.perf_counter()
        stop_s, self._stop_s = stop_s + start_s - prepare_s, self._stop_s + start_s - prepare_s
        with self._backend.runner(job.model, job.key) as runner:
            load_s = time.perf_counter() - start_s
            self._require_same_tensors(job, runner.signature)
            confidence_output(job.family, runner.signature)  # an error of the catalog is told before it takes time
            self._results[job.key] = self._loaded(job, runner, build_s, load_s)
            yield self._progress(f"{job.variant.name}, loaded")
            if isinstance(runner, SlottedRunner):
                for batch in job.unsettled(self._results[job.key]):
                    if time.perf_counter() >= self._stop_s:
                        self._late[Cell(*job.key, batch)] = None
                        continue
                    self._measure_more(job, runner, batch, stop_s)
                    yield self._measured(job, batch)
            while (size := self._next_size(job, self._left_s(job, stop_s))) is not None:
                self._measure_alone(job, runner, size, stop_s)
                if isinstance(runner, SlottedRunner):
                    self._measure_more(job, runner, size, stop_s)
                yield self._measured(job, size)
                if job.variant.estimated:
                    yield from self._verified(job, runner, stop_s)
            yield from self._verified(job, runner, stop_s)

    def _verified(self, job: MeasurementJob, runner: Runner, stop_s: float) -> Iterator[SweepProgress]:
        """Measure the accuracy and the answers if they are lacking, and fit until ``stop_s``."""
        if self._lacks_answers(job) and self._accuracy_s(job) <= self._left_s(job, stop_s):
            self._measure_accuracy(job, runner)
            self._save()
            yield self._progress(f"{job.variant.name}, accuracy")

    def _left_s(self, job: MeasurementJob, stop_s: float) -> float:
        """The time that the next measurement may take: what takes less than a load is not worth another load."""
        return max(stop_s - time.perf_counter(), self._results[job.key].load_s)

    def _next_size(self, job: MeasurementJob, left_s: float) -> int | None:
        longest_s = left_s / ((WARM_UP_RUNS + FEWEST_RUNS) * self._max_slots)
        return next_size(self._results[job.key].points, job.family.slo_s, job.max_batch, longest_s)

    def _measured(self, job: MeasurementJob, batch: int) -> SweepProgress:
        self.measured += 1
        self._save()
        return self._progress(f"{job.variant.name}, batch {batch}")

    def _measure_alone(self, job: MeasurementJob, runner: Runner, batch: int, stop_s: float) -> None:
        """Measure one batch at a time; of a multi-exit model, its stages as well."""
        point, known = self._point(job, runner, batch, stop_s), self._results[job.key]
        points, exits = sorted((*known.points, point), key=lambda each: each.batch), known.exits
        if isinstance(runner, ExitRunner):
            exits = with_points(exits, stage_points(runner, self._batches(job, runner, batch), CELL_S))
        self._results[job.key] = msgspec.structs.replace(known, points=tuple(points), exits=exits)

    def _accuracy_s(self, job: MeasurementJob) -> float:
        """The time that measuring the accuracy is expected to take, by the cost per row of the largest batch."""
        assert job.eval is not None  # noqa: S101 - else no accuracy is lacking
        last = self._results[job.key].points[-1]
        return eval_rows(job.eval) * last.p50_s / last.batch

    def _measure_accuracy(self, job: MeasurementJob, runner: Runner) -> None:
        assert job.eval is not None  # noqa: S101 - else no accuracy is lacking
        measured = measure_answers(runner, job.eval, confidence_output(job.family, runner.signature))
        self._answers.add(job, measured)
        known = self._results[job.key]
        exits = judged(known.exits, runner, job.eval) if isinstance(runner, ExitRunner) else known.exits
        self._results[job.key] = msgspec.structs.replace(
            known, accuracy=measured.accuracy, eval_digest=job.eval_digest, estimated=False, exits=exits
        )

    def _batches(self, job: MeasurementJob, runner: Runner, batch: int) -> list[NamedArrays]:
        """What a batch size is measured with: random values, unless the work depends on the rows."""
        if not isinstance(runner, ExitRunner):
            return [runner.signature.sample(batch, np.random.default_rng(0))]
        if job.eval is not None and job.key not in self._eval_rows:
            self._eval_rows = {
                job.key: labelled_rows(job.eval, runner.signature.inputs)[0]
            }  # those of one variant at a time
        return batches_of(runner.signature, self._eval_rows.get(job.key), batch)

    def _measure_more(self, job: MeasurementJob, runner: SlottedRunner, batch: int, stop_s: float) -> None:
        """Measure several batches at once, one more each time, until one more adds nothing or memory is short."""
        while not is_settled(
            points := points_of_batch(self._results[job.key], batch), job.family.slo_s, self._max_slots
        ):
            if not self._measure_with(job, runner, batch, points[-1].slots + 1, stop_s):
                return

    def _measure_with(self, job: MeasurementJob, runner: SlottedRunner, batch: int, slots: int, stop_s: float) -> bool:
        """Measure ``slots`` batches at once; False where there is no memory for them."""
        try:
            while runner.slots < slots:
                runner.add_slot()
        except OutOfDeviceMemory:
            return False
        point, known = self._point(job, runner, batch, stop_s, slots), self._results[job.key]
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
            known = self._results[job.key]
            left = list(missing_points(known, job.family.slo_s, slots))
            if left and time.perf_counter() + known.load_s < self._stop_s:
                with self._backend.runner(job.model, job.key) as runner:
                    if isinstance(runner, SlottedRunner):
                        yield from self._measure_slots(job, runner, left)
            self._late |= dict.fromkeys(Cell(*job.key, batch) for batch, _ in left)

    def _measure_slots(
        self, job: MeasurementJob, runner: SlottedRunner, left: list[tuple[int, int]]
    ) -> Iterator[SweepProgress]:
        """Measure each (batch, slots) while there is time, and leave in ``left`` those that it was too late for."""
        while left and time.perf_counter() < self._stop_s:
            batch, count = left.pop(0)
            if not self._measure_with(job, runner, batch, count, self._stop_s):
                left.clear()  # there is no memory for them, at any time
                return
            self.measured += 1
            self._save()
            yield self._progress(f"{job.variant.name}, batch {batch}, {counted(count, 'slot')}")

    def _require_same_tensors(self, job: MeasurementJob, signature: Signature) -> None:
        """Compare the variants that were loaded in this sweep; the server compares all of them."""
        loaded = self._signatures.setdefault(job.family.name, {})
        for other, expected in loaded.items():
            if different := signature.differences(expected):
                raise EngineError(
                    f"`{job.variant.name}` takes or gives other tensors than `{other}` of the same family "
                    f"`{job.family.name}`: {'; '.join(different)}.",
                    hint="queries of a family must fit each of its variants; make it a family of its own",
                )
        loaded[job.variant.name] = signature

    def _loaded(self, job: MeasurementJob, runner: Runner, build_s: float, load_s: float) -> VariantProfile:
        """What is known of a variant now that it was loaded; a second load in one sweep changes nothing."""
        known = self._results.get(job.key)
        if known is not None and known is not job.known:
            return known
        is_known = known is not None and not job.lacks_accuracy(known)
        return VariantProfile(
            family=job.family.name,
            variant=job.variant.name,
            accuracy=known.accuracy if known is not None and is_known else job.variant.accuracy,
            model_digest=job.model_digest,
            engine_digest=job.engine_digest,
            eval_digest=job.eval_digest if is_known else None,
            build_s=build_s,
            load_s=load_s,
            memory_bytes=runner.memory_bytes,
            points=known.points if known is not None else (),
            slot_bytes=known.slot_bytes if known is not None else 0,
            concurrent=known.concurrent if known is not None else (),
            estimated=job.variant.estimated and not (is_known and job.eval is not None),
            recorded=known.recorded if known is not None else msgspec.UNSET,
            exits=() if known is None else known.exits if is_known else tuple(map(unjudged, known.exits)),
        )

    def _point(self, job: MeasurementJob, runner: Runner, batch: int, stop_s: float, slots: int = 1) -> Point:
        """The least noisy of a marked point, and of what is measured: again while it is noisy and there is time."""
        found = [point for point in job.marked if (point.batch, point.slots) == (batch, slots)]
        for _ in range(1 + MAX_REPEATS):
            start_s = time.perf_counter()
            found.append(self._measure_once(job, runner, batch, self._point_budget_s(job, stop_s), slots))
            now_s = time.perf_counter()
            if not found[-1].noise_frac or now_s + (now_s - start_s) > stop_s:
                break
        return min(found, key=lambda point: point.noise_frac)

    def _measure_once(self, job: MeasurementJob, runner: Runner, batch: int, budget_s: float, slots: int) -> Point:
        batches = self._batches(job, runner, batch)
        inputs, next_batch = batches[0], cycle(batches).__next__
        min_s = MIN_S if self._backend.meter is not None else 0.0
        with measuring_power(self._backend.meter) as reading, observing(self.device.cores) as waiting:
            if slots == 1:
                point = measure_point(lambda: runner.infer(next_batch()), batch, budget_s, min_s=min_s)
            else:
                point = measure_concurrently(lambda: runner.infer(inputs), batch, slots, budget_s, min_s=min_s)
        if not job.accepts_noise:
            point = msgspec.structs.replace(
                point, noise_frac=noise_frac(point, waiting.frac, runs_are_alike=len(batches) == 1)
            )
        if slots == 1 and isinstance(runner, SlottedRunner):
            point = msgspec.structs.replace(point, compute_s=_compute_s(runner, inputs, budget_s))
        if self._backend.meter is not None:
            self._slowed_by |= dict.fromkeys(self._backend.meter.slowed_by() or ())
        return reading.of(point)

    def _point_budget_s(self, job: MeasurementJob, stop_s: float) -> float:
        """An equal part, for each cell that the variant still lacks, of the time until ``stop_s``."""
        left_s = max(stop_s - time.perf_counter(), 0.0)
        cells = len(job.unmeasured(self._results[job.key]))
        return min(CELL_S, left_s / (max(cells, 1) * self._max_slots))

    def _progress(self, now: str) -> SweepProgress:
        """It never falls: a cell may show that more of the sizes are useful than was thought."""
        done_frac = 1 - len(self.missing) / self._cells if self._cells else 1.0
        self._done_frac = max(self._done_frac, done_frac)
        return now, self._done_frac

    def _save(self) -> None:
        self._answers.save()
        self._is_shared = False
        store.write_json(self._workspace.profile_path(self.device.id), self.profile)


def _compute_s(runner: SlottedRunner, inputs: NamedArrays, budget_s: float) -> float:
    """The mean compute time over a round of runs, or over `FEWEST_RUNS` where the budget is too small for one."""
    stop_s = time.perf_counter() + budget_s
    taken_s: list[float] = []
    while len(taken_s) < FEWEST_RUNS or (len(taken_s) < ROUND_RUNS and time.perf_counter() < stop_s):
        taken_s.append(runner.compute_s(inputs))
    return sum(taken_s) / len(taken_s)


def _with_marked(measured: VariantProfile, marked: Sequence[Point]) -> VariantProfile:
    """With the marked points that were not measured again."""
    there = {(point.batch, point.slots) for point in (*measured.points, *measured.concurrent)}
    kept = [point for point in marked if (point.batch, point.slots) not in there]
    if not kept:
        return measured
    both = sorted((*measured.points, *measured.concurrent, *kept), key=lambda point: (point.batch, point.slots))
    return msgspec.structs.replace(
        measured,
        points=tuple(point for point in both if point.slots == 1),
        concurrent=tuple(point for point in both if point.slots > 1),
    )


def _with_power(measured: VariantProfile, slots: int) -> VariantProfile:
    """With the power drawn with so many slots: the most of all batch sizes, as a plan's budget must hold."""
    powers_w = [point.power_w for point in measured.points_at(slots) if point.power_w is not None]
    return msgspec.structs.replace(measured, power_w=max(powers_w)) if powers_w else measured


def _measured_content(profile: Profile) -> tuple[object, ...]:
    """All that a profile says but when and where it was made."""
    return profile.device.type, profile.slots, profile.variants, profile.cascades


def accuracy_warnings(catalog: Catalog, profile: Profile) -> list[str]:
    """Warnings for users where the measured accuracy isn't the declared one. Estimates are there to be replaced."""
    return [
        f"{catalog.label(measured.key)}: the catalog declares accuracy {variant.accuracy:.4f}, "
        f"measured is {measured.accuracy:.4f}"
        for family, variant in catalog.variants
        if (measured := profile.of(family.name, variant.name)) is not None
        and not variant.estimated
        and abs(measured.accuracy - variant.accuracy) > store.ACCURACY_TOLERANCE
    ]


def share(workspace: store.Workspace, profile: Profile, device: Device) -> Profile:
    """Write the same measurements for another device of the same type, unless its profile has them already."""
    path, shared = workspace.profile_path(device.id), msgspec.structs.replace(profile, device=device)
    if not path.is_file() or workspace.profile(device.id) != shared:
        store.write_json(path, shared)
    return shared
