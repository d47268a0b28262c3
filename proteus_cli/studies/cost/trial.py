"""A plan is tried: the trace is simulated on it, and its misses are counted."""

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.trace import Trace
from proteus_cli.planning.planner import Planner
from proteus_cli.simulation.conditions import JITTERS, Conditions, SlowSpan
from proteus_cli.simulation.run import simulate

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
