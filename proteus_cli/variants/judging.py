"""Measures variants beside each other on one device, and decides which ones are worth keeping."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from proteus_cli.backends.affinity import pinned
from proteus_cli.backends.base import Backend, Runner
from proteus_cli.backends.free_memory import within_free_memory
from proteus_cli.domain.capacity import SAME_RATE_FRAC, capacity, points_in_time
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.profiling.closed_loop import measure_point
from proteus_cli.progress import StepCounter
from proteus_cli.store import ACCURACY_TOLERANCE
from proteus_cli.variants.accuracy import Accuracy, AccuracyFinder

BATCHES = (1, 4, 16)
CELL_S = 0.2
ROUNDS = 2
"""Number of times that the variants are measured, in turn. The best rate of each counts: others slow all alike."""

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


# --- judging


class Standing(NamedTuple):
    """A variant on a device: its accuracy (a fraction), and its rate within the SLO; 0 if it misses the SLO."""

    accuracy: float
    qps: float


class Judgement(NamedTuple):
    """Whether to keep a variant, and why, in words."""

    kept: bool
    why: str


def judge(own: Standing, parent: Standing, siblings: Sequence[Standing]) -> Judgement:
    """Keep a variant that is faster than its parent and of use to a plan, or more accurate than all that are as fast.

    A variant that misses the SLO is of no use, however accurate. A faster one is of use if it answers more queries
    *rightly* per second than its parent. Else an overloaded device answers more with it, and less rightly. No sibling
    may be better in one respect, and as good in the other. Rates that differ by less than `SAME_RATE_FRAC` are the
    same. So are accuracies that differ by less than `ACCURACY_TOLERANCE`: a row or two of an eval split are no gain.
    """
    if own.qps == 0:
        return Judgement(kept=False, why="too slow for the SLO")
    if parent.qps == 0:
        return Judgement(kept=True, why="within the SLO, and what it is made of is not")
    rate = f"{own.qps / parent.qps:.2f} × the rate"
    if _is_faster(own, parent):
        if any(_is_better(sibling, own) for sibling in siblings):
            return Judgement(kept=False, why=f"{rate}, and another one is better")
        if own.accuracy * own.qps > parent.accuracy * parent.qps:
            return Judgement(kept=True, why=rate)
        return Judgement(kept=False, why=f"{rate}, and so inaccurate that it answers less rightly per second")
    as_fast = [other for other in (parent, *siblings) if not _is_faster(own, other)]
    if all(_is_more_accurate(own, other) for other in as_fast):
        return Judgement(kept=True, why=f"{rate}, and more accurate than all that are as fast")
    return Judgement(kept=False, why=f"{rate}, and not more accurate")


def frontier(standings: Mapping[str, Standing]) -> dict[str, Judgement]:
    """Which of several variants a plan may want, where none is made of another.

    The fastest, each that is more accurate than all that are faster, and the most accurate in any case. Variants that
    miss the SLO are of no use. Rates and accuracies are the same where `judge` takes them to be. For each variant that
    is left out, a kept one is as fast and as accurate.
    """
    within = {name: each for name, each in standings.items() if each.qps > 0}
    kept: list[str] = []
    for name in sorted(within, key=lambda name: _worth(within[name]), reverse=True):
        if not any(_is_as_good(within[other], within[name]) for other in kept):
            kept.append(name)
    kept.sort(key=lambda name: -within[name].qps)
    best = max(within, key=lambda name: (within[name].accuracy, within[name].qps), default=None)
    return {name: _of_frontier(name, standings, kept, is_best=name == best) for name in standings}


def _worth(one: Standing) -> float:
    """Rate and accuracy, each in units of the largest difference that counts as none: what is better has more of it.

    `_is_better` is not transitive, as such differences add up. In this order no variant is beaten by a later one.
    """
    return math.log(one.qps) / math.log1p(SAME_RATE_FRAC) + one.accuracy / ACCURACY_TOLERANCE


def _of_frontier(name: str, standings: Mapping[str, Standing], kept: Sequence[str], *, is_best: bool) -> Judgement:
    own = standings[name]
    if own.qps == 0:
        return Judgement(kept=False, why="too slow for the SLO")
    if is_best:
        return Judgement(kept=True, why="the most accurate")
    if name in kept:
        return Judgement(kept=True, why="the fastest" if name == kept[0] else "more accurate than all that are faster")
    as_good = next(other for other in reversed(kept) if _is_as_good(standings[other], own))
    return Judgement(kept=False, why=f"{as_good} is as fast, and as accurate")


def _is_better(one: Standing, other: Standing) -> bool:
    """Whether one is better in one respect, and as good in the other."""
    return _is_as_good(one, other) and not _is_as_good(other, one)


def _is_as_good(one: Standing, other: Standing) -> bool:
    """Whether one is as fast as the other, and as accurate."""
    return not (_is_faster(other, one) or _is_more_accurate(other, one))


def _is_faster(one: Standing, other: Standing) -> bool:
    return one.qps > other.qps * (1 + SAME_RATE_FRAC)


def _is_more_accurate(one: Standing, other: Standing) -> bool:
    return one.accuracy > other.accuracy + ACCURACY_TOLERANCE
