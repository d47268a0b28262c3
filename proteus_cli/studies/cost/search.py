"""The search for the cheapest fleet: plans for multiples of a demand, each tried in the simulator."""

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

import numpy as np

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.trace import Trace
from proteus_cli.errors import EngineError, NoFeasiblePlan, RulesConflict
from proteus_cli.intervals import wilson
from proteus_cli.planning.from_workspace import planner_settings
from proteus_cli.planning.planner import Planner
from proteus_cli.simulation.conditions import JITTERS, Conditions, SlowSpan
from proteus_cli.simulation.run import simulate
from proteus_cli.store import Workspace
from proteus_cli.studies.results import FleetCost, Usage

MAX_TRIED = 16
STEP = 1.25
MIN_MULTIPLE, MAX_MULTIPLE = STEP**-8, STEP**8  # from a sixth of the busiest seconds' demand to six times it
ALIKE = 1.02  # multiples that differ by less are the same
PLAN_LIMIT_S = 10.0
NEXT_TO_NOTHING = 1e-3
"""A multiple of the demand that any fleet serves if the rules allow it at all."""
SEEDS = 2  # of the scatter of batch times; their queries count together
SIMULATED_QPS = 20_000.0
"""Approximate number of simulated queries per second: `make bench-simulator` measures it."""

# --- the search over multiples, pure


class OutOfTime(Exception):
    """Raised by the callbacks of `cheapest` where no time is left."""


class Priced(Protocol):
    """A plan that has a price."""

    @property
    def cost(self) -> float: ...


class JudgedPlan(Protocol):
    """The result of a plan that was tried."""

    @property
    def keeps(self) -> bool: ...


P = TypeVar("P", bound=Priced)
J = TypeVar("J", bound=JudgedPlan)


@dataclass(frozen=True, slots=True)
class CheapestPlan(Generic[P, J]):
    """The cheapest plan that kept the SLO, for a multiple of the demand, after ``tried`` trials."""

    plan: P
    judged: J
    multiple: float
    tried: int


def cheapest(plan_for: Callable[[float], P | None], judge: Callable[[P], J]) -> CheapestPlan[P, J] | None:
    """The cheapest plan found; None where none keeps the SLO.

    ``plan_for`` returns the cheapest plan for a multiple of the demand, which costs no less for a larger one; None:
    there is none. Either function may raise `OutOfTime`, which ends the search.
    """
    best: CheapestPlan[P, J] | None = None
    low, high, most, tried = 0.0, math.inf, MAX_MULTIPLE * STEP, 0
    try:
        while tried < MAX_TRIED and (multiple := _next_multiple(low, high, most)) is not None:
            plan = plan_for(multiple)
            if plan is None and best is None:
                most = min(most, multiple)
            elif plan is None:
                low = multiple  # less than a multiple that had a plan: taken as too little, so that the search ends
            elif best is not None and plan.cost >= best.plan.cost:
                high = multiple  # whether or not it keeps the SLO: what costs less is for less
            else:
                judged = judge(plan)
                tried += 1
                if judged.keeps:
                    best, high = CheapestPlan(plan, judged, multiple, tried), multiple
                else:
                    low = multiple
    except OutOfTime:
        pass
    return None if best is None else replace(best, tried=tried)


def _next_multiple(low: float, high: float, most: float) -> float | None:
    """The next multiple: away from 1 until one keeps the SLO and one does not, then between the two.

    ``low`` is too little, or 0; ``high`` is enough, or infinite; no plan serves ``most``. None: the search ends.
    """
    if high < math.inf and low == 0:
        return high / STEP if high / STEP >= MIN_MULTIPLE else None
    if high < math.inf:
        return math.sqrt(low * high) if high > low * ALIKE else None
    following = low * STEP or 1.0
    if following < most:
        return following
    if low == 0:
        return most / STEP if most > MIN_MULTIPLE else None
    return math.sqrt(low * most) if low * ALIKE < most <= MAX_MULTIPLE else None


# --- trials


@dataclass(slots=True)
class FamilyTally:
    """The ended queries of a family. ``accuracies`` is the sum over ``answered`` ones."""

    queries: int = 0
    missed: int = 0
    answered: int = 0
    accuracies: float = 0.0
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, record: RequestRecord) -> None:
        self.queries += 1
        if record.outcome is not Outcome.SERVED:
            self.missed += 1
        elif record.accuracy is not None:
            self.answered, self.accuracies = self.answered + 1, self.accuracies + record.accuracy
        if record.latency_s is not None:
            self.latencies_s.append(record.latency_s)

    def percentile_s(self, allowed_frac: float) -> float | None:
        """The latency that at most the allowed fraction exceeds; a query without an answer exceeds any."""
        place = math.ceil((1 - allowed_frac) * self.queries) - 1
        if not 0 <= place < len(self.latencies_s):
            return None
        return float(np.partition(np.array(self.latencies_s), place)[place])


