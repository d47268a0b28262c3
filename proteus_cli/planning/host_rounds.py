"""Solves with the capacities for some number of hosts, until the plan has as many hosts as its batches need.

With more hosts, a family's batches may be larger and still in time, so a variant on a device carries more. How many
hosts there are is known once the solution is placed. Each round assumes a number of hosts and counts them afterwards.
A round that counts on fewer hosts than the one before tries its replicas first, and keeps its bound. Most later rounds
therefore end at once.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from proteus_cli.arrays import Ints
from proteus_cli.domain.plan import Placement
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.stages.cascade import PlannedCascade
from proteus_cli.planning.model.instance import Instance, Now
from proteus_cli.planning.placements.decode import current_replicas, devices_with_more_loads, placements
from proteus_cli.planning.placements.host_counts import (
    hosts_now,
    likely_hosts,
    needed_hosts,
    sure_count,
    sure_hosts,
    with_more_hosts,
)
from proteus_cli.planning.placements.pack import pack
from proteus_cli.planning.solver.lexicographic import Infeasible, optimise, relaxed_replicas
from proteus_cli.planning.solver.solution import Solution
from proteus_cli.planning.solver.solve import MANY_COLUMNS, OutOfTime
from proteus_cli.planning.solver.target_demand import NEGLIGIBLE, PlanningDemand, TargetDemand

SAME_MERIT = 1e-5


@dataclass(frozen=True, slots=True)
class PlacedSolution:
    """A solution with its placements.

    ``to_split``: the devices of groups that could not be placed, are over power, or need more loads than solved.
    ``hosts`` and ``needed_hosts`` [F]: how many hosts each family has for sure, and how many its batches need.
    """

    solution: Solution
    placements: tuple[Placement, ...]
    cascades: tuple[PlannedCascade, ...]
    serves_all: bool
    to_split: frozenset[str]
    is_over_budget: bool
    hosts: Ints
    needed_hosts: Ints

    def or_better(self, other: "PlacedSolution | None") -> "PlacedSolution":
        """This solution, or the other one where the first merit in which they differ is better there."""
        merits = zip(other.solution.merits, self.solution.merits, strict=True) if other is not None else ()
        differing = (theirs > mine for theirs, mine in merits if abs(theirs - mine) > SAME_MERIT * max(abs(mine), 1.0))
        return other if other is not None and next(differing, False) else self

    def unproven(self) -> "PlacedSolution":
        """The same, where it is not known whether more can be served."""
        return replace(self, solution=replace(self.solution, is_limited=True, unserved_gap=1.0))

    def limited(self) -> "PlacedSolution":
        """The same, as the best that was found, though there may be a better one."""
        return replace(self, solution=replace(self.solution, is_limited=True))


@dataclass(frozen=True, slots=True)
class HostRounds:
    """The rounds for one grouping of the devices and one demand.

    ``every`` is the instance that counts on all devices. With ``counts_loads``, groups are split where more variants
    must be loaded than the solution says. The deadline is a time of `time.perf_counter`.
    """

    every: Instance
    rules: Rules
    profiles: Mapping[str, Profile]
    asked: PlanningDemand
    now: Now
    deadline_s: float
    counts_loads: bool

    def best(self, plain: PlacedSolution | None) -> PlacedSolution:
        """The best solution, counting on the hosts that are likely first; ``plain`` is the one without cascades.

        If that leaves demand unserved, a second search begins with all devices and requires the hosts that batches
        need. The better solution wins. Raises `Infeasible` and `OutOfTime`.
        """
        if not self.every.depends_on_hosts:
            return self._round(self.every)
        hosts, found = self._first_hosts(plain), None
        try:
            found = self._counting_on(hosts)
            if found.serves_all or (hosts == self.all_hosts).all():
                return found
            return found.or_better(self._counting_on(self.all_hosts, requires_hosts=True))
        except Infeasible:
            if found is not None:
                return found
            if (hosts == self.all_hosts).all():
                raise
            return self._counting_on(self.all_hosts, requires_hosts=True)
        except OutOfTime:
            if found is None:
                raise
            return found.unproven()

    def _counting_on(self, hosts: Ints, *, requires_hosts: bool = False) -> PlacedSolution:
        """The solution for these ``hosts`` of each family [F], or for the hosts that it turns out to have.

        If a family gets fewer hosts than its batches need, the next round requires them with ``requires_hosts``.
        Otherwise, or if that is infeasible, the next round counts on the hosts that it got.
        """
        min_hosts, before = np.zeros_like(hosts), None
        while True:
            try:
                done = self._round(self.every.with_hosts(hosts, min_hosts), before)
                before = before if min_hosts.any() else done.solution  # required hosts are no relaxation of fewer
            except Infeasible:
                if not min_hosts.any():
                    raise
                hosts, min_hosts = np.where(min_hosts, np.maximum(min_hosts - 1, 1), hosts), np.zeros_like(hosts)
                continue
            lacking = done.hosts < done.needed_hosts
            fewer = np.where(lacking, np.maximum(done.hosts, 1), hosts)
            if (fewer == hosts).all():
                return done
            if requires_hosts and (done.needed_hosts > min_hosts)[lacking].any():
                min_hosts = np.where(lacking, np.maximum(done.needed_hosts, min_hosts), min_hosts)
            else:
                hosts, min_hosts = fewer, np.zeros_like(hosts)

    def _round(self, instance: Instance, relaxed: Solution | None = None) -> PlacedSolution:
        """Solve once, and place the solution. ``relaxed``: of a round that counted on more hosts."""
        rules, asked = self.rules, self.asked
        target = TargetDemand.of(instance, asked.with_headroom_qps, asked.curves)
        if instance.has_unplaceable_pin or (rules.minimize is not None and target.exceeds_capacity):
            raise Infeasible
        current = current_replicas(instance, self.now.resident) if self.now else None
        solution = optimise(instance, rules, target, current, self._round_by_s(), relaxed)
        if self._may_use_more_devices:
            solution = with_more_hosts(instance, solution, rules)
        packed = pack(instance, solution, rules, target)
        placed, cascades, answered_qps = placements(
            instance, solution, packed, asked.demand_qps, self.now, self.profiles
        )
        to_split = {device for g in packed.unplaced | packed.over_power for device in instance.groups[g].devices}
        if current is not None and self.counts_loads:
            to_split |= devices_with_more_loads(instance, solution, current, placed, self.now.hosted)
        return PlacedSolution(
            solution=solution,
            placements=placed,
            cascades=cascades,
            serves_all=not target.exceeds_capacity and bool(np.all(answered_qps >= target.qps * (1 - NEGLIGIBLE))),
            to_split=frozenset(to_split),
            is_over_budget="power" in rules.budgets and bool(packed.over_power),
            hosts=sure_hosts(instance, placed, rules),
            needed_hosts=needed_hosts(instance, chain.from_iterable(packed.bundles)),
        )

    def _first_hosts(self, plain: PlacedSolution | None) -> Ints:
        """How many hosts of each family [F] to count on first, so that most plans need one or two solves.

        One more than the family has now. For a new demand, one more than in the solution without cascades, or in a
        relaxation. All devices where the relaxation cannot serve all, or is large. A family that needs more for larger
        batches gets them within a few plans, or at once where not all is served else.
        """
        every, all_hosts = self.every, self.all_hosts
        if self.now:
            return np.minimum(hosts_now(every, self.now) + 1, all_hosts)
        if plain is not None and self.rules.cascades:  # else it has one variant on each device, and fewer hosts
            return np.minimum(plain.hosts + 1, all_hosts)
        if len(every.choices) > MANY_COLUMNS:
            return all_hosts
        instance = every.with_hosts(all_hosts)
        target = TargetDemand.of(instance, self.asked.with_headroom_qps, self.asked.curves)
        replicas = relaxed_replicas(instance, self.rules, target, self.deadline_s)
        if replicas is None:
            return all_hosts
        idle = len(self.profiles) - math.ceil(replicas.sum()) if self._may_use_more_devices else 0
        return np.minimum(likely_hosts(instance, replicas, idle), all_hosts)

    def _round_by_s(self) -> float:
        """When a round must end: with cascades, or losses to be survived, one for fewer hosts is likely to follow."""
        is_last = self.rules.survives is None and self.every.ways is None
        if is_last or not self.every.depends_on_hosts:
            return self.deadline_s
        return (time.perf_counter() + self.deadline_s) / 2

    @property
    def all_hosts(self) -> Ints:
        """The number of devices that are left after any loss that plans survive, for each family [F]."""
        return np.full(len(self.every.families), sure_count(self.profiles, self.rules))

    @property
    def _may_use_more_devices(self) -> bool:
        """Whether using idle devices costs none of the counted resources."""
        return not (self.rules.pack or self.rules.resources or self.rules.is_resident_set)
