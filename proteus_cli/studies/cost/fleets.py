"""The cheapest fleet for a trace, and what it costs."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.rules import Rules
from proteus_cli.errors import EngineError, NoFeasiblePlan, RulesConflict
from proteus_cli.intervals import wilson
from proteus_cli.planning.from_workspace import planner_settings
from proteus_cli.planning.planner import Planner
from proteus_cli.store import Workspace
from proteus_cli.studies.cost.search import CheapestPlan, cheapest
from proteus_cli.studies.cost.trial import PlanTrials, PricedPlan, TrialResult
from proteus_cli.studies.results import FleetCost, Usage

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
