"""The part of the model that says what plans survive: the loss of any one device, or of any one host."""

from typing import TYPE_CHECKING, Any

import numpy as np

from proteus_cli.arrays import Ints
from proteus_cli.planning.model.instance import Instance, members
from proteus_cli.planning.model.modelling import cp

if TYPE_CHECKING:
    from proteus_cli.planning.model.milp import Parameters, Variables

MAX_CASES = 2000  # measured: with 700, losses at 1 s are a sixth lower; with 10,000, no point is found in time


def answerable_of(p: "Parameters", v: "Variables") -> Any:
    """The part of the demand that each choice can answer [C]."""
    return cp.multiply(p.capacity_frac, v.replicas) if v.served is None else v.served


def any_device_may_be_lost(instance: Instance, p: "Parameters", v: "Variables") -> list[Any]:
    """A family's replicas without the largest of them still have the capacity for what is served.

    Where there are few choices, the cases of which choice the largest replica is are told apart: ``in_case`` [K] are
    the replicas of a choice (``other``) in the case that the largest is of another (``case``). That is a far stronger
    relaxation than one sum for all cases, but has a column for each pair.
    """
    case, other = _largest_replica_cases(instance)
    choices = len(instance.choices)
    is_case = cp.Variable(choices, boolean=True)
    if len(case) > MAX_CASES or v.served is not None:
        largest = cp.Variable(len(instance.families), nonneg=True)
        return [
            v.replicas <= cp.multiply(p.max_replicas, is_case),
            largest[instance.choice_family] >= cp.multiply(p.capacity_frac, is_case),
            instance.family_choices @ answerable_of(p, v) - largest + v.unserved >= p.has_demand,
        ]
    in_case, served = cp.Variable(len(case), nonneg=True), cp.Variable(choices, nonneg=True)
    is_same = case == other
    return [
        instance.family_choices @ is_case <= 1,
        members(other, choices) @ in_case == v.replicas,
        in_case <= cp.multiply(p.max_replicas[other], is_case[case]),
        in_case[np.flatnonzero(is_same)] >= is_case[case[is_same]],
        served <= is_case,
        members(case, choices) @ cp.multiply(p.capacity_frac[other], in_case)
        >= served + cp.multiply(p.capacity_frac, is_case),
        v.unserved + instance.family_choices @ served >= p.has_demand,
    ]


def any_host_may_be_lost(instance: Instance, p: "Parameters", v: "Variables") -> list[Any]:
    """A family's replicas without those on any one host still have the capacity for what is served."""
    _, of_pair, _, pair_family = instance.host_family_pairs()
    answerable, most = answerable_of(p, v), cp.Variable(len(instance.families), nonneg=True)
    return [
        most[pair_family] >= of_pair @ answerable,
        instance.family_choices @ answerable - most + v.unserved >= p.has_demand,
    ]


def _largest_replica_cases(instance: Instance) -> tuple[Ints, Ints]:
    """All pairs of a choice and one of its family with no more capacity, which may be itself: [K] and [K]."""
    pairs = []
    for f in range(len(instance.families)):
        mine = np.flatnonzero(instance.choice_family == f)
        falling = mine[np.argsort(-instance.capacity_qps[mine], kind="stable")].tolist()
        pairs += [(case, other) for i, case in enumerate(falling) for other in falling[i:]]
    both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]
