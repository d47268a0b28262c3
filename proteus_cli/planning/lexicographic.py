"""One aim after another, each fixed before the next: no weights to tune."""

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from proteus_cli.domain.rules import Rules
from proteus_cli.planning.instance import Floats, Instance, Ints
from proteus_cli.planning.milp import Model, Objective
from proteus_cli.planning.solve import TOLERANCE, OutOfTime, Program, SolverPoint, compile_program, minimise

ALMOST_NOTHING = 1e-6  # a smaller part of a demand is the solver's rounding
UNSERVED_AT_STAKE = 0.01  # serving comes before all else, so its gap must be a hundred times smaller


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """``hosts`` int [C] and ``rate_qps`` [C]; rates have the headroom in them.

    ``used`` int [G] devices in use, and ``draw_w`` [G] what they draw where devices are shared and power matters: no
    more is needed by the counts. ``gap``: the largest proven one of the aims, each relative. ``is_limited``: time was
    over before all was proven.
    """

    hosts: Ints
    rate_qps: Floats
    used: Ints | None
    draw_w: Floats | None
    gap: float
    is_limited: bool


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """A demand with its headroom, in queries per second by family [F].

    ``qps``: of each no more than all devices together could serve, as solvers take very large numbers for infinity;
    ``part`` is what that is of the whole; ``share_qps`` the most that one device may get.
    """

    qps: Floats
    part: Floats
    share_qps: Floats

    @classmethod
    def of(cls, instance: Instance, whole_qps: Floats) -> "Wanted":
        qps = np.minimum(whole_qps, instance.max_qps)
        part = np.divide(qps, whole_qps, out=np.ones_like(qps), where=whole_qps > 0)
        return cls(qps, part, instance.max_share * whole_qps)

    @property
    def is_beyond_all(self) -> bool:
        """Some family can't be served in full, whatever the plan."""
        return bool(np.any(self.part < 1))


class Infeasible(Exception):
    """Nothing obeys the rules."""


def optimise(
    model: Model,
    instance: Instance,
    rules: Rules,
    wanted: Wanted,
    current: Ints | None,
    deadline_s: float,
) -> Solution:
    """The best plan for a demand [F] that has its headroom in it: served, then accurate, then near ``current`` [C].

    Where the deadline (by `time.perf_counter`) comes first, the best point found is returned with its proven gap.
    Raises `Infeasible`; and `OutOfTime` where not one point was found that the rules allow.
    """
    _set_parameters(model, instance, rules, wanted, current)
    search = _Search(compile_program(model), deadline_s)
    try:
        _reach(search, instance, rules, after_accuracy=_aims_after(rules, current))
    except OutOfTime:
        search.is_limited = True
        if search.best is None:
            raise
    assert search.best is not None  # noqa: S101 - else `_reach` has raised
    hosts = search.program.whole(search.best, model.hosts)
    return Solution(
        hosts=hosts,
        rate_qps=_rates(model, instance, search, hosts, rules, wanted),
        used=search.program.whole(search.best, model.used) if rules.is_resident_set else None,
        draw_w=search.best.columns[search.program.columns(model.draw)] if model.draw is not None else None,
        gap=search.gap,
        is_limited=search.is_limited,
    )


def _aims_after(rules: Rules, current: Ints | None) -> list[Objective]:
    aims: list[Objective] = ["loads"] if current is not None else []
    return [*aims, "devices"] if rules.pack else aims


@dataclass(slots=True)
class _Search:
    """What has been found so far, and the program with all that is fixed by it."""

    program: Program
    deadline_s: float
    best: SolverPoint | None = None
    gap: float = 0.0
    is_limited: bool = False

    def reach(
        self, aim: Objective, place: int = 0, *, at_stake: float | None = 1.0, point_by_s: float | None = None
    ) -> bool:
        """Make an aim as small as can be and keep it there. False where nothing is feasible."""
        found = minimise(
            self.program,
            self.program.aim(aim, place),
            deadline_s=self.deadline_s,
            point_by_s=point_by_s,
            at_stake=at_stake,
            start=self.best,
        )
        if found is None:
            return False
        self.best = found
        self.gap = max(self.gap, _relative_gap(found, at_stake))
        self.is_limited |= not found.is_proven
        self.program = self.program.limit(aim, found.value + (0.5 if at_stake is None else TOLERANCE), place)
        return True

    def serve_all(self, unserved: Ints) -> None:
        """From now on nothing may stay unserved."""
        self.program = self.program.at_most(unserved, 0.0)


