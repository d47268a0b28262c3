"""The search for the cheapest fleet: plans for multiples of a demand, each tried in the simulator."""

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
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


class Priced(Protocol):
    """A plan that has a price."""

    @property
    def cost(self) -> float: ...


class JudgedPlan(Protocol):
    """How a plan did."""

    @property
    def keeps(self) -> bool: ...


P = TypeVar("P", bound=Priced)
J = TypeVar("J", bound=JudgedPlan)


@dataclass(frozen=True, slots=True)
class CheapestPlan(Generic[P, J]):
    """The cheapest plan that kept the SLO, for so many times the demand, after so many were ``tried``."""

    plan: P
    judged: J
    multiple: float
    tried: int


def cheapest(
    plan_for: Callable[[float], P | None],
    judge: Callable[[P], J | None],
    goes_on: Callable[[int], bool] = lambda _tried: True,
) -> CheapestPlan[P, J] | None:
    """The cheapest plan found; None where none keeps the SLO.

    ``plan_for`` makes the cheapest plan for a multiple of the demand, which costs no less for a larger one; None where
    there is none. ``goes_on`` is told how many were tried, and says whether there is time for a further one; where
    ``judge`` says None, the time ended meanwhile.
    """
    best: CheapestPlan[P, J] | None = None
    low, high, tried = 0.0, math.inf, 0
    multiples = _Multiples()
    while tried < MAX_TRIED and (multiple := multiples.next(low, high)) is not None and goes_on(tried):
        plan = plan_for(multiple)
        if plan is None and best is None:
            multiples.max_multiple = min(multiples.max_multiple, multiple)
            continue
        if plan is None:
            low = multiple  # less than what was planned for: as good as too little, so that the search ends
            continue
        if best is not None and plan.cost >= best.plan.cost:
            high = multiple  # whether or not it keeps the SLO: what costs less is for less
            continue
        judged = judge(plan)
        if judged is None:
            break
        tried += 1
        if judged.keeps:
            best, high = CheapestPlan(plan, judged, multiple, tried), multiple
        else:
            low = multiple
    return None if best is None else CheapestPlan(best.plan, best.judged, best.multiple, tried)


@dataclass(slots=True)
class _Multiples:
    """What to plan for next: first out from 1 until one keeps the SLO and one doesn't, then between the two.

    ``max_multiple``: no plan serves so much.
    """

    max_multiple: float = MAX_MULTIPLE * STEP

    def next(self, low: float, high: float) -> float | None:
        """``low`` is too little, or 0; ``high`` is enough, or infinite. None: nothing is left to try."""
        return next(self._wanted(low, high), None)

    def _wanted(self, low: float, high: float) -> Iterator[float]:
        if math.isinf(high):
            following = 1.0 if low == 0 else low * STEP
            if following < self.max_multiple:
                yield following
            elif low > 0 and low * ALIKE < self.max_multiple < math.inf and self.max_multiple <= MAX_MULTIPLE:
                yield math.sqrt(low * self.max_multiple)
            elif low == 0 and self.max_multiple > MIN_MULTIPLE:
                yield self.max_multiple / STEP
        elif low == 0:
            if high / STEP >= MIN_MULTIPLE:
                yield high / STEP
        elif high > low * ALIKE:
            yield math.sqrt(low * high)


SEEDS = 2  # of the scatter of batch times; their queries count together
SIMULATED_QPS = 20_000.0
"""About how many queries are simulated in a second: `make bench-simulator` measures it."""


@dataclass(frozen=True, slots=True)
class PricedPlan:
    """A plan, and what its devices in use cost per hour."""

    plan: Plan
    cost: float


@dataclass(frozen=True, slots=True)
class TrialResult:
    """How a plan did: by family its queries and those that missed, and the latency at the percentile.

    ``keeps``: no family missed more than is allowed. ``accuracy`` is the mean over answers in time.
    """

    queries: Mapping[str, int]
    missed: Mapping[str, int]
    percentile_s: Mapping[str, float | None]
    accuracy: float | None
    keeps: bool

    @property
    def worst(self) -> str:
        """The family that missed the largest part."""
        return max(self.queries, key=lambda family: self.missed[family] / self.queries[family])


