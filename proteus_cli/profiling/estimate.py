"""Estimates the cells and the time of a sweep from the profile of a variant, or from a few runs of it."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from proteus_cli.backends.affinity import pinned
from proteus_cli.backends.base import Backend
from proteus_cli.backends.free_memory import within_free_memory
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Point
from proteus_cli.profiling.answers import EVAL_BATCH
from proteus_cli.profiling.batch_sizes import expected_s, useless_sizes
from proteus_cli.profiling.closed_loop import CELL_S, FEWEST_RUNS, WARM_UP_RUNS, measure_point
from proteus_cli.profiling.jobs import MeasurementJob, ProfileCell
from proteus_cli.store.eval_splits import eval_rows

TYPICAL_RUNS = 70
"""Runs until the p95 is stable on a quiet machine: 60 are the fewest that can show it, and some cells need more."""
TYPICAL_CELL_S = 0.25  # of an unknown variant
TYPICAL_SLOTS = 3  # how many slots are tried until one more adds nothing


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """One job: its ``cells`` in order of use, and the ``useless`` sizes, which no plan could use.

    ``total_s``: seconds without a budget; ``fewest_s``: seconds with a budget of 0.
    """

    job: MeasurementJob
    cells: tuple[ProfileCell, ...]
    useless: tuple[int, ...]
    total_s: float
    fewest_s: float


def estimates(device: Device, backend: Backend, jobs: Sequence[MeasurementJob]) -> list[JobEstimate]:
    """An estimate for each job of a device.

    An unknown variant is loaded and run a few times with a batch of one, unless an engine would have to be built.
    Raises `EngineError` if that fails. Writes no file.
    """
    is_cpu = device.kind == "cpu"
    with pinned(device.cores), within_free_memory("the model") if is_cpu else nullcontext():
        return [_estimate(job, *(_looked_at(backend, job) if is_cpu else _known(job))) for job in jobs]


def total_s(work: Sequence[JobEstimate], budget_s: float | None) -> float:
    """The seconds that the jobs take together, within a budget where it allows for the fewest measurements."""
    whole_s = sum(each.total_s for each in work)
    return whole_s if budget_s is None else min(whole_s, max(budget_s, sum(each.fewest_s for each in work)))


def _known(job: MeasurementJob) -> tuple[float, tuple[Point, ...]]:
    return (job.known.load_s, job.known.points) if job.known is not None else (0.0, ())


def _looked_at(backend: Backend, job: MeasurementJob) -> tuple[float, tuple[Point, ...]]:
    """The load time and the points of a job; of one run of its smallest batch where no point is known."""
    if not job.cells or (job.known is not None and job.known.points):
        return _known(job)
    start_s = time.perf_counter()
    backend.prepare(job.model, job.key)
    with backend.runner(job.model, job.key) as runner:
        load_s, inputs = time.perf_counter() - start_s, runner.signature.sample(1, np.random.default_rng(0))
        point = measure_point(lambda: runner.infer(inputs), 1, budget_s=0.0)
    return load_s, (point,)


def _estimate(job: MeasurementJob, load_s: float, points: tuple[Point, ...]) -> JobEstimate:
    known = job.known.points if job.known is not None else ()
    useless = useless_sizes(points, job.family.slo_s, job.max_batch)
    cells = tuple(cell for cell in job.cells if cell.batch not in useless)
    lacks_accuracy = job.lacks_accuracy(job.known) or job.lacks_answers
    if not cells and not lacks_accuracy:
        return JobEstimate(job, cells, tuple(useless), 0.0, 0.0)
    slots = min(job.max_slots, TYPICAL_SLOTS)
    cells_s = slots * sum(_cell_s(points, cell.batch) for cell in cells)
    accuracy_s = 0.0
    if lacks_accuracy and job.eval is not None:
        accuracy_s = eval_rows(job.eval) * expected_s(points, EVAL_BATCH) / EVAL_BATCH
    fewest_s = load_s if known else load_s + (WARM_UP_RUNS + FEWEST_RUNS) * expected_s(points, 1)
    return JobEstimate(job, cells, tuple(useless), load_s + cells_s + accuracy_s, fewest_s)


def _cell_s(points: Sequence[Point], batch: int) -> float:
    if not points:
        return TYPICAL_CELL_S
    run_s = expected_s(points, batch)
    return max((WARM_UP_RUNS + FEWEST_RUNS) * run_s, min((WARM_UP_RUNS + TYPICAL_RUNS) * run_s, CELL_S))
