"""The planner that commands, server and simulator use."""

import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace as replace_fields

from proteus_cli import store
from proteus_cli.control.policies import Policy
from proteus_cli.domain.cascade import PlannedCascade
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.demand import Demand, Forecast, LossCurve, check_demand
from proteus_cli.domain.device import NONE_OUT, Outages
from proteus_cli.domain.fleet import ids_by_type
from proteus_cli.domain.plan import PLAN_FORMAT, Placement, Plan, Solver
from proteus_cli.domain.profile import Profile, accuracies, best_accuracy, estimated_families, relative
from proteus_cli.domain.rules import Rules, in_words, with_catalog
from proteus_cli.errors import NoFeasiblePlan, RulesConflict, UsageError
from proteus_cli.planning.check import check_plan, spent
from proteus_cli.planning.model.hosted_now import NOWHERE, HostedKeys, Now
from proteus_cli.planning.model.instance import Instance, make_instance
from proteus_cli.planning.model.milp import Model, formulate
from proteus_cli.planning.placements.cascades import with_whole_batches
from proteus_cli.planning.placements.decode import placements
from proteus_cli.planning.placements.host_counts import (
    first_hosts,
    kept_replicas,
    needed_hosts,
    sure_count,
    sure_hosts,
    with_more_hosts,
)
from proteus_cli.planning.placements.loads import current_replicas, devices_with_more_loads
from proteus_cli.planning.placements.pack import pack, serves_all
from proteus_cli.planning.placements.spares import with_spares
from proteus_cli.planning.solver.lexicographic import Infeasible, Solution, optimise
from proteus_cli.planning.solver.program import prepare
from proteus_cli.planning.solver.solve import OutOfTime
from proteus_cli.planning.solver.target_demand import NEGLIGIBLE, TargetDemand

PLAIN_FRAC = 0.4  # of the search with cascades, the most that the plan without them may take
SAME_MERIT = 1e-5
SEARCH_FRAC = 0.75  # of the time limit; the rest is for what follows the search: to place 10,000 devices takes 0.1 s


@dataclass(frozen=True, slots=True)
class _Grouping:
    """How devices are grouped: by what they host now, if ``hosted``; each of ``alone`` is a group."""

    hosted: tuple[tuple[str, frozenset[VariantKey]], ...] | None = None
    alone: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Asked:
    """A demand of all families, without headroom, and their curves; none without a forecast."""

    demand_qps: Mapping[str, float]
    curves: tuple[LossCurve, ...]

    @classmethod
    def of(cls, demand: Demand, catalog: Catalog) -> "_Asked":
        curves = tuple(demand.curves[name] for name in catalog.names) if isinstance(demand, Forecast) else ()
        return cls({name: float(demand.get(name, 0.0)) for name in catalog.names}, curves)

    @property
    def lines(self) -> int:
        return len(self.curves[0].lines) if self.curves else 1


@dataclass(frozen=True, slots=True)
class _PlacedSolution:
    """A solution with its placements.

    ``to_split``: the devices of groups that could not be placed, are over power, or need more loads than solved.
    """

    solution: Solution
    placements: tuple[Placement, ...]
    cascades: tuple[PlannedCascade, ...]
    serves_all: bool
    to_split: frozenset[str]
    is_over_budget: bool


