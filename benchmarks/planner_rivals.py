"""What `planner.py` compares plans with: an independent exact solve, and the relaxation of the paper's artifact.

Both have a rate for each choice (a variant on a type of devices), as DESIGN §7 writes the model down; nothing of the
planner's own model is used.
"""

import time
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from benchmarks.planner_instances import Fleet
from proteus_cli.arrays import Floats, Ints
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.rules import PAPER_RULES, Rules

# All of these are parts of the whole demand.
LESS_ACCURATE = 1e-4  # the planner proves no more
LESS_SERVED = 1e-5
ROUNDING = 1e-6
EXACT_GAP = 1e-6

FIRST_BETA, BETA_STEP, MIN_BETA = 1.0, 0.05, 0.2
BETA_GAP, BETA_TIME_LIMIT_S = 1e-4, 20.0  # the artifact: 0.5 and 500 s


@dataclass(frozen=True, slots=True)
class Choices:
    """Each variant on each type of devices where it can meet its SLO: type, family, rate and accuracy of each [C]."""

    fleet: Fleet
    kind: Ints
    family: Ints
    qps: Floats
    accuracy: Floats

    @classmethod
    def of(cls, fleet: Fleet, hosts: Mapping[str, int] | None = None) -> "Choices":
        """By the paper's rules. With ``hosts`` by the default ones, where each family has so many; one, if left out."""
        rules = PAPER_RULES if hosts is None else Rules()
        families, slo_s = fleet.catalog.names, fleet.catalog.slo_s()
        in_time = rules.attainment_targets(fleet.catalog)
        found = [
            (k, families.index(measured.family), within.qps, measured.accuracy)
            for k, profile in enumerate(fleet.types.values())
            for measured in profile.variants
            for count in [1 if hosts is None else hosts.get(measured.family, 1)]
            for of in [measured.family]
            if (within := rules.capacity_within(slo_s[of], measured.points, count, in_time[of])).qps > 0
        ]
        kind, family, qps, accuracy = (np.array(column) for column in zip(*found, strict=True))
        return cls(fleet, kind, family, qps, accuracy)

    def array(self, demand: Mapping[str, float]) -> Floats:
        """A demand as [F]."""
        return np.array([demand[name] for name in self.fleet.catalog.names])

    @property
    def device_count(self) -> Floats:
        """By type."""
        return np.array([float(self.fleet.counts[kind]) for kind in self.fleet.types])

    @property
    def of_kind(self) -> sp.csr_array:
        """0/1 [types, C]."""
        return _members(self.kind, len(self.fleet.types))

    @property
    def of_family(self) -> sp.csr_array:
        """0/1 [F, C]."""
        return _members(self.family, len(self.fleet.catalog.families))


def _members(of: Ints, count: int) -> sp.csr_array:
    return sp.csr_array((np.ones(len(of)), (of, np.arange(len(of)))), shape=(count, len(of)))


def max_multiple_of(choices: Choices, mix: Mapping[str, float]) -> float:
    """The largest multiple of a demand that could be served if devices could be divided at will."""
    shares = sp.hstack([choices.of_kind, sp.csr_array((len(choices.device_count), 1))])
    carried = sp.hstack([-(choices.of_family @ sp.diags_array(choices.qps)), sp.csr_array(choices.array(mix)[:, None])])
    limits = np.concatenate([choices.device_count, np.zeros(carried.shape[0])])
    objective = np.append(np.zeros(len(choices.qps)), -1.0)
    found = linprog(objective, A_ub=sp.vstack([shares, carried]), b_ub=limits)
    assert found.status == 0, found.message
    return -float(found.fun)


# --- is a plan as good as can be?


def objection(fleet: Fleet, plan: Plan, *, shares_devices: bool, time_limit_s: float) -> tuple[str, bool]:
    """What an independent solve has against a plan without headroom, "" where they agree; and whether it was proven.

    Capacities depend on the hosts that a family has. So the plan may serve no more, and no more accurately, than is
    possible with the capacities of its own hosts; and it may be no worse than the best plan that counts on one host
    for each family, by more than its gap. Where a solve takes too long, the best that was found and the bound stand for
    the optimum. Where devices hold several variants, the plan must lie between the optimum with one and what devices
    could do that can be divided at will. A plan that ran into its time limit promises nothing, but can't be better than
    the bound either.
    """
    hosts = Counter(placement.family for placement in plan.placements)
    choices, of_one = Choices.of(fleet, hosts), Choices.of(fleet, {})
    program = _Program(choices, choices.array(plan.demand_qps), time_limit_s)
    cautious = _Program(of_one, of_one.array(plan.demand_qps), time_limit_s)
    demand_qps = sum(plan.demand_qps.values())
    served_qps = sum(p.rate_qps for p in plan.placements)
    missed = 1 - served_qps / demand_qps
    promises = plan.solver.status == "optimal"
    bound = program.min_missed(is_divisible=shares_devices)[1]
    best = cautious.min_missed(is_divisible=shares_devices)[0]
    if missed < bound - ROUNDING or (promises and missed > best + LESS_SERVED):
        return f"misses {missed:.6f} of the demand, where from {bound:.6f} to {best:.6f} is right", True
    accuracy_of = {(f.name, v.name): v.accuracy for f in fleet.catalog.families for v in f.variants}
    accuracy = sum(p.rate_qps * accuracy_of[p.family, p.variant] for p in plan.placements) / demand_qps
    bound = program.most_accurate(missed, is_divisible=shares_devices)[1]
    best = cautious.most_accurate(missed, is_divisible=shares_devices)[0]
    less = max(plan.solver.gap, LESS_ACCURATE) + EXACT_GAP
    if accuracy > bound + ROUNDING or (promises and accuracy < best - less):
        return f"reaches {accuracy:.6f} of accuracy, where from {best:.6f} to {bound:.6f} is right", True
    return "", bound - accuracy <= less


