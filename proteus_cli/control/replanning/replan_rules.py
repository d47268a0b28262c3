"""Rules for re-planning: when the plan no longer fits the demand, and what demand to plan for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from proteus_cli.control.replanning.demand import WINDOWS_S, DemandEstimator, Rate
from proteus_cli.control.replanning.loss_curves import HISTORY_S, loss_curves
from proteus_cli.domain.demand import Demand, Forecast
from proteus_cli.domain.device import NONE_OUT, Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_changes import gain_text

UNKNOWN_SLACK_FRAC = 0.5  # of the SLO: what queries may wait where it isn't known which batches will run
MIN_GAIN = 0.0025  # of accuracy on time: the rate of 20 s of steady arrivals is known to half a percent or so
NOTABLE_SLOWDOWN = 1.05  # a smaller one is not worth a word in the reason


@dataclass(frozen=True, slots=True)
class ReplanRequest:
    """Ask for a plan of ``demand_qps`` for a ``reason``; ``without`` are the devices and engines that are out.

    One that ``is_urgent`` is for more than the plan in force carries, so that queries are lost until it is made.
    One that ``is_routine`` asks whether another plan would be better: where the answer is no, there is nothing to say.
    One that ``is_review`` asks so for the demand that the plan was made for.
    """

    demand_qps: Demand
    reason: str
    without: Outages = NONE_OUT
    is_routine: bool = False
    is_urgent: bool = False
    is_review: bool = False

    def reason_of(self, before: Plan, after: Plan) -> str:
        """The reason of the change to ``after``, with what is gained where the demand has not surely changed."""
        return f"{self.reason}: {gain_text(before, after)}" if self.is_routine else self.reason


@dataclass(frozen=True, slots=True)
class ReplanContext:
    """The input of a rule.

    The server serves since ``started_s``, hosts what it does now since ``hosting_since_s``, last asked for a plan at
    ``asked_s``, and for a reason other than a review at ``changed_s``. The plan in force was made, or kept, for
    ``planned_qps``. By family, batches took ``slowdown`` times what was profiled in the last seconds, and queries may
    wait for ``slack_s`` until their batch begins.
    """

    plan: Plan
    planned_qps: Demand
    demand: DemandEstimator
    slowdown: Mapping[str, float]
    slack_s: Mapping[str, float]
    now_s: float
    started_s: float
    hosting_since_s: float
    asked_s: float
    changed_s: float


class Rule(Protocol):
    """When to re-plan; asked every ``every_s``."""

    @property
    def every_s(self) -> float:
        """Seconds between two questions to `decide`."""
        ...

    def decide(self, context: ReplanContext) -> ReplanRequest | None:
        """Whether to re-plan now."""
        ...

    def overload(self, context: ReplanContext) -> str | None:
        """The demand beyond the plan's capacity, in words; None where there is none, or it does not matter now."""
        ...

    def target_demand(self, context: ReplanContext) -> Demand:
        """The demand to plan for now, in queries per second at profiled speed."""
        ...

    def initial_demand(self, demand_qps: Mapping[str, float], slo_s: Mapping[str, float]) -> Demand:
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
        burst = self.overload(context)
        if burst is not None:
            return ReplanRequest(self.target_demand(context), burst, is_urgent=True)
        if context.now_s - context.hosting_since_s >= self.period_s:
            return ReplanRequest(self.target_demand(context), f"{self.period_s:.0f} s have passed")
        return None

    def overload(self, context: ReplanContext) -> str | None:
        plan, demand = context.plan, context.demand
        for family in demand.families:
            seen_qps = demand.rate_qps(family, 1.0, context.now_s)
            if seen_qps > max(plan.capacity_qps(family), context.planned_qps.get(family, 0.0)):
                return f"{family}: a burst of {seen_qps:.0f} qps"
        return None

    def target_demand(self, context: ReplanContext) -> Demand:
        windows_s = (self.window_s, 1.0)
        return {
            family: max(context.demand.rate_qps(family, window_s, context.now_s) for window_s in windows_s)
            for family in context.demand.families
        }

    def initial_demand(self, demand_qps: Mapping[str, float], slo_s: Mapping[str, float]) -> Demand:
        return {family: demand_qps.get(family, 0.0) for family in slo_s}


