"""A check of a plan against its inputs, independent of the model: no wrong answer of the solver becomes a plan."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from proteus_cli.domain.batch_times import beside
from proteus_cli.domain.capacity import Capacity, CapacityStep, cost_of, max_energy_of
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.rules import Resource, selects
from proteus_cli.planning.cascade_check import gained_qps, problems_of_cascades
from proteus_cli.planning.networks import NETWORK_FRAC

_REL = 1e-5

PartSteps = tuple[float, tuple[CapacityStep, ...]]
"""A part of the SLO, and the capacity of a variant within it."""


class PlanCheckError(RuntimeError):
    """A plan contradicts its inputs: a bug of this program or of the solver."""


def check_plan(plan: Plan, catalog: Catalog, profiles: Mapping[str, Profile]) -> None:
    """Raise `PlanCheckError` unless devices, capacities, shares, totals and the rules of the plan hold."""
    for problem in _problems(_Checked(plan, catalog, profiles)):
        raise PlanCheckError(f"the plan contradicts its inputs: {problem}")


class _Checked:
    """A plan with its placements by device and by family, and what was measured of each."""

    def __init__(self, plan: Plan, catalog: Catalog, profiles: Mapping[str, Profile]) -> None:
        self.plan, self.rules, self.catalog, self.profiles = plan, plan.rules, catalog, profiles
        self.targets = plan.rules.planned_targets(catalog.slo_targets())
        self.by_device = plan.by_device()
        self.by_family: dict[str, list[Placement]] = {family: [] for family in plan.demand_qps}
        for placement in plan.placements:
            self.by_family[placement.family].append(placement)
        self._others = {device: frozenset(each.key for each in placed) for device, placed in self.by_device.items()}
        self._known: dict[tuple[object, ...], tuple[VariantProfile | None, tuple[PartSteps, ...]]] = {}

    def measured(self, placement: Placement) -> VariantProfile | None:
        return self._of(placement)[0]

    def capacity(self, placement: Placement, hosts: int | None = None) -> Capacity | None:
        """The capacity in batches of the placement's size, where the family has enough hosts for these; else None.

        ``hosts`` replaces the family's number of hosts.
        """
        same = (capacity for _, capacity in self._capacities(placement, hosts))
        return max(same, key=lambda each: each.qps, default=None)

    def slo_part(self, placement: Placement) -> float:
        """The shortest part of the SLO that its batches fit, at the rates that it gets."""
        executed_qps = (placement.rate_qps + placement.deferred_qps) * (1 - _REL)
        return min((part for part, each in self._capacities(placement, None) if each.qps >= executed_qps), default=1.0)

    def _capacities(self, placement: Placement, hosts: int | None) -> Iterator[tuple[float, Capacity]]:
        """Capacities for the placement's batch size, each with its part of the SLO."""
        enough = len(self.by_family[placement.family]) if hosts is None else hosts
        for part, steps in self._of(placement)[1]:
            for step in steps:
                if step.hosts <= enough and step.capacity.max_batch == placement.max_batch:
                    yield part, step.capacity

    def _of(self, placement: Placement) -> tuple[VariantProfile | None, tuple[PartSteps, ...]]:
        """Among all that its device holds."""
        profile = self.profiles[placement.device]
        others = self._others[placement.device] - {placement.key} if profile.sharing else frozenset[VariantKey]()
        key = (id(profile.variants), profile.slots, id(profile.sharing), placement.family, placement.variant, others)
        if key not in self._known:
            alone = profile.of(placement.family, placement.variant)
            measured = beside(profile, alone, others) if alone is not None else None
            points = profile.points_of(measured) if measured is not None else ()
            self._known[key] = measured, tuple(self.rules.stage_steps(self.targets[placement.family], points))
        return self._known[key]


def _problems(given: _Checked) -> Iterator[str]:
    for placement in given.plan.placements:
        yield from _problems_of_placement(given, placement)
    for device, residents in given.by_device.items():
        yield from _problems_of_device(given, device, residents)
    for family, hosts in given.by_family.items():
        yield from _problems_of_family(given, family, hosts)
    if given.rules.cascades or given.plan.cascades:
        yield from _problems_of_cascades(given)
    for family, least in given.rules.min_expected_accuracy.items():
        yield from _problems_of_expected_accuracy(given, family, least)
    yield from _problems_of_policies(given)
    yield from _problems_of_pins(given)
    yield from _problems_of_budgets(given)
    yield from _problems_of_networks(given)


