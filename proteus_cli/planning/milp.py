"""The model: which choices to host how often (DESIGN §7), in a form that solvers find easy.

What a family loses is counted in steps. With its variants' accuracies ``a_1 > a_2 > …``, let ``below_k`` be the part of
its demand that ``a_1 … a_k`` don't answer: at least 1 less what those that are hosted can carry. Then the accuracy lost
is ``Σ (a_k - a_{k+1}) · below_k``, and ``below`` of the last step is what stays unserved. Rates need no variables:
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

from proteus_cli.domain.rules import Rules
from proteus_cli.planning.instance import Instance, Ints

MAX_CASES = 2000  # measured: with 700, losses at 1 s are a sixth lower; with 10,000, no point is found in time

Objective = Literal["worst served", "unserved", "cost", "power", "worst loss", "loss", "loads", "devices"]


@dataclass(frozen=True, slots=True)
class Model:
    """Compiled once for an instance; only the parameters change between solves (DPP).

    Variables: ``hosts`` [C] devices of the choice's group that host it; ``below`` [L] as above; ``aims`` [A], each to
    be made small in turn (``aim_index``: which is which; "worst served" has one for each number of families);
    ``served`` [C], the part of the demand that a choice answers, or None where it follows from ``hosts``; ``used`` [G]
    devices in use; ``draw`` [G], the watts they draw, where devices are shared and power matters, else None;
    ``loads`` [C] hosts that aren't there yet.

    Parameters: ``asked`` [F] 1 for families with a demand; ``carried`` [C] the part that one host can carry; ``weight``
    [F] the part of the whole demand; ``busy`` [C] devices that answering it all would keep busy; ``current`` [C] hosts
    that need no load; ``floor`` [F] the relative accuracy that "worst loss" is measured from; ``most`` [C] hosts, more
    are of no use.
    """

    problem: Any
    hosts: Any
    below: Any
    served: Any
    used: Any
    draw: Any
    loads: Any
    aims: Any
    aim_index: Mapping[Objective, tuple[int, ...]]
    asked: Any
    carried: Any
    weight: Any
    part: Any
    share: Any
    busy: Any
    current: Any
    floor: Any
    most: Any


def formulate(instance: Instance, rules: Rules) -> Model:
    """All that ``rules`` ask for as constraints, and all that can be aimed at as variables ``aims``."""
    families, choices, groups = len(instance.families), len(instance.choices), len(instance.groups)
    asked, weight = cp.Parameter(families, nonneg=True), cp.Parameter(families, nonneg=True)
    carried, current = cp.Parameter(choices, nonneg=True), cp.Parameter(choices, nonneg=True)
    part, share = cp.Parameter(families, nonneg=True), cp.Parameter(families, nonneg=True)
    busy, most = cp.Parameter(choices, nonneg=True), cp.Parameter(choices, nonneg=True)
    floor = cp.Parameter(families, nonneg=True)
    hosts = cp.Variable(choices, integer=True)
    below = cp.Variable(len(instance.step_family), nonneg=True)
    served = cp.Variable(choices, nonneg=True) if rules.is_resident_set else None
    used = cp.Variable(groups, integer=True) if rules.is_resident_set else instance.of_group @ hosts
    room = cp.multiply(carried, hosts)
    unserved = below[instance.last_step]
    constraints = {
        "each step misses what the variants up to it can't answer": [
            below + instance.up_to_step @ (room if served is None else served) >= asked[instance.step_family]
        ],
        "what is pinned is hosted": [hosts >= instance.pinned],
        "no more devices than there are": [used <= instance.device_count],
    }
    if served is not None:
        constraints["residents share devices"] = [
            served <= room, *_share_devices(instance, rules, hosts, served, used, busy, share)
        ]  # fmt: skip
    if rules.survive:
        constraints["any one device can be lost"] = [
            below >= unserved[instance.step_family],  # spares answer nothing
            *_survives(instance, hosts, carried, asked, unserved, most),
        ]

    aims: dict[Objective, list[Any]] = {
        "unserved": [weight @ unserved],
        "loss": [instance.step_loss @ cp.multiply(weight[instance.step_family], below)],
        "devices": [cp.sum(used)],
    }
    loads = cp.Variable(choices, nonneg=True, name="loads")
    aims["loads"], constraints["what wasn't hosted is loaded"] = [cp.sum(loads)], [loads >= hosts - current]
    if "cost" in rules.resources:
        aims["cost"] = [instance.price_per_hour @ used]
    draw = cp.Variable(groups, nonneg=True) if rules.is_resident_set and "power" in rules.resources else None
    if draw is not None:
        constraints["devices draw power"] = _draws(instance, hosts, served, busy, draw)
    if "power" in rules.resources:
        aims["power"] = [instance.power_w @ hosts if draw is None else cp.sum(draw)]
    constraints["budgets are kept"] = [aims[name][0] <= budget for name, budget in rules.budgets.items()]
    if rules.objective == "min-family":
        worst = cp.Variable()
        aims["worst loss"] = [worst]
        constraints["no family does worse"] = [worst >= _family_loss(instance, below, unserved, asked, floor)]
    if rules.fairness == "maxmin":
        aims["worst served"], constraints["the worst served are known"] = _missed_by_the_worst(
            1 - part + cp.multiply(part, unserved), families
        )

    order = [(aim, expression) for aim, expressions in aims.items() for expression in expressions]
    values = cp.Variable(len(order))
    constraints["aims are what they say"] = [values == cp.hstack([expression for _, expression in order])]
    return Model(
        problem=cp.Problem(cp.Minimize(values[0]), [each for group in constraints.values() for each in group]),
        hosts=hosts,
        below=below,
        served=served,
        used=used,
        draw=draw,
        loads=loads,
        aims=values,
        aim_index={aim: tuple(i for i, (name, _) in enumerate(order) if name == aim) for aim in aims},
        asked=asked,
        carried=carried,
        weight=weight,
        part=part,
        share=share,
        busy=busy,
        current=current,
        floor=floor,
        most=most,
    )


def _share_devices(
    instance: Instance, rules: Rules, hosts: Any, served: Any, used: Any, busy: Any, share: Any
) -> list[Any]:
    """Time and memory of a group's devices together; for a group of one device that is exact, else a relaxation.

    A resident of a group that is used at all is on some of its used devices. No device gets more than its share.
    """
    of_group, group_of = instance.of_group, instance.group_of
    time = [of_group @ cp.multiply(busy, served) <= used, hosts <= used[group_of]]
    memory = [of_group @ cp.multiply(instance.memory_frac, hosts) <= used]
    number = [] if rules.residency == "memory" else [of_group @ hosts <= int(rules.residency) * used]
    if np.all(instance.max_share >= 1):
        return [*time, *memory, *number]
    pairs, of_pair, pair_group, pair_family = instance.group_family_pairs()
    spread = [of_pair @ served <= cp.multiply(share[pair_family], used[pair_group])] if pairs else []
    return [*time, *memory, *number, *spread]


def _survives(instance: Instance, hosts: Any, carried: Any, asked: Any, unserved: Any, most: Any) -> list[Any]:
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
            hosts <= cp.multiply(most, is_case),
            largest[instance.family_of] >= cp.multiply(carried, is_case),
            instance.of_family @ cp.multiply(carried, hosts) - largest + unserved >= asked,
        ]
    in_case, served = cp.Variable(len(case), nonneg=True), cp.Variable(len(instance.choices), nonneg=True)
    is_same = case == other
    return [
        instance.of_family @ is_case <= 1,
        _rows(other, len(instance.choices)) @ in_case == hosts,
        in_case <= cp.multiply(most[other], is_case[case]),
        in_case[np.flatnonzero(is_same)] >= is_case[case[is_same]],
        served <= is_case,
        _rows(case, len(instance.choices)) @ cp.multiply(carried[other], in_case)
        >= served + cp.multiply(carried, is_case),
        unserved + instance.of_family @ served >= asked,
    ]


def _rows(row_of: Ints, rows: int) -> sp.csr_array:
    """0/1 [rows, len(row_of)] with a 1 in each column, in the given row."""
    return sp.csr_array((np.ones(len(row_of)), (row_of, np.arange(len(row_of)))), shape=(rows, len(row_of)))


def _draws(instance: Instance, hosts: Any, served: Any, busy: Any, draw: Any) -> list[Any]:
    """Watts that a group's used devices draw while they are busy, each its hungriest variant's; at least."""
    mean = instance.of_group @ cp.multiply(instance.power_w, cp.multiply(busy, served))
    return [draw >= mean, draw[instance.group_of] >= cp.multiply(instance.power_w, hosts)]


def _family_loss(instance: Instance, below: Any, unserved: Any, asked: Any, floor: Any) -> Any:
    """By how much each family's relative accuracy over what is answered falls short of ``floor`` (times its part)."""
    best = np.where(instance.best_accuracy > 0, instance.best_accuracy, 1.0)
    top = instance.top_accuracy / best
    lost = (instance.of_step_family @ cp.multiply(instance.step_loss, below)) / best
    idle = 2 * (1 - asked)  # a family that asks for nothing is never the worst
    return floor - cp.multiply(floor, unserved) - (cp.multiply(top, asked) - lost) - idle


def _missed_by_the_worst(missed: Any, families: int) -> tuple[list[Any], list[Any]]:
    """For each ``k`` the sum of the ``k`` largest unserved parts; made small in turn, that is max-min fairness.

    That it holds where sets aren't convex, too, is due to Ogryczak & Śliwiński, "On direct methods for lexicographic
    min-max optimization" (2006).
    """
    level, above = cp.Variable(families), cp.Variable((families, families), nonneg=True)
    constraints = [above[k] >= missed - level[k] for k in range(families)]
    return [(k + 1) * level[k] + cp.sum(above[k]) for k in range(families)], constraints
