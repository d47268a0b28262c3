"""Spares: placements without a share of the demand, on devices that a plan leaves idle."""

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from proteus_cli.domain.catalog import NO_VARIANTS
from proteus_cli.domain.plan import Placement
from proteus_cli.planning.model.instance import Instance, Now

ENOUGH_SIGMAS = 10.0  # of a second's Poisson arrivals: more capacity above the demand than that does nothing
MIN_QPS = 1.0  # assumed demand of a family without any


def spares(
    instance: Instance, placements: Collection[Placement], demand_qps: Mapping[str, float], now: Now
) -> Iterator[Placement]:
    """Spares for idle devices, where the rules allow them.

    A spare answers only queries that others cannot answer in time. Repeatedly, the family whose capacity is the fewest
    standard deviations above its demand gets an idle device. Variants worth as much as the serving ones come first,
    then variants that an idle device has loaded, then the fastest. Devices that are left keep a variant that they host.
    """
    asked_qps = np.maximum([demand_qps[name] for name in instance.families], MIN_QPS)
    capacity_qps, least_worth = np.zeros(len(asked_qps)), np.full(len(asked_qps), np.inf)
    for placement in placements:
        capacity_qps[instance.families.index(placement.family)] += placement.capacity_qps
    in_use, busy = {each.key for each in placements if each.rate_qps > 0}, {each.device for each in placements}
    for c, choice in enumerate(instance.choices):
        if choice.key in in_use:
            least_worth[choice.family] = min(least_worth[choice.family], instance.worth[c])
    is_less = instance.worth < np.where(np.isinf(least_worth), 0.0, least_worth)[instance.choice_family] - 1e-9
    can_serve = (instance.capacity_qps > 0) & instance.may_answer_alone
    idle = [[device for device in group.devices if device not in busy] for group in instance.groups]

    def loads(c: int, device: str) -> tuple[bool, bool, bool]:
        key, hosted = instance.choices[c].key, now.hosted.get(device, NO_VARIANTS)
        return key not in now.resident.get(device, NO_VARIANTS), key not in hosted, bool(hosted)

    while (usable := can_serve & np.array([bool(left) for left in idle])[instance.choice_group]).any():
        sigmas = ((capacity_qps - asked_qps) / np.sqrt(asked_qps))[instance.choice_family]
        weakest = instance.choice_family[np.argmin(np.where(usable, sigmas, np.inf))]
        mine = np.flatnonzero(usable & (instance.choice_family == weakest)).tolist()
        if sigmas[mine[0]] >= ENOUGH_SIGMAS:
            break
        is_loaded = {c: any(not loads(c, device)[0] for device in idle[instance.choices[c].group]) for c in mine}
        best = min(mine, key=lambda c: (is_less[c], not is_loaded[c], -instance.capacity_qps[c]))
        left = idle[instance.choices[best].group]
        device = min(left, key=lambda device: loads(best, device))
        left.remove(device)
        capacity_qps[weakest] += instance.capacity_qps[best]
        yield _spare(instance, best, device)
    for g, left in enumerate(idle):
        keys = {instance.choices[c].key: c for c in np.flatnonzero(can_serve & (instance.choice_group == g)).tolist()}
        for device in left:
            for key in sorted(keys.keys() & now.hosted.get(device, NO_VARIANTS))[:1]:
                yield _spare(instance, keys[key], device)


def _spare(instance: Instance, choice: int, device: str) -> Placement:
    return Placement(
        device=device,
        family=instance.choices[choice].key.family,
        variant=instance.choices[choice].key.variant,
        max_batch=instance.capacities[choice].max_batch,
        rate_qps=0.0,
        share=0.0,
        capacity_qps=float(instance.capacity_qps[choice]),
    )
