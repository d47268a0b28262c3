"""What devices have loaded now, and where placements need more loads than were solved for."""

from collections import Counter

import numpy as np

from proteus_cli.arrays import Ints
from proteus_cli.domain.catalog import NO_VARIANTS, VariantsByDevice
from proteus_cli.domain.plan import Placement
from proteus_cli.planning.model.instance import Instance
from proteus_cli.planning.solver.solution import Solution


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