def _problems_of_placement(given: _Checked, placement: Placement) -> Iterator[str]:
    where = f"{placement.variant} on {placement.device}"
    measured, within = given.measured(placement), given.capacity(placement)
    device, rules = given.profiles[placement.device].device, given.rules
    if measured is None:
        yield f"{placement.variant} was never profiled on {placement.device}"
        return
    if within is None:
        yield f"{where} has another batch size than its capacity is for"
    elif max(_executed_qps(placement), placement.capacity_qps) > within.qps * (1 + _REL):
        yield f"{where} gets more than its capacity"
    if measured.accuracy < rules.min_accuracy.get(placement.family, 0.0):
        yield f"{where} is less accurate than the rules allow"
    asked_qps = given.plan.headroom * given.plan.demand_qps[placement.family]
    if _executed_qps(placement) > rules.max_share.get(placement.family, 1.0) * asked_qps * (1 + _REL):
        yield f"{where} gets a larger share than the rules allow"
    named = {(p.family, p.variant) for p in rules.banned if selects(p.device, device)}
    if (placement.family, placement.variant) in named:
        yield f"{where} is banned"
    holders = [each.family for each in rules.reserved if selects(each.device, device)]
    if holders and (None in holders or placement.family not in holders):
        yield f"{where} is on a device that is reserved"


def _problems_of_device(given: _Checked, device: str, residents: Sequence[Placement]) -> Iterator[str]:
    keys = [(placement.family, placement.variant) for placement in residents]
    if len(keys) != len(set(keys)):
        yield f"{device} hosts a variant twice"
    if given.rules.residency != "memory" and len(keys) > given.rules.residency:
        yield f"{device} hosts {len(keys)} variants"
    profile = given.profiles[device]
    memory_bytes = profile.device.memory_bytes
    if memory_bytes > 0 and profile.needed_bytes(p.key for p in residents) > memory_bytes * (1 + _REL):
        yield f"{device} hosts more than its memory holds"
    sized = [(p, within.qps) for p in residents if (within := given.capacity(p)) is not None]
    if sum(_executed_qps(p) / alone_qps for p, alone_qps in sized) > 1 + _REL:
        yield f"{device} is busy for more than 100 % of the time"
    is_used = any(_executed_qps(p) > 0 for p in residents)  # else each could have all of its time
    if is_used and sum(p.capacity_qps / alone_qps for p, alone_qps in sized) > 1 + _REL:
        yield f"{device} has no time for what its variants could take together"


def _problems_of_family(given: _Checked, family: str, hosts: Sequence[Placement]) -> Iterator[str]:
    demand_qps, served_qps = given.plan.demand_qps[family], given.plan.served_qps[family]
    if not _close(served_qps + given.plan.unserved_qps[family], demand_qps):
        yield f"{family}: served and unserved aren't the demand"
    if not _close(sum(p.rate_qps for p in hosts), served_qps):
        yield f"{family}: rates don't add up to what is served"
    if any(p.rate_qps > 0 for p in hosts) and not _close(sum(p.share for p in hosts), 1.0):
        yield f"{family}: shares don't add up to one"
    if given.rules.survives is not None and hosts and _surviving_qps(given, hosts) < served_qps * (1 - _REL):
        yield f"{family}: what is served would not survive the loss of a {given.rules.survives}"


def _surviving_qps(given: _Checked, hosts: Sequence[Placement]) -> float:
    """The capacity that is left of a family's hosts after the worst loss, with batches for as many as are left."""
    units = Counter(given.rules.unit_of(placement.device) for placement in hosts)
    worst_qps = math.inf
    for size in set(units.values()):
        qps_of: dict[str, float] = dict.fromkeys(units, 0.0)
        for placement in hosts:
            within = given.capacity(placement, len(hosts) - size)
            qps_of[given.rules.unit_of(placement.device)] += within.qps if within is not None else 0.0
        largest_qps = max(qps for unit, qps in qps_of.items() if units[unit] == size)
        worst_qps = min(worst_qps, sum(qps_of.values()) - largest_qps)
    return worst_qps


def _problems_of_cascades(given: _Checked) -> Iterator[str]:
    cascades = given.plan.cascades
    if cascades and not given.rules.cascades:
        yield "the rules allow no cascades"
    for family, hosts in given.by_family.items():
        mine = [cascade for cascade in cascades if cascade.family == family]
        yield from (f"{family}: {each}" for each in problems_of_cascades(mine, hosts, given.profiles, given.slo_part))
    rate_qps, accurate_qps = 0.0, gained_qps(cascades, given.plan.placements, given.profiles)
    for placement in given.plan.placements:
        measured = given.measured(placement)
        accuracy = measured.accuracy if measured is not None else 0.0
        rate_qps, accurate_qps = rate_qps + placement.rate_qps, accurate_qps + placement.rate_qps * accuracy
    stated = given.plan.effective_accuracy
    if stated is not None and not _close(accurate_qps, stated * rate_qps):
        yield "its effective accuracy isn't that of its placements and cascades"