def _relative_gap(point: SolverPoint, at_stake: float | None) -> float:
    if at_stake is None:
        whole = round(point.value)
        return (whole - math.ceil(point.bound - ALMOST_NOTHING)) / max(whole, 1)
    return max(point.value - point.bound, 0.0) / at_stake


def _reach(search: _Search, instance: Instance, rules: Rules, after_accuracy: list[Objective]) -> None:
    below = search.program.columns(search.program.model.below)
    unserved = below.start + instance.last_step
    accuracy: list[Objective] = ["worst loss", "loss"] if rules.objective == "min-family" else ["loss"]
    if rules.minimize is not None:
        search.serve_all(unserved)
        _must(search.reach(rules.minimize, at_stake=_all_in_use(instance, rules)))
    elif not _serves_all(search, unserved, accuracy[0]):
        _serve_most(search, instance, rules, unserved)
        if accuracy[0] == "worst loss":
            _raise_the_worst(search, instance, unserved)
        accuracy = ["loss"]
    else:
        accuracy = accuracy[1:]
    for aim in accuracy:
        _must(search.reach(aim))
    for aim in after_accuracy:
        _must(search.reach(aim, at_stake=None))


def _must(is_feasible: bool) -> None:  # noqa: FBT001 - reads as an assertion
    if not is_feasible:
        raise Infeasible


def _all_in_use(instance: Instance, rules: Rules) -> float:
    """What all devices together may cost or draw: what gaps of either are measured by."""
    if rules.minimize == "cost":
        return float(instance.price_per_hour @ instance.device_count) or 1.0
    hungriest = np.zeros(len(instance.groups))
    np.maximum.at(hungriest, instance.group_of, instance.power_w)
    return float(hungriest @ instance.device_count) or 1.0


def _serves_all(search: _Search, unserved: Ints, aim: Objective) -> bool:
    """Where all can be served, that and the next aim are one solve. Else nothing has changed but half of the time."""
    program = search.program
    search.serve_all(unserved)
    try:
        is_feasible = search.reach(aim, point_by_s=(time.perf_counter() + search.deadline_s) / 2)
    except OutOfTime:
        is_feasible = False
    if not is_feasible:
        search.program = program
    return is_feasible


def _serve_most(search: _Search, instance: Instance, rules: Rules, unserved: Ints) -> None:
    if rules.fairness == "maxmin":
        before = 0.0
        for place in range(len(instance.families)):
            _must(search.reach("worst served", place, at_stake=UNSERVED_AT_STAKE))
            assert search.best is not None  # noqa: S101 - just reached
            missed = search.best.value
            if missed - before < ALMOST_NOTHING:  # the next family misses nothing, so the others don't either
                break
            before = missed
    _must(search.reach("unserved", at_stake=UNSERVED_AT_STAKE))
    if search.best is not None and search.best.value < ALMOST_NOTHING:
        search.serve_all(unserved)


def _raise_the_worst(search: _Search, instance: Instance, unserved: Ints) -> None:
    """Raise the relative accuracy of the worst of the families that are served at all, as far as possible: a bisection.

    Where not all demand is served, a family's accuracy is a ratio of two unknowns, so no single solve minimises it; but
    one solve tells whether all families can reach a given accuracy. A bound counts as reached only where the accuracies
    of the point itself reach it: within the solver's tolerance, which is absolute, a family of which little is answered
    passes a bound that it misses.
    """
    low, high = 0.0, 1.0
    while high - low > ALMOST_NOTHING:
        middle = (low + high) / 2
        tried = _with_floor(search.program, middle)
        found = minimise(tried, tried.aim("loss"), deadline_s=search.deadline_s, start=search.best)
        reached = _worst_accuracy(instance, tried, found, unserved) if found is not None else 0.0
        if reached > low:
            search.best, low = found, reached
        if reached < middle:
            high = middle
    search.program = _with_floor(search.program, max(low - ALMOST_NOTHING, 0.0))


def _with_floor(program: Program, floor: float) -> Program:
    """The program where each family's relative accuracy over what is answered is ``floor`` or more."""
    program.model.floor.value = floor * program.model.asked.value
    return replace(compile_program(program.model), lower=program.lower, upper=program.upper).limit("worst loss", 0.0)