@dataclass(frozen=True, slots=True)
class ForecastRule:
    """Plan for a `Forecast` when the demand has changed, and review the plan ever more rarely while it has not.

    A rise that is surely no scatter is planned for at once, as queries are lost meanwhile. Every ``refresh_s`` there is
    a plan for any change that Poisson arrivals do not bring by chance. Clumps of arrivals are such a change most of the
    time, so the plan follows their scatter.

    Without a change, the plan is reviewed after ``refresh_s``, and again each time that its demand has been known for
    twice as long. Another plan must then gain `MIN_GAIN`: steady arrivals would else move a device with each review.
    In all cases the planner weighs the gain, over the time that a forecast holds, against the loads.

    Rates count ``slowdown`` times, as plans are made with profiled times.
    """

    every_s: float = 0.1  # s between decisions; one bucket of the demand estimator
    refresh_s: float = 2.0  # s between two plans, unless the demand has surely risen
    first_s: float = 1.0  # s of arrivals before the first estimate: fewer show no scatter
    settle_s: float = 5.0  # s of arrivals before the first forecast of an unchanged demand
    up_sigmas: float = 3.0  # deviations above the planned rate: a rise
    changed_sigmas: float = 4.0  # Poisson deviations from the planned rate: a change
    min_demand_qps: float = 1.0  # queries/s planned for each family, so that each is hosted where the fleet allows
    idle_demand_qps: float = 0.5  # the same of a family without queries: where not all fit, the others come first

    def decide(self, context: ReplanContext) -> ReplanRequest | None:
        served_s = context.now_s - context.started_s
        if served_s < self.first_s:
            return None
        for family in context.demand.families:
            planned_qps = max(_acted_on_qps(context, family), self.min_demand_qps)
            rate = self._more_than(planned_qps, context, family)
            if rate is not None:
                slowdown = context.slowdown[family]
                arriving = f"{rate.qps / slowdown:.0f} qps"
                if slowdown > NOTABLE_SLOWDOWN:
                    arriving += f" at {slowdown:.1f} × the profiled times (as {rate.qps:.0f} qps)"
                what = f"{arriving} is more than {_WHAT[context.plan.rules.cascades]} ({planned_qps:.0f})"
                is_urgent = self.overload(context) is not None
                return ReplanRequest(
                    self.target_demand(context), f"{family}: {what}", is_routine=True, is_urgent=is_urgent
                )
        since_s = context.now_s - context.asked_s
        if served_s < self.settle_s or since_s < self.refresh_s or self._is_idle(context):
            return None
        has_changed = self._has_changed(context)
        if has_changed or since_s >= context.asked_s - context.changed_s:
            reason = f"the demand of the last {min(served_s, HISTORY_S):.0f} s"
            return ReplanRequest(self.target_demand(context), reason, is_routine=True, is_review=not has_changed)
        return None

    def overload(self, context: ReplanContext) -> str | None:
        for family in context.demand.families:
            carried_qps = context.plan.capacity_qps(family)
            rate = self._more_than(max(carried_qps, self.min_demand_qps), context, family)
            if rate is not None:
                return f"{family}: {rate.qps:.0f} qps is more than the plan carries ({carried_qps:.0f})"
        return None

    def target_demand(self, context: ReplanContext) -> Demand:
        demand, now_s = context.demand, context.now_s
        over_s = min(now_s - context.started_s, HISTORY_S)
        rates = [self._rate(context, family) for family in demand.families]
        arrivals = [demand.arrivals(family, over_s, now_s) for family in demand.families]
        slack_s = {family: context.slack_s[family] for family in demand.families}
        return _forecast(rates, slack_s, arrivals, demand.bucket_s)

    def initial_demand(self, demand_qps: Mapping[str, float], slo_s: Mapping[str, float]) -> Demand:
        """Arrivals are assumed to be Poisson."""
        expected_qps = [demand_qps.get(family, 0.0) for family in slo_s]
        rates = [Rate(max(qps, self._min_qps(qps)), 0.0) for qps in expected_qps]
        slack_s = {family: UNKNOWN_SLACK_FRAC * target_s for family, target_s in slo_s.items()}
        return _forecast(rates, slack_s, [() for _ in rates], 1.0)

    def _has_changed(self, context: ReplanContext) -> bool:
        """Whether the rate of a family is surely not the planned one, if arrivals are Poisson."""
        return any(
            abs(rate.qps - max(context.planned_qps.get(family, 0.0), self.min_demand_qps))
            > self.changed_sigmas * math.sqrt(rate.qps / rate.window_s)
            for family in context.demand.families
            for rate in [self._rate(context, family)]
        )

    def _is_idle(self, context: ReplanContext) -> bool:
        """No row has arrived within the known past, and the plan is for that."""
        return max(context.planned_qps.values(), default=0.0) <= self.min_demand_qps and not any(
            self._recent_qps(context, family) for family in context.demand.families
        )

    def _more_than(self, qps: float, context: ReplanContext, family: str) -> Rate | None:
        """The present rate at profiled speed, if that is surely more than ``qps``, at least `min_demand_qps`."""
        if not context.demand.may_exceed(family, qps / context.slowdown[family], self.up_sigmas, context.now_s):
            return None
        rate = self._rate(context, family)
        return rate if rate.qps - self.up_sigmas * rate.deviation_qps > qps else None

    def _rate(self, context: ReplanContext, family: str) -> Rate:
        """At profiled speed."""
        rate = context.demand.estimate(family, context.now_s - context.started_s, context.now_s)
        slowdown = context.slowdown[family]
        min_qps = self._min_qps(self._recent_qps(context, family))
        return Rate(max(rate.qps * slowdown, min_qps), rate.deviation_qps * slowdown, rate.window_s)

    def _recent_qps(self, context: ReplanContext, family: str) -> float:
        return context.demand.rate_qps(family, max(WINDOWS_S), context.now_s)

    def _min_qps(self, seen_qps: float) -> float:
        return self.min_demand_qps if seen_qps > 0 else self.idle_demand_qps


