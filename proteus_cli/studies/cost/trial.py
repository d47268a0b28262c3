"""A plan is tried: the trace is simulated on it, and its misses are counted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.catalog.catalog import Catalog
from proteus_cli.domain.plan.plan import Plan
from proteus_cli.domain.profile.profile import Profile
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.trace import Trace
from proteus_cli.planning.planner import Planner
from proteus_cli.simulation.conditions import JITTERS, Conditions
from proteus_cli.simulation.run import simulate

SEEDS = 2  # of the scatter of batch times; their queries count together


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

    def try_out(self, plan: Plan, planner: Planner, progress: Callable[[float], object]) -> TrialResult:
        """Simulate the trace on a plan that stays as it is."""
        policy = replace(policy_named("proteus"), replanning=None)
        conditions = Conditions(jitter=JITTERS[self.jitter] if self.jitter else None, slowdown=self.headroom)
        ended: list[RequestRecord] = []
        for number in range(SEEDS if self.jitter else 1):
            rng = np.random.default_rng((self.seed, number))
            ended += simulate(
                self.trace, plan, self.catalog, self.profiles, policy, planner,
                conditions=conditions, rng=rng, progress=progress,
            ).ended  # fmt: skip
        return self._judged(ended)

    def _judged(self, ended: Sequence[RequestRecord]) -> TrialResult:
        by_family: dict[str, list[RequestRecord]] = {}
        for each in ended:
            by_family.setdefault(each.family, []).append(each)
        missed = {name: sum(each.outcome is not Outcome.SERVED for each in of) for name, of in by_family.items()}
        known = [each.accuracy for each in ended if each.outcome is Outcome.SERVED and each.accuracy is not None]
        return TrialResult(
            queries={name: len(of) for name, of in by_family.items()},
            missed=missed,
            percentile_s={name: self._percentile_s(of) for name, of in by_family.items()},
            accuracy=sum(known) / len(known) if known else None,
            keeps=all(missed[name] <= self.allowed_frac * len(of) for name, of in by_family.items()),
        )

    def _percentile_s(self, ended: Sequence[RequestRecord]) -> float | None:
        """The latency that no more than the allowed part exceeds; what was not answered exceeds any."""
        latencies_s = sorted(each.latency_s for each in ended if each.latency_s is not None)
        place = int(np.ceil((1 - self.allowed_frac) * len(ended))) - 1
        return latencies_s[place] if 0 <= place < len(latencies_s) else None
