"""The part of the model that groups add whose variants cost each other time: how many devices hold which set of them.

The rows are those of `resident_sets`, with one more: a set answers no more than is of use of it. Without it, the
relaxation has a small part of a device answer all of a small demand, and proves nothing.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from proteus_cli.planning.model.instance import Instance, members
from proteus_cli.planning.model.modelling import cp, sp
from proteus_cli.planning.model.resident_sets import ResidentSets

if TYPE_CHECKING:
    from proteus_cli.planning.model.milp import Parameters, Variables


def devices_hold_sets(
    instance: Instance, sets: ResidentSets, p: "Parameters", v: "Variables", hosted: Any
) -> list[Any]:
    """Each used device holds one set, and answers in the time that batches take among it. ``hosted``: engines [E]."""
    pairs, count = np.arange(len(sets.steps)), len(sets.keys)
    in_shared = np.flatnonzero(instance.is_shared)
    of_shared = np.flatnonzero(instance.is_shared[instance.engine_choice])
    served = sp.csr_array((np.ones(len(pairs)), (sets.pair_choice, pairs)), (len(instance.choices), len(pairs)))
    groups = sp.csr_array((np.ones(count), (sets.group, np.arange(count))), (len(instance.groups), count))
    engines = [(instance.choices[c].group, instance.choices[c].key) for c in instance.engine_choice.tolist()]
    set_members = sets.members(engines)
    constraints = [
        hosted[of_shared] == set_members[of_shared] @ v.sets,
        v.served[in_shared] == served[in_shared] @ v.served_in_set,
        members(sets.pair_set, count) @ cp.multiply(p.set_utilisation, v.served_in_set) <= v.sets,
        v.served_in_set <= cp.multiply(p.pair_frac, v.sets[sets.pair_set]),
        groups @ v.sets <= v.devices_used,
    ]
    if np.any(instance.max_share < 1):
        both = np.stack((sets.pair_set, instance.choice_family[sets.pair_choice]))
        (set_of, family_of), row_of = np.unique(both, axis=1, return_inverse=True)
        share = cp.multiply(p.max_share_frac[family_of], v.sets[set_of])
        constraints.append(members(row_of.ravel(), len(set_of)) @ v.served_in_set <= share)
    return constraints
