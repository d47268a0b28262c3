"""`proteus` that is told of arrivals before they come: a bound on what better forecasts could bring."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from proteus_cli.control.policies import PROTEUS, Policy
from proteus_cli.control.replanning.demand import DemandEstimator
from proteus_cli.control.replanning.replan_rules import ReplanContext, ReplanRequest, Rule
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.trace import Trace


def told(trace: Trace, slo_s: Mapping[str, float], ahead_s: float) -> Policy:
    """`proteus` on a trace of which it always knows the next ``ahead_s``, beside all that was; for one simulation."""
    assert PROTEUS.replanning is not None, "proteus re-plans"
    arrivals = Told(PROTEUS.replanning, trace, DemandEstimator(slo_s), ahead_s)
    return replace(PROTEUS, replanning=arrivals)


@dataclass(slots=True)
class Told:
    """A rule that decides as ``rule`` would ``ahead_s`` later, if the same plan were still in force then.

    ``known`` has the arrivals that it was told of, the first ``count`` of the trace.
    """

    rule: Rule
    trace: Trace
    known: DemandEstimator
    ahead_s: float
    count: int = 0

    @property
    def every_s(self) -> float:
        return self.rule.every_s

    def decide(self, context: ReplanContext) -> ReplanRequest | None:
        return self.rule.decide(self._later(context))

    def overload(self, context: ReplanContext) -> str | None:
        return self.rule.overload(self._later(context))

    def target_demand(self, context: ReplanContext) -> Demand:
        return self.rule.target_demand(self._later(context))

    def initial_demand(self, demand_qps: Mapping[str, float], slo_s: Mapping[str, float]) -> Demand:
        return self.rule.initial_demand(demand_qps, slo_s)

    def _later(self, context: ReplanContext) -> ReplanContext:
        now_s = context.now_s + self.ahead_s
        end = int(self.trace.arrival_s.searchsorted(now_s))
        for at_s, family in zip(
            self.trace.arrival_s[self.count : end], self.trace.family[self.count : end], strict=True
        ):
            self.known.counts_of(self.trace.families[family]).arrived(1, float(at_s))
        self.count = max(end, self.count)
        return replace(
            context,
            demand=self.known,
            now_s=now_s,
            hosting_since_s=context.hosting_since_s + self.ahead_s,
            asked_s=context.asked_s + self.ahead_s,
        )
