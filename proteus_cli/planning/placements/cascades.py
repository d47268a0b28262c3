"""From what goes each way to the cascades of a plan."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from proteus_cli.arrays import Floats
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


def evenly_placed(instance: Instance, solution: Solution, packed: Packed) -> tuple[Packed, Floats]:
    """The bundles where as much is placed of all stages of a family, and the part of it that is placed [F].

    That is less than all where devices cannot hold what the solver counts on, and no time is left to split groups.
    """
    ways, family = instance.ways, instance.choice_family
    assert ways is not None  # noqa: S101 - asked for ways only
    placed_qps, least = np.zeros(len(family)), np.ones(len(instance.families))
    for c, qps in packed.items():
        placed_qps[c] += qps
    placed = np.divide(placed_qps, solution.room_qps, out=np.ones(len(family)), where=solution.room_qps > 0)
    np.minimum.at(least, family, placed)
    least = np.where(ways.has_ways & (least < 1 - NEGLIGIBLE), least, 1.0)
    kept = np.divide(least[family], placed, out=np.ones(len(family)), where=(least[family] < 1) & (placed > 0))
    bundles = (({c: qps * float(kept[c]) for c, qps in bundle.items()} for bundle in group) for group in packed.bundles)
    return replace(packed, bundles=tuple(map(tuple, bundles))), least
