"""The planner that commands, server and simulator use."""

import math
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from copy import copy
from types import MappingProxyType

from msgspec.structs import replace as replace_fields

from proteus_cli import store
from proteus_cli.control.policies import Policy
from proteus_cli.domain.attainment import SloTarget
from proteus_cli.domain.batch_times import beside
from proteus_cli.domain.catalog import Catalog, VariantKey, VariantsByDevice
from proteus_cli.domain.demand import Demand, Forecast, check_demand
from proteus_cli.domain.device import NONE_OUT, Outages
from proteus_cli.domain.fleet import ids_by_type
from proteus_cli.domain.plan import PLAN_FORMAT, Placement, Plan, Solver
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.profile_changes import accuracies, best_accuracy, estimated_families, relative
from proteus_cli.domain.rules import Rules, in_words, with_catalog
from proteus_cli.domain.stages.cascade import PlannedCascade
from proteus_cli.errors import NoFeasiblePlan, NoPlanInTime, RulesConflict, UsageError
from proteus_cli.interruption import INTERRUPTION
from proteus_cli.planning.check import check_plan, spent
from proteus_cli.planning.model.choices import require_amounts
from proteus_cli.planning.model.instance import Now
from proteus_cli.planning.search import PlacementSearch
from proteus_cli.planning.solver.lexicographic import Infeasible
from proteus_cli.planning.solver.solve import OutOfTime
from proteus_cli.planning.solver.target_demand import NEGLIGIBLE, PlanningDemand

SEARCH_FRAC = 0.75  # of the time limit; the rest is for what follows the search: to place 10,000 devices takes 0.1 s


