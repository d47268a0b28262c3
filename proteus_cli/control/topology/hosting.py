"""From plans and profiles to the values that the controller needs: hosts, slots and memory of devices."""

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from proteus_cli.control.decision import CascadeRoute, FirstStage, HostedVariant
from proteus_cli.control.dispatch.eligibility import Eligibility
from proteus_cli.control.topology.standbys import DeviceMemory, Loadable
from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT, SloTarget
from proteus_cli.domain.batch_times import beside
from proteus_cli.domain.catalog import NO_VARIANTS, Preference, VariantKey
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import Point, Profile, VariantProfile
from proteus_cli.domain.rules import DeviceLimits, Rules, limits_of
from proteus_cli.domain.stages.cascade import CascadeProfile, PlannedCascade
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.errors import ArtefactError

Tables = tuple[LatencyTable, LatencyTable, LatencyTable | None, tuple[ExitProfile, ...]]
"""Batch times by size: the p95, the mean, and up to the first exit if it may answer all rows. Then the exits."""
TablesKey = tuple[int, int, int, int | None, float, frozenset[VariantKey]]
KnownTables = dict[TablesKey, tuple[VariantProfile, Tables]]
"""Tables of earlier plans for the same ``profiles``, which must all be alive: keys are identities."""

ALIKE = 1.1
"""Hosts share a rank if they take up to this multiple of the least energy of the rank: the error of a profile whose
cells do not count as noisy."""


def hosted_by(
    plan: Plan,
    profiles: Mapping[str, Profile],
    attainment: Mapping[str, float] = MappingProxyType({}),
    tables: KnownTables | None = None,
) -> tuple[HostedVariant, ...]:
    """The hosts of a plan, with latencies while all slots are busy and among all that its device has active.

    ``profiles`` are by device id. ``attainment`` is the target by family, unless the plan's rules have one for all.
    Hosts share the tables where measurements and the costs of sharing are the same; ``tables`` keeps them for the next
    plan. Raises `ArtefactError` where a placement was never profiled.
    """
    known: KnownTables = {} if tables is None else tables
    of_all, active = plan.rules.attainment, plan.hosted()
    hosts = tuple(
        _hosted(
            each,
            profiles,
            attainment.get(each.family, DEFAULT_ATTAINMENT) if of_all is None else of_all,
            active[each.device] - {each.key},
            known,
        )
        for each in plan.placements
    )
    hosts = ranked(hosts, plan.rules.others_preferred)
    second_s, cascading = _second_s(plan, hosts), {cascade.family for cascade in plan.cascades}
    return tuple(
        replace(host, second_s=second_s.get(host.key, 0.0), cascades=_cascades_of(host, profiles))
        if host.family in cascading
        else host
        for host in hosts
    )


def ranked(hosts: Sequence[HostedVariant], preferred: Mapping[str, Preference]) -> tuple[HostedVariant, ...]:
    """The hosts, with ranks from 0 down in each family that prefers something else than accuracy.

    Ranks then take the place of accuracies in dispatch. Hosts with nearly the same amount of energy share a rank. All
    hosts of a family that prefers latency share one: a free host that is slower mostly answers sooner than a busy one.
    The fastest free host is asked first.
    """
    ranks = dict[tuple[str, float], float]()
    for family, preference in preferred.items():
        rank, first = 1.0, -1.0
        for amount in sorted({_amount(host, preference) for host in hosts if host.family == family}):
            if not 0 <= first <= amount <= first * ALIKE:
                rank, first = rank - 1.0, amount
            ranks[family, amount] = rank
    return tuple(
        replace(host, preference_rank=ranks[host.family, _amount(host, preferred[host.family])])
        if host.family in preferred
        else host
        for host in hosts
    )


def _amount(host: HostedVariant, preferred: Preference) -> float:
    """The joules of a query in a full batch, if the family prefers energy; else the same for all."""
    if preferred != "energy":
        return 0.0
    return math.inf if host.power_w is None else host.energy_j(1, host.max_batch)


def measured_for(placement: Placement, profiles: Mapping[str, Profile]) -> VariantProfile:
    """The profile of a placement's variant on its device. Raises `ArtefactError` where there is none."""
    profile = profiles.get(placement.device)
    measured = profile.of(placement.family, placement.variant) if profile is not None else None
    if profile is None or measured is None or not profile.points_of(measured):
        raise ArtefactError(
            f"The plan puts `{placement.variant}` on `{placement.device}`, which was never profiled there.",
            hint=f"run `proteus profile --device {placement.device}`, then `proteus plan` again",
        )
    return measured


def slots_of(devices: Iterable[str], profiles: Mapping[str, Profile]) -> dict[str, int]:
    """The slots of each device, by id; one where the device was never profiled."""
    return {device: profiles[device].slots if device in profiles else 1 for device in devices}