class Planner:
    """Plans for one set of profiled devices (by id). The model is compiled once; each demand only re-solves it.

    Calling it with a demand and the plan in force makes the next plan: past ``time_limit_s``, the best that was found.
    ``spares``: devices that would be idle get spares, unless the rules ask for few devices or limit what they cost. It
    can be pickled, to run in another process.
    """

    def __init__(
        self,
        catalog: Catalog,
        profiles: Mapping[str, Profile],
        policy: Policy,
        *,
        headroom: float,
        inputs: Mapping[str, str],
        rules: Rules | None = None,
        time_limit_s: float = math.inf,
        spares: bool = False,
    ) -> None:
        if not 1 <= headroom < math.inf:
            raise UsageError(
                f"The headroom {headroom:g} is not a finite number from 1 up.",
                hint="1.2 plans for 20 % more than the demand",
            )
        self.catalog, self.profiles, self.policy = catalog, dict(profiles), policy
        self.rules = with_catalog(rules or policy.rules, catalog)
        self.headroom, self.inputs, self.time_limit_s = headroom, dict(inputs), time_limit_s
        self.spares = spares
        self._compiled: dict[tuple[_Grouping, int], tuple[Instance, Model]] = {}
        self._after_outages: tuple[Outages, Planner] | None = None
        self._without_cascades: Planner | None = None

    def __call__(
        self,
        demand: Demand,
        current: Plan | None = None,
        without: Outages = NONE_OUT,
        standbys: HostedKeys = MappingProxyType({}),
    ) -> Plan:
        """The best plan for a demand, with the devices and engines that can be used.

        ``standbys`` are loaded beside what ``current`` hosts, so they need no load either.
        Raises `UsageError`, `NoFeasiblePlan`, and of the latter `RulesConflict`.
        """
        if without:
            return self._left(without)._after_loss(demand, current, standbys)  # noqa: SLF001 - of another planner of ours
        check_demand(demand, self.catalog)
        _require_what_may_be_lost(self.profiles, self.rules)
        asked = _Asked.of(demand, self.catalog)
        self._prepare(asked)  # compiling isn't part of the solve's time
        start_s = time.perf_counter()
        try:
            now = Now.of(current, standbys, self.profiles)
            found = self._best_found(asked, now, start_s + self._search_s)
        except OutOfTime:
            raise NoFeasiblePlan(
                f"The solver found no plan within {self.time_limit_s:g} s.",
                hint="give it more time with `--time-limit`",
            ) from None
        except Infeasible:
            raise RulesConflict(
                "No plan obeys all rules at this demand.",
                hint="`proteus plan` with the same demand and rules names the smallest set that conflicts",
            ) from None
        solver = Solver(
            name="HiGHS",
            status="time limit" if found.solution.is_limited else "optimal",
            gap=found.solution.gap,
            unserved_gap=found.solution.unserved_gap,
            solve_s=time.perf_counter() - start_s,
        )
        placed = self._with_spares(found.placements, asked, now)
        plan = self.plan_of(asked.demand_qps, placed, solver, found.cascades)
        check_plan(plan, self.catalog, self.profiles)
        return plan

    def _left(self, without: Outages) -> "Planner":
        """The planner of what is left, which is kept for the next plan of the same outages."""
        if self._after_outages is None or self._after_outages[0] != without:
            self._after_outages = without, self.with_changes(profiles=_available(self.profiles, without))
        return self._after_outages[1]

    def _after_loss(self, demand: Demand, current: Plan | None, standbys: HostedKeys) -> Plan:
        """The best plan for what is left. It survives another loss only where that leaves nothing unserved.

        Each of two solves has half of the time.
        """
        if self.rules.survives is None:
            return self(demand, current, standbys=standbys)
        halved = self.with_changes()
        halved.time_limit_s = self.time_limit_s / 2
        try:
            plan = halved(demand, current, standbys=standbys)
        except NoFeasiblePlan:
            plan = None
        if plan is not None and plan.shortfall_qps <= NEGLIGIBLE * sum(plan.demand_qps.values()):
            return plan
        exposed = halved.with_changes(rules=replace_fields(self.rules, survive=0, survive_unit=UNSET))
        return replace_fields(exposed(demand, current, standbys=standbys), rules=self.rules)

    def with_changes(
        self,
        *,
        rules: Rules | None = None,
        profiles: Mapping[str, Profile] | None = None,
        headroom: float | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> "Planner":
        """The same planner with these changes; ``rules`` are taken as they are, without those of the catalog."""
        other = copy(self)
        other._after_outages = None  # noqa: SLF001 - of another planner of ours
        other._without_cascades = None  # noqa: SLF001 - of another planner of ours
        other.inputs = self.inputs if inputs is None else dict(inputs)
        other.headroom = self.headroom if headroom is None else headroom
        other.rules = self.rules if rules is None else rules
        other.profiles = self.profiles if profiles is None else dict(profiles)
        if rules is not None or profiles is not None:
            other._compiled = {}  # noqa: SLF001 - of another planner of ours
        return other

    def capacity_qps(self, placement: Placement) -> float:
        """The capacity of a placement's variant, in its batches, when it has its device to itself."""
        profile = self.profiles[placement.device]
        measured = profile.of(placement.family, placement.variant)
        points = profile.points_of(measured) if measured is not None else ()
        slo_s = self.catalog.family(placement.family).slo_s
        capacities = [step.capacity for _, steps in self.rules.stage_steps(slo_s, points) for step in steps]
        return max((each.qps for each in capacities if each.max_batch == placement.max_batch), default=0.0)

    def spent(self, plan: Plan) -> float:
        """What a plan costs per hour, or draws in watts, whichever is minimised; 0 where neither is."""
        if self.rules.minimize is None:
            return 0.0
        return spent(plan, self.catalog, self.profiles)[self.rules.minimize]

    def can_serve_all(self, demand: Demand) -> bool:
        """Whether some plan serves all of a demand, with headroom; False where the time limit leaves that open."""
        try:
            asked = _Asked.of(demand, self.catalog)
            return self._best_found(asked, NOWHERE, time.perf_counter() + self._search_s).serves_all
        except (Infeasible, OutOfTime, NoFeasiblePlan):
            return False

    @property
    def _may_use_more_devices(self) -> bool:
        """Devices that a plan leaves idle cost nothing that the rules count."""
        return not (self.rules.pack or self.rules.resources or self.rules.is_resident_set)

    @property
    def _search_s(self) -> float:
        return SEARCH_FRAC * self.time_limit_s

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_compiled": {}, "_after_outages": None, "_without_cascades": None}

    def _prepare(self, asked: _Asked) -> None:
        """Compile the models that a demand needs first."""
        instance, _ = self._model(_Grouping(), asked.lines)
        if instance.ways is not None:
            if self._without_cascades is None:
                self._without_cascades = self.with_changes(rules=replace_fields(self.rules, cascades=UNSET))
            self._without_cascades._model(_Grouping(), asked.lines)  # noqa: SLF001 - of another planner of ours

    def _best_found(self, asked: _Asked, now: Now, deadline_s: float) -> _PlacedSolution:
        """With cascades, the better of two: the plan without them counts on hosts of its own, and may be that."""
        self._prepare(asked)
        if self._without_cascades is None:
            return self._solve_and_place(asked, now, deadline_s)
        started_s, plain = time.perf_counter(), None
        by_s = started_s + PLAIN_FRAC * (deadline_s - started_s)
        with suppress(OutOfTime, Infeasible):
            plain = self._without_cascades._solve_and_place(asked, now, by_s)  # noqa: SLF001 - of another planner of ours
        try:
            found = self._solve_and_place(asked, now, deadline_s)
        except (OutOfTime, Infeasible):
            if plain is None:
                raise
            return replace(plain, solution=replace(plain.solution, is_limited=True))
        return plain if plain is not None and _is_better(plain.solution, found.solution) else found

    def _solve_and_place(self, asked: _Asked, now: Now, deadline_s: float) -> _PlacedSolution:
        """Solve for groups of devices; where a group's solution can't be placed, split groups and solve again.

        1. Equal devices together.
        2. If that cannot be placed and there is a plan in force: devices that host the same together. Rules that allow
           several variants per device start here.
        3. Devices of the groups that failed, one by one.

        Each round is a relaxation of the next, so the first solution that can be placed is optimal. At the latest that
        is when each device is a group.
        """
        grouping = _Grouping(hosted=_as_key(now.hosted) if now and self.rules.is_resident_set else None)
        while True:
            found = self._solve_grouped(grouping, asked, now, deadline_s)
            if not found.to_split:
                return found
            if time.perf_counter() > deadline_s:
                if found.is_over_budget:
                    raise OutOfTime
                return replace(found, solution=replace(found.solution, is_limited=True))
            if grouping.hosted is None and now:
                grouping = replace(grouping, hosted=_as_key(now.hosted))
            else:
                grouping = replace(grouping, alone=grouping.alone | found.to_split)

    def _solve_grouped(self, grouping: _Grouping, asked: _Asked, now: Now, deadline_s: float) -> _PlacedSolution:
        every, model = self._model(grouping, asked.lines)
        current = current_replicas(every, now.resident) if now else None
        asked_qps = np.array([qps * self.headroom for qps in asked.demand_qps.values()])
        instance, hosts = every, first_hosts(every, now, sure_count(self.profiles, self.rules))
        while True:
            if instance.depends_on_hosts:
                instance = every.with_hosts(hosts)
            target = TargetDemand.of(instance, asked_qps, asked.curves)
            if instance.unplaceable or (self.rules.must_serve_all and target.exceeds_capacity):
                raise Infeasible
            solution = optimise(model, instance, self.rules, target, current, self._round_by_s(instance, deadline_s))
            if self._may_use_more_devices:
                solution = with_more_hosts(instance, solution, self.rules)
            needed = needed_hosts(instance, kept_replicas(instance, solution, self.rules))
            packed = pack(instance, solution, self.rules, target)
            placed, cascades = placements(instance, solution, packed, asked.demand_qps, now, self.profiles)
            found = sure_hosts(instance, placed, self.rules)
            fewer = np.where(found < needed, np.maximum(found, 1), hosts)
            if not instance.depends_on_hosts or (fewer == hosts).all():
                break
            hosts = fewer
        to_split = {device for g in packed.unplaced | packed.over_power for device in instance.groups[g].devices}
        if current is not None and not now.has_standbys:
            to_split |= devices_with_more_loads(instance, solution, current, placed, now.hosted)
        is_over_budget = "power" in self.rules.budgets and bool(packed.over_power)
        if instance.ways is not None:
            placed = with_whole_batches(instance, placed, cascades, found)
        is_served = serves_all(instance, solution, packed, target)
        return _PlacedSolution(solution, placed, cascades, is_served, frozenset(to_split), is_over_budget)

    def _round_by_s(self, instance: Instance, deadline_s: float) -> float:
        """When a round must end: with cascades, or losses to be survived, one for fewer hosts is likely to follow."""
        is_last = self.rules.survives is None and instance.ways is None
        if is_last or not instance.depends_on_hosts:
            return deadline_s
        return (time.perf_counter() + deadline_s) / 2

    def _with_spares(self, placed: tuple[Placement, ...], asked: _Asked, now: Now) -> tuple[Placement, ...]:
        if not self.spares or self.rules.pack or self.rules.resources:
            return placed
        instance, count = self._model(_Grouping(), asked.lines)[0], Counter(placement.family for placement in placed)
        instance = instance.with_hosts(np.array([max(count[name], 1) for name in instance.families]))
        return placed + with_spares(instance, placed, asked.demand_qps, now)

    def _model(self, grouping: _Grouping, lines: int) -> tuple[Instance, Model]:
        """For curves of so many ``lines``. Models of other than the simplest grouping, which most solves need, go."""
        if (grouping, lines) not in self._compiled:
            self._compiled = {known: model for known, model in self._compiled.items() if known[0] == _Grouping()}
            hosted = dict(grouping.hosted) if grouping.hosted is not None else None
            instance = make_instance(
                self.catalog, self.profiles, self.policy.variants, self.rules, hosted=hosted, alone=grouping.alone
            )
            if not instance.choices:
                raise NoFeasiblePlan(
                    "No variant meets its family's SLO on any profiled device, within the rules.",
                    hint="loosen `slo` in the catalog or the rules, or add faster variants",
                )
            model = formulate(instance, self.rules, lines)
            prepare(model)
            self._compiled[grouping, lines] = instance, model
        return self._compiled[grouping, lines]

    def plan_of(
        self,
        demand_qps: Mapping[str, float],
        placed: tuple[Placement, ...],
        solver: Solver,
        cascades: tuple[PlannedCascade, ...] = (),
    ) -> Plan:
        rate_of = dict.fromkeys(demand_qps, 0.0)
        for placement in placed:
            rate_of[placement.family] += placement.rate_qps
        served_qps = {name: min(qps, rate_of[name]) for name, qps in demand_qps.items()}
        return Plan(
            format=PLAN_FORMAT,
            made_by=store.made_by(),
            policy=self.policy.name,
            objective=in_words(self.rules),
            rules=self.rules,
            headroom=self.headroom,
            demand_qps=dict(demand_qps),
            served_qps=served_qps,
            unserved_qps={name: qps - served_qps[name] for name, qps in demand_qps.items()},
            effective_accuracy=self.mean_accuracy(placed, cascades),
            relative_accuracy=self.mean_accuracy(placed, cascades, best_accuracy(self.profiles.values())),
            solver=solver,
            fleet=ids_by_type(self.profiles),
            placements=placed,
            inputs=self.inputs,
            estimated=tuple(sorted(estimated_families(self.profiles.values()) & set(demand_qps))) or UNSET,
            cascades=cascades,
        )

    def mean_accuracy(
        self,
        placed: Collection[Placement],
        cascades: Iterable[PlannedCascade],
        best: Mapping[str, float] | None = None,
    ) -> float | None:
        """The mean accuracy over queries, relative to ``best`` of each family if given; None where none is served.

        Of a variant that queries go through, those that do are spread over its placements as all that it gets.
        """
        accuracy, total_qps, sum_qps = accuracies(self.profiles), 0.0, 0.0
        for p in placed:
            of_best = relative(accuracy(p.device, p.family, p.variant), best[p.family] if best is not None else 1.0)
            total_qps, sum_qps = total_qps + p.rate_qps, sum_qps + p.rate_qps * of_best
        for cascade in cascades:
            first = [p for p in placed if p.key == (cascade.family, cascade.first)]
            first_qps = sum(p.rate_qps for p in first)
            alone = sum(p.rate_qps * accuracy(p.device, p.family, p.variant) for p in first) / first_qps
            whole = best[cascade.family] if best is not None else 1.0
            gained = relative(cascade.point.accuracy, whole) - relative(alone, whole)
            sum_qps += cascade.rate_qps * gained
        return sum_qps / total_qps if total_qps > 0 else None


def _is_better(plain: Solution, found: Solution) -> bool:
    """Whether the first merit in which they differ is better without cascades."""
    pairs = zip(plain.merits, found.merits, strict=True)
    return next((mine > other for mine, other in pairs if abs(mine - other) > SAME_MERIT * max(abs(other), 1.0)), False)


def _require_what_may_be_lost(devices: Iterable[str], rules: Rules) -> None:
    """Raise `NoFeasiblePlan` where the one loss that a plan is to survive is that of everything."""
    units = set(map(rules.unit_of, devices)) if rules.survives is not None else set()
    if len(units) == 1:
        only, option = "device", "--survive"
        if rules.survives == "host":
            only, option = f"host, {units.pop() or 'this machine'}", "--survive-host"
        raise NoFeasiblePlan(
            f"No plan survives the loss of a {rules.survives}: there is only one {only}.",
            hint=f"profile devices of another one, or leave out `{option}`",
        )


def _available(profiles: Mapping[str, Profile], without: Outages) -> dict[str, Profile]:
    """The profiles without the devices and engines that are out."""
    return {
        device: replace_fields(
            profile, variants=tuple(v for v in profile.variants if (device, v.family, v.variant) not in without.engines)
        )
        for device, profile in profiles.items()
        if device not in without.devices
    }


def _as_key(hosted: HostedKeys) -> tuple[tuple[str, frozenset[VariantKey]], ...]:
    return tuple(sorted(hosted.items()))
