"""One aim after another, each fixed before the next: no weights to tune."""

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from proteus_cli.domain.arrays import Floats, Ints
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.instance import Instance
from proteus_cli.planning.milp import Model, Objective
from proteus_cli.planning.solve import TOLERANCE, OutOfTime, Program, SolverPoint, compile_program, minimise

NEGLIGIBLE = 1e-6  # a smaller part of a demand is the solver's rounding
UNSERVED_GAP_SCALE = 0.01  # serving comes before all else, so its gap must be a hundred times smaller


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What to host, and how the demand is shared.

    ``replicas`` int [C], and ``rate_qps`` [C], which includes the headroom. ``devices_used`` int [G] and ``power_w``
    [G], where devices are shared: `pack` may use no more. ``gap``: the largest proven relative gap of any objective.
    ``is_limited``: the deadline passed before all was proven.
    """

    replicas: Ints
    rate_qps: Floats
    devices_used: Ints | None
    power_w: Floats | None
    gap: float
    is_limited: bool


@dataclass(frozen=True, slots=True, eq=False)
class TargetDemand:
    """A demand with its headroom, in queries per second by family [F].

    ``qps``: of each no more than all devices together could serve, as solvers take very large numbers for infinity;
    ``servable_frac`` is what that is of the whole; ``share_qps`` the most that one device may get.
    """

    qps: Floats
    servable_frac: Floats
    share_qps: Floats

    @classmethod
    def of(cls, instance: Instance, asked_qps: Floats) -> "TargetDemand":
        qps = np.minimum(asked_qps, instance.max_qps)
        servable_frac = np.divide(qps, asked_qps, out=np.ones_like(qps), where=asked_qps > 0)
        return cls(qps, servable_frac, instance.max_share * asked_qps)

    @property
    def exceeds_capacity(self) -> bool:
        """Some family can't be served in full, whatever the plan."""
        return bool(np.any(self.servable_frac < 1))


class Infeasible(Exception):
    """Nothing obeys the rules."""


def optimise(
    model: Model,
    instance: Instance,
    rules: Rules,
    target: TargetDemand,
    current_replicas: Ints | None,
    deadline_s: float,
) -> Solution:
    """The best solution for a target demand: most served, then most accurate, then nearest to ``current_replicas`` [C].

    Past ``deadline_s`` (by `time.perf_counter`) the result is the best point found so far, with its proven gap. Raises
    `Infeasible` where no plan obeys the rules, and `OutOfTime` where no point was found in time.
    """
    _set_parameters(model, instance, rules, target, current_replicas)
    search = _Search(compile_program(model), deadline_s)
    try:
        _minimise_in_order(search, instance, rules, last_objectives=_objectives_after_accuracy(rules, current_replicas))
    except OutOfTime:
        search.is_limited = True
        if search.best is None:
            raise
    assert search.best is not None  # noqa: S101 - else `_minimise_in_order` has raised
    replicas = search.program.integers(search.best, model.replicas)
    return Solution(
        replicas=replicas,
        rate_qps=_rates(model, instance, search, replicas, rules, target),
        devices_used=search.program.integers(search.best, model.devices_used) if rules.is_resident_set else None,
        power_w=search.best.columns[search.program.columns(model.power_w)] if model.power_w is not None else None,
        gap=search.gap,
        is_limited=search.is_limited,
    )


def _objectives_after_accuracy(rules: Rules, current_replicas: Ints | None) -> list[Objective]:
    objectives: list[Objective] = ["loads"] if current_replicas is not None else []
    return [*objectives, "devices"] if rules.pack else objectives


@dataclass(slots=True)
class _Search:
    """What has been found so far, and the program with all that is fixed by it."""

    program: Program
    deadline_s: float
    best: SolverPoint | None = None
    gap: float = 0.0
    is_limited: bool = False

    def minimise_and_fix(
        self,
        objective: Objective,
        index: int = 0,
        *,
        gap_scale: float | None = 1.0,
        first_point_by_s: float | None = None,
    ) -> bool:
        """Make an aim as small as can be and keep it there. False where nothing is feasible."""
        found = minimise(
            self.program,
            self.program.objective(objective, index),
            deadline_s=self.deadline_s,
            first_point_by_s=first_point_by_s,
            gap_scale=gap_scale,
            start=self.best,
        )
        if found is None:
            return False
        self.best = found
        self.gap = max(self.gap, _relative_gap(found, gap_scale))
        self.is_limited |= not found.is_proven
        self.program = self.program.limit_objective(
            objective, found.value + (0.5 if gap_scale is None else TOLERANCE), index
        )
        return True

    def serve_all(self, unserved: Ints) -> None:
        """From now on nothing may stay unserved."""
        self.program = self.program.limit_columns(unserved, 0.0)