class Planner:
    """Plans for one set of profiled devices (by id). The instance is made once, the model for each demand.

    Calling it with a demand and the plan in force makes the next plan: past ``time_limit_s``, the best that was found.
    ``spares``: devices that would be idle get spares, unless the rules ask for few devices or limit what they cost.
    ``hurries``: where a forecast is more than the plan in force carries, the first plan for all of it is enough, as the
    next request is for the best one. It can be pickled, to run in another process.
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
        hurries: bool = False,
    ) -> None:
        if not 1 <= headroom < math.inf:
            raise UsageError(
                f"The headroom {headroom:g} is not a finite number from 1 up.",
                hint="1.2 plans for 20 % more than the demand",
            )
        self.catalog, self.profiles, self.policy = catalog, dict(profiles), policy
        self.rules = with_catalog(rules or policy.rules, catalog)
        require_amounts(catalog, self.profiles, self.rules)
        self.headroom, self.inputs, self.time_limit_s = headroom, dict(inputs), time_limit_s
        self.spares, self.hurries = spares, hurries
        self._search = PlacementSearch(self.catalog, self.profiles, policy.variants, self.rules)
        self._after_outages: tuple[Outages, tuple[Planner, ...]] | None = None

    def __call__(
        self,
        demand: Demand,
        current: Plan | None = None,
        without: Outages = NONE_OUT,
        standbys: VariantsByDevice = MappingProxyType({}),
    ) -> Plan:
        """The best plan for a demand, with the devices and engines that can be used.

        ``standbys`` are loaded beside what ``current`` hosts, so they need no load either. Raises `UsageError` and
        `NoFeasiblePlan` (`RulesConflict`, `NoPlanInTime`).
        """
        if without:
            return self._after_loss(demand, current, without, standbys)
        check_demand(demand, self.catalog)
        _require_what_may_be_lost(self.profiles, self.rules)
        asked = PlanningDemand.of(demand, self.catalog, self.headroom)
        self._search.prepare()  # making instances is no part of the solve's time
        start_s = time.perf_counter()
        try:
            now = Now.of(current, standbys, self.profiles)
            deadline_s = start_s + self._search_s
            found = self._search.first(asked, now, deadline_s) if self._is_overdue(asked, current) else None
            found = found or self._search.best(asked, now, deadline_s)
        except OutOfTime:
            raise NoPlanInTime(
                f"The solver found no plan {_when_over(self.time_limit_s)}.",
                hint="give it more time with `--time-limit`",
            ) from None
        except Infeasible:
            raise RulesConflict(
                "No plan obeys all rules at this demand.",
                hint="`proteus plan` with the same demand and rules names rules that conflict",
            ) from None
        solver = Solver(
            name="HiGHS",
            status="time limit" if found.solution.is_limited else "optimal",
            gap=found.solution.gap,
            unserved_gap=found.solution.unserved_gap,
            solve_s=time.perf_counter() - start_s,
        )
        placed = self._search.with_spares(found.placements, asked, now) if self._adds_spares else found.placements
        plan = _expecting(demand, self.plan_of(asked.demand_qps, placed, solver, found.cascades))
        check_plan(plan, self.catalog, self.profiles)
        return plan

    def _is_overdue(self, asked: PlanningDemand, current: Plan | None) -> bool:
        """Whether the plan in force cannot carry the demand, and each moment until the next one costs queries."""
        if not (self.hurries and asked.curves) or current is None:
            return False
        carried_qps = dict.fromkeys(asked.demand_qps, 0.0)
        for placement in current.placements:
            if placement.device in self.profiles and placement.family in carried_qps:  # the catalog may have changed
                carried_qps[placement.family] += placement.newcomers_qps
        return any(carried_qps[family] < qps for family, qps in asked.demand_qps.items())

    def _after_loss(self, demand: Demand, current: Plan | None, without: Outages, standbys: VariantsByDevice) -> Plan:
        """The best plan for the devices that are left: one that survives another loss, if it can serve all."""
        *surviving, last = self._left(without)
        for planner in surviving:
            with suppress(NoFeasiblePlan):
                plan = planner(demand, current, standbys=standbys)
                if plan.shortfall_qps <= NEGLIGIBLE * sum(plan.demand_qps.values()):
                    return plan
        return replace_fields(last(demand, current, standbys=standbys), rules=self.rules)

    def _left(self, without: Outages) -> "tuple[Planner, ...]":
        """Planners for what is left, cached: with all rules, then without survival of another loss."""
        if self._after_outages is None or self._after_outages[0] != without:
            planners = [self.with_changes(profiles=_available(self.profiles, without))]
            if self.rules.survives is not None:
                planners[0].time_limit_s /= 2
                exposed = replace_fields(self.rules, survive=0, survive_unit="device")
                planners.append(planners[0].with_changes(rules=exposed))
            self._after_outages = without, tuple(planners)
        return self._after_outages[1]

    def with_changes(
        self,
        *,
        rules: Rules | None = None,
        profiles: Mapping[str, Profile] | None = None,
        catalog: Catalog | None = None,
        headroom: float | None = None,
    ) -> "Planner":
        """The same planner with these changes; ``rules`` replace the catalog's rules, too."""
        other = copy(self)
        other._after_outages = None  # noqa: SLF001 - of another planner of ours
        other.headroom = self.headroom if headroom is None else headroom
        other.rules = self.rules if rules is None else rules
        other.profiles = self.profiles if profiles is None else dict(profiles)
        other.catalog = self.catalog if catalog is None else catalog
        if rules is not None or profiles is not None or catalog is not None:
            other._search = PlacementSearch(other.catalog, other.profiles, self.policy.variants, other.rules)  # noqa: SLF001 - of another planner of ours
        return other

    def capacity_qps(self, placement: Placement, others: Collection[VariantKey] = ()) -> float:
        """The capacity of a placement's variant, in its batches, with all of its device's time.

        ``others`` are active there, too.
        """
        profile = self.profiles[placement.device]
        alone = profile.of(placement.family, placement.variant)
        measured = beside(profile, alone, others) if alone is not None else None
        points = profile.points_of(measured) if measured is not None else ()
        family = self.catalog.family(placement.family)
        target = self.rules.planned_target(family.name, SloTarget(family.slo_s, family.attainment))
        capacities = [step.capacity for _, steps in self.rules.stage_steps(target, points) for step in steps]
        return max((each.qps for each in capacities if each.max_batch == placement.max_batch), default=0.0)

    def spent(self, plan: Plan) -> float:
        """The cost per hour or the watts of a plan, whichever is minimised; 0 where neither is."""
        if self.rules.minimize is None:
            return 0.0
        return spent(plan, self.catalog, self.profiles)[self.rules.minimize]

    def serves_all(self, demand: Demand) -> bool | None:
        """Whether some plan serves all of a demand, with headroom; None where the time limit leaves that open."""
        asked = PlanningDemand.of(demand, self.catalog, self.headroom)
        try:
            return self._search.serves_all(asked, time.perf_counter() + self._search_s)
        except NoFeasiblePlan:
            return False

    @property
    def _adds_spares(self) -> bool:
        return self.spares and not (self.rules.pack or self.rules.resources)

    @property
    def _search_s(self) -> float:
        return SEARCH_FRAC * self.time_limit_s

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_after_outages": None}

    def plan_of(
        self,
        demand_qps: Mapping[str, float],
        placed: tuple[Placement, ...],
        solver: Solver,
        cascades: tuple[PlannedCascade, ...] = (),
    ) -> Plan:
        """The plan that has these placements and cascades, with what it leaves unserved of the demand."""
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
            estimated=tuple(sorted(estimated_families(self.profiles.values()) & set(demand_qps))),
            cascades=cascades,
        )

    def mean_accuracy(
        self,
        placed: Collection[Placement],
        cascades: Iterable[PlannedCascade],
        best: Mapping[str, float] | None = None,
    ) -> float | None:
        """The mean accuracy over queries, relative to ``best`` of each family if given; None where none is served.

        Queries of a cascade are spread over the placements of its first variant in proportion to their rates.
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


def _expecting(demand: Demand, plan: Plan) -> Plan:
    """The plan with the attainment of its capacities under a forecast; unchanged without one."""
    if not isinstance(demand, Forecast):
        return plan
    shares = {family: demand.attainment(family, plan.capacity_qps(family)) for family in plan.demand_qps}
    known = {family: share for family, share in shares.items() if share is not None}
    return replace_fields(plan, expected_attainment=known)


def _when_over(time_limit_s: float) -> str:
    return "before it was ended early" if INTERRUPTION.is_asked else f"within {time_limit_s:g} s"


def _require_what_may_be_lost(devices: Iterable[str], rules: Rules) -> None:
    """Raise `NoFeasiblePlan` where the loss to survive would leave no device."""
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
