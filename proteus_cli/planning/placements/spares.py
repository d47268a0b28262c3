"""Spares: placements without a share of the demand, on devices that a plan leaves idle."""

from collections.abc import Collection, Mapping

import numpy as np

from proteus_cli.arrays import Bools, Floats
from proteus_cli.domain.catalog import NO_VARIANTS, VariantsByDevice
from proteus_cli.domain.plan import Placement
from proteus_cli.planning.model.instance import Instance, Now

ENOUGH_SIGMAS = 10.0  # of a second's Poisson arrivals: more capacity above the demand than that does nothing
MIN_QPS = 1.0  # assumed demand of a family without any


def with_spares(
    instance: Instance,
    placements: Collection[Placement],
    demand_qps: Mapping[str, float],
    now: Now,
) -> tuple[Placement, ...]:
    """Spares for idle devices, where the rules allow them.

    A spare answers only queries that others cannot answer in time. Repeatedly, the family whose capacity is the fewest
    standard deviations above its demand gets an idle device. Variants worth as much as the serving ones come first,
    then variants that the device has loaded, then the fastest. Devices that are left keep a variant that they host.
    """
    asked_qps = np.maximum([demand_qps[name] for name in instance.families], MIN_QPS)
    capacity_qps, min_worth = _capacity_qps(instance, placements), _min_worths(instance, placements)
    busy = {placement.device for placement in placements}
    idle = [[device for device in group.devices if device not in busy] for group in instance.groups]
    spares: list[Placement] = []
    while True:
        sigmas = (capacity_qps - asked_qps) / np.sqrt(asked_qps)
        choice = _next_choice(instance, sigmas, min_worth, idle, now)
        if choice is None:
            break
        spares.append(_spare(instance, choice, _take(instance, choice, idle, now)))
        capacity_qps[instance.choice_family[choice]] += instance.capacity_qps[choice]
    spares += _kept_where_hosted(instance, idle, now.hosted)
    return tuple(spares)


def _next_choice(instance: Instance, sigmas: Floats, min_worth: Floats, idle: list[list[str]], now: Now) -> int | None:
    """The index of the choice to add next; None where there is none, or none is worth it.

    By family [F]: its capacity is ``sigmas`` deviations above its demand; ``min_worth`` is the least worth among the
    variants that serve it.
    """
    can_serve = (instance.capacity_qps > 0) & instance.may_answer_alone
    is_held, has_idle = _holding(instance, idle, now.resident), np.array([bool(left) for left in idle])
    for family in np.argsort(sigmas, kind="stable").tolist():
        if sigmas[family] >= ENOUGH_SIGMAS:
            return None
        mine = np.flatnonzero((instance.choice_family == family) & can_serve & has_idle[instance.choice_group])
        if len(mine):
            is_less = instance.worth[mine] < min_worth[family] - 1e-9
            order = np.lexsort((-instance.capacity_qps[mine], ~is_held[mine], is_less))
            return int(mine[order[0]])
    return None


def _capacity_qps(instance: Instance, placements: Collection[Placement]) -> Floats:
    place = {name: f for f, name in enumerate(instance.families)}
    capacity_qps: Floats = np.zeros(len(place))
    for placement in placements:
        capacity_qps[place[placement.family]] += placement.capacity_qps
    return capacity_qps


def _min_worths(instance: Instance, placements: Collection[Placement]) -> Floats:
    """The worth of the least valuable variant that serves each family [F]."""
    in_use = {(placement.family, placement.variant) for placement in placements if placement.rate_qps > 0}
    min_worth: Floats = np.full(len(instance.families), np.inf)
    for c, choice in enumerate(instance.choices):
        if choice.key in in_use:
            min_worth[choice.family] = min(min_worth[choice.family], instance.worth[c])
    return np.where(np.isinf(min_worth), 0.0, min_worth)


def _holding(instance: Instance, idle: list[list[str]], resident: VariantsByDevice) -> Bools:
    """Whether an idle device of the choice's group has it loaded now [C]."""
    held = [{key for device in left for key in resident.get(device, NO_VARIANTS)} for left in idle]
    return np.array([choice.key in held[choice.group] for choice in instance.choices], dtype=bool)


def _take(instance: Instance, choice: int, idle: list[list[str]], now: Now) -> str:
    """Remove an idle device for a choice from ``idle``.

    One that hosts it, else one where it stands by, else one that hosts nothing, else any.
    """
    left, key = idle[int(instance.choice_group[choice])], instance.choices[choice].key

    def is_no(device: str) -> tuple[bool, bool, bool]:
        mine = now.hosted.get(device, NO_VARIANTS)
        return key not in now.resident.get(device, NO_VARIANTS), key not in mine, bool(mine)

    device: str = min(left, key=is_no)
    left.remove(device)
    return device


def _kept_where_hosted(instance: Instance, idle: list[list[str]], hosted: VariantsByDevice) -> list[Placement]:
    can_serve = (instance.capacity_qps > 0) & instance.may_answer_alone
    choice_of = {(choice.group, choice.key): c for c, choice in enumerate(instance.choices) if can_serve[c]}
    return [
        _spare(instance, choice_of[g, key], device)
        for g, left in enumerate(idle)
        for device in left
        for key in sorted(hosted.get(device, NO_VARIANTS))[:1]
        if (g, key) in choice_of
    ]


def _spare(instance: Instance, choice: int, device: str) -> Placement:
    family, variant = instance.choices[choice].key
    return Placement(
        device=device,
        family=family,
        variant=variant,
        max_batch=instance.capacities[choice].max_batch,
        rate_qps=0.0,
        share=0.0,
        capacity_qps=float(instance.capacity_qps[choice]),
    )