def _relative_gap(point: SolverPoint, gap_scale: float | None) -> float:
    if gap_scale is None:
        integers = round(point.value)
        return (integers - math.ceil(point.bound - NEGLIGIBLE)) / max(integers, 1)
    return max(point.value - point.bound, 0.0) / gap_scale


def _minimise_in_order(search: _Search, instance: Instance, rules: Rules, last_objectives: list[Objective]) -> None:
    shortfall = search.program.columns(search.program.model.shortfall)
    unserved = shortfall.start + instance.last_step
    accuracy: list[Objective] = ["worst loss", "loss"] if rules.objective == "min-family" else ["loss"]
    if rules.minimize is not None:
        search.serve_all(unserved)
        _must(search.minimise_and_fix(rules.minimize, gap_scale=_total_resource(instance, rules)))
    elif not _try_to_serve_all(search, unserved, accuracy[0]):
        _serve_most(search, instance, rules, unserved)
        if accuracy[0] == "worst loss":
            _maximise_worst_accuracy(search, instance, unserved)
        accuracy = ["loss"]
    else:
        accuracy = accuracy[1:]
    for objective in accuracy:
        _must(search.minimise_and_fix(objective))
    for objective in last_objectives:
        _must(search.minimise_and_fix(objective, gap_scale=None))


def _must(is_feasible: bool) -> None:  # noqa: FBT001 - reads as an assertion
    if not is_feasible:
        raise Infeasible


def _total_resource(instance: Instance, rules: Rules) -> float:
    """What all devices together may cost or draw: what gaps of either are measured by."""
    if rules.minimize == "cost":
        return float(instance.price_per_hour @ instance.device_count) or 1.0
    hungriest = np.zeros(len(instance.groups))
    np.maximum.at(hungriest, instance.group_of, instance.power_w)
    return float(hungriest @ instance.device_count) or 1.0


def _try_to_serve_all(search: _Search, unserved: Ints, objective: Objective) -> bool:
    """Where all can be served, that and the next aim are one solve. Else nothing has changed but half of the time."""
    program = search.program
    search.serve_all(unserved)
    try:
        is_feasible = search.minimise_and_fix(objective, first_point_by_s=(time.perf_counter() + search.deadline_s) / 2)
    except OutOfTime:
        is_feasible = False
    if not is_feasible:
        search.program = program
    return is_feasible


def _serve_most(search: _Search, instance: Instance, rules: Rules, unserved: Ints) -> None:
    if rules.fairness == "maxmin":
        before = 0.0
        for index in range(len(instance.families)):
            _must(search.minimise_and_fix("worst served", index, gap_scale=UNSERVED_GAP_SCALE))
            assert search.best is not None  # noqa: S101 - just reached
            missed = search.best.value
            if missed - before < NEGLIGIBLE:  # the next family misses nothing, so the others don't either
                break
            before = missed
    _must(search.minimise_and_fix("unserved", gap_scale=UNSERVED_GAP_SCALE))
    if search.best is not None and search.best.value < NEGLIGIBLE:
        search.serve_all(unserved)


def _maximise_worst_accuracy(search: _Search, instance: Instance, unserved: Ints) -> None:
    """Raise the relative accuracy of the worst of the families that are served at all, as far as possible: a bisection.

    Where not all demand is served, a family's accuracy is a ratio of two unknowns, so no single solve minimises it; but
    one solve tells whether all families can reach a given accuracy. A bound counts as reached only where the accuracies
    of the point itself reach it: within the solver's tolerance, which is absolute, a family of which little is answered
    passes a bound that it misses.
    """
    low, high = 0.0, 1.0
    while high - low > NEGLIGIBLE:
        middle = (low + high) / 2
        tried = _with_accuracy_floor(search.program, middle)
        found = minimise(tried, tried.objective("loss"), deadline_s=search.deadline_s, start=search.best)
        reached = _worst_accuracy(instance, tried, found, unserved) if found is not None else 0.0
        if reached > low:
            search.best, low = found, reached
        if reached < middle:
            high = middle
    search.program = _with_accuracy_floor(search.program, max(low - NEGLIGIBLE, 0.0))


def _with_accuracy_floor(program: Program, accuracy_floor: float) -> Program:
    """The program where each family's relative accuracy over what is answered is ``accuracy_floor`` or more."""
    program.model.accuracy_floor.value = accuracy_floor * program.model.has_demand.value
    return replace(compile_program(program.model), lower=program.lower, upper=program.upper).limit_objective(
        "worst loss", 0.0
    )