def device_memory(
    limit_bytes: Mapping[str, int],
    profiles: Mapping[str, Profile],
    targets: Mapping[str, SloTarget],
    rules: Rules,
    variants: Container[VariantKey],
    beside: Container[VariantKey] = NO_VARIANTS,
    load_s: Callable[[VariantProfile], float] = lambda measured: measured.load_s,
) -> dict[str, DeviceMemory]:
    """The memory of each device. Its variants may take ``limit_bytes``, by device; plans obey ``rules``.

    Plans may place the ``variants``, and may not place those ``beside`` them. No others may be loaded, as a profile may
    be older than the catalog. Variants of unknown size are left out, and so are devices without any known size.
    """
    known: dict[tuple[int, int, DeviceLimits], Mapping[VariantKey, Loadable]] = {}
    planned, found = rules.planned_targets(targets), {}
    for device, limit in limit_bytes.items():
        profile = profiles[device]
        limits = limits_of(profile.device, rules)
        key = id(profile.variants), profile.slots, limits
        if key not in known:
            known[key] = {
                each.key: _loadable(
                    memory_bytes,
                    load_s(each),
                    placeable_host(profile, each, limits, planned[each.family], rules)
                    if each.key in variants
                    else None,
                )
                for each in profile.variants
                if (each.key in variants or each.key in beside) and (memory_bytes := each.memory_with(profile.slots))
            }
        if known[key] and limit > 0:
            found[device] = DeviceMemory(limit, known[key])
    return found


def placeable_host(
    profile: Profile, measured: VariantProfile, limits: DeviceLimits, target: SloTarget, rules: Rules
) -> HostedVariant | None:
    """A variant alone on a device, without a share of the demand; None if no plan may place it there.

    Its capacity is for a family with enough hosts.
    """
    device, key = profile.device.id, measured.key
    if not limits.allows(key) or measured.accuracy < rules.min_accuracy_hosted(key.family):
        return None
    capacities = [step.capacity for step in rules.capacity_steps(target, profile.points_of(measured))]
    qps = max((each.qps for each in capacities), default=0.0)
    if not qps:
        return None
    max_batch = max(each.max_batch for each in capacities)
    placement = Placement(device, *key, max_batch, rate_qps=0.0, share=0.0, capacity_qps=qps)
    return _hosted(placement, {device: profile}, target.attainment, NO_VARIANTS, {})


class PlannableVariants:
    """The variants that a plan could place, by family: for requests that the hosted variants cannot answer in time.

    Found on demand and kept until `changed`. Profiles are read then: a driver may add to them. The variants ``beside``
    may stay loaded, and no plan places them.
    """

    def __init__(self) -> None:
        self._profiles: Mapping[str, Profile] | None = None
        self.variants: Container[VariantKey] = NO_VARIANTS
        self.beside: Container[VariantKey] = NO_VARIANTS
        self._rules, self._targets, self._found = Rules(), dict[str, SloTarget](), dict[str, Eligibility]()

    def use(
        self,
        profiles: Mapping[str, Profile],
        variants: Container[VariantKey],
        beside: Container[VariantKey] = NO_VARIANTS,
    ) -> None:
        """From now on plans may place these ``variants``, with these ``profiles`` by device."""
        self._profiles, self.variants, self.beside = profiles, variants, beside
        self.changed()

    def plan_by(self, rules: Rules, targets: Mapping[str, SloTarget]) -> None:
        """Plans obey these rules, for these targets by family."""
        if (rules, targets) != (self._rules, self._targets):
            self._rules, self._targets = rules, dict(targets)
            self.changed()

    def changed(self) -> None:
        """The profiles have changed."""
        self._found.clear()

    def of(self, family: str) -> Eligibility | None:
        """The hosts that plans could have of a family; None without profiles, and before the first plan for it."""
        if self._profiles is None or family not in self._targets:
            return None
        if family not in self._found:
            target, profiles = self._targets[family], self._profiles.values()
            self._found[family] = _placeable(family, profiles, target, self._rules, self.variants)
        return self._found[family]