@dataclass(frozen=True, slots=True)
class PricedPlan:
    """A plan, and the cost per hour of its devices in use."""

    plan: Plan
    cost: float


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The tallies of a plan by family. ``keeps``: no family missed more than is allowed."""

    tallies: Mapping[str, FamilyTally]
    keeps: bool


@dataclass(frozen=True, slots=True)
class PlanTrials:
    """The inputs of trials. ``allowed_frac`` of each family's queries may miss.

    Devices take ``headroom`` times as long as profiled, because their speed varies.
    """

    catalog: Catalog
    profiles: Mapping[str, Profile]
    trace: Trace
    allowed_frac: float
    jitter: str
    seed: int
    headroom: float = 1.0

    @property
    def runs(self) -> int:
        return SEEDS if self.jitter else 1

    @property
    def trial_s(self) -> float:
        """The approximate time of a trial."""
        return self.runs * len(self.trace) / SIMULATED_QPS

    def try_out(self, plan: Plan, planner: Planner, progress: Callable[[float], object]) -> TrialResult:
        """Simulate the trace on a fixed plan. An exception of ``progress`` ends the trial.

        A query leaves little more than its latency in memory.
        """
        policy = replace(policy_named("proteus"), replanning=None)
        conditions = Conditions(jitter=JITTERS[self.jitter] if self.jitter else None, slow=SlowSpan(self.headroom))
        tallies: dict[str, FamilyTally] = defaultdict(FamilyTally)
        for number in range(self.runs):

            def advance(done_frac: float, number: int = number) -> None:
                progress((number + done_frac) / self.runs)

            found = simulate(
                self.trace, plan, self.catalog, self.profiles, policy, planner,
                conditions=conditions, rng=np.random.default_rng((self.seed, number)),
                progress=advance, saw=lambda record: tallies[record.family].add(record),
            )  # fmt: skip
            if found.interrupted_s is not None:
                raise KeyboardInterrupt
        return TrialResult(tallies, all(each.missed <= self.allowed_frac * each.queries for each in tallies.values()))


# --- both together


def cheapest_fleet(
    workspace: Workspace,
    trials: PlanTrials,
    rules: Rules,
    demand: Mapping[str, float],
    goes_on: Callable[[int, float], bool] = lambda _tried, _done_frac: True,
) -> CheapestPlan[PricedPlan, TrialResult] | None:
    """The cheapest plan that keeps the SLO, for a multiple of a demand; None where none does. See `cheapest`.

    ``goes_on`` takes the number of trials and the fraction of the next one that is done. It returns whether time is
    left. Raises `EngineError` where none was found for another reason: too little time, or rules that conflict.
    """
    settings = planner_settings(
        workspace, policy_named("proteus"), 1.0,
        profiles=trials.profiles, rules=rules, time_limit_s=PLAN_LIMIT_S, spares=False,
    )  # fmt: skip
    planner = replace(settings, catalog=trials.catalog).make()
    conflict: RulesConflict | None = None
    is_late, tried = False, 0

    def planned(multiple: float) -> PricedPlan | None:
        nonlocal conflict, is_late
        try:
            plan = planner({name: qps * multiple for name, qps in demand.items()})
        except RulesConflict as error:
            conflict = error
            return None
        except NoFeasiblePlan:
            is_late = True
            return None
        return PricedPlan(plan, planner.spent(plan))

    def require_time(done_frac: float) -> None:
        nonlocal is_late
        if not goes_on(tried, done_frac):
            is_late = True
            raise OutOfTime

    def plan_in_time(multiple: float) -> PricedPlan | None:
        require_time(0.0)
        return planned(multiple)

    def judge(plan: PricedPlan) -> TrialResult:
        nonlocal tried
        result = trials.try_out(plan.plan, planner, require_time)
        tried += 1
        return result

    found = cheapest(plan_in_time, judge)
    if found is None and is_late:
        raise EngineError(
            "The time was over before a fleet was found that keeps the SLO of all families.",
            hint="give it more time with `--budget`, or look at fewer devices with `--fleet`",
        )
    if found is None and conflict is not None and planned(NEXT_TO_NOTHING) is None:  # so the demand is not too much
        raise EngineError("No plan obeys all rules, however little is asked for.", hint=conflict.hint)
    return found


def cost_of(usage: Usage, found: CheapestPlan[PricedPlan, TrialResult], trials: PlanTrials) -> FleetCost:
    """The cheapest fleet with the rates of its trial, and the interval of the fraction that missed the SLO."""
    tallies, price = found.judged.tallies, found.plan.cost
    held = {
        device: " + ".join(sorted(placement.variant for placement in placed))
        for device, placed in found.plan.plan.by_device().items()
        if placed
    }
    worst = max(tallies.values(), key=lambda each: each.missed / each.queries)
    missed_frac, (low_frac, high_frac) = worst.missed / worst.queries, wilson(worst.missed, worst.queries)
    queries, missed = sum(each.queries for each in tallies.values()), sum(each.missed for each in tallies.values())
    answered = sum(each.answered for each in tallies.values())
    served = (queries - missed) * len(trials.trace) / queries
    return FleetCost(
        usage=usage,
        fleet=dict(Counter(trials.profiles[device].device.type for device in held)),
        held=dict(Counter(held.values())),
        price_per_hour=price,
        cost_per_million=1e6 * price * trials.trace.duration_s / 3600 / served,
        queries=queries,
        missed=missed,
        missed_frac=missed_frac,
        low_frac=min(low_frac, missed_frac),
        high_frac=max(high_frac, missed_frac),
        effective_accuracy=sum(each.accuracies for each in tallies.values()) / answered if answered else None,
        multiple=found.multiple,
        tried=found.tried,
        percentile_s={name: each.percentile_s(trials.allowed_frac) for name, each in tallies.items()},
    )