def gains_enough(before: Plan, after: Plan) -> bool:
    """Whether ``after`` gains more accuracy on time than chance brings, each plan at its own demand."""
    return _on_time(after) - _on_time(before) >= MIN_GAIN


def _on_time(plan: Plan) -> float:
    """The expected accuracy of a query, where one that is late counts as 0."""
    all_qps = sum(plan.demand_qps.values())
    if plan.effective_accuracy is None or not all_qps:
        return 0.0
    in_time_qps = sum(qps * plan.expected_attainment.get(name, 1.0) for name, qps in plan.demand_qps.items())
    return plan.effective_accuracy * in_time_qps / all_qps


_WHAT = {False: "was planned for", True: "the plan carries"}


def _acted_on_qps(context: ReplanContext, family: str) -> float:
    """More than this is planned for at once: more than was planned for, or, with cascades, than the plan carries.

    To find the best plan with cascades takes longer than a rise: it would be the best one for a demand that is over.
    """
    plan, planned_qps = context.plan, context.planned_qps.get(family, 0.0)
    return max(planned_qps, plan.capacity_qps(family)) if plan.rules.cascades else planned_qps


def _forecast(
    rates: Sequence[Rate], slack_s: Mapping[str, float], arrivals: Sequence[Sequence[int]], bucket_s: float
) -> Forecast:
    """``rates`` and ``arrivals`` in the order of ``slack_s``, which is by family."""
    curves = loss_curves(arrivals, bucket_s, tuple(slack_s.values()), rates)
    return Forecast(
        {family: rate.qps for family, rate in zip(slack_s, rates, strict=True)},
        dict(zip(slack_s, curves, strict=True)),
    )


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

    def overload(self, context: ReplanContext) -> str | None:  # noqa: ARG002 - it waits for its time
        return None

    def target_demand(self, context: ReplanContext) -> Demand:
        return self.rule.target_demand(context)

    def initial_demand(self, demand_qps: Mapping[str, float], slo_s: Mapping[str, float]) -> Demand:
        return self.rule.initial_demand(demand_qps, slo_s)
