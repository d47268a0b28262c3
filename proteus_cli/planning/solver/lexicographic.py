"""The objectives in their order: each is minimised and fixed before the next, so that there are no weights to tune."""

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.model.instance import Instance
from proteus_cli.planning.model.milp import Objective, formulate
from proteus_cli.planning.model.program import Linear, Program, SolverPoint
from proteus_cli.planning.solver.solution import RatesByWay, Solution, rates_by_way
from proteus_cli.planning.solver.solve import FIRST_GAP, TOLERANCE, OutOfTime, minimise
from proteus_cli.planning.solver.target_demand import NEGLIGIBLE, TargetDemand, parameter_values

FORECAST_GAP = 0.01  # of an objective's value: a forecast is not known any better
UNSERVED_GAP_SCALE = 0.01  # serving comes before all else, so its gap must be a hundred times smaller


class Infeasible(Exception):
    """No plan obeys the rules."""


def optimise(
    instance: Instance,
    rules: Rules,
    target: TargetDemand,
    current_replicas: Ints | None,
    deadline_s: float,
    relaxed: Solution | None = None,
) -> Solution:
    """The best solution for a target demand: most served, then most accurate, then nearest to ``current_replicas`` [C].

    ``relaxed`` solves a relaxation of the same columns: its replicas are tried first, and its bound holds. Past
    ``deadline_s`` (by `time.perf_counter`) the result is the best point found so far, with its proven gap. Raises
    `Infeasible` where no plan obeys the rules, and `OutOfTime` where no point was found in time.
    """
    program = formulate(instance, rules, parameter_values(instance, rules, target, current_replicas))
    search = _Search(program, deadline_s, FORECAST_GAP if target.is_forecast else FIRST_GAP)
    is_replan = current_replicas is not None
    if relaxed is not None and not target.exceeds_capacity:
        search.least["value" if target.is_forecast and is_replan else "loss"] = relaxed.least_loss
        search.hint = relaxed.point
    try:
        _minimise_in_order(search, instance, rules, target, is_replan=is_replan)
    except OutOfTime:
        search.is_limited = True
        if search.best is None:
            raise
    v, point = search.program.variables, search.point
    replicas = _whole(point, v.replicas)
    rate_qps, by_way = _rates(instance, replicas, search, rules, target)
    executed_qps = rate_qps if by_way is None else rate_qps + by_way.deferred_qps
    return Solution(
        replicas=replicas,
        rate_qps=rate_qps,
        room_qps=_room_qps(search, instance, rules, target, executed_qps),
        by_way=by_way,
        devices_used=_whole(point, v.devices_used) if rules.is_resident_set else None,
        power_w=v.power_w.values_at(point.columns) if v.power_w is not None else None,
        gap=search.gap,
        unserved_gap=search.unserved_gap,
        is_limited=search.is_limited,
        least_loss=search.least_loss,
        point=point,
        is_forecast=target.is_forecast,
        merits=tuple(_merits(search, instance, rules, target)),
        sets=_whole(point, v.sets) if v.sets is not None else None,
        served_in_set=v.served_in_set.values_at(point.columns) if v.sets is not None else None,
    )


def relaxed_replicas(instance: Instance, rules: Rules, target: TargetDemand, deadline_s: float) -> Floats | None:
    """The replicas [C] of a solution that serves all, if devices could be divided at will; None where there is none.

    It is the best by the first objective. To find it takes a third of the time of a solve.
    """
    program = formulate(instance, rules, parameter_values(instance, rules, target, None))
    search = _Search(replace(program, is_integer=np.zeros_like(program.is_integer)), deadline_s, FIRST_GAP)
    search.serve_all()
    with suppress(Infeasible, OutOfTime):
        search.minimise_and_fix(rules.minimize or "loss")
        replicas: Floats = program.variables.replicas.values_at(search.point.columns)
        return replicas
    return None


def _whole(point: SolverPoint, block: Linear) -> Ints:
    return np.rint(block.values_at(point.columns)).astype(np.int64)


