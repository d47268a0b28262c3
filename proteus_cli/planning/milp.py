"""The model: which choices to host how often (DESIGN §7), in a form that solvers find easy.

What a family loses is counted in steps. With its variants' accuracies ``a_1 > a_2 > …``, let ``below_k`` be the part of
its demand that ``a_1 … a_k`` don't answer: at least 1 less what those that are hosted can carry. Then the accuracy lost
is ``Σ (a_k - a_{k+1}) · below_k``, and ``shortfall`` of the last step is what stays unserved. Rates need no variables:
once it is known what is hosted, filling the most accurate first is best. Compared with a rate for each choice this has
half the columns, and each row is a covering constraint, from which solvers derive strong cuts: the hardest of 300
demands of the paper's cluster took 0.1 instead of 2.6 s.

Amounts are parts of the family's demand, so that a family of 0.01 qps counts like one of 10,000.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from proteus_cli.domain.arrays import Ints
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.instance import Instance

MAX_CASES = 2000  # measured: with 700, losses at 1 s are a sixth lower; with 10,000, no point is found in time

Objective = Literal["worst served", "unserved", "cost", "power", "worst loss", "loss", "loads", "devices"]


@dataclass(frozen=True, slots=True)
class Model:
    """The compiled problem; between solves only the parameters change (DPP).

    Variables:
    - ``replicas`` [C]: devices of the choice's group that host it;
    - ``shortfall`` [L]: see above;
    - ``objectives``: one column for each, all to be minimised; ``objective_index`` says which column is which
      ("worst served" has one for each number of families);
    - ``served`` [C]: the part of the demand that a choice answers; None where it follows from ``replicas``;
    - ``devices_used`` [G];
    - ``power_w`` [G]: watts that the devices in use draw; None unless devices are shared and power counts;
    - ``loads`` [C]: replicas that aren't hosted yet.

    Parameters
    ----------
    - ``has_demand`` [F]: 1 or 0;
    - ``capacity_frac`` [C]: the part of the demand that one replica can serve;
    - ``demand_frac`` [F]: the family's part of the demand of all families;
    - ``servable_frac`` [F], ``max_share_frac`` [F]: see `TargetDemand`;
    - ``utilisation`` [C]: devices that would be busy with the whole demand of the family;
    - ``current_replicas`` [C]: replicas that need no load;
    - ``accuracy_floor`` [F]: the relative accuracy that "worst loss" is measured from;
    - ``max_replicas`` [C]: more are of no use.

    """

    problem: Any
    replicas: Any
    shortfall: Any
    served: Any
    devices_used: Any
    power_w: Any
    loads: Any
    objectives: Any
    objective_index: Mapping[Objective, tuple[int, ...]]
    has_demand: Any
    capacity_frac: Any
    demand_frac: Any
    servable_frac: Any
    max_share_frac: Any
    utilisation: Any
    current_replicas: Any
    accuracy_floor: Any
    max_replicas: Any


def formulate(instance: Instance, rules: Rules) -> Model:
    """All that ``rules`` ask for as constraints, and all that can be aimed at as variables ``objectives``."""
    families, choices, groups = len(instance.families), len(instance.choices), len(instance.groups)
    has_demand, demand_frac = cp.Parameter(families, nonneg=True), cp.Parameter(families, nonneg=True)
    capacity_frac, current_replicas = cp.Parameter(choices, nonneg=True), cp.Parameter(choices, nonneg=True)
    servable_frac, max_share_frac = cp.Parameter(families, nonneg=True), cp.Parameter(families, nonneg=True)
    utilisation, max_replicas = cp.Parameter(choices, nonneg=True), cp.Parameter(choices, nonneg=True)
    accuracy_floor = cp.Parameter(families, nonneg=True)
    replicas = cp.Variable(choices, integer=True)
    shortfall = cp.Variable(len(instance.step_family), nonneg=True)
    served = cp.Variable(choices, nonneg=True) if rules.is_resident_set else None
    devices_used = cp.Variable(groups, integer=True) if rules.is_resident_set else instance.of_group @ replicas
    capacity = cp.multiply(capacity_frac, replicas)
    unserved = shortfall[instance.last_step]
    constraints = {
        "each step misses what the variants up to it can't answer": [
            shortfall + instance.up_to_step @ (capacity if served is None else served)
            >= has_demand[instance.step_family]
        ],
        "what is pinned is hosted": [replicas >= instance.pinned],
        "no more devices than there are": [devices_used <= instance.device_count],
    }
    if served is not None:
        constraints["residents share devices"] = [
            served <= capacity,
            *_share_devices(instance, rules, replicas, served, devices_used, utilisation, max_share_frac),
        ]
    if rules.survive:
        constraints["any one device can be lost"] = [
            shortfall >= unserved[instance.step_family],  # spares answer nothing
            *_survives(instance, replicas, capacity_frac, has_demand, unserved, max_replicas),
        ]

    objectives: dict[Objective, list[Any]] = {
        "unserved": [demand_frac @ unserved],
        "loss": [instance.step_loss @ cp.multiply(demand_frac[instance.step_family], shortfall)],
        "devices": [cp.sum(devices_used)],
    }
    loads = cp.Variable(choices, nonneg=True, name="loads")
    objectives["loads"], constraints["what wasn't hosted is loaded"] = (
        [cp.sum(loads)],
        [loads >= replicas - current_replicas],
    )
    if "cost" in rules.resources:
        objectives["cost"] = [instance.price_per_hour @ devices_used]
    power_w = cp.Variable(groups, nonneg=True) if rules.is_resident_set and "power" in rules.resources else None
    if power_w is not None:
        constraints["devices draw power"] = _power_of_used_devices(instance, replicas, served, utilisation, power_w)
    if "power" in rules.resources:
        objectives["power"] = [instance.power_w @ replicas if power_w is None else cp.sum(power_w)]
    constraints["budgets are kept"] = [objectives[name][0] <= budget for name, budget in rules.budgets.items()]
    if rules.objective == "min-family":
        worst = cp.Variable()
        objectives["worst loss"] = [worst]
        constraints["no family does worse"] = [
            worst >= _relative_accuracy_loss(instance, shortfall, unserved, has_demand, accuracy_floor)
        ]
    if rules.fairness == "maxmin":
        objectives["worst served"], constraints["the worst served are known"] = _unserved_by_the_worst(
            1 - servable_frac + cp.multiply(servable_frac, unserved), families
        )

    order = [(objective, expression) for objective, expressions in objectives.items() for expression in expressions]
    values = cp.Variable(len(order))
    constraints["aims are what they say"] = [values == cp.hstack([expression for _, expression in order])]
    return Model(
        problem=cp.Problem(cp.Minimize(values[0]), [each for group in constraints.values() for each in group]),
        replicas=replicas,
        shortfall=shortfall,
        served=served,
        devices_used=devices_used,
        power_w=power_w,
        loads=loads,
        objectives=values,
        objective_index={
            objective: tuple(i for i, (name, _) in enumerate(order) if name == objective) for objective in objectives
        },
        has_demand=has_demand,
        capacity_frac=capacity_frac,
        demand_frac=demand_frac,
        servable_frac=servable_frac,
        max_share_frac=max_share_frac,
        utilisation=utilisation,
        current_replicas=current_replicas,
        accuracy_floor=accuracy_floor,
        max_replicas=max_replicas,
    )


def _share_devices(
    instance: Instance,
    rules: Rules,
    replicas: Any,
    served: Any,
    devices_used: Any,
    utilisation: Any,
    max_share_frac: Any,
) -> list[Any]:
    """Time and memory of a group's devices together; for a group of one device that is exact, else a relaxation.

    A resident of a group that is used at all is on some of its used devices. No device gets more than its share.
    """
    of_group, group_of = instance.of_group, instance.group_of
    time = [of_group @ cp.multiply(utilisation, served) <= devices_used, replicas <= devices_used[group_of]]
    memory = [of_group @ cp.multiply(instance.memory_frac, replicas) <= devices_used]
    number = [] if rules.residency == "memory" else [of_group @ replicas <= int(rules.residency) * devices_used]
    if np.all(instance.max_share >= 1):
        return [*time, *memory, *number]
    pairs, of_pair, pair_group, pair_family = instance.group_family_pairs()
    spread = [of_pair @ served <= cp.multiply(max_share_frac[pair_family], devices_used[pair_group])] if pairs else []
    return [*time, *memory, *number, *spread]


def _survives(
    instance: Instance, replicas: Any, capacity_frac: Any, has_demand: Any, unserved: Any, max_replicas: Any
) -> list[Any]:
    """What a family's hosts can carry without the largest of them still covers what is served.

    Where there are few choices, it is told apart which of them the largest host is of: ``in_case`` [K] are the hosts of
    a choice (``other``) in the case that the largest is of another (``case``). That is a far stronger relaxation than
    one sum for all cases, but has a column for each pair.
    """
    case, other = instance.cases
    is_case = cp.Variable(len(instance.choices), boolean=True)
    if len(case) > MAX_CASES:
        largest = cp.Variable(len(instance.families), nonneg=True)
        return [
            replicas <= cp.multiply(max_replicas, is_case),
            largest[instance.family_of] >= cp.multiply(capacity_frac, is_case),
            instance.of_family @ cp.multiply(capacity_frac, replicas) - largest + unserved >= has_demand,
        ]
    in_case, served = cp.Variable(len(case), nonneg=True), cp.Variable(len(instance.choices), nonneg=True)
    is_same = case == other
    return [
        instance.of_family @ is_case <= 1,
        _rows(other, len(instance.choices)) @ in_case == replicas,
        in_case <= cp.multiply(max_replicas[other], is_case[case]),
        in_case[np.flatnonzero(is_same)] >= is_case[case[is_same]],
        served <= is_case,
        _rows(case, len(instance.choices)) @ cp.multiply(capacity_frac[other], in_case)
        >= served + cp.multiply(capacity_frac, is_case),
        unserved + instance.of_family @ served >= has_demand,
    ]


def _rows(row_of: Ints, rows: int) -> sp.csr_array:
    """0/1 [rows, len(row_of)] with a 1 in each column, in the given row."""
    return sp.csr_array((np.ones(len(row_of)), (row_of, np.arange(len(row_of)))), shape=(rows, len(row_of)))


def _power_of_used_devices(instance: Instance, replicas: Any, served: Any, utilisation: Any, power_w: Any) -> list[Any]:
    """Watts that a group's used devices draw while they are busy, each its hungriest variant's; at least."""
    mean = instance.of_group @ cp.multiply(instance.power_w, cp.multiply(utilisation, served))
    return [power_w >= mean, power_w[instance.group_of] >= cp.multiply(instance.power_w, replicas)]


def _relative_accuracy_loss(
    instance: Instance, shortfall: Any, unserved: Any, has_demand: Any, accuracy_floor: Any
) -> Any:
    """How far each family's relative accuracy falls short of ``accuracy_floor``, times the part that is answered."""
    best = np.where(instance.best_accuracy > 0, instance.best_accuracy, 1.0)
    top = instance.top_accuracy / best
    lost = (instance.of_step_family @ cp.multiply(instance.step_loss, shortfall)) / best
    idle = 2 * (1 - has_demand)  # a family that asks for nothing is never the worst
    return accuracy_floor - cp.multiply(accuracy_floor, unserved) - (cp.multiply(top, has_demand) - lost) - idle


def _unserved_by_the_worst(missed: Any, families: int) -> tuple[list[Any], list[Any]]:
    """For each ``k`` the sum of the ``k`` largest unserved parts; made small in turn, that is max-min fairness.

    That it holds where sets aren't convex, too, is due to Ogryczak & Śliwiński, "On direct methods for lexicographic
    min-max optimization" (2006).
    """
    level, above = cp.Variable(families), cp.Variable((families, families), nonneg=True)
    constraints = [above[k] >= missed - level[k] for k in range(families)]
    return [(k + 1) * level[k] + cp.sum(above[k]) for k in range(families)], constraints
