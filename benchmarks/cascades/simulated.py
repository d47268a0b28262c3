"""Accuracy against demand with and without cascades, planned and then simulated, on four devices like the one profiled.

For each demand, Poisson arrivals are replayed in virtual time with a plan made for that demand, with variants alone and
with cascades. What the simulator's answers are worth is what the profile says, so the figures compare plans and
dispatch, and promise no more than the profile does. Plans do not change during a run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from msgspec.structs import replace as changed

from benchmarks.cascades.zoo import Measured
from benchmarks.tables import Aim, Table
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.report import FamilySummary
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.planner import Planner
from proteus_cli.profiling.cascades import StageAnswers, cascades_of
from proteus_cli.replay.synthesis import Poisson, make_trace
from proteus_cli.reporting.measures import report
from proteus_cli.simulation.run import simulate

DEVICES = 4
MULTIPLES = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
"""Demand, in multiples of what the devices carry with the most accurate variant."""
QUERIES, LONGEST_S = 12_000, 20.0  # of each run, about
HEADROOM = 1.2
SEED = 2026
MAX_LOSS_POINTS = 0.05  # of accuracy, where cascades gain nothing: chance in what is deferred
MAX_VIOLATIONS_PERCENT = 0.1  # more than without cascades
GAINS = {"digits": (4.0, 0.4), "signals": (4.0, 0.7)}
"""By family, a demand and the points of accuracy that cascades are to gain there."""


@dataclass(frozen=True)
class Run:
    """Of one family at one demand: what was answered with variants alone, and with cascades."""

    multiple: float
    rate_qps: float
    alone: FamilySummary
    cascades: FamilySummary

    @property
    def gain_points(self) -> float:
        return 100 * ((self.cascades.effective_accuracy or 0.0) - (self.alone.effective_accuracy or 0.0))


def simulated(of: Measured, multiples: Sequence[float] = MULTIPLES, queries: int = QUERIES) -> list[Run]:
    """A run for each demand."""
    family, profile = of.family, with_cascades(of)
    catalog = Catalog(format=FORMAT, families=(family,))
    profiles = {f"cpu{n}": changed(profile, device=changed(profile.device, id=f"cpu{n}")) for n in range(DEVICES)}
    policy = replace(policy_named("proteus"), replanning=None)
    best = max(of.answers, key=lambda name: float(of.correct(name).mean()))

    def answered(rate_qps: float, rules: Rules) -> FamilySummary:
        planner = Planner(catalog, profiles, policy, headroom=HEADROOM, inputs={}, rules=rules, spares=True)
        arrivals, drawn = np.random.default_rng(SEED).spawn(2)
        duration_s = min(LONGEST_S, queries / rate_qps)
        shares = {family.name: 1.0}
        trace = make_trace("poisson", Poisson(), rate_qps=rate_qps, duration_s=duration_s, shares=shares, rng=arrivals)
        run = simulate(trace, planner({family.name: rate_qps}), catalog, profiles, policy, never, rng=drawn)
        found = report(
            run.ended, policy=policy.name, mode="simulated", trace=trace.name, duration_s=trace.duration_s,
            slo_s=catalog.slo_s(), best_accuracy={},
        )  # fmt: skip
        return found.families[family.name]

    rates_qps = [multiple * DEVICES * of.rates_qps[best] for multiple in multiples]
    return [
        Run(multiple, rate_qps, answered(rate_qps, Rules()), answered(rate_qps, Rules(cascades=True)))
        for multiple, rate_qps in zip(multiples, rates_qps, strict=True)
    ]


def with_cascades(of: Measured) -> Profile:
    """The profile with what was measured of a family: accuracies, and the cascades that are better than chance."""
    accuracy = {name: float(of.correct(name).mean()) for name in of.answers}
    stages = [
        StageAnswers(name, accuracy[name], of.rates_qps[name], of.confidences(name), of.correct(name))
        for name in of.answers
    ]
    own = [each for each in of.profile.variants if each.family == of.family.name]
    variants = tuple(changed(each, accuracy=accuracy[each.variant]) for each in own)
    return changed(of.profile, variants=variants, cascades=cascades_of(of.family.name, "", stages).cascades)


def table(of: Measured, runs: Sequence[Run]) -> Table:
    rows = tuple(
        (
            f"{run.multiple:g} ×",
            f"{run.rate_qps:,.0f}",
            *(f"{100 * (each.effective_accuracy or 0.0):.2f}" for each in (run.alone, run.cascades)),
            f"{run.gain_points:+.2f}",
            *(f"{100 * each.slo_violation_ratio:.2f}" for each in (run.alone, run.cascades)),
            f"{_percent(run.cascades.deferred, run.cascades.served + run.cascades.late):.1f}",
            f"{_percent(run.cascades.fallbacks, run.cascades.deferred):.1f}",
        )
        for run in runs
    )
    columns = (
        "demand", "qps", "accuracy %, alone", "with cascades", "gain", "SLO violations %, alone", "with cascades",
        "deferred %", "fallbacks %",
    )  # fmt: skip
    return Table(f"{of.family.name} on {DEVICES} cores, simulated", columns, rows)


def aims(of: Measured, runs: Sequence[Run]) -> list[Aim]:
    name, (at, gain_points) = of.family.name, GAINS[of.family.name]
    more = [100 * (run.cascades.slo_violation_ratio - run.alone.slo_violation_ratio) for run in runs]
    loss = -min(run.gain_points for run in runs)
    found = [
        Aim(f"{name}, simulated: the most accuracy that cascades cost", loss, MAX_LOSS_POINTS, "points", True),
        Aim(f"{name}, simulated: SLO violations more than without", max(more), MAX_VIOLATIONS_PERCENT, "%", True),
    ]
    gains = [run.gain_points for run in runs if run.multiple == at]
    return [
        *found,
        *(Aim(f"{name}, simulated: gain at {at:g} ×", gain, gain_points, "points", False) for gain in gains),
    ]


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


def never(*_asked: object) -> Plan:
    raise AssertionError("a policy without a rule must not re-plan")
