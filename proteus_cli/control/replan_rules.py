"""When the plan no longer fits the demand."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

from proteus_cli.control.demand import DemandEstimator, rate_lower_bound_qps
from proteus_cli.domain.outages import NONE_OUT, Outages
from proteus_cli.domain.plan import Plan

NOTABLE_PACE = 1.05


@dataclass(frozen=True, slots=True)
class ReplanRequest:
    """Ask for a plan of ``demand_qps``, because of ``reason``; ``without`` what can't be used now."""

    demand_qps: dict[str, float]
    reason: str
    without: Outages = NONE_OUT


@dataclass(frozen=True, slots=True)
class ReplanContext:
    """What a rule is told: how it stands at ``now_s``, serving since ``started_s``, with this plan since ``since_s``.

    Devices take ``pace`` times what was profiled, by family, and in the last while ``slowest`` at most. ``room`` is the
    part of the room for its own bursts that a family needs, as it shares devices (`shared_room`).
    """

    plan: Plan
    demand: DemandEstimator
    slowdown: Mapping[str, float]
    max_slowdown: Mapping[str, float]
    margin: Mapping[str, float]
    now_s: float
    started_s: float
    since_s: float


class Rule(Protocol):
    """When to re-plan. It is asked every ``every_s``."""

    @property
    def every_s(self) -> float: ...

    def decide(self, now: ReplanContext) -> ReplanRequest | None:
        """Whether to re-plan now."""
        ...

    def target_demand(self, now: ReplanContext) -> dict[str, float]:
        """The demand to plan for now, in queries at profiled speed."""
        ...

    def initial_demand(self, demand_qps: Mapping[str, float], slo_s: Mapping[str, float]) -> dict[str, float]:
        """The demand to plan for at the start, where that much is expected; ``slo_s`` by family."""
        ...


@dataclass(frozen=True, slots=True)
class PeriodicRule:
    """The paper's: every ``period_s``, and at once in a burst, when a second brings more than the plan was made for.

    The demand to plan for is the mean of the last ``window_s``, or that second's where it is more.
    """

    period_s: float = 30.0
    window_s: float = 10.0
    every_s: float = 1.0

    def decide(self, now: ReplanContext) -> ReplanRequest | None:
        plan, demand = now.plan, now.demand
        for family in demand.families:
            seen_qps = demand.rate_qps(family, 1.0, now.now_s)
            if seen_qps > max(plan.capacity_qps(family), plan.demand_qps.get(family, 0.0)):
                return ReplanRequest(self.target_demand(now), f"{family}: a burst of {seen_qps:.0f} qps")
        if now.now_s - now.since_s >= self.period_s:
            return ReplanRequest(self.target_demand(now), f"{self.period_s:.0f} s have passed")
        return None

    def target_demand(self, now: ReplanContext) -> dict[str, float]:
        windows_s = (self.window_s, 1.0)
        return {
            family: max(now.demand.rate_qps(family, window_s, now.now_s) for window_s in windows_s)
            for family in now.demand.families
        }

    def initial_demand(self, demand_qps: Mapping[str, float], slo_s: Mapping[str, float]) -> dict[str, float]:
        return {family: demand_qps.get(family, 0.0) for family in slo_s}