@dataclass(slots=True)
class _Search:
    """The best point found so far, and the program with all objectives fixed that were minimised so far."""

    program: Program
    deadline_s: float
    relative_gap: float
    best: SolverPoint | None = None
    gap: float = 0.0
    unserved_gap: float = 0.0
    is_limited: bool = False
    least: dict[Objective, float] = field(default_factory=dict)  # known lower bounds; 0 of the others
    least_loss: float = 0.0
    hint: SolverPoint | None = None  # its integers are tried first, if nothing better is known

    @property
    def point(self) -> SolverPoint:
        assert self.best is not None  # noqa: S101 - read only after a solve that found one
        return self.best

    def minimise_and_fix(
        self,
        objective: Objective,
        index: int = 0,
        *,
        gap_scale: float | None = 1.0,
        unit: float = 1.0,
        first_point_by_s: float | None = None,
    ) -> None:
        """Minimise an objective, and allow no more of it from now on. Raises `Infeasible` and `OutOfTime`.

        ``gap_scale``: what is enough of a gap is relative to it; None where the objective is a whole number. ``unit``:
        what its gap is reported in.
        """
        column, gap_unit = self.program.objectives[objective][index], None if gap_scale is None else unit
        try:
            found = minimise(
                self.program,
                column,
                deadline_s=self.deadline_s,
                first_point_by_s=first_point_by_s,
                gap_scale=gap_scale,
                relative_gap=self.relative_gap,
                start=self.best or self.hint,
                least=self.least.get(objective, -math.inf),
            )
        except OutOfTime:
            if self.best is not None:
                self._count_gap(objective, float(self.best.columns[column]), -math.inf, gap_unit)
            raise
        if found is None:
            raise Infeasible
        self.best = found
        self._count_gap(objective, found.value, found.bound, gap_unit)
        self.is_limited |= not found.is_proven
        slack = 0.5 if gap_scale is None else TOLERANCE
        self.program = self.program.limit(column, found.value + slack)

    def serve_all(self) -> None:
        """Leave nothing unserved from now on."""
        self.program = self.program.limit(self.program.variables.unserved.column, 0.0)

    def _count_gap(self, objective: Objective, value: float, bound: float, unit: float | None) -> None:
        gap = _gap(value, max(bound, self.least.get(objective, 0.0)), unit)
        self.gap = max(self.gap, gap)
        if objective == "unserved":
            self.unserved_gap = gap


def _gap(value: float, bound: float, unit: float | None) -> float:
    """In ``unit``; None where both are whole numbers: relative to the value."""
    if unit is None:
        whole = round(value)
        return (whole - math.ceil(bound - NEGLIGIBLE)) / max(whole, 1)
    return max(value - bound, 0.0) / unit


def _merits(search: _Search, instance: Instance, rules: Rules, target: TargetDemand) -> Iterator[float]:
    """Merits relative to the whole demand; the servable part differs between models of the same demand."""
    program, columns, values = search.program, search.point.columns, search.program.values
    if rules.minimize is not None:
        yield -float(columns[program.objectives[rules.minimize][0]])
    else:
        if rules.fairness == "maxmin":
            for index in range(len(instance.families)):
                yield -float(columns[program.objectives["worst served"][index]])
        yield target.counted_frac * (1 - float(columns[program.objectives["unserved"][0]]))
    accuracy = float(values.demand_frac @ (instance.top_worth * values.has_demand))
    yield target.counted_frac * (accuracy - float(columns[program.objectives["loss"][0]]))


def _minimise_in_order(
    search: _Search, instance: Instance, rules: Rules, target: TargetDemand, *, is_replan: bool
) -> None:
    is_by_value = target.is_forecast and is_replan
    accuracy: Objective = "value" if is_by_value else "loss"
    if rules.minimize is not None:
        search.serve_all()
        total = _total_resource(instance, rules)
        search.minimise_and_fix(rules.minimize, gap_scale=total, unit=total)
        search.minimise_and_fix(accuracy)
    elif not _try_to_serve_all(search, accuracy):
        _serve_most(search, instance, rules, target)
        search.minimise_and_fix(accuracy)
    if is_replan and not is_by_value:
        search.minimise_and_fix("loads", gap_scale=None)
    if rules.pack:
        search.minimise_and_fix("devices", gap_scale=None)