@dataclass(frozen=True, slots=True)
class PlanTrials:
    """What plans are tried with. ``allowed_frac`` of each family's queries may miss.

    Devices take ``headroom`` times as long as profiled, as they are not as fast in each minute.
    """

    catalog: Catalog
    profiles: Mapping[str, Profile]
    trace: Trace
    allowed_frac: float
    jitter: str
    seed: int
    headroom: float = 1.0

    @property
    def trial_s(self) -> float:
        """About how long a trial takes."""
        return self._runs * len(self.trace) / SIMULATED_QPS

    @property
    def _runs(self) -> int:
        return SEEDS if self.jitter else 1

    def try_out(self, plan: Plan, planner: Planner, progress: Callable[[float], object]) -> TrialResult:
        """Simulate the trace on a plan that stays as it is. What ``progress`` raises ends the trial.

        Of each query, little more than its latency is kept.
        """
        policy = replace(policy_named("proteus"), replanning=None)
        conditions = Conditions(jitter=JITTERS[self.jitter] if self.jitter else None, slow=SlowSpan(self.headroom))
        tallies: dict[str, _Tally] = defaultdict(_Tally)
        for number in range(self._runs):
            rng = np.random.default_rng((self.seed, number))
            found = simulate(
                self.trace, plan, self.catalog, self.profiles, policy, planner,
                conditions=conditions, rng=rng, progress=partial(self._advance, progress, number),
                saw=lambda record: tallies[record.family].add(record),
            )  # fmt: skip
            if found.interrupted_s is not None:
                raise KeyboardInterrupt
        return self._judged(tallies)

    def _advance(self, progress: Callable[[float], object], number: int, done_frac: float) -> None:
        progress((number + done_frac) / self._runs)

    def _judged(self, tallies: Mapping[str, "_Tally"]) -> TrialResult:
        answered = sum(each.answered for each in tallies.values())
        return TrialResult(
            queries={name: each.queries for name, each in tallies.items()},
            missed={name: each.missed for name, each in tallies.items()},
            percentile_s={name: each.percentile_s(self.allowed_frac) for name, each in tallies.items()},
            accuracy=sum(each.accuracies for each in tallies.values()) / answered if answered else None,
            keeps=all(each.missed <= self.allowed_frac * each.queries for each in tallies.values()),
        )


@dataclass(slots=True)
class _Tally:
    """A family's queries that have ended, and what counts of them: ``accuracies`` is the sum over ``answered`` ones."""

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
        """The latency that no more than the allowed part exceeds; what was not answered exceeds any."""
        place = math.ceil((1 - allowed_frac) * self.queries) - 1
        if not 0 <= place < len(self.latencies_s):
            return None
        return float(np.partition(np.array(self.latencies_s), place)[place])


PLAN_LIMIT_S = 10.0
NEXT_TO_NOTHING = 1e-3
"""Such a multiple of the demand is served by any fleet that may serve it at all."""

GoesOn = Callable[[int, float], bool]


class _TimeOver(Exception):
    """Ends a trial."""


def cheapest_fleet(
    workspace: Workspace,
    trials: PlanTrials,
    rules: Rules,
    demand: Mapping[str, float],
    goes_on: GoesOn = lambda _tried, _done_frac: True,
) -> CheapestPlan[PricedPlan, TrialResult] | None:
    """The cheapest plan that keeps the SLO, for a multiple of a demand; None where none does. See `search.cheapest`.

    ``goes_on`` is told how many plans were tried, and which part of the next one, and says whether there is time left.
    Raises `EngineError` where none was found for another reason: too little time, or rules that conflict.
    """
    planner = _planner(workspace, trials, rules)
    planning = _NotingPlanner(planner, trials, demand, goes_on)
    found = cheapest(planning.plan, planning.judge, planning.goes_on)
    if found is None:
        planning.require_end()
    return found


