"""From what goes each way to the cascades of a plan."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace as replace_fields

from proteus_cli.arrays import Floats, Ints
from proteus_cli.domain.capacity import capacity_at
from proteus_cli.domain.plan import Placement
from proteus_cli.domain.stages.cascade import PlannedCascade
from proteus_cli.planning.model.instance import Instance
from proteus_cli.planning.placements.pack import Packed
from proteus_cli.planning.solver.solution import Solution
from proteus_cli.planning.solver.target_demand import NEGLIGIBLE

if TYPE_CHECKING:
    from proteus_cli.planning.model.ways import Cascade


def cascades_in_use(instance: Instance, way_qps: Floats, sent_frac: Floats) -> tuple[PlannedCascade, ...]:
    """The cascades that queries go through, in the order of their thresholds in the profiles.

    ``way_qps`` [W] with headroom; ``sent_frac`` [F] is the part of it that is sent.
    """
    assert instance.ways is not None  # noqa: S101 - asked for ways only
    sent_qps = way_qps * sent_frac[instance.ways.family]
    all_qps = np.zeros(len(instance.families))
    np.add.at(all_qps, instance.ways.family, sent_qps)
    rates: dict[Cascade, float] = {}
    for way, qps in zip(instance.ways.ways, sent_qps.tolist(), strict=True):
        if way.cascade is not None and qps > 0:
            rates[way.cascade] = rates.get(way.cascade, 0.0) + qps
    return tuple(
        PlannedCascade(
            family=instance.families[each.family],
            first=each.first,
            second=each.second,
            point=each.point,
            rate_qps=rate_qps,
            share=rate_qps / float(all_qps[each.family]),
        )
        for each, rate_qps in rates.items()
    )


def with_whole_batches(
    instance: Instance, placed: tuple[Placement, ...], cascades: Iterable[PlannedCascade], hosts: Ints
) -> tuple[Placement, ...]:
    """The placements where variants that are no stage of a cascade in use have batches for the whole SLO.

    Not on devices where sharing costs time: what is in time there is known for parts of the SLO that were planned.

    ``hosts`` [F]: how many each family has for sure.
    """
    stages = {(each.family, variant) for each in cascades for variant in (each.first, each.second)}
    residents = Counter(placement.device for placement in placed)
    count_of = dict(zip(instance.families, hosts.tolist(), strict=True))

    def widened(placement: Placement) -> Placement:
        steps = instance.whole_slo_steps.get((instance.group_of[placement.device], placement.key), ())
        if placement.key in stages:
            return placement
        whole = capacity_at(steps, count_of[placement.family])
        if whole.max_batch <= placement.max_batch or whole.qps < placement.capacity_qps:
            return placement
        capacity_qps = whole.qps if residents[placement.device] == 1 else placement.capacity_qps
        return replace_fields(placement, max_batch=whole.max_batch, capacity_qps=capacity_qps)

    return tuple(map(widened, placed))


def evenly_placed(instance: Instance, solution: Solution, packed: Packed) -> tuple[Packed, Floats]:
    """The bundles where as much is placed of all stages of a family, and how much of it that is [F].

    It is all, but where the time limit passed before all of a solution could be placed.
    """
    placed_qps = np.zeros(len(instance.choices))
    for c, qps in (item for bundles in packed.bundles for bundle in bundles for item in bundle.items()):
        placed_qps[c] += qps
    room_qps, every = solution.room_qps, np.ones(len(instance.choices))
    of_choice = np.divide(placed_qps, room_qps, out=every, where=room_qps > 0)
    of_family, ways = np.ones(len(instance.families)), instance.ways
    np.minimum.at(of_family, instance.choice_family, of_choice)
    assert ways is not None  # noqa: S101 - asked for ways only
    is_partial = ways.has_ways & (of_family < 1 - NEGLIGIBLE)
    of_family = np.where(is_partial, of_family, 1.0)
    if not is_partial.any():
        return packed, of_family
    kept = np.where(is_partial[instance.choice_family] & (of_choice > 0), of_family[instance.choice_family], of_choice)
    kept = np.divide(kept, of_choice, out=np.ones(len(kept)), where=of_choice > 0)
    bundles = tuple(
        tuple({c: qps * float(kept[c]) for c, qps in bundle.items()} for bundle in group) for group in packed.bundles
    )
    return replace(packed, bundles=bundles), of_family