class _Program:
    """Hosts [C], rates [C] as parts of the whole demand, and what each family misses [F]."""

    def __init__(self, choices: Choices, demand_qps: Floats, time_limit_s: float) -> None:
        self._accuracy, self._time_limit_s = choices.accuracy, time_limit_s
        self._size, families = len(choices.qps), len(demand_qps)
        capacity_frac = choices.qps / demand_qps.sum()
        asked = demand_qps / demand_qps.sum()
        max_hosts = np.minimum(np.ceil(asked[choices.family] / capacity_frac), choices.device_count[choices.kind])
        self._within = sp.block_array(
            [
                [choices.of_kind, None, None],
                [sp.diags_array(-capacity_frac), sp.eye_array(self._size), None],
                [None, choices.of_family, sp.eye_array(families)],
            ]
        )
        self._least = np.concatenate([np.full(len(choices.device_count) + self._size, -np.inf), asked])
        self._most = np.concatenate([choices.device_count, np.zeros(self._size), asked])
        self._upper = np.concatenate([max_hosts, asked[choices.family], asked])
        self._missed = np.concatenate([np.zeros(2 * self._size), np.ones(families)])

    def min_missed(self, *, is_divisible: bool) -> tuple[float, float]:
        """The least part of the demand that must be missed: the best found, and a bound."""
        return self._minimised(self._missed, 1.0, is_divisible)

    def most_accurate(self, missed: float, *, is_divisible: bool) -> tuple[float, float]:
        """Accuracy summed over the demand where no more than that is missed: the best found, and a bound."""
        loss = np.concatenate([np.zeros(self._size), -self._accuracy, np.zeros(len(self._missed) - 2 * self._size)])
        best, bound = self._minimised(loss, missed + 1e-7, is_divisible)
        return -best, -bound

    def _minimised(self, objective: Floats, missed: float, is_divisible: bool) -> tuple[float, float]:  # noqa: FBT001
        whole = self._solved(objective, missed, is_whole=True)
        best = np.inf if whole.x is None else float(whole.fun)
        if is_divisible:
            divided = self._solved(objective, missed, is_whole=False)
            assert divided.status == 0, divided.message
            return best, float(divided.fun)
        bound = -np.inf if whole.mip_dual_bound is None else float(whole.mip_dual_bound)
        return best, min(bound, best)

    def _solved(self, objective: Floats, missed: float, *, is_whole: bool) -> Any:
        integrality = np.zeros(len(objective))
        integrality[: self._size] = is_whole
        return milp(
            objective,
            integrality=integrality,
            bounds=Bounds(0, self._upper),
            constraints=[
                LinearConstraint(self._within, self._least, self._most),
                LinearConstraint(self._missed[None, :], 0, missed),
            ],
            options={"mip_rel_gap": EXACT_GAP, "time_limit": self._time_limit_s},
        )


# --- the paper's relaxation


@dataclass(frozen=True, slots=True)
class Relaxed:
    """What came out: the ``beta`` that was feasible, the part of the demand that is served, and how accurately."""

    beta: float
    served_frac: float
    accuracy: float
    solves: int
    seconds: float


def relaxed(choices: Choices, demand: Mapping[str, float], *, is_as_coded: bool) -> Relaxed:
    """Serve ``beta`` of the demand at least, as accurately as possible; a lower ``beta`` where that can't be.

    After algorithms/ilp.py of the paper's artifact, over types of devices instead of each device, which changes no
    optimum. There, what is maximised isn't the accuracy of what is served but of all that is *assigned*, beyond what
    devices can carry, too: that is ``is_as_coded``. As there, ``beta`` is lowered wherever no optimum is found in time.
    """
    start_s, demand_qps = time.perf_counter(), choices.array(demand)
    hosts = cp.Variable(len(choices.qps), integer=True)
    served = cp.Variable(len(choices.qps), nonneg=True)
    assigned = cp.Variable(len(choices.qps), nonneg=True) if is_as_coded else served
    constraints = [
        hosts >= 0,
        choices.of_kind @ hosts <= choices.device_count,
        served <= cp.multiply(choices.qps, hosts),
        choices.of_family @ assigned <= demand_qps,
    ]
    if is_as_coded:
        everything = choices.of_family @ assigned == demand_qps
        to_hosts = assigned <= cp.multiply(demand_qps[choices.family], hosts)
        constraints += [everything, to_hosts, served <= assigned]
    beta, solves, problem = FIRST_BETA, 0, None
    while beta > MIN_BETA:
        enough = cp.sum(served) >= beta * demand_qps.sum()
        problem = cp.Problem(cp.Maximize(choices.accuracy @ assigned), [*constraints, enough])
        solves += 1
        if _is_solved(problem):
            break
        beta = round(beta - BETA_STEP, 2)
    else:
        raise RuntimeError("the paper's relaxation found nothing")
    carried = np.minimum(assigned.value, choices.qps * np.rint(hosts.value))
    return Relaxed(
        beta=beta,
        served_frac=float(carried.sum() / demand_qps.sum()),
        accuracy=float(choices.accuracy @ carried / carried.sum()),
        solves=solves,
        seconds=time.perf_counter() - start_s,
    )


def _is_solved(problem: Any) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a gap that remains when time is over
        problem.solve(solver=cp.HIGHS, mip_rel_gap=BETA_GAP, time_limit=BETA_TIME_LIMIT_S)
    return bool(problem.status == cp.OPTIMAL)