def _planner(workspace: Workspace, trials: PlanTrials, rules: Rules) -> Planner:
    settings = planner_settings(
        workspace, policy_named("proteus"), 1.0,
        profiles=trials.profiles, rules=rules, time_limit_s=PLAN_LIMIT_S, spares=False,
    )  # fmt: skip
    return replace(settings, catalog=trials.catalog).make()


@dataclass(slots=True)
class _NotingPlanner:
    """Plans for multiples of a demand, and tries them; notes what kept it from one."""

    planner: Planner
    trials: PlanTrials
    demand: Mapping[str, float]
    has_time: GoesOn
    conflict: RulesConflict | None = None
    is_late: bool = False
    tried: int = 0

    def plan(self, multiple: float) -> PricedPlan | None:
        """The cheapest plan; None where none serves so much by the rules, or the solver found none in time."""
        try:
            plan = self.planner({name: qps * multiple for name, qps in self.demand.items()})
        except RulesConflict as conflict:
            self.conflict = conflict
            return None
        except NoFeasiblePlan:
            self.is_late = True
            return None
        return PricedPlan(plan, self.planner.spent(plan))

    def judge(self, plan: PricedPlan) -> TrialResult | None:
        """How a plan does; None where there is no time to see the end of it."""
        try:
            return self.trials.try_out(plan.plan, self.planner, self._require_time)
        except _TimeOver:
            return None

    def _require_time(self, done_frac: float) -> None:
        if not self._has_time(done_frac):
            raise _TimeOver

    def goes_on(self, tried: int) -> bool:
        """Whether there is time for another plan."""
        self.tried = tried
        return self._has_time(0.0)

    def _has_time(self, done_frac: float) -> bool:
        has_time = self.has_time(self.tried, done_frac)
        self.is_late |= not has_time
        return has_time

    def require_end(self) -> None:
        """Raise `EngineError` where the search could not look at all plans."""
        if self.is_late:
            raise EngineError(
                "The time was over before a fleet was found that keeps the SLO of all families.",
                hint="give it more time with `--budget`, or look at fewer devices with `--fleet`",
            )
        if self.conflict is not None and self.plan(NEXT_TO_NOTHING) is None:  # so it isn't as the demand is too much
            raise EngineError("No plan obeys all rules, however little is asked for.", hint=self.conflict.hint)


def cost_of(usage: Usage, found: CheapestPlan[PricedPlan, TrialResult], trials: PlanTrials) -> FleetCost:
    """The cheapest fleet that was found, with what its trial measured: rates, and the bounds of the violation ratio."""
    plan, trial = found.plan.plan, found.judged
    used = _used(plan)
    queries, missed = trial.queries[trial.worst], trial.missed[trial.worst]
    low_frac, high_frac = wilson(missed, queries)
    runs = sum(trial.queries.values()) / len(trials.trace)
    served = (sum(trial.queries.values()) - sum(trial.missed.values())) / runs
    price = found.plan.cost
    return FleetCost(
        usage=usage,
        fleet=dict(Counter(trials.profiles[device].device.type for device in used)),
        held=dict(Counter(used.values())),
        price_per_hour=price,
        cost_per_million=1e6 * price * trials.trace.duration_s / 3600 / served,
        queries=sum(trial.queries.values()),
        missed=sum(trial.missed.values()),
        missed_frac=missed / queries,
        low_frac=min(low_frac, missed / queries),
        high_frac=max(high_frac, missed / queries),
        effective_accuracy=trial.accuracy,
        multiple=found.multiple,
        tried=found.tried,
        percentile_s=dict(trial.percentile_s),
    )


def _used(plan: Plan) -> dict[str, str]:
    """What each device in use holds, in words."""
    held = {device: sorted(placement.variant for placement in placed) for device, placed in plan.by_device().items()}
    return {device: " + ".join(variants) for device, variants in held.items() if variants}
