"""A sweep: all measurement jobs of a device, with a valid profile on the disk after each cell."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import msgspec

from proteus_cli import store
from proteus_cli.backends.affinity import pinned
from proteus_cli.backends.base import Backend, Runner, Signature, SlottedRunner
from proteus_cli.backends.exits.runner import ExitRunner
from proteus_cli.backends.free_memory import within_free_memory
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Point, Profile
from proteus_cli.errors import EngineError, OutOfDeviceMemory
from proteus_cli.profiling.answers import confidence_output
from proteus_cli.profiling.batch_sizes import next_size
from proteus_cli.profiling.cells import CellMeter
from proteus_cli.profiling.closed_loop import FEWEST_RUNS, WARM_UP_RUNS
from proteus_cli.profiling.jobs import MeasurementJob, ProfileCell
from proteus_cli.profiling.results import SweepResults
from proteus_cli.profiling.slots import is_settled, missing_points, points_of_batch, useful_slots
from proteus_cli.store.eval_splits import eval_rows
from proteus_cli.units import counted

SweepProgress = tuple[str, float]
"""The last step, and the part of the work that is done (0 to 1)."""

CHEAP_FRAC = 0.5
"""An accuracy that takes no more of a variant's time is measured before further cells, and repeats of noisy ones."""


class Sweep:
    """Does the measurement jobs of one device, and writes the profile after each cell.

    With a budget, each variant has an equal share of the time that is left at its turn. The rest of the time is for
    cells that did not fit a share. A batch size of 2 or more is measured only if its fewest runs fit, or take less than
    to load the model again for them later. The accuracy comes as soon as it takes at most half of the time left, else
    last. If it never fits, the accuracy of the catalog stands. After the budget, batch sizes that are known are not
    measured with more slots. Builds of engines, which are kept, come on top: ``built_s`` seconds. ``measured`` counts
    the cells that were measured, and not taken from the profile as it was.
    """

    def __init__(
        self,
        workspace: store.Workspace,
        device: Device,
        backend: Backend,
        jobs: Sequence[MeasurementJob],
        budget_s: float | None = None,
    ) -> None:
        self.device, self._backend, self._jobs = device, backend, jobs
        self._stop_s = time.perf_counter() + budget_s if budget_s is not None else math.inf
        self.results, self._meter = SweepResults(workspace, device, backend, jobs), CellMeter(device, backend)
        self._signatures: dict[str, dict[str, Signature]] = {}  # by family and variant
        self._cells, self._done_frac = sum(len(job.cells) for job in jobs), 0.0
        self._late: dict[ProfileCell, None] = {}
        self.measured, self.built_s = 0, 0.0

    @property
    def missing(self) -> tuple[ProfileCell, ...]:
        """The cells that are still to be measured, or to be measured with more slots."""
        return (*self.results.unmeasured, *self._late)

    @property
    def slowed_by(self) -> tuple[str, ...]:
        """Why the device's clocks were held down after a measurement, in words: it may be faster than measured."""
        return tuple(self._meter.slowed_by)

    def run(self) -> Iterator[SweepProgress]:
        """Do the jobs; yields after each cell. Raises `EngineError` and `ArtefactError`; what was measured is kept.

        Without missing cells the profile file stays as it is, and so do the plans that were made from it.
        """
        is_cpu = self.device.kind == "cpu"
        with pinned(self.device.cores), within_free_memory("the model") if is_cpu else nullcontext():
            todo = [job for job in self._jobs if job.cells or self.results.lacks_answers_of(job)]
            for count, job in zip(range(len(todo), 0, -1), todo, strict=True):
                now_s = time.perf_counter()
                yield from self._run_variant(job, now_s + (self._stop_s - now_s) / count)
            without_accuracy_first = sorted(todo, key=self.results.lacks_answers_of, reverse=True)
            for job in without_accuracy_first if self._stop_s < math.inf else ():
                known = self.results[job.key]
                if self._lacks(job) and time.perf_counter() + known.load_s < self._stop_s:
                    yield from self._run_variant(job, self._stop_s)
            yield from self._measure_missing_slots()
        self.results.save_changes()

    def _lacks(self, job: MeasurementJob) -> bool:
        return self._next_size(job, math.inf) is not None or self.results.lacks_answers_of(job)

    def _run_variant(self, job: MeasurementJob, stop_s: float) -> Iterator[SweepProgress]:
        """Load a variant, and measure of it what fits until ``stop_s``."""
        prepare_s = time.perf_counter()
        build_s = self._backend.prepare(job.model, job.key)
        start_s = time.perf_counter()
        built_s = start_s - prepare_s
        stop_s, self._stop_s, self.built_s = stop_s + built_s, self._stop_s + built_s, self.built_s + built_s
        with self._backend.runner(job.model, job.key) as runner:
            load_s = time.perf_counter() - start_s
            self._require_same_tensors(job, runner.signature)
            confidence_output(job.family, runner.signature)  # an error of the catalog is told before it takes time
            self.results.add_load(job, runner, build_s, load_s)
            yield self._progress(f"{job.variant.name}, loaded")
            if self.results[job.key].points:
                yield from self._verified(job, runner, stop_s, most_frac=CHEAP_FRAC)
            if isinstance(runner, SlottedRunner):
                for batch in job.unsettled(self.results[job.key]):
                    if time.perf_counter() >= self._stop_s:
                        self._late[ProfileCell(*job.key, batch)] = None
                        continue
                    self._measure_more(job, runner, batch, stop_s)
                    yield self._measured(job, batch)
            while (size := self._next_size(job, self._left_s(job, stop_s))) is not None:
                self._measure_alone(job, runner, size, stop_s)
                yield from self._verified(job, runner, stop_s, most_frac=CHEAP_FRAC)
                if isinstance(runner, SlottedRunner):
                    self._measure_more(job, runner, size, stop_s)
                yield self._measured(job, size)
            yield from self._verified(job, runner, stop_s, most_frac=1.0)

    def _verified(
        self, job: MeasurementJob, runner: Runner, stop_s: float, *, most_frac: float
    ) -> Iterator[SweepProgress]:
        """Measure the accuracy and the answers if they are lacking, within this part of the time until ``stop_s``."""
        if self.results.lacks_answers_of(job) and self._accuracy_s(job) <= most_frac * self._left_s(job, stop_s):
            self.results.measure_answers(job, runner)
            self.results.save()
            yield self._progress(f"{job.variant.name}, accuracy")

    def _left_s(self, job: MeasurementJob, stop_s: float) -> float:
        """The time that the next measurement may take: what takes less than a load is not worth another load."""
        return max(stop_s - time.perf_counter(), self.results[job.key].load_s)

    def _next_size(self, job: MeasurementJob, left_s: float) -> int | None:
        longest_s = left_s / ((WARM_UP_RUNS + FEWEST_RUNS) * self.results.max_slots)
        return next_size(self.results[job.key].points, job.family.slo_s, job.max_batch, longest_s)

    def _measured(self, job: MeasurementJob, batch: int) -> SweepProgress:
        self._save_counted()
        return self._progress(f"{job.variant.name}, batch {batch}")

    def _save_counted(self) -> None:
        """Count a cell and save it: both, or none, where Ctrl-C comes."""
        with store.interrupts_deferred():
            self.measured += 1
            self.results.save()

    def _measure_alone(self, job: MeasurementJob, runner: Runner, batch: int, stop_s: float) -> None:
        """Measure one batch at a time; of a multi-exit model, its stages as well."""
        point, exits = self._point(job, runner, batch, stop_s), self.results[job.key].exits
        if isinstance(runner, ExitRunner):
            exits = self._meter.exits(job, runner, exits, batch)
        self.results.add_point(job.key, point, exits)

    def _accuracy_s(self, job: MeasurementJob) -> float:
        """The time that measuring the accuracy is expected to take, by the cost per row of the largest batch."""
        assert job.eval is not None  # noqa: S101 - else no accuracy is lacking
        last = self.results[job.key].points[-1]
        return eval_rows(job.eval) * last.p50_s / last.batch

    def _measure_more(self, job: MeasurementJob, runner: SlottedRunner, batch: int, stop_s: float) -> None:
        """Measure several batches at once, one more each time, until one more adds nothing or memory is short."""
        while not is_settled(
            points := points_of_batch(self.results[job.key], batch), job.family.slo_s, self.results.max_slots
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
        self.results.add_concurrent(job.key, self._point(job, runner, batch, stop_s, slots), runner.slot_bytes)
        return True

    def _measure_missing_slots(self) -> Iterator[SweepProgress]:
        """Measure all variants with as many slots as any of them can use: a device is served with one number."""
        started = self.results.started
        numbers = (useful_slots(points_of_batch(known, p.batch)) for _, known in started for p in known.points)
        slots = min(max(numbers, default=1), self.results.max_slots)
        for job, known in started:
            left = list(missing_points(known, job.family.slo_s, slots))
            if left and time.perf_counter() + known.load_s < self._stop_s:
                with self._backend.runner(job.model, job.key) as runner:
                    if isinstance(runner, SlottedRunner):
                        yield from self._measure_slots(job, runner, left)
            self._late |= dict.fromkeys(ProfileCell(*job.key, batch) for batch, _ in left)

    def _measure_slots(
        self, job: MeasurementJob, runner: SlottedRunner, left: list[tuple[int, int]]
    ) -> Iterator[SweepProgress]:
        """Measure each (batch, slots) while there is time, and leave the late ones in ``left``."""
        while left and time.perf_counter() < self._stop_s:
            batch, count = left.pop(0)
            if not self._measure_with(job, runner, batch, count, self._stop_s):
                left.clear()  # there is no memory for them, at any time
                return
            self._save_counted()
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

    def _point(self, job: MeasurementJob, runner: Runner, batch: int, stop_s: float, slots: int = 1) -> Point:
        cells_left = max(len(self.results.unmeasured_of(job)), 1) * self.results.max_slots
        return self._meter.point(job, runner, batch, slots=slots, stop_s=stop_s, cells_left=cells_left)

    def _progress(self, now: str) -> SweepProgress:
        """It never falls: a cell may show that more of the sizes are useful than was thought."""
        done_frac = 1 - len(self.missing) / self._cells if self._cells else 1.0
        self._done_frac = max(self._done_frac, done_frac)
        return now, self._done_frac


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
