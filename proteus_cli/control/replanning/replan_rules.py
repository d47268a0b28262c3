"""Rules for re-planning: when the plan no longer fits the demand, and what demand to plan for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

from proteus_cli.control.replanning.demand import DemandEstimator, rate_lower_bound_qps
from proteus_cli.domain.device import NONE_OUT, Outages
from proteus_cli.domain.plan import Plan

NOTABLE_SLOWDOWN = 1.05  # a smaller one is not worth a word in the reason


@dataclass(frozen=True, slots=True)
class ReplanRequest:
    """Ask for a plan of ``demand_qps`` for a ``reason``; ``without`` are the devices and engines that are out."""

    demand_qps: dict[str, float]
    reason: str
    without: Outages = NONE_OUT


@dataclass(frozen=True, slots=True)
class ReplanContext:
    """What a rule decides on.

    The server serves since ``started_s``, and hosts what it does now since ``hosting_since_s``. By family: batches take
    ``slowdown`` times what was profiled, and at most ``max_slowdown`` times in the last seconds; ``margin`` is the part
    of its safety margin that the family needs (`shared_margin`).
    """

    plan: Plan
    demand: DemandEstimator
    slowdown: Mapping[str, float]
    max_slowdown: Mapping[str, float]
    margin: Mapping[str, float]
    now_s: float
    started_s: float
    hosting_since_s: float


class Rule(Protocol):
    """When to re-plan; asked every ``every_s``."""

    @property
    def every_s(self) -> float: ...

    def decide(self, context: ReplanContext) -> ReplanRequest | None:
        """Whether to re-plan now."""
        ...

    def target_demand(self, context: ReplanContext) -> dict[str, float]:
        """The demand to plan for now, in queries per second at profiled speed."""
        ...

    def initial_demand(self, demand_qps: Mapping[str, float], slo_s: Mapping[str, float]) -> dict[str, float]:
        """The demand to plan for at the start, where ``demand_qps`` is expected; ``slo_s`` by family."""
        ...


@dataclass(frozen=True, slots=True)
class PeriodicRule:
    """The paper's rule: every ``period_s``, and at once when one second brings more than the plan was made for.

    The target demand is the mean of the last ``window_s``, or of the last second if that is more.
    """

    period_s: float = 30.0
    window_s: float = 10.0
    every_s: float = 1.0

    def decide(self, context: ReplanContext) -> ReplanRequest | None:
        plan, demand = context.plan, context.demand
        for family in demand.families:
            seen_qps = demand.rate_qps(family, 1.0, context.now_s)
            if seen_qps > max(plan.capacity_qps(family), plan.demand_qps.get(family, 0.0)):
                return ReplanRequest(self.target_demand(context), f"{family}: a burst of {seen_qps:.0f} qps")
        if context.now_s - context.hosting_since_s >= self.period_s:
            return ReplanRequest(self.target_demand(context), f"{self.period_s:.0f} s have passed")
        return None

    def target_demand(self, context: ReplanContext) -> dict[str, float]:
        windows_s = (self.window_s, 1.0)
        return {
            family: max(context.demand.rate_qps(family, window_s, context.now_s) for window_s in windows_s)
            for family in context.demand.families
        }

    def initial_demand(self, demand_qps: Mapping[str, float], slo_s: Mapping[str, float]) -> dict[str, float]:
        return {family: demand_qps.get(family, 0.0) for family in slo_s}


@dataclass(frozen=True, slots=True)
class ReplanRule:
    """Re-plan when the demand exceeds what the plan carries, or stays well below what the plan was made for.

    **Safety margin.** A plan carries the mean demand, plus what the arrivals scatter by within one SLO: such a burst
    cannot be put off. For Poisson arrivals that is much for a rare family and little for a busy one; it grows with the
    measured dispersion.

    **Up.** Some burst window proves a rate that, with its margin, exceeds what the serving hosts carry with the plan's
    headroom; spares do not count. Short windows see a burst early, long ones a slow rise. While queries of a family are
    shed, weaker proof is enough: each moment costs more of them.

    **Down.** The mean demand of the last seconds with its margin, and their busiest second, are below a part of the
    planned demand, and below what chance makes of it; the plan is old enough, and accuracy can be gained.

    **Slow devices.** Rates count ``slowdown`` times, as plans are made with profiled times. Down, the largest recent
    slowdown counts: a machine that is slow now and then would get more load whenever it is not.

    The values are chosen by hand. What each idea is worth: docs/paper.md, figure 7 (``python -m benchmarks.paper``).
    """

    every_s: float = 0.2  # s between decisions; two buckets of the demand estimator
    burst_windows_s: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0)  # s; from the time of one decision to a slow rise
    sigmas: float = 3.0  # Poisson deviations of proof to go up: chance alone gives 1 in 740 windows
    shed_sigmas: float = 1.0  # the same while queries are shed
    shed_window_s: float = 0.5  # s that a shed query counts
    estimate_sigmas: float = 1.0  # deviations below the seen rate that the new plan is made for
    margin_sigmas: float = 1.0  # deviations of the arrivals within one SLO that a plan carries beyond the mean
    dispersion_window_s: float = 10.0  # s over which dispersion is measured: all that the estimator keeps
    down_window_s: float = 5.0  # s of low demand before going down
    min_plan_age_s: float = 1.0  # s that a plan is in force before going down
    down_frac: float = 0.85  # of the planned demand; the distance to 1 keeps plans from changing to and fro
    chance_sigmas: float = 4.0  # deviations that count as chance: 1 in 30,000 windows of Poisson arrivals
    min_demand_qps: float = 1.0  # queries/s planned for each family, so that each is hosted where the fleet allows

    def decide(self, context: ReplanContext) -> ReplanRequest | None:
        plan, demand, now_s = context.plan, context.demand, context.now_s
        for family in demand.families:
            is_unplanned = plan.demand_qps.get(family, 0.0) < self.min_demand_qps
            if is_unplanned and demand.rate_qps(family, max(self.burst_windows_s), now_s) > 0:
                return ReplanRequest(self.target_demand(context), f"{family}: asked for, and not planned for")
            is_shedding = demand.shed_qps(family, self.shed_window_s, now_s) > 0
            seen_qps = self._proven_qps(demand, family, now_s, self.shed_sigmas if is_shedding else self.sigmas)
            slowdown = context.slowdown[family]
            asked_qps = self._with_margin(seen_qps, demand.slo_s[family], context.margin[family]) * slowdown
            if not self._is_carried(asked_qps, plan, family):
                slower = f" at {slowdown:.1f} × the profiled times" if slowdown > NOTABLE_SLOWDOWN else ""
                reason = f"{family}: {seen_qps:.0f} qps{slower} is more than the plan carries"
                return ReplanRequest(self.target_demand(context), reason)
        served_s = now_s - context.started_s
        if served_s < self.down_window_s or now_s - context.hosting_since_s < self.min_plan_age_s or _is_best(plan):
            return None
        windows_s = [w for w in (self.down_window_s, self.dispersion_window_s) if w <= served_s]
        return self._down(context, windows_s)

    def target_demand(self, context: ReplanContext) -> dict[str, float]:
        target_qps = {}
        for family in context.demand.families:
            proven_qps = self._proven_qps(context.demand, family, context.now_s, self.estimate_sigmas)
            mean_qps = context.demand.rate_qps(family, max(self.burst_windows_s), context.now_s)
            target_qps[family] = self._planned(context, family, max(proven_qps, mean_qps), context.slowdown[family])
        return target_qps

    def initial_demand(self, demand_qps: Mapping[str, float], slo_s: Mapping[str, float]) -> dict[str, float]:
        """Arrivals are assumed to be Poisson."""
        return {
            family: max(self._with_margin(demand_qps.get(family, 0.0), target_s), self.min_demand_qps)
            for family, target_s in slo_s.items()
        }

    def _down(self, context: ReplanContext, windows_s: Sequence[float]) -> ReplanRequest | None:
        for family in context.demand.families:
            slowdown, planned_qps = context.max_slowdown[family], context.plan.demand_qps.get(family, 0.0)
            low_qps = self.down_frac * planned_qps
            mean_qps = context.demand.rate_qps(family, self.down_window_s, context.now_s)
            if mean_qps * slowdown >= low_qps:  # the busiest second is no lower
                continue
            if self._lower_demand(context, family) < low_qps and not self._may_be_chance(
                context, family, planned_qps / slowdown, windows_s
            ):
                lower = {name: self._lower_demand(context, name) for name in context.demand.families}
                return ReplanRequest(lower, f"{family}: {mean_qps:.0f} qps for {self.down_window_s:.0f} s")
        return None

    def _may_be_chance(
        self, context: ReplanContext, family: str, planned_qps: float, windows_s: Sequence[float]
    ) -> bool:
        """Whether arrivals at the planned mean rate may be as few as were seen.

        For a busy family, ``down_frac`` is further down than chance goes; for a rare one it is not.
        """
        scatter = context.demand.dispersion(family, self.dispersion_window_s, context.now_s)
        margin = self.margin_sigmas * context.margin[family] * math.sqrt(scatter / context.demand.slo_s[family])
        mean_qps = (
            (math.sqrt(margin * margin + 4 * planned_qps) - margin) / 2
        ) ** 2  # with its margin it is the planned rate
        rates_qps = context.demand.rates_qps(family, windows_s, context.now_s)
        return all(
            qps >= mean_qps - self.chance_sigmas * math.sqrt(mean_qps * scatter / window_s)
            for qps, window_s in zip(rates_qps, windows_s, strict=True)
        )

    def _lower_demand(self, context: ReplanContext, family: str) -> float:
        """What a plan for the last seconds must carry: their mean with its margin, and their busiest second."""
        slowdown = context.max_slowdown[family]
        mean_qps = context.demand.rate_qps(family, self.down_window_s, context.now_s)
        peak_qps = context.demand.peak_qps(family, 1.0, self.down_window_s, context.now_s)
        return max(self._planned(context, family, mean_qps, slowdown), peak_qps * slowdown)

    def _planned(self, context: ReplanContext, family: str, mean_qps: float, slowdown: float) -> float:
        """Queries per second at profiled speed that a plan for a mean demand must carry."""
        scatter = context.demand.dispersion(family, self.dispersion_window_s, context.now_s)
        asked_qps = self._with_margin(mean_qps, context.demand.slo_s[family], context.margin[family], scatter)
        return max(asked_qps * slowdown, self.min_demand_qps)

    def _with_margin(self, mean_qps: float, slo_s: float, part: float = 1.0, scatter: float = 1.0) -> float:
        return mean_qps + self.margin_sigmas * part * math.sqrt(mean_qps * scatter / slo_s)

    def _is_carried(self, asked_qps: float, plan: Plan, family: str) -> bool:
        """Whether a demand is at most a tenth more than was planned, or what the serving hosts carry with headroom.

        A spare of a variant that serves counts as serving.
        """
        planned_qps = plan.demand_qps.get(family, 0.0)
        if asked_qps <= max(planned_qps * 1.1, self.min_demand_qps):
            return True
        mine = [placement for placement in plan.placements if placement.family == family]
        serving = {placement.variant for placement in mine if placement.rate_qps > 0}
        carried_qps = sum(placement.capacity_qps for placement in mine if placement.variant in serving)
        return asked_qps <= carried_qps / plan.headroom

    def _proven_qps(self, demand: DemandEstimator, family: str, now_s: float, sigmas: float) -> float:
        rates_qps = demand.rates_qps(family, self.burst_windows_s, now_s)
        return max(map(rate_lower_bound_qps, rates_qps, self.burst_windows_s, repeat(sigmas)))


@dataclass(frozen=True, slots=True)
class TimedRule:
    """Every ``period_s`` and at no other time, with the target demand of another ``rule``."""

    rule: Rule
    period_s: float

    @property
    def every_s(self) -> float:
        return min(self.rule.every_s, self.period_s)

    def decide(self, context: ReplanContext) -> ReplanRequest | None:
        if context.now_s - context.hosting_since_s < self.period_s:
            return None
        return ReplanRequest(self.target_demand(context), f"{self.period_s:g} s have passed")

    def target_demand(self, context: ReplanContext) -> dict[str, float]:
        return self.rule.target_demand(context)

    def initial_demand(self, demand_qps: Mapping[str, float], slo_s: Mapping[str, float]) -> dict[str, float]:
        return self.rule.initial_demand(demand_qps, slo_s)


def _is_best(plan: Plan) -> bool:
    """All queries go to the most accurate variant of their family: a lower demand allows no better plan."""
    return plan.relative_accuracy is not None and plan.relative_accuracy > 1 - 1e-9