def _total_resource(instance: Instance, rules: Rules) -> float:
    """The cost or power of all devices together; gaps are relative to it."""
    if rules.minimize == "cost":
        return float(instance.price_per_hour @ instance.device_count) or 1.0
    hungriest_w = np.zeros(len(instance.groups))
    np.maximum.at(hungriest_w, instance.choice_group, instance.power_w)
    return float(hungriest_w @ instance.device_count) or 1.0


def _try_to_serve_all(search: _Search, objective: Objective) -> bool:
    """Serve all and minimise the objective in one solve, where that is possible.

    Otherwise the search is as before, but for half of its time at most.
    """
    program = search.program
    search.serve_all()
    try:
        search.minimise_and_fix(objective, first_point_by_s=(time.perf_counter() + search.deadline_s) / 2)
        search.least_loss = max(search.point.bound, search.least.get(objective, 0.0))
    except (Infeasible, OutOfTime):
        search.program, search.least = program, {}
        return False
    return True


def _serve_most(search: _Search, instance: Instance, rules: Rules, target: TargetDemand) -> None:
    search.unserved_gap = 1.0  # until it is counted
    if rules.fairness == "maxmin":
        before = 0.0
        for index in range(len(instance.families)):
            search.minimise_and_fix("worst served", index, gap_scale=UNSERVED_GAP_SCALE, unit=index + 1)
            missed = search.point.value
            if missed - before < NEGLIGIBLE:  # the next family misses nothing, so the others don't either
                break
            before = missed
    search.minimise_and_fix("unserved", gap_scale=UNSERVED_GAP_SCALE, unit=1 / target.counted_frac)
    if not target.is_forecast:  # what is not answered is lost, whatever answers the rest
        search.least["loss"] = search.point.value * float(instance.top_worth.min())
    if search.point.value < NEGLIGIBLE:
        search.serve_all()


def _rates(
    instance: Instance, replicas: Ints, search: _Search, rules: Rules, target: TargetDemand
) -> tuple[Floats, RatesByWay | None]:
    """Queries per second that each choice answers [C], the one of most worth first; and what goes each way."""
    capacity_frac = search.program.values.capacity_frac
    if search.program.variables.served is None:
        available = replicas * capacity_frac
    else:
        available = search.program.variables.served.values_at(search.point.columns)
        available = np.where(available > NEGLIGIBLE, available, 0.0)
    rates, unanswered = np.zeros(len(replicas)), np.ones(len(target.qps))
    if rules.survives is not None:
        lost = _max_lost(instance, rules, available, capacity_frac * (replicas > 0))
        unanswered = np.minimum(unanswered, instance.family_choices @ available - lost)
    limit = unanswered.copy()
    for c in np.argsort(-instance.worth, kind="stable"):
        family = instance.choices[c].family
        answered = min(unanswered[family], available[c])
        unanswered[family] -= answered
        rates[c] = answered * target.qps[family]
    if instance.ways is None:
        return rates, None
    by_way = search.program.variables.answered.values_at(search.point.columns)
    return rates_by_way(instance, instance.ways, rates, available, by_way, limit, target.qps)


def _room_qps(search: _Search, instance: Instance, rules: Rules, target: TargetDemand, executed_qps: Floats) -> Floats:
    """The queries per second that each choice has time for [C]; on shared devices the solver divides the time."""
    if not (target.is_forecast and rules.is_resident_set):
        return executed_qps
    served = search.program.variables.served.values_at(search.point.columns)
    served_qps = np.where(served > NEGLIGIBLE, served, 0.0) * target.qps[instance.choice_family]
    return np.maximum(served_qps, executed_qps)


def _max_lost(instance: Instance, rules: Rules, available: Floats, of_replica: Floats) -> Floats:
    """The most of each family's demand [F] that one device, or one host, may take with it when it is lost.

    By choice [C]: what all replicas can answer, ``available``, and what one can.
    """
    most = np.zeros(len(instance.families))
    if rules.survives == "host":
        _, of_pair, _, pair_family = instance.host_family_pairs()
        np.maximum.at(most, pair_family, of_pair @ available)
    else:
        np.maximum.at(most, instance.choice_family, of_replica)
    return most