def _worst_accuracy(instance: Instance, program: Program, point: SolverPoint, unserved: Ints) -> float:
    """The lowest relative accuracy among families that are served at a point."""
    below = point.columns[program.columns(program.model.below)]
    asked = program.model.asked.value
    answered = asked - point.columns[unserved]
    lost = instance.of_step_family @ (instance.step_loss * below)
    reached = instance.top_accuracy * asked - lost
    is_served = (answered > ALMOST_NOTHING) & (instance.best_accuracy > 0)
    if not is_served.any():
        return 0.0
    return float(np.min(reached[is_served] / answered[is_served] / instance.best_accuracy[is_served]))


def _set_parameters(model: Model, instance: Instance, rules: Rules, wanted: Wanted, current: Ints | None) -> None:
    qps = wanted.qps[instance.family_of]
    one_host_qps = np.minimum(instance.capacity_qps, wanted.share_qps[instance.family_of])
    model.asked.value = (wanted.qps > 0).astype(np.float64)
    model.weight.value = wanted.qps / max(float(wanted.qps.sum()), np.finfo(np.float64).tiny)
    model.carried.value = np.minimum(np.divide(one_host_qps, qps, out=np.zeros_like(qps), where=qps > 0), 1.0)
    model.part.value = wanted.part
    share_qps = np.minimum(wanted.share_qps, wanted.qps)
    model.share.value = np.divide(share_qps, wanted.qps, out=np.zeros_like(share_qps), where=wanted.qps > 0)
    model.busy.value = qps / instance.capacity_qps
    model.floor.value = np.zeros(len(wanted.qps))
    model.most.value = most = _max_hosts(model, instance, rules, current)
    model.current.value = most if current is None else current.astype(np.float64)


def _max_hosts(model: Model, instance: Instance, rules: Rules, current: Ints | None) -> Floats:
    """More hosts than carry all of a family's demand are useless; so is what another choice of the group beats.

    But a spare, which answers nothing, best stays what it is.
    """
    carried = model.carried.value
    with np.errstate(divide="ignore"):
        enough = np.where(carried > 0, np.ceil(1 / carried - ALMOST_NOTHING) + rules.survive, 0.0)
    most = np.minimum(enough, instance.device_count[instance.group_of])
    useless = _beaten(instance, rules, carried)
    if rules.survive and current is not None:
        useless &= current == 0
    most[useless] = 0.0
    return np.maximum(most, instance.pinned)


def _beaten(instance: Instance, rules: Rules, carried: Floats) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Choices for which another of the same family and group is more accurate, and carries as much for no more."""
    speed = instance.capacity_qps if rules.is_resident_set else carried
    hunger = instance.power_w if "power" in rules.resources else np.zeros(len(carried))
    memory = instance.memory_frac if rules.is_resident_set else np.zeros(len(carried))
    beaten = np.zeros(len(carried), dtype=bool)
    for mine in instance.rivals:
        better = instance.accuracy[mine][:, None] < instance.accuracy[mine]
        as_fast = (speed[mine][:, None] <= speed[mine]) & (carried[mine][:, None] <= carried[mine])
        as_cheap = (hunger[mine][:, None] >= hunger[mine]) & (memory[mine][:, None] >= memory[mine])
        beaten[mine] = np.any(better & as_fast & as_cheap, axis=1)
    return beaten


def _rates(model: Model, instance: Instance, search: _Search, hosts: Ints, rules: Rules, wanted: Wanted) -> Floats:
    """Queries per second that each choice answers: the most accurate are filled first."""
    assert search.best is not None  # noqa: S101 - the caller has it
    if model.served is None:
        part = hosts * model.carried.value
    else:
        part = search.best.columns[search.program.columns(model.served)]
        part = np.where(part > ALMOST_NOTHING, part, 0.0)
    rates, left = np.zeros(len(hosts)), np.ones(len(wanted.qps))
    if rules.survive:
        largest = np.zeros(len(wanted.qps))
        np.maximum.at(largest, instance.family_of, model.carried.value * (hosts > 0))
        left = np.minimum(left, instance.of_family @ part - largest)
    for c in np.argsort(-instance.accuracy, kind="stable"):
        family = instance.choices[c].family
        answered = min(left[family], part[c])
        left[family] -= answered
        rates[c] = answered * wanted.qps[family]
    return rates
