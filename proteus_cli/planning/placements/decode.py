"""From bundles to placements: each bundle gets a device, so that the fewest variants must be loaded."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.domain.catalog import NO_VARIANTS, VariantKey, VariantsByDevice
from proteus_cli.domain.plan import Placement
from proteus_cli.domain.stages.cascade import PlannedCascade
from proteus_cli.planning.model.instance import Instance, Now
from proteus_cli.planning.placements.cascades import cascades_in_use, evenly_placed
from proteus_cli.planning.placements.pack import Bundle, Packed
from proteus_cli.planning.solver.solution import Solution

MAX_REASSIGNED = 200
"""Largest group whose devices are all assigned anew to save a load; the time grows faster than the square of its size.
"""


def placements(
    instance: Instance,
    solution: Solution,
    packed: Packed,
    demand_qps: Mapping[str, float],
    now: Now,
    devices: Iterable[str],
) -> tuple[tuple[Placement, ...], tuple[PlannedCascade, ...], Floats]:
    """Placements in the order of ``devices``, the cascades in use, and what each family is answered [F].

    ``demand_qps`` is without headroom, and the answered rates are with it.
    """
    placed_frac = np.ones(len(instance.families))
    if instance.ways is not None:
        packed, placed_frac = evenly_placed(instance, solution, packed)
    newcomers_of_room, deferred_of_room = solution.newcomers_of_room, solution.deferred_of_room
    on_device = {
        device: bundle
        for group, bundles in zip(instance.groups, packed.bundles, strict=True)
        for device, bundle in _matched(instance, group.devices, bundles, now)
    }
    answered_qps = np.zeros(len(instance.families))
    for bundle in on_device.values():
        for c, room_qps in bundle.items():
            answered_qps[instance.choices[c].family] += room_qps * newcomers_of_room[c]
    asked_qps = np.array([demand_qps[name] for name in instance.families])
    served_qps = np.minimum(asked_qps, answered_qps)

    def placement(device: str, c: int, bundle: Bundle) -> Placement:
        choice, within = instance.choices[c], instance.capacity_among(c, bundle)
        all_qps, served = float(answered_qps[choice.family]), float(served_qps[choice.family])
        share, deferred = (
            bundle[c] * float(of_room[c]) / all_qps if all_qps > 0 else 0.0
            for of_room in (newcomers_of_room, deferred_of_room)
        )
        return Placement(
            device=device,
            family=choice.key.family,
            variant=choice.key.variant,
            max_batch=within.max_batch,
            rate_qps=share * served,
            share=share,
            capacity_qps=_capacity_qps(instance, c, bundle),
            deferred_qps=deferred * served,
        )

    placed = tuple(
        placement(device, c, on_device[device])
        for device in devices
        if device in on_device
        for c in sorted(on_device[device])
    )
    if solution.by_way is None:
        return placed, (), answered_qps
    sent_frac = np.divide(asked_qps, answered_qps, out=np.ones(len(asked_qps)), where=answered_qps > asked_qps)
    return placed, cascades_in_use(instance, solution.by_way.way_qps, placed_frac * sent_frac), answered_qps


def _capacity_qps(instance: Instance, c: int, bundle: Bundle) -> float:
    """The most that a variant can answer when all on its device grow by one factor until the device is always busy."""
    utilisation = sum(room_qps / instance.capacity_among(other, bundle).qps for other, room_qps in bundle.items())
    max_qps = instance.capacity_among(c, bundle).qps
    return max_qps if len(bundle) == 1 or utilisation == 0 else min(bundle[c] / utilisation, max_qps)


def _matched(
    instance: Instance, devices: Sequence[str], bundles: Sequence[Bundle], now: Now
) -> Iterator[tuple[str, Bundle]]:
    """A device for each bundle, so that the fewest variants must be loaded, and then the fewest activated.

    Devices that host exactly a bundle are taken first: without standbys no better matching breaks such a pair, by the
    triangle inequality of "loads from one set to another". The rest is an assignment problem. With standbys, all of a
    small group is.
    """
    has_standbys = any(now.resident.get(device) != now.hosted.get(device) for device in devices)
    holding: dict[frozenset[VariantKey], list[str]] = {}
    for device in reversed(devices):
        holding.setdefault(now.hosted.get(device, NO_VARIANTS), []).append(device)
    waiting = []
    for bundle in bundles:
        mine = holding.get(_keys(instance, bundle)) if not has_standbys or len(devices) > MAX_REASSIGNED else None
        if mine:
            yield mine.pop(), bundle
        else:
            waiting.append(bundle)
    left = {device for alike in holding.values() for device in alike}
    free = [device for device in devices if device in left]
    if len(holding) == 1 and not has_standbys:  # all devices host the same
        yield from zip(free, waiting, strict=False)
    elif waiting:
        wanted = [_keys(instance, bundle) for bundle in waiting]
        loads, changes = (
            np.array([[len(keys - of.get(device, NO_VARIANTS)) for keys in wanted] for device in free])
            for of in (now.resident, now.hosted)
        )
        for d, b in _cheapest(loads * (changes.max(axis=0).sum() + 1) + changes):
            yield free[d], waiting[b]


def _cheapest(cost: Ints) -> Iterator[tuple[int, int]]:
    """A row and a column for each pair of the cheapest assignment."""
    if cost.shape[1] == 1:
        yield int(np.argmin(cost)), 0
        return
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - takes 0.1 s, which few processes need

    yield from zip(*linear_sum_assignment(cost), strict=True)


def _keys(instance: Instance, bundle: Bundle) -> frozenset[VariantKey]:
    return frozenset(instance.choices[c].key for c in bundle)


def current_replicas(instance: Instance, resident: VariantsByDevice) -> Ints:
    """How many devices of the group have the engine loaded now [E]."""
    counts = [
        Counter(key for device in g.devices for key in resident.get(device, NO_VARIANTS)) for g in instance.groups
    ]
    engines = [instance.choices[c] for c in instance.engine_choice.tolist()]
    return np.array([counts[choice.group][choice.key] for choice in engines], dtype=np.int64)


def devices_with_more_loads(
    instance: Instance, solution: Solution, current: Ints, placed: tuple[Placement, ...], hosted: VariantsByDevice
) -> frozenset[str]:
    """The devices of groups where more variants must be loaded than the solution says."""
    engine_group = instance.choice_group[instance.engine_choice]
    loaded = np.maximum(instance.hosted(solution.replicas) - current, 0)
    solved_loads = np.bincount(engine_group, loaded, minlength=len(instance.groups))
    loads = Counter(p.device for p in placed if p.key not in hosted.get(p.device, ()))
    return frozenset(
        device
        for g, group in enumerate(instance.groups)
        if sum(loads[each] for each in group.devices) > solved_loads[g]
        for device in group.devices
    )