def _placeable(
    family: str, profiles: Iterable[Profile], target: SloTarget, rules: Rules, variants: Container[VariantKey]
) -> Eligibility:
    """The hosts that plans by ``rules`` could have: each of a family's ``variants`` once for each kind of device.

    Each host has its device to itself. If plans may use cascades, it begins all of its profiled ones, at the most
    accurate threshold.
    """
    planned, known = rules.planned_target(family, target), set[tuple[int, int, DeviceLimits]]()
    hosts, cascades = list[HostedVariant](), dict[tuple[str, str], CascadeProfile]()
    for profile in profiles:
        limits = limits_of(profile.device, rules)
        key = id(profile.variants), profile.slots, limits
        if key in known:
            continue
        known.add(key)
        mine = [each for each in profile.variants if each.family == family and each.key in variants]
        found = (placeable_host(profile, each, limits, planned, rules) for each in mine)
        hosts += [host for host in found if host is not None]
        if rules.may_use_cascades(family):
            cascades |= {(each.first, each.second): each for each in profile.cascades if each.family == family}
    least = dict[str, float]()
    for host in hosts:
        least[host.variant] = min(host.accuracy, least.get(host.variant, host.accuracy))
    routes = dict[VariantKey, list[CascadeRoute]]()
    for cascade in cascades.values():
        if cascade.second in least:
            routes.setdefault(VariantKey(family, cascade.first), []).append(_route(cascade, least[cascade.second]))
    return Eligibility(hosts, routes)


def _route(cascade: CascadeProfile, min_accuracy: float) -> CascadeRoute:
    """The cascade at its last, most accurate threshold, without a share of the demand."""
    planned = PlannedCascade(cascade.family, cascade.first, cascade.second, cascade.points[-1], 0.0, 0.0)
    stage = FirstStage(VariantKey(cascade.family, cascade.first), (), ())
    return CascadeRoute(planned, min_accuracy, stage, 0, (), ())


def _second_s(plan: Plan, hosts: Sequence[HostedVariant]) -> dict[VariantKey, float]:
    """The p95 of the longest full batch of the second stage, by first variant of a cascade."""
    full_s: dict[VariantKey, float] = {}
    for host in hosts:
        if host.deferred_qps > 0:
            full_s[host.key] = max(full_s.get(host.key, 0.0), host.latency(host.max_batch))
    found: dict[VariantKey, float] = {}
    for cascade in plan.cascades:
        first, second = (VariantKey(cascade.family, variant) for variant in (cascade.first, cascade.second))
        found[first] = max(found.get(first, 0.0), full_s.get(second, 0.0))
    return found


def _cascades_of(host: HostedVariant, profiles: Mapping[str, Profile]) -> tuple[CascadeProfile, ...]:
    """The profiled cascades whose first stage the host is."""
    return tuple(each for each in profiles[host.device].cascades if (each.family, each.first) == host.key)


def _loadable(memory_bytes: int, load_s: float, host: HostedVariant | None) -> Loadable:
    if host is None:
        return Loadable(memory_bytes, load_s, 0.0)
    return Loadable(memory_bytes, load_s, host.capacity_qps, replace(host, is_standby=True))


def _hosted(
    placement: Placement,
    profiles: Mapping[str, Profile],
    attainment: float,
    others: frozenset[VariantKey],
    known: KnownTables,
) -> HostedVariant:
    alone, profile = measured_for(placement, profiles), profiles[placement.device]
    shares = others if profile.sharing else NO_VARIANTS
    stages_over = id(profile.network) if profile.has_stages(alone) else None
    key = id(alone), id(profile.sharing), profile.slots, stages_over, attainment, shares
    if key not in known:
        among = beside(profile, alone, others)
        known[key] = among, _tables(among, profile, attainment)
    measured, (latency, mean_latency, first_exit, exits) = known[key]
    is_slowed = measured is not alone
    return HostedVariant(
        device=placement.device,
        family=placement.family,
        variant=placement.variant,
        accuracy=measured.accuracy,
        max_batch=placement.max_batch,
        weight=placement.rate_qps,
        capacity_qps=placement.capacity_qps,
        latency=latency,
        mean_latency=mean_latency,
        deferred_qps=placement.deferred_qps,
        power_w=None if measured.power_w is None else measured.power_w / profile.slots,
        exits=exits,
        first_exit=first_exit,
        attainment=attainment,
        others=others if is_slowed else NO_VARIANTS,
        alone_latency=_mean(profile.points_of(alone)) if is_slowed else None,
        network=profile.network,
    )


def _tables(measured: VariantProfile, profile: Profile, attainment: float) -> Tables:
    points = profile.points_of(measured)
    latency = LatencyTable(points, lambda point: point.p95_s)
    first_exit, exits = None, profile.exits_of(measured)
    if profile.has_stages(measured):  # what has time for the whole at its p95 has time for the first stage

        def first_exit_s(point: StagePoint) -> float:
            way_s = profile.way_s(measured.family, point.batch)
            return min(point.within_s(attainment) + way_s, latency(point.batch))

        first_exit = LatencyTable(exits[0].points, first_exit_s)
    return latency, _mean(points), first_exit, exits


def _mean(points: Sequence[Point]) -> LatencyTable:
    return LatencyTable(points, lambda point: point.mean_s)