def _problems_of_expected_accuracy(given: _Checked, family: str, least: float) -> Iterator[str]:
    """Cascades and variants that answer alone reach the expected accuracy that the rules require."""
    cascades = [each for each in given.plan.cascades if each.family == family]
    for cascade in cascades:
        if cascade.point.accuracy < least:
            yield f"{cascade.first} → {cascade.second} is less accurate than the rules allow to expect"
    hosts = given.by_family.get(family, [])
    for variant in {p.variant for p in hosts if (of := given.measured(p)) is not None and of.accuracy < least}:
        through_qps = [cascade.rate_qps for cascade in cascades if cascade.first == variant]
        rate_qps = sum(placement.rate_qps for placement in hosts if placement.variant == variant)
        if not through_qps or not _close(sum(through_qps), rate_qps):
            yield f"{variant} answers by itself, and is less accurate than the rules allow to expect"


def _problems_of_policies(given: _Checked) -> Iterator[str]:
    """Energy and money of each answer; how long it takes is part of the capacities. Cascades are for accuracy alone.

    Amounts are of a variant alone on its device, whatever else is there.
    """
    energies, costs = given.rules.max_energy_j, given.rules.max_cost_per_million
    for placement in given.plan.placements:
        family, where = placement.family, f"{placement.variant} on {placement.device}"
        profile = given.profiles[placement.device]
        alone = profile.of(*placement.key)
        if alone is None or given.capacity(placement) is None:
            continue
        points = profile.points_of(alone)
        if family in energies:
            energy_j = max_energy_of(profile, alone, placement.max_batch)
            if energy_j > energies[family] * (1 + _REL):
                yield f"{where} takes {energy_j:g} J of a query, and may take {energies[family]:g} J"
        if family in costs:
            fewest_hosts = given.rules.capacity_steps(given.targets[family], points)[0]
            price = given.catalog.price_of(placement.device, profile.device.type)
            cost = cost_of(price or 0.0, fewest_hosts.capacity.qps)
            if cost > costs[family] * (1 + _REL):
                yield f"a million queries of {where} cost {cost:g}, and may cost {costs[family]:g}"
    for family in {cascade.family for cascade in given.plan.cascades}:
        if not given.rules.may_use_cascades(family):
            yield f"{family}: its policy leaves it no cascades"


def _problems_of_pins(given: _Checked) -> Iterator[str]:
    for pair in given.rules.pinned:
        for device_id, profile in given.profiles.items():
            residents = given.by_device.get(device_id, ())
            is_hosted = any((p.family, p.variant) == (pair.family, pair.variant) for p in residents)
            if selects(pair.device, profile.device) and not is_hosted:
                yield f"{pair.variant} is pinned to {device_id} and not hosted there"


def _problems_of_budgets(given: _Checked) -> Iterator[str]:
    for resource, budget in given.rules.budgets.items():
        needed = spent(given.plan, given.catalog, given.profiles)[resource]
        if needed > budget * (1 + _REL):
            yield f"it needs {needed:g} of a budget of {budget:g} for {resource}"


def _problems_of_networks(given: _Checked) -> Iterator[str]:
    used: dict[str, float] = {}
    allowed: dict[str, float] = {}
    for placement in given.plan.placements:
        profile = given.profiles[placement.device]
        host = profile.device.host
        if host and profile.network is not None:
            size = profile.network.row_bytes.get(placement.family, 0)
            used[host] = used.get(host, 0.0) + _executed_qps(placement) * size
            allowed[host] = min(allowed.get(host, math.inf), NETWORK_FRAC * profile.network.bytes_per_s)
    for host, bytes_per_s in used.items():
        if bytes_per_s > allowed[host] * (1 + _REL):
            yield f"{host} gets {bytes_per_s:g} bytes per second over its network, and may get {allowed[host]:g}"


def spent(plan: Plan, catalog: Catalog, profiles: Mapping[str, Profile]) -> dict[Resource, float]:
    """The cost per hour of the devices in use, and their watts while busy; an unknown price or power counts as 0."""
    power_w: dict[str, float] = {}
    for placement in plan.placements:
        measured = profiles[placement.device].of(placement.family, placement.variant)
        draw_w = measured.power_w if measured is not None else None
        power_w[placement.device] = max(power_w.get(placement.device, 0.0), draw_w or 0.0)
    cost = sum(catalog.price_of(device, profiles[device].device.type) or 0.0 for device in power_w)
    return {"cost": cost, "power": sum(power_w.values())}


def _executed_qps(placement: Placement) -> float:
    return placement.rate_qps + placement.deferred_qps


def _close(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=_REL, abs_tol=1e-5)
