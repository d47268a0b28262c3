"""The search for the best solution that can be placed: hosts are counted anew, and groups are split, until one can."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from msgspec.structs import replace as replace_fields

from proteus_cli.control.policies import VariantRule
from proteus_cli.domain.catalog import NO_VARIANTS, Catalog, VariantsByDevice
from proteus_cli.domain.plan import Placement
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.profile_changes import best_accuracy
from proteus_cli.domain.rules import Rules
from proteus_cli.errors import NoFeasiblePlan
from proteus_cli.interruption import INTERRUPTION
from proteus_cli.planning.host_rounds import HostRounds, PlacedSolution, is_better
from proteus_cli.planning.model.hosted_now import NOWHERE, Now
from proteus_cli.planning.model.instance import Instance, make_instance
from proteus_cli.planning.placements.spares import with_spares
from proteus_cli.planning.planning_demand import PlanningDemand
from proteus_cli.planning.solver.lexicographic import Infeasible
from proteus_cli.planning.solver.solve import OutOfTime
from proteus_cli.planning.solver.target_demand import NEGLIGIBLE

PLAIN_FRAC = 0.4  # of the search with cascades, the most that the plan without them may take
FALLBACK_FRAC = 0.25  # of the search for several variants per device, kept for one variant on each where none is found
MAX_SETS_APART = 100
"""Sets of variants, of all groups, up to which devices are told apart by what they host: exact loads need that."""
MAX_SPLIT = 2  # instances of other groupings than the simplest that are kept


Numbers = tuple[int, ...]
"""By device: those with different numbers are told apart. Empty: no devices are that are alike."""


@dataclass(frozen=True, slots=True)
class _Grouping:
    """How devices are told apart: by what they host now, if ``by_hosted``; each of ``alone`` is a group."""

    by_hosted: bool = False
    alone: frozenset[str] = frozenset()

    def numbers(self, devices: Iterable[str], hosted: VariantsByDevice) -> Numbers:
        """In the order in which they first appear: what is grouped alike has the same numbers, whatever it hosts."""
        if not self.by_hosted and not self.alone:
            return ()
        kinds = [
            each if each in self.alone else hosted.get(each, NO_VARIANTS) if self.by_hosted else NO_VARIANTS
            for each in devices
        ]
        number = {kind: n for n, kind in enumerate(dict.fromkeys(kinds))}
        return tuple(number[kind] for kind in kinds) if len(number) > 1 else ()


class PlacementSearch:
    """Searches for one set of profiled devices (by id), variants and rules.

    Instances are made once. A search can be pickled, without them. Times are those of `time.perf_counter`.
    """

    def __init__(self, catalog: Catalog, profiles: Mapping[str, Profile], variants: VariantRule, rules: Rules) -> None:
        self._catalog, self._profiles, self._variants, self._rules = catalog, profiles, variants, rules
        self._instances: dict[Numbers, Instance] = {}
        plain = replace_fields(rules, cascades=False)
        self._plain = PlacementSearch(catalog, profiles, variants, plain) if rules.uses_cascades else None
        self._simplest = self._plain
        if rules.uses_cascades and rules.is_resident_set:
            self._simplest = PlacementSearch(catalog, profiles, variants, replace_fields(plain, residency=1))
        if self._plain is None and rules.is_resident_set and any(profile.sharing for profile in profiles.values()):
            self._plain = PlacementSearch(catalog, profiles, variants, replace_fields(plain, residency=1))
            self._simplest = self._plain
        self._fallback: PlacementSearch | None = None
        if self._plain is None and rules.is_resident_set:
            self._fallback = PlacementSearch(catalog, profiles, variants, replace_fields(rules, residency=1))

    def prepare(self, asked: PlanningDemand) -> None:
        """Make the instances that a demand needs first. Raises `NoFeasiblePlan` where no variant may be hosted."""
        instance = self._instance(())
        if instance.ways is None and instance.sets is None:
            self._plain = None
        if self._plain is not None:
            self._plain.prepare(asked)

    def first(self, asked: PlanningDemand, now: Now, deadline_s: float) -> PlacedSolution | None:
        """The best solution with one variant on each device and without cascades, which takes a tenth of the time.

        None where it does not serve all, or the rules allow no cascades: then the best one is found soon.
        """
        if self._simplest is None:
            return None
        return self._simplest.all_served(asked, now, deadline_s)

    def best(self, asked: PlanningDemand, now: Now, deadline_s: float) -> PlacedSolution:
        """The best solution. With cascades, the better of two: that without them counts on hosts of its own.

        So is it where sharing costs time, of that and one variant on each device, which takes a tenth of the time.
        Past the deadline, the best that was found; with several variants on a device, where memory is scarce, that may
        be nothing, and then it is one on each that serves all. Raises `Infeasible`, `NoFeasiblePlan`, and `OutOfTime`
        where nothing was found by then.
        """
        self.prepare(asked)
        if self._fallback is not None:
            return self._shared_or_fallback(self._fallback, asked, now, deadline_s)
        if self._plain is None:
            return self._solve_and_place(asked, now, deadline_s)
        started_s, plain = time.perf_counter(), None
        by_s = started_s + PLAIN_FRAC * (deadline_s - started_s)
        with suppress(OutOfTime, Infeasible):
            plain = self._plain.best(asked, now, by_s)
        try:
            found = self._solve_and_place(asked, now, deadline_s, plain)
        except (OutOfTime, Infeasible):
            if plain is None:
                raise
            return plain.limited()
        return plain if plain is not None and is_better(plain.solution, found.solution) else found

    def serves_all(self, asked: PlanningDemand, deadline_s: float) -> bool | None:
        """Whether some solution serves all of a demand; None where the deadline leaves that open.

        Where it only left the accuracy open, it is known. Raises `NoFeasiblePlan` where no variant may be hosted.
        """
        try:
            found = self.best(asked, NOWHERE, deadline_s)
        except OutOfTime:
            return None
        except Infeasible:
            return False
        if found.serves_all or not found.solution.is_limited:
            return found.serves_all
        is_of_all_solutions = self._plain is None and not found.to_split
        return False if is_of_all_solutions and found.solution.unserved_gap <= NEGLIGIBLE else None

    def _shared_or_fallback(
        self, fallback: "PlacementSearch", asked: PlanningDemand, now: Now, deadline_s: float
    ) -> PlacedSolution:
        started_s = time.perf_counter()
        try:
            return self._solve_and_place(asked, now, started_s + (1 - FALLBACK_FRAC) * (deadline_s - started_s))
        except OutOfTime:
            found = fallback.all_served(asked, now, deadline_s)
            if found is None:
                raise
            return found

    def all_served(self, asked: PlanningDemand, now: Now, deadline_s: float) -> PlacedSolution | None:
        """A limited solution that serves all, as the best may need other rules; None where none is found by then."""
        with suppress(OutOfTime, Infeasible, NoFeasiblePlan):
            found = self.best(asked, now, deadline_s)
            if found.serves_all:
                return found.limited()
        return None

    def with_spares(self, placed: tuple[Placement, ...], asked: PlanningDemand, now: Now) -> tuple[Placement, ...]:
        """The placements, and spares on devices that are idle."""
        instance, count = self._instance(()), Counter(placement.family for placement in placed)
        instance = instance.with_hosts(np.array([max(count[name], 1) for name in instance.families]))
        return placed + with_spares(instance, placed, asked.demand_qps, now)

    def _solve_and_place(
        self, asked: PlanningDemand, now: Now, deadline_s: float, plain: PlacedSolution | None = None
    ) -> PlacedSolution:
        """Solve for groups of devices; where a group's solution can't be placed, split groups and solve again.

        1. Equal devices together.
        2. If that cannot be placed and there is a plan in force: devices that host the same together. Rules that allow
           several variants per device start here.
        3. Devices of the groups that failed, one by one.

        Each round is a relaxation of the next, so the first solution that can be placed is optimal. At the latest that
        is when each device is a group.
        """
        is_wide = self._is_wide(now)
        grouping = _Grouping(by_hosted=bool(now) and self._rules.is_resident_set and not is_wide)
        counts_loads = bool(now) and not now.has_standbys and not is_wide
        while True:
            every = self._instance(grouping.numbers(self._profiles, now.hosted))
            rounds = HostRounds(every, self._rules, self._profiles, asked, now, deadline_s, counts_loads=counts_loads)
            found = rounds.best(plain)
            if not found.to_split:
                return found
            if time.perf_counter() > deadline_s or INTERRUPTION.is_asked:
                if found.is_over_budget:
                    raise OutOfTime
                return found.limited()
            if not grouping.by_hosted and now:
                grouping = replace(grouping, by_hosted=True)
            else:
                grouping = replace(grouping, alone=grouping.alone | found.to_split)

    def _is_wide(self, now: Now) -> bool:
        """Apart by what they host, devices would have too many sets: then the loads that are counted are a bound."""
        sets = self._instance(()).sets
        return sets is not None and len(sets.keys) * len(set(now.hosted.values())) > MAX_SETS_APART

    def _instance(self, numbers: Numbers) -> Instance:
        """Beside the instance of the simplest grouping, the last `MAX_SPLIT` ones are kept."""
        found = self._instances.pop(numbers, None)
        if found is None:
            apart = dict(zip(self._profiles, numbers, strict=True)) if numbers else {}
            found = make_instance(self._catalog, self._profiles, self._variants, self._rules, apart=apart)
            if not found.choices:
                raise NoFeasiblePlan(
                    "No variant meets its family's SLO on any profiled device, within the rules.",
                    hint=self._too_inaccurate() or "loosen `slo` in the catalog or the rules, or add faster variants",
                )
            split = [key for key in self._instances if key]
            for key in split[: max(len(split) - MAX_SPLIT + 1, 0)] if numbers else ():
                del self._instances[key]
        self._instances[numbers] = found
        return found

    def _too_inaccurate(self) -> str:
        """Of which families the rules leave out all variants as too inaccurate; empty where there is none."""
        found = []
        for family, best in best_accuracy(self._profiles.values()).items():
            least = self._rules.min_accuracy_alone(family)
            if best < least:
                found.append(f"no variant of `{family}` has an accuracy of {least:g}, the best has {best:.4f}")
        return "; ".join(found)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_instances": {}}
