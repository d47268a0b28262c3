"""Measures variants beside each other on one device, in short: how accurate they are, and how fast."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proteus_cli.backends.affinity import pinned
from proteus_cli.backends.base import Backend, Runner
from proteus_cli.backends.free_memory import within_free_memory
from proteus_cli.domain.capacity import capacity, points_in_time
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.profiling.closed_loop import measure_point
from proteus_cli.progress import StepCounter
from proteus_cli.variants.accuracy import Accuracy, AccuracyFinder

BATCHES = (1, 4, 16)
CELL_S = 0.2
ROUNDS = 2
"""Each variant is measured so many times, in turn, and its best rate counts: what else runs here slows all alike."""

STEPS_OF_A_MODEL = 1 + ROUNDS
"""Of `measure_beside`: the accuracy, and the rate in each round."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A variant on a device: its accuracy, and the highest rate of a batch size within the SLO, by the median time.

    ``qps`` is 0 where no batch size is within the SLO.
    """

    accuracy: float
    estimated: bool
    basis: str
    qps: float


def measure_beside(
    device: Device,
    backend: Backend,
    models: Mapping[VariantKey, Path],
    slo_s: float,
    finder: AccuracyFinder,
    steps: StepCounter,
) -> dict[VariantKey, Measurement]:
    """Measure models by the variants that they are, in `STEPS_OF_A_MODEL` for each.

    Raises `EngineError` where one can't be built, loaded or run, and what `AccuracyFinder.accuracy_of` raises.
    """
    accuracies: dict[VariantKey, Accuracy] = {}
    rates_qps: dict[VariantKey, float] = dict.fromkeys(models, 0.0)
    with pinned(device.cores), within_free_memory("the models") if device.kind == "cpu" else nullcontext():
        for _ in range(ROUNDS):
            for key, model in models.items():
                backend.prepare(model, key)
                with backend.runner(model, key) as runner:
                    if key not in accuracies:
                        steps.begin(f"accuracy of {key.variant} on {device.id}")
                        accuracies[key] = finder.accuracy_of(key.variant, model, runner)
                    steps.begin(f"rate of {key.variant} on {device.id}")
                    rates_qps[key] = max(rates_qps[key], _rate_qps(runner, slo_s))
    return {key: Measurement(*accuracies[key], rates_qps[key]) for key in models}


def _rate_qps(runner: Runner, slo_s: float) -> float:
    """The highest rate of all batch sizes whose median time is within the SLO; 0 where none is."""
    points = []
    for batch in BATCHES:
        inputs = runner.signature.sample(batch, np.random.default_rng(0))
        points.append(measure_point(lambda inputs=inputs: runner.infer(inputs), batch, CELL_S))  # type: ignore[misc]
        if points[-1].p50_s > slo_s:
            break
    return capacity(points_in_time(points, slo_s, of="p50"), of="p50").qps
