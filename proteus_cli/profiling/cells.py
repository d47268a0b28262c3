"""Measures single cells of a device: a batch size of a variant, with a number of batches at once, and its power."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import cycle
from operator import itemgetter

import numpy as np
from msgspec.structs import replace

from proteus_cli.backends.base import Backend, NamedArrays, PowerMeter, Runner, SlottedRunner
from proteus_cli.backends.exits.runner import ExitRunner
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Point
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.profiling.closed_loop import CELL_S, FEWEST_RUNS, ROUND_RUNS, measure_point
from proteus_cli.profiling.exits import batches_of, stage_points, with_points
from proteus_cli.profiling.jobs import MeasurementJob
from proteus_cli.profiling.noise import NOISE_FRAC, gives_way, noise_frac, observing
from proteus_cli.store.eval_splits import labelled_rows

MAX_REPEATS = 2
"""Maximum number of repeats of a noisy cell. The next `proteus profile` measures it again."""
MIN_POWER_S = 0.5
"""Minimum time of a measurement of power: meters lag."""
SAMPLE_EVERY_S = 0.05


class CellMeter:
    """Measures cells of the variants of one device.

    ``slowed_by``: why the device's clocks were held down after a measurement, in words. It may be faster than measured.
    """

    def __init__(self, device: Device, backend: Backend) -> None:
        self._device, self._backend = device, backend
        self._eval_rows: dict[tuple[str, str], NamedArrays] = {}
        self.slowed_by: dict[str, None] = {}

    def point(
        self, job: MeasurementJob, runner: Runner, batch: int, *, slots: int, stop_s: float, cells_left: int
    ) -> Point:
        """The least noisy of the marked point and the new ones: a noisy cell is repeated while there is time.

        A measurement takes an equal part of the time until ``stop_s``, which is for ``cells_left`` cells.
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
        """The known exits with the times of each stage at a batch size: the least disturbed of up to three."""
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
        next_batch, min_s = cycle(batches).__next__, MIN_POWER_S if meter is not None else 0.0
        with measuring_power(meter) as with_power, observing(self._device.cores) as waiting:
            point = measure_point(lambda: runner.infer(next_batch()), batch, budget_s, slots=slots, min_s=min_s)
        if not job.accepts_noise:
            waiting_frac = 0.0 if gives_way() else waiting.frac
            point = replace(point, noise_frac=noise_frac(point, waiting_frac, runs_are_alike=len(batches) == 1))
        if slots == 1 and isinstance(runner, SlottedRunner):
            point = replace(point, compute_s=_compute_s(runner, next_batch, min(budget_s, CELL_S)))
        if meter is not None:
            self.slowed_by |= dict.fromkeys(meter.slowed_by() or ())
        return with_power(point)

    def _batches(self, job: MeasurementJob, runner: Runner, batch: int) -> list[NamedArrays]:
        """The inputs of a batch size: one batch of random values, or several where the work depends on the rows."""
        if not isinstance(runner, ExitRunner):
            return [runner.signature.sample(batch, np.random.default_rng(0))]
        if job.eval is not None and job.key not in self._eval_rows:  # rows of one variant at a time
            self._eval_rows = {job.key: labelled_rows(job.eval, runner.signature.inputs)[0]}
        return batches_of(runner.signature, self._eval_rows.get(job.key), batch)


def _compute_s(runner: SlottedRunner, next_batch: Callable[[], NamedArrays], budget_s: float) -> float:
    """The mean compute time over a round of runs, or over `FEWEST_RUNS` where the budget is too small for one."""
    stop_s = time.perf_counter() + budget_s
    taken_s: list[float] = []
    while len(taken_s) < FEWEST_RUNS or (len(taken_s) < ROUND_RUNS and time.perf_counter() < stop_s):
        taken_s.append(runner.compute_s(next_batch()))
    return sum(taken_s) / len(taken_s)


@contextmanager
def measuring_power(meter: PowerMeter | None) -> Iterator[Callable[[Point], Point]]:
    """Measure power during the block. Yields a function that adds the mean to a point, to be called after the block.

    The block must have kept the device busy. Without a meter, or after less than `MIN_POWER_S`, points stay as they
    are. ``energy_j`` of a point is known only from meters that count energy; other meters are sampled.
    """
    found: dict[str, float] = {}

    def with_power(point: Point) -> Point:
        energy_j = found["energy_w"] / point.qps if "energy_w" in found else None
        return replace(point, power_w=found["mean_w"], energy_j=energy_j) if found else point

    if meter is None:
        yield with_power
        return
    before_j, start_s = meter.energy_j(), time.perf_counter()
    with _sampled(meter) if before_j is None else nullcontext(list[float]()) as samples_w:
        yield with_power
    after_j, took_s = meter.energy_j(), time.perf_counter() - start_s
    if took_s < MIN_POWER_S:
        return
    if before_j is not None and after_j is not None and after_j > before_j:
        found["mean_w"] = found["energy_w"] = (after_j - before_j) / took_s
    elif samples_w:
        found["mean_w"] = sum(samples_w) / len(samples_w)


@contextmanager
def _sampled(meter: PowerMeter) -> Iterator[list[float]]:
    """Samples of the power, taken by a thread during the block."""
    samples_w: list[float] = []
    is_over = threading.Event()

    def sample() -> None:
        while not is_over.wait(SAMPLE_EVERY_S):
            power_w = meter.power_w()
            if power_w is not None:
                samples_w.append(power_w)

    sampler = threading.Thread(target=sample, name="power", daemon=True)
    sampler.start()
    try:
        yield samples_w
    finally:
        is_over.set()
        sampler.join()
