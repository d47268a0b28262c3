"""Measures single cells of a device: a batch size of a variant, with so many batches at once."""

import time
from collections.abc import Callable, Sequence
from itertools import cycle
from operator import itemgetter

import msgspec
import numpy as np

from proteus_cli.backends.base import Backend, NamedArrays, Runner, SlottedRunner
from proteus_cli.backends.exits.runner import ExitRunner
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Point
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.profiling.exits import batches_of, stage_points, with_points
from proteus_cli.profiling.jobs import MeasurementJob
from proteus_cli.profiling.measuring.concurrency import measure_concurrently
from proteus_cli.profiling.measuring.measure import CELL_S, FEWEST_RUNS, ROUND_RUNS, measure_point
from proteus_cli.profiling.measuring.noise import NOISE_FRAC, gives_way, noise_frac, observing, own_waits
from proteus_cli.profiling.measuring.power import MIN_S, measuring_power
from proteus_cli.store.eval_splits import labelled_rows

MAX_REPEATS = 2
"""Of a noisy cell. What disturbs it longer than that is for the next `proteus profile`, which measures it again."""


class PointMeter:
    """Measures cells of the variants of one device."""

    def __init__(self, device: Device, backend: Backend) -> None:
        self._device, self._backend = device, backend
        self._eval_rows: dict[tuple[str, str], NamedArrays] = {}
        self._slowed_by: dict[str, None] = {}

    @property
    def slowed_by(self) -> tuple[str, ...]:
        """Why the device's clocks were held down after a measurement, in words: it may be faster than measured."""
        return tuple(self._slowed_by)

    def point(
        self, job: MeasurementJob, runner: Runner, batch: int, *, slots: int, stop_s: float, cells_left: int
    ) -> Point:
        """The least noisy of a marked point, and of what is measured: again while it is noisy and there is time.

        A measurement takes an equal part of the time until ``stop_s``, which is for so many cells.
        """
        found = [point for point in job.marked if (point.batch, point.slots) == (batch, slots)]
        for _ in range(1 + MAX_REPEATS):
            start_s = time.perf_counter()
            budget_s = max(stop_s - start_s, 0.0) / cells_left
            found.append(self._measured_once(job, runner, batch, budget_s, slots))
            now_s = time.perf_counter()
            if not found[-1].noise_frac or now_s + (now_s - start_s) > stop_s:
                break
        return min(found, key=lambda point: point.noise_frac)

    def exits(
        self, job: MeasurementJob, runner: ExitRunner, known: Sequence[ExitProfile], batch: int
    ) -> tuple[ExitProfile, ...]:
        """What is known of the exits, with the times of each stage at a batch size.

        As with points, the least disturbed of up to three measurements counts: others move the highest percentiles
        first. Stages have no mark of their own, as that of the point tells of the same minute.
        """
        found: list[tuple[float, tuple[StagePoint, ...]]] = []
        for _ in range(1 + MAX_REPEATS):
            with observing(self._device.cores) as waiting:
                points = stage_points(runner, self._batches(job, runner, batch), CELL_S)
            found.append((waiting.frac, points))
            if job.accepts_noise or waiting.frac <= NOISE_FRAC:
                break
        return with_points(known, min(found, key=itemgetter(0))[1])

    def _measured_once(self, job: MeasurementJob, runner: Runner, batch: int, budget_s: float, slots: int) -> Point:
        batches, meter = self._batches(job, runner, batch), self._backend.meter
        next_batch = cycle(batches).__next__
        min_s = MIN_S if meter is not None else 0.0
        with measuring_power(meter) as reading, observing(self._device.cores) as waiting:
            if slots == 1:
                with own_waits() as waits_s:
                    point = measure_point(
                        lambda: runner.infer(next_batch()), batch, budget_s, min_s=min_s, waited_s=waits_s
                    )
            else:
                longest_s = min(budget_s, CELL_S)
                point = measure_concurrently(lambda: runner.infer(next_batch()), batch, slots, longest_s, min_s=min_s)
        if not job.accepts_noise:
            waiting_frac = 0.0 if gives_way() else waiting.frac
            point = msgspec.structs.replace(
                point, noise_frac=noise_frac(point, waiting_frac, runs_are_alike=len(batches) == 1)
            )
        if slots == 1 and isinstance(runner, SlottedRunner):
            point = msgspec.structs.replace(point, compute_s=_compute_s(runner, next_batch, min(budget_s, CELL_S)))
        if meter is not None:
            self._slowed_by |= dict.fromkeys(meter.slowed_by() or ())
        return reading.of(point)

    def _batches(self, job: MeasurementJob, runner: Runner, batch: int) -> list[NamedArrays]:
        """What a batch size is measured with: random values, unless the work depends on the rows."""
        if not isinstance(runner, ExitRunner):
            return [runner.signature.sample(batch, np.random.default_rng(0))]
        if job.eval is not None and job.key not in self._eval_rows:
            self._eval_rows = {
                job.key: labelled_rows(job.eval, runner.signature.inputs)[0]
            }  # those of one variant at a time
        return batches_of(runner.signature, self._eval_rows.get(job.key), batch)


def _compute_s(runner: SlottedRunner, next_batch: Callable[[], NamedArrays], budget_s: float) -> float:
    """The mean compute time over a round of runs, or over `FEWEST_RUNS` where the budget is too small for one."""
    stop_s = time.perf_counter() + budget_s
    taken_s: list[float] = []
    while len(taken_s) < FEWEST_RUNS or (len(taken_s) < ROUND_RUNS and time.perf_counter() < stop_s):
        taken_s.append(runner.compute_s(next_batch()))
    return sum(taken_s) / len(taken_s)
