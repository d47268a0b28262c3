"""More demand than a plan with cascades carries, simulated: with room reserved for the least sure queries, and without.

Plans are made for some demands and kept; arrivals are Poisson at 0.8 to 2 times what a plan carries, and a burst of
twice its lowest. Constants of the rule were chosen with other seeds than those that are reported here.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from msgspec.structs import replace as changed

from benchmarks.cascades.simulated import DEVICES, HEADROOM, never, with_cascades
from benchmarks.cascades.zoo import Measured
from benchmarks.tables import Aim, Table
from proteus_cli.control.dispatch import cascades
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.report import FamilySummary
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.planner import Planner
from proteus_cli.replay.synthesis import Burst, Poisson, Shape, make_trace
from proteus_cli.reporting.measures import report
from proteus_cli.simulation.run import simulate

MULTIPLES = (2.0, 4.0, 8.0)
"""Planned demand, in multiples of what the devices carry with the most accurate variant."""
LOADS = (0.8, 1.0, 1.3, 2.0)
"""Arrivals, in multiples of what the plan carries."""
BURST = "burst"
QUERIES = 6000
SEEDS = (101, 102, 103)
MAX_LOSS_POINTS = 0.05
MAX_MORE_VIOLATIONS_PERCENT = 0.2
MEAN_GAIN_POINTS = 0.03  # set before the first run
POLICY = replace(policy_named("proteus"), replanning=None)


@dataclass(frozen=True)
class Pressed:
    """Of one family, a plan and a load: means over the seeds, without and with the reserve. Percent of queries."""

    multiple: float
    load: str
    accuracy: tuple[float, float]
    violations: tuple[float, float]
    fallbacks: tuple[float, float]

    @property
    def gain_points(self) -> float:
        return self.accuracy[1] - self.accuracy[0]


@contextmanager
def reserving(frac: float) -> Iterator[None]:
    usual = cascades.RESERVED_FRAC
    cascades.RESERVED_FRAC = frac
    try:
        yield
    finally:
        cascades.RESERVED_FRAC = usual


def pressed(
    of: Measured, seeds: Sequence[int] = SEEDS, queries: int = QUERIES, multiples: Sequence[float] = MULTIPLES
) -> list[Pressed]:
    """A row for each plan and load."""
    catalog, profile = Catalog(format=FORMAT, families=(of.family,)), with_cascades(of)
    profiles = {f"cpu{n}": changed(profile, device=changed(profile.device, id=f"cpu{n}")) for n in range(DEVICES)}
    best = max(of.answers, key=lambda name: float(of.correct(name).mean()))
    rules = Rules(cascades=True)
    planner = Planner(catalog, profiles, POLICY, headroom=HEADROOM, inputs={}, rules=rules, spares=True)
    found = []
    for multiple in multiples:
        rate_qps = multiple * DEVICES * of.rates_qps[best]
        plan = planner({of.family.name: rate_qps})
        for load in (*LOADS, BURST):
            runs = []
            for frac in (0.0, cascades.RESERVED_FRAC):
                with reserving(frac):
                    every = [_run(catalog, profiles, plan, load, HEADROOM * rate_qps, queries, seed) for seed in seeds]
                runs.append(np.mean([_percentages(each) for each in every], axis=0).tolist())
            found.append(Pressed(multiple, _name(load), *zip(*runs, strict=True)))
    return found


def _run(
    catalog: Catalog,
    profiles: Mapping[str, Profile],
    plan: Plan,
    load: float | str,
    capacity_qps: float,
    queries: int,
    seed: int,
) -> FamilySummary:
    arrivals, drawn = np.random.default_rng(seed).spawn(2)
    rate_qps = LOADS[0] * capacity_qps if isinstance(load, str) else load * capacity_qps
    duration_s = queries / rate_qps
    peak = Burst(2 * rate_qps, start_s=0.4 * duration_s, stop_s=0.6 * duration_s, ramp_s=0.02 * duration_s)
    shape: Shape = peak if isinstance(load, str) else Poisson()
    shares = dict.fromkeys(catalog.names, 1.0)
    trace = make_trace(_name(load), shape, rate_qps=rate_qps, duration_s=duration_s, shares=shares, rng=arrivals)
    run = simulate(trace, plan, catalog, profiles, POLICY, never, rng=drawn)
    found = report(
        run.ended, policy=POLICY.name, mode="simulated", trace=trace.name, duration_s=trace.duration_s,
        slo_s=catalog.slo_s(), best_accuracy={},
    )  # fmt: skip
    return found.families[catalog.names[0]]


def _percentages(of: FamilySummary) -> tuple[float, float, float]:
    fallbacks = of.fallbacks / of.deferred if of.deferred else 0.0
    return 100 * (of.effective_accuracy or 0.0), 100 * of.slo_violation_ratio, 100 * fallbacks


def _name(load: float | str) -> str:
    return load if isinstance(load, str) else f"{load:g} ×"


def table(of: Measured, rows: Sequence[Pressed]) -> Table:
    columns = (
        "plan", "load", "accuracy %, no reserve", "reserve", "gain", "SLO violations %, no reserve", "reserve",
        "fallbacks %, no reserve", "reserve",
    )  # fmt: skip
    lines = tuple(
        (
            f"{row.multiple:g} ×",
            row.load,
            *(f"{value:.2f}" for value in row.accuracy),
            f"{row.gain_points:+.2f}",
            *(f"{value:.2f}" for value in row.violations),
            *(f"{value:.0f}" for value in row.fallbacks),
        )
        for row in rows
    )
    return Table(f"{of.family.name} on {DEVICES} cores beyond what a plan carries, simulated", columns, lines)


def aims(of: Measured, rows: Sequence[Pressed]) -> list[Aim]:
    name = f"{of.family.name}, beyond the plan"
    gains = [row.gain_points for row in rows]
    more = max(row.violations[1] - row.violations[0] for row in rows)
    return [
        Aim(f"{name}: the most accuracy that the reserve costs", -min(gains), MAX_LOSS_POINTS, "points", True),
        Aim(f"{name}: SLO violations more than without", more, MAX_MORE_VIOLATIONS_PERCENT, "%", True),
        Aim(f"{name}: what it gains in the mean", float(np.mean(gains)), MEAN_GAIN_POINTS, "points", False),
    ]
