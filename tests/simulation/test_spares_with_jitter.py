"""Spares in virtual time, with batch times that scatter up to their p95: they begin while that is still in time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pytest
from builders import (
    make_catalog,
    make_family,
    make_measured,
    make_placement,
    make_plan,
    make_profile,
    make_trace,
    never,
)

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.profile import Point, VariantProfile
from proteus_cli.domain.request import Outcome
from proteus_cli.simulation.conditions import JITTERS, Conditions
from proteus_cli.simulation.fleet import SimulationResult
from proteus_cli.simulation.run import simulate

SLO_S, FOR_S = 0.2, 20.0
P95_FACTOR = 1.5  # of the mean time of a batch


@dataclass(frozen=True)
class World:
    """The accurate variant on cpu0 takes ``large_s`` a row, and on each of ``spares`` the other one ``small_s``."""

    large_s: float
    small_s: float
    spares: int

    def run(self, load: float, *, jitter: float | None = JITTERS["p95"]) -> SimulationResult:
        """Poisson arrivals at so many times the capacity of cpu0."""
        catalog = make_catalog(make_family("a", {"a-s": 0.8, "a-l": 0.95}, slo=f"{SLO_S * 1e3:g}ms"))
        measured = scattered("a-s", 0.8, self.small_s), scattered("a-l", 0.95, self.large_s)
        capacity_qps = 2 / mean_s(self.large_s, 2)
        placements = [make_placement("cpu0", "a", "a-l", rate_qps=1.0, capacity_qps=capacity_qps, max_batch=2)]
        placements += [
            make_placement(f"cpu{n + 1}", "a", "a-s", rate_qps=0.0, capacity_qps=1 / self.small_s, max_batch=8)
            for n in range(self.spares)
        ]
        plan = make_plan(*placements, devices=tuple(each.device for each in placements))
        rng = np.random.default_rng(5)
        arrival_s = np.sort(rng.uniform(0.0, FOR_S, rng.poisson(load * capacity_qps * FOR_S)))
        return simulate(
            make_trace(*((at_s, "a") for at_s in arrival_s.tolist())), plan, catalog,
            {device: make_profile(device, *measured) for device in plan.devices},
            replace(policy_named("proteus"), replanning=None), never, conditions=Conditions(jitter=jitter), rng=rng,
        )  # fmt: skip


def mean_s(row_s: float, rows: int) -> float:
    return row_s * (0.4 + 0.6 * rows)


def scattered(variant: str, accuracy: float, row_s: float) -> VariantProfile:
    means_s = {rows: mean_s(row_s, rows) for rows in range(1, 9)}
    points = tuple(
        Point(rows, 10, s, s, s * (1 + P95_FACTOR) / 2, s * P95_FACTOR, s * P95_FACTOR, rows / s)
        for rows, s in means_s.items()
    )
    return msgspec.structs.replace(make_measured("a", variant, accuracy, means_s), points=points)


def unanswered(run: SimulationResult) -> int:
    return sum(ended.outcome is not Outcome.SERVED for ended in run.ended)


WORLDS: Sequence[World] = [World(0.06, 0.02, 1), World(0.05, 0.05, 2), World(0.03, 0.08, 2)]
"""With spares that are faster than cpu0, as fast, and slower."""


@pytest.mark.parametrize("world", WORLDS, ids=["faster", "as fast", "slower"])
@pytest.mark.parametrize("load", [0.6, 0.9, 1.2])
def test_what_a_spare_takes_is_in_time_at_the_p95_of_its_batch(world: World, load: float) -> None:
    run = world.run(load)
    taken = [(at_s, launch) for at_s, launch in run.launches if launch.hosted.device != "cpu0"]
    assert len(taken) > 10
    for at_s, launch in taken:
        assert at_s + P95_FACTOR * mean_s(world.small_s, launch.rows) <= min(r.deadline_s for r in launch.requests)
    late = [ended for ended in run.ended if ended.outcome is Outcome.LATE]
    assert [ended.device for ended in late if ended.device != "cpu0"] == []


@pytest.mark.parametrize("jitter", [None, JITTERS["p95"]])
def test_a_fast_spare_answers_what_the_accurate_device_cannot(jitter: float | None) -> None:
    """Without a spare, one request in seven is lost; batches that scatter lose none with it."""
    alone, helped = World(0.06, 0.02, 0).run(0.8, jitter=jitter), World(0.06, 0.02, 1).run(0.8, jitter=jitter)
    assert unanswered(alone) > 0.1 * len(alone.ended)
    assert unanswered(helped) == 0
    assert math.fsum(ended.device == "cpu0" for ended in helped.ended) > 0.65 * len(helped.ended)