@dataclass(frozen=True, slots=True)
class ReplanRule:
    """Re-plan when the demand leaves what the plan can carry, or stays well below what it was made for.

    Plans have *room*: beyond the mean demand what ``room_sigmas`` standard deviations of the arrivals in a window as
    long as the SLO add to it, since what comes within such a window can't be put off. For Poisson arrivals that is much
    for a family that is asked seldom, and little for one that is asked often; where arrivals scatter more than that, as
    measured over ``scatter_s``, it grows with them.

    Up: some window of ``burst_windows_s`` proves (by ``sigmas`` deviations) a demand that, with its room, is more than
    the hosts that serve can carry with the plan's headroom; spares don't count. Where queries of the family were turned
    away within ``pressed_s``, ``pressed_sigmas`` are enough: then it is no chance that matters, and each moment costs
    more of them. The new plan is for what a window proves by ``estimate_sigmas``. Short windows see a burst early, long
    ones a slow rise.

    Down: the mean demand of the last ``calm_s`` with its room, and their busiest second, are below ``low_water`` of the
    planned demand, for some family, which is less than chance makes of what was planned for (``chance_sigmas``), the
    plan is ``settle_s`` old, and there is accuracy to gain.

    Where devices are slower than profiled, all rates count for ``pace`` times as many queries, as plans are made with
    profiled times. Down, the slowest pace of the last while counts: a machine that is slow now and then would else be
    tried with more whenever it isn't. No family falls below ``floor_qps``, and one that the plan left out is planned
    for once it is asked for, so that each is hosted where the fleet allows it.
    """

    every_s: float = 0.2
    burst_windows_s: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0)
    sigmas: float = 3.0
    shed_sigmas: float = 1.0
    shed_window_s: float = 0.5
    estimate_sigmas: float = 1.0
    margin_sigmas: float = 1.0
    dispersion_window_s: float = 10.0
    down_window_s: float = 5.0
    min_plan_age_s: float = 1.0
    down_frac: float = 0.85
    chance_sigmas: float = 4.0
    min_demand_qps: float = 1.0

    def decide(self, now: ReplanContext) -> ReplanRequest | None:
        plan, demand, now_s = now.plan, now.demand, now.now_s
        for family in demand.families:
            is_unplanned = plan.demand_qps.get(family, 0.0) < self.min_demand_qps
            if is_unplanned and demand.rate_qps(family, max(self.burst_windows_s), now_s) > 0:
                return ReplanRequest(self.target_demand(now), f"{family}: asked for, and not planned for")
            is_pressed = demand.shed_qps(family, self.shed_window_s, now_s) > 0
            seen_qps = self._proven(demand, family, now_s, self.shed_sigmas if is_pressed else self.sigmas)
            slowdown = now.slowdown[family]
            asked_qps = self._with_margin(seen_qps, demand.slo_s[family], now.margin[family]) * slowdown
            if not self._is_carried(asked_qps, plan, family):
                slower = f" at {slowdown:.1f} × the profiled times" if slowdown > NOTABLE_PACE else ""
                reason = f"{family}: {seen_qps:.0f} qps{slower} is more than the plan carries"
                return ReplanRequest(self.target_demand(now), reason)
        served_s = now_s - now.started_s
        if served_s < self.down_window_s or now_s - now.since_s < self.min_plan_age_s or _is_best(plan):
            return None
        return self._down(
            now,
            (self.down_window_s, self.dispersion_window_s)
            if served_s >= self.dispersion_window_s
            else (self.down_window_s,),
        )

    def target_demand(self, now: ReplanContext) -> dict[str, float]:
        return {
            family: self._planned(
                now,
                family,
                max(
                    self._proven(now.demand, family, now.now_s, self.estimate_sigmas),
                    now.demand.rate_qps(family, max(self.burst_windows_s), now.now_s),
                ),
                now.slowdown[family],
            )
            for family in now.demand.families
        }

    def initial_demand(self, demand_qps: Mapping[str, float], slo_s: Mapping[str, float]) -> dict[str, float]:
        """The demand to plan for before anything was seen: arrivals are taken to be Poisson."""
        return {
            family: max(self._with_margin(demand_qps.get(family, 0.0), target_s), self.min_demand_qps)
            for family, target_s in slo_s.items()
        }

    def _down(self, now: ReplanContext, windows_s: Sequence[float]) -> ReplanRequest | None:
        for family in now.demand.families:
            slowdown, planned_qps = now.max_slowdown[family], now.plan.demand_qps.get(family, 0.0)
            low_qps = self.down_frac * planned_qps
            mean_qps = now.demand.rate_qps(family, self.down_window_s, now.now_s)
            if mean_qps * slowdown >= low_qps:  # the busiest second is no less
                continue
            if self._calm(now, family) < low_qps and not self._may_be_chance(
                now, family, planned_qps / slowdown, windows_s
            ):
                calm = {name: self._calm(now, name) for name in now.demand.families}
                return ReplanRequest(calm, f"{family}: {mean_qps:.0f} qps for {self.down_window_s:.0f} s")
        return None

    def _may_be_chance(self, now: ReplanContext, family: str, planned_qps: float, windows_s: Sequence[float]) -> bool:
        """Whether arrivals at the mean rate that was planned for may be as few as were seen, by so many deviations.

        Where much is asked for, low water is further down than chance goes; where little is, it is not.
        """
        scatter = now.demand.dispersion(family, self.dispersion_window_s, now.now_s)
        margin = self.margin_sigmas * now.margin[family] * math.sqrt(scatter / now.demand.slo_s[family])
        mean_qps = ((math.sqrt(margin * margin + 4 * planned_qps) - margin) / 2) ** 2  # which with its room was planned
        rates_qps = now.demand.rates_qps(family, windows_s, now.now_s)
        return all(
            qps >= mean_qps - self.chance_sigmas * math.sqrt(mean_qps * scatter / window_s)
            for qps, window_s in zip(rates_qps, windows_s, strict=True)
        )

    def _calm(self, now: ReplanContext, family: str) -> float:
        """What a plan for the last seconds must carry: their mean with its room, and their busiest second."""
        slowdown = now.max_slowdown[family]
        mean_qps = now.demand.rate_qps(family, self.down_window_s, now.now_s)
        peak_qps = now.demand.peak_qps(family, 1.0, self.down_window_s, now.now_s)
        return max(self._planned(now, family, mean_qps, slowdown), peak_qps * slowdown)

    def _planned(self, now: ReplanContext, family: str, mean_qps: float, slowdown: float) -> float:
        """Queries per second at profiled speed that a plan for a mean demand must carry."""
        scatter = now.demand.dispersion(family, self.dispersion_window_s, now.now_s)
        asked_qps = self._with_margin(mean_qps, now.demand.slo_s[family], now.margin[family], scatter)
        return max(asked_qps * slowdown, self.min_demand_qps)

    def _with_margin(self, mean_qps: float, slo_s: float, part: float = 1.0, scatter: float = 1.0) -> float:
        return mean_qps + self.margin_sigmas * part * math.sqrt(mean_qps * scatter / slo_s)

    def _is_carried(self, asked_qps: float, plan: Plan, family: str) -> bool:
        """Within what the plan was made for and a tenth, or within what those who serve carry with its headroom kept.

        Spares of the same variant serve, too.
        """
        planned_qps = plan.demand_qps.get(family, 0.0)
        if asked_qps <= max(planned_qps * 1.1, self.min_demand_qps):
            return True
        mine = [placement for placement in plan.placements if placement.family == family]
        serving = {placement.variant for placement in mine if placement.rate_qps > 0}
        carried_qps = sum(placement.capacity_qps for placement in mine if placement.variant in serving)
        return asked_qps <= carried_qps / plan.headroom

    def _proven(self, demand: DemandEstimator, family: str, now_s: float, sigmas: float) -> float:
        rates_qps = demand.rates_qps(family, self.burst_windows_s, now_s)
        return max(map(rate_lower_bound_qps, rates_qps, self.burst_windows_s, repeat(sigmas)))


@dataclass(frozen=True, slots=True)
class TimedRule:
    """Every ``period_s`` and at no other time, with the demand as another ``rule`` estimates it."""

    rule: Rule
    period_s: float

    @property
    def every_s(self) -> float:
        return min(self.rule.every_s, self.period_s)

    def decide(self, now: ReplanContext) -> ReplanRequest | None:
        if now.now_s - now.since_s < self.period_s:
            return None
        return ReplanRequest(self.target_demand(now), f"{self.period_s:g} s have passed")

    def target_demand(self, now: ReplanContext) -> dict[str, float]:
        return self.rule.target_demand(now)

    def initial_demand(self, demand_qps: Mapping[str, float], slo_s: Mapping[str, float]) -> dict[str, float]:
        return self.rule.initial_demand(demand_qps, slo_s)


def _is_best(plan: Plan) -> bool:
    """All queries go to the most accurate variant of their family: less demand can't make it better."""
    return plan.relative_accuracy is not None and plan.relative_accuracy > 1 - 1e-9