def _worst_accuracy(instance: Instance, program: Program, point: SolverPoint, unserved: Ints) -> float:
    """The lowest relative accuracy among families that are served at a point."""
    shortfall = point.columns[program.columns(program.model.shortfall)]
    has_demand = program.model.has_demand.value
    answered = has_demand - point.columns[unserved]
    lost = instance.of_step_family @ (instance.step_loss * shortfall)
    reached = instance.top_accuracy * has_demand - lost
    is_served = (answered > NEGLIGIBLE) & (instance.best_accuracy > 0)
    if not is_served.any():
        return 0.0
    return float(np.min(reached[is_served] / answered[is_served] / instance.best_accuracy[is_served]))


def _set_parameters(
    model: Model, instance: Instance, rules: Rules, target: TargetDemand, current_replicas: Ints | None
) -> None:
    qps = target.qps[instance.family_of]
    one_host_qps = np.minimum(instance.capacity_qps, target.share_qps[instance.family_of])
    model.has_demand.value = (target.qps > 0).astype(np.float64)
    model.demand_frac.value = target.qps / max(float(target.qps.sum()), np.finfo(np.float64).tiny)
    model.capacity_frac.value = np.minimum(np.divide(one_host_qps, qps, out=np.zeros_like(qps), where=qps > 0), 1.0)
    model.servable_frac.value = target.servable_frac
    share_qps = np.minimum(target.share_qps, target.qps)
    model.max_share_frac.value = np.divide(share_qps, target.qps, out=np.zeros_like(share_qps), where=target.qps > 0)
    model.utilisation.value = qps / instance.capacity_qps
    model.accuracy_floor.value = np.zeros(len(target.qps))
    model.max_replicas.value = max_replicas = _max_replicas(model, instance, rules, current_replicas)
    model.current_replicas.value = max_replicas if current_replicas is None else current_replicas.astype(np.float64)


def _max_replicas(model: Model, instance: Instance, rules: Rules, current_replicas: Ints | None) -> Floats:
    """More hosts than carry all of a family's demand are useless; so is what another choice of the group beats.

    But a spare, which answers nothing, best stays what it is.
    """
    capacity_frac = model.capacity_frac.value
    with np.errstate(divide="ignore"):
        enough = np.where(capacity_frac > 0, np.ceil(1 / capacity_frac - NEGLIGIBLE) + rules.survive, 0.0)
    max_replicas = np.minimum(enough, instance.device_count[instance.group_of])
    useless = _dominated(instance, rules, capacity_frac)
    if rules.survive and current_replicas is not None:
        useless &= current_replicas == 0
    max_replicas[useless] = 0.0
    return np.maximum(max_replicas, instance.pinned)


def _dominated(instance: Instance, rules: Rules, capacity_frac: Floats) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Choices for which another of the same family and group is more accurate, and carries as much for no more."""
    speed = instance.capacity_qps if rules.is_resident_set else capacity_frac
    hunger = instance.power_w if "power" in rules.resources else np.zeros(len(capacity_frac))
    memory = instance.memory_frac if rules.is_resident_set else np.zeros(len(capacity_frac))
    dominated = np.zeros(len(capacity_frac), dtype=bool)
    for mine in instance.rivals:
        better = instance.accuracy[mine][:, None] < instance.accuracy[mine]
        as_fast = (speed[mine][:, None] <= speed[mine]) & (capacity_frac[mine][:, None] <= capacity_frac[mine])
        as_cheap = (hunger[mine][:, None] >= hunger[mine]) & (memory[mine][:, None] >= memory[mine])
        dominated[mine] = np.any(better & as_fast & as_cheap, axis=1)
    return dominated


def _rates(
    model: Model, instance: Instance, search: _Search, replicas: Ints, rules: Rules, target: TargetDemand
) -> Floats:
    """Queries per second that each choice answers: the most accurate are filled first."""
    assert search.best is not None  # noqa: S101 - the caller has it
    if model.served is None:
        servable_frac = replicas * model.capacity_frac.value
    else:
        servable_frac = search.best.columns[search.program.columns(model.served)]
        servable_frac = np.where(servable_frac > NEGLIGIBLE, servable_frac, 0.0)
    rates, left = np.zeros(len(replicas)), np.ones(len(target.qps))
    if rules.survive:
        largest = np.zeros(len(target.qps))
        np.maximum.at(largest, instance.family_of, model.capacity_frac.value * (replicas > 0))
        left = np.minimum(left, instance.of_family @ servable_frac - largest)
    for c in np.argsort(-instance.accuracy, kind="stable"):
        family = instance.choices[c].family
        answered = min(left[family], servable_frac[c])
        left[family] -= answered
        rates[c] = answered * target.qps[family]
    return rates
