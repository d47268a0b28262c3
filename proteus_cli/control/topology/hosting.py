"""From plans and profiles to what the controller knows: hosts with latencies, slots and memory of devices."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from proteus_cli.control.decision import Host
from proteus_cli.control.topology.ranking import ranked
from proteus_cli.control.topology.standbys import DeviceMemory, Loadable
from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT, SloTarget
from proteus_cli.domain.batch_times import LatencyTable, beside
from proteus_cli.domain.catalog import NO_VARIANTS, VariantKey
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import Point, Profile, VariantProfile
from proteus_cli.domain.rules import DeviceLimits, Rules, limits_of
from proteus_cli.domain.stages.cascade import CascadeProfile
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.errors import ArtefactError

Tables = tuple[LatencyTable, LatencyTable, LatencyTable | None, tuple[ExitProfile, ...]]
"""What batches take at the p95 and in the mean, to their first exit where that may answer all rows; and the exits."""
TablesKey = tuple[int, int, int, int | None, float, frozenset[VariantKey]]
KnownTables = dict[TablesKey, tuple[VariantProfile, Tables]]
"""Tables of earlier plans for the same ``profiles``, which must all be alive: keys are identities."""


def hosted_by(
    plan: Plan,
    profiles: Mapping[str, Profile],
    attainment: Mapping[str, float] = MappingProxyType({}),
    tables: KnownTables | None = None,
) -> tuple[Host, ...]:
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
    if plan.rules.others_preferred:
        hosts = ranked(hosts, plan.rules.others_preferred)
    second_s = _second_s(plan, hosts)
    return tuple(
        replace(host, second_s=second_s[host.key], cascades=_cascades_of(host, profiles))
        if host.key in second_s
        else host
        for host in hosts
    )


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
    load_s: Callable[[VariantProfile], float] = lambda measured: measured.load_s,
) -> dict[str, DeviceMemory]:
    """The memory of each device, of which variants may take ``limit_bytes``; ``rules`` are those of its plans.

    Only the ``variants`` that there are may be loaded: a profile may be older than the catalog. Those of unknown size
    are left out, and devices on which no size is known.
    """
    known: dict[tuple[int, int, DeviceLimits], Mapping[VariantKey, Loadable]] = {}
    found = {}
    for device, limit in limit_bytes.items():
        profile = profiles[device]
        limits = limits_of(profile.device, rules)
        key = id(profile.variants), profile.slots, limits
        if key not in known:
            current = [each for each in profile.variants if each.key in variants]
            known[key] = dict(_loadable(profile, current, limits, rules.planned_targets(targets), rules, load_s))
        if known[key] and limit > 0:
            found[device] = DeviceMemory(limit, known[key])
    return found


def placeable_host(
    profile: Profile, measured: VariantProfile, limits: DeviceLimits, target: SloTarget, rules: Rules
) -> Host | None:
    """A variant with all of a device's time, where as many hosts as are needed serve its family; None: no plan has it.

    It has no share of the demand.
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


def _second_s(plan: Plan, hosts: Sequence[Host]) -> dict[VariantKey, float]:
    """By first variant of a cascade, what the second stage needs: the longest of its full batches, at the p95."""
    full_s: dict[VariantKey, float] = {}
    for host in hosts:
        if host.deferred_qps > 0:
            full_s[host.key] = max(full_s.get(host.key, 0.0), host.latency(host.max_batch))
    found: dict[VariantKey, float] = {}
    for cascade in plan.cascades:
        first, second = (VariantKey(cascade.family, variant) for variant in (cascade.first, cascade.second))
        found[first] = max(found.get(first, 0.0), full_s.get(second, 0.0))
    return found


def _cascades_of(host: Host, profiles: Mapping[str, Profile]) -> tuple[CascadeProfile, ...]:
    """What was profiled of the cascades that it is the first stage of."""
    return tuple(each for each in profiles[host.device].cascades if (each.family, each.first) == host.key)


def _loadable(
    profile: Profile,
    variants: Iterable[VariantProfile],
    limits: DeviceLimits,
    targets: Mapping[str, SloTarget],
    rules: Rules,
    load_s: Callable[[VariantProfile], float],
) -> Iterator[tuple[VariantKey, Loadable]]:
    for measured in variants:
        memory_bytes, key = measured.memory_with(profile.slots), measured.key
        if not memory_bytes:
            continue
        host = placeable_host(profile, measured, limits, targets[key.family], rules)
        if host is None:
            yield key, Loadable(memory_bytes, load_s(measured), 1, 0.0)
        else:
            standby = replace(host, is_standby=True)
            yield key, Loadable(memory_bytes, load_s(measured), host.max_batch, host.capacity_qps, standby)


def _hosted(
    placement: Placement,
    profiles: Mapping[str, Profile],
    attainment: float,
    others: frozenset[VariantKey],
    known: KnownTables,
) -> Host:
    alone, profile = measured_for(placement, profiles), profiles[placement.device]
    shares = others if profile.sharing else NO_VARIANTS
    stages_over = id(profile.network) if profile.has_stages(alone) else None
    key = id(alone), id(profile.sharing), profile.slots, stages_over, attainment, shares
    if key not in known:
        among = beside(profile, alone, others)
        known[key] = among, _tables(among, profile, attainment)
    measured, (latency, mean_latency, first_exit, exits) = known[key]
    is_slowed = measured is not alone
    return Host(
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
