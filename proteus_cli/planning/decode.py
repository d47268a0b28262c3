"""From bundles to placements: each bundle gets a device, so that the fewest variants must be loaded."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from proteus_cli.domain.arrays import Floats
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Placement
from proteus_cli.planning.instance import NOTHING, HostedKeys, Instance
from proteus_cli.planning.pack import Bundle, Packed


def placements(
    instance: Instance, packed: Packed, demand_qps: Mapping[str, float], hosted: HostedKeys, devices: Iterable[str]
) -> tuple[Placement, ...]:
    """Placements in the order of ``devices``. ``demand_qps``: without headroom; ``hosted``: what devices host now."""
    on_device = {
        device: bundle
        for group, bundles in zip(instance.groups, packed.bundles, strict=True)
        for device, bundle in _matched(instance, group.devices, bundles, hosted)
    }
    answered_qps = np.zeros(len(instance.families))
    for bundle in on_device.values():
        for c, rate_qps in bundle.items():
            answered_qps[instance.choices[c].family] += rate_qps
    return tuple(
        _placement(instance, device, c, on_device[device], answered_qps, demand_qps)
        for device in devices
        if device in on_device
        for c in sorted(on_device[device])
    )


def _placement(
    instance: Instance,
    device: str,
    c: int,
    bundle: Bundle,
    answered_qps: Floats,
    demand_qps: Mapping[str, float],
) -> Placement:
    choice = instance.choices[c]
    family = instance.families[choice.family]
    all_qps = float(answered_qps[choice.family])
    share = bundle[c] / all_qps if all_qps > 0 else 0.0
    rate_qps = share * min(demand_qps[family], all_qps)
    return Placement(
        device=device,
        family=family,
        variant=choice.measured.variant,
        max_batch=choice.capacity.max_batch,
        rate_qps=rate_qps,
        share=share,
        capacity_qps=_capacity_qps(instance, c, bundle),
    )


def _capacity_qps(instance: Instance, c: int, bundle: Bundle) -> float:
    """The most that a variant can answer when all on its device grow by one factor until the device is always busy."""
    utilisation = sum(rate_qps / float(instance.capacity_qps[other]) for other, rate_qps in bundle.items())
    alone_qps = float(instance.capacity_qps[c])
    return alone_qps if len(bundle) == 1 or utilisation == 0 else min(bundle[c] / utilisation, alone_qps)


def _matched(
    instance: Instance, devices: Sequence[str], bundles: Sequence[Bundle], hosted: HostedKeys
) -> Iterator[tuple[str, Bundle]]:
    """A device for each bundle, so that the fewest variants must be loaded.

    Devices that host exactly a bundle are taken first: no better matching breaks such a pair, by the triangle
    inequality of "loads from one set to another". The rest is an assignment problem.
    """
    holding: dict[frozenset[VariantKey], list[str]] = {}
    for device in reversed(devices):
        holding.setdefault(hosted.get(device, NOTHING), []).append(device)
    taken: set[str] = set()
    waiting: list[Bundle] = []
    for bundle in bundles:
        same = holding.get(_keys(instance, bundle))
        if same:
            taken.add(same[-1])
            yield same.pop(), bundle
        else:
            waiting.append(bundle)
    free = [device for device in devices if device not in taken]
    if len(holding) == 1:  # all devices host the same
        yield from zip(free, waiting, strict=False)
    elif waiting:
        wanted = [_keys(instance, bundle) for bundle in waiting]
        loads = np.array([[len(keys - hosted.get(device, NOTHING)) for keys in wanted] for device in free])
        for d, b in zip(*linear_sum_assignment(loads), strict=True):
            yield free[d], waiting[b]


def _keys(instance: Instance, bundle: Bundle) -> frozenset[VariantKey]:
    return frozenset(instance.choices[c].key for c in bundle)
