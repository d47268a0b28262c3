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
from proteus_cli.planning.host_rounds import HostRounds, PlacedSolution
from proteus_cli.planning.model.instance import NOWHERE, Instance, Now, make_instance
from proteus_cli.planning.placements.spares import spares
from proteus_cli.planning.solver.lexicographic import Infeasible
from proteus_cli.planning.solver.solve import OutOfTime
from proteus_cli.planning.solver.target_demand import NEGLIGIBLE, PlanningDemand

SIMPLER_FRAC = 0.4  # of the time left: the most that a search under simpler rules may take
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

    ``simpler`` are searches under simpler rules, the simplest first: one variant per device without cascades, then
    without cascades. They take a fraction of the time. The result is the best of all solutions. Instances are made
    once; a search is pickled without them. Times are readings of `time.perf_counter`.
    """

    def __init__(self, catalog: Catalog, profiles: Mapping[str, Profile], variants: VariantRule, rules: Rules) -> None:
        self._catalog, self._profiles, self._variants, self._rules = catalog, profiles, variants, rules
        self._instances: dict[Numbers, Instance] = {}
        without_cascades = replace_fields(rules, cascades=False)
        simpler = [replace_fields(without_cascades, residency=1)] if rules.is_resident_set else []
        simpler += [without_cascades] if rules.cascades else []
        self._simpler = [PlacementSearch(catalog, profiles, variants, each) for each in simpler]
        for each in self._simpler:
            each._simpler = []  # noqa: SLF001 - of another search of ours

    def prepare(self) -> None:
        """Make the instances that are needed first. Raises `NoFeasiblePlan` where no variant may be hosted."""
        if self._instance(()).ways is None:
            self._simpler = self._simpler[: int(self._rules.is_resident_set)]
        for each in self._simpler:
            with suppress(NoFeasiblePlan):
                each.prepare()

    def first(self, asked: PlanningDemand, now: Now, deadline_s: float) -> PlacedSolution | None:
        """The best solution under the simplest rules, which takes a tenth of the time.

        None where it leaves demand unserved, or where the full model has neither cascades nor sharing costs.
        """
        instance = self._instance(())
        if instance.ways is None and instance.sets is None:
            return None
        with suppress(OutOfTime, Infeasible, NoFeasiblePlan):
            found = self._simpler[0].best(asked, now, deadline_s)
            return found.limited() if found.serves_all else None
        return None

    def best(self, asked: PlanningDemand, now: Now, deadline_s: float) -> PlacedSolution:
        """The best solution under these rules and the simpler ones.

        Past the deadline, it is the best that was found. Raises `Infeasible`, `NoFeasiblePlan`, and `OutOfTime` where
        there was no solution by then.
        """
        self.prepare()
        found: PlacedSolution | None = None
        for search in self._simpler:
            started_s = time.perf_counter()
            with suppress(OutOfTime, Infeasible, NoFeasiblePlan):
                by_s = started_s + SIMPLER_FRAC * (deadline_s - started_s)
                found = search._solve_and_place(asked, now, by_s, found).or_better(found)  # noqa: SLF001 - as above
        try:
            return self._solve_and_place(asked, now, deadline_s, found).or_better(found)
        except (OutOfTime, Infeasible):
            if found is None:
                raise
            return found.limited()

    def serves_all(self, asked: PlanningDemand, deadline_s: float) -> bool | None:
        """Whether some solution serves all of a demand; None where the deadline leaves that open.

        A deadline that left only the accuracy open does not matter. Raises `NoFeasiblePlan` where no variant may be
        hosted.
        """
        try:
            found = self.best(asked, NOWHERE, deadline_s)
        except OutOfTime:
            return None
        except Infeasible:
            return False
        if found.serves_all or not found.solution.is_limited:
            return found.serves_all
        is_of_all_solutions = not self._simpler and not found.to_split
        return False if is_of_all_solutions and found.solution.unserved_gap <= NEGLIGIBLE else None

    def with_spares(self, placed: tuple[Placement, ...], asked: PlanningDemand, now: Now) -> tuple[Placement, ...]:
        """The placements, and spares on devices that are idle."""
        instance, count = self._instance(()), Counter(placement.family for placement in placed)
        instance = instance.with_hosts(np.array([max(count[name], 1) for name in instance.families]))
        return (*placed, *spares(instance, placed, asked.demand_qps, now))

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
        """Names the families whose variants are all too inaccurate for the rules; empty where there is none."""
        found = []
        for family, best in best_accuracy(self._profiles.values()).items():
            least = self._rules.min_accuracy_alone(family)
            if best < least:
                found.append(f"no variant of `{family}` has an accuracy of {least:g}, the best has {best:.4f}")
        return "; ".join(found)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_instances": {}}
