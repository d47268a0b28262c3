"""The model: a mixed-integer program in a form that solvers find easy (`formulate`).

Columns
=======
`Variables` are blocks of columns. ``replicas`` says how many devices of a group host each choice. The other blocks
follow from it, or are there only if the rules need them.

Loss
====
Loss is counted in steps. A family has variants of the accuracies ``a_1 > a_2 > …``. ``shortfall_k`` is the part of the
demand that replicas of ``a_1 … a_k`` leave unanswered: at least 1 less their capacity. The accuracy lost is
``Σ (a_k - a_{k+1}) · shortfall_k``, and the shortfall of the last step is unserved. Given the hosts, it is best to fill
the most accurate first. Rates need no columns, except for shared devices, limited networks and cascades. Compared with
a rate for each choice, the model has half the columns, and its rows are covering constraints, from which solvers derive
strong cuts.

Forecasts
=========
A forecast has several such rows for each step. The part of queries that miss their SLO is a convex curve of the
capacity (`LossCurve`): the largest of some lines. ``shortfall_k`` is at least each line at the capacity up to step k.
Another row asks for capacity for the whole mean demand.

Amounts are parts of the family's demand, so a family of 0.01 qps counts like one of 10,000.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from proteus_cli.arrays import Floats
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.model.instance import Instance, members
from proteus_cli.planning.model.program import Columns, Constraint, Linear, Program, rows_of
from proteus_cli.planning.model.ways import Ways

Objective = Literal["worst served", "unserved", "cost", "power", "loss", "loads", "devices", "value"]


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """The numbers of the model for one demand.

    By family [F]: ``has_demand`` 1 or 0; ``demand_frac`` its part of the demand of all families; ``servable_frac`` and
    ``max_share_frac``: see `TargetDemand`; ``fewest_hosts``, with fewer of which no choice is in time (0: one is
    enough).

    By choice [C]: ``capacity_frac`` the part of the family's demand that one replica can answer; ``utilisation`` the
    number of devices that all of it would keep busy; ``max_replicas`` the most that are of use; ``network_frac`` the
    part of its host's network limit that all of the demand would take.

    By step [L]: ``min_shortfall``, lost whatever the capacity.

    By line [J] of the curves: ``lost_at_0`` [J, F], and ``saved`` [J, C], the amount that one replica, or one unit of
    ``served``, takes from it. With ways, ``saved_by_all`` [J, F] is the same for all of the family's demand, and
    ``usable_frac`` [P] the most that one replica can give to a row of ways.

    By engine [E]: ``current_replicas`` need no load; ``load_loss`` the cost of one load, as a loss.

    With resident sets: ``set_utilisation`` [N] the number of devices of a set that all of the demand would keep busy,
    ``pair_frac`` [N] the useful part of it that one can answer, ``set_limits`` [S] the devices that may hold the set.
    """

    has_demand: Floats
    demand_frac: Floats
    servable_frac: Floats
    max_share_frac: Floats
    fewest_hosts: Floats
    capacity_frac: Floats
    utilisation: Floats
    max_replicas: Floats
    network_frac: Floats
    current_replicas: Floats
    load_loss: Floats
    lost_at_0: Floats
    saved: Floats
    min_shortfall: Floats
    saved_by_all: Any = None
    usable_frac: Any = None
    set_utilisation: Any = None
    pair_frac: Any = None
    set_limits: Any = None

    @property
    def has_forecast(self) -> bool:
        """Whether the demand has loss curves; without a forecast there is one line."""
        return len(self.lost_at_0) > 1


@dataclass(slots=True, eq=False)
class Variables:
    """Blocks of columns, in parts of the family's demand unless stated. None: the rules do not need it.

    ``replicas`` [C]: devices of the choice's group that host it. ``shortfall`` [L]: see above. ``unserved`` [F]: the
    demand that no capacity is left for; without a forecast, the last step of each family. ``devices_used`` [G].
    ``loads`` [E]: replicas that are not hosted now.

    ``served`` [C], for shared devices or limited networks: the part that the choice can answer. ``power_w`` [G], for
    shared devices where power counts. ``answered`` [W], with ways: the part that goes each way; with a forecast,
    ``reached`` and ``upper_shortfall`` [U] are the part answered up to each of the `UpperSteps` and its shortfall.
    ``sets`` [S], where sharing costs time: devices that hold each set; ``served_in_set`` [N].
    """

    replicas: Any
    shortfall: Any
    unserved: Any
    devices_used: Any
    loads: Any
    served: Any = None
    power_w: Any = None
    answered: Any = None
    reached: Any = None
    upper_shortfall: Any = None
    sets: Any = None
    served_in_set: Any = None

    @classmethod
    def of(cls, instance: Instance, rules: Rules, p: Parameters, columns: Columns) -> "Variables":
        """The blocks that the rules need, with the bounds that follow from a demand.

        Loads are at most the number of useful replicas. Queries of a family without demand go no way.
        """
        groups, is_shared, ways = len(instance.groups), rules.is_resident_set, instance.ways
        replicas = columns.add(len(instance.choices), upper=p.max_replicas, is_integer=True)
        shortfall = columns.add(len(instance.step_family), lower=p.min_shortfall)
        most_loads = np.maximum(instance.hosted(p.max_replicas) - p.current_replicas, 0.0)
        v = cls(
            replicas=replicas,
            shortfall=shortfall,
            unserved=columns.add(len(instance.families)) if p.has_forecast else shortfall.at(instance.last_step),
            devices_used=columns.add(groups, is_integer=True) if is_shared else instance.group_choices @ replicas,
            loads=columns.add(len(instance.engine_choice), upper=most_loads),
        )
        if has_served(instance, rules):
            v.served = columns.add(len(instance.choices))
        if is_shared and "power" in rules.resources:
            v.power_w = columns.add(groups)
        if ways is not None:
            v.answered = columns.add(len(ways.ways), upper=np.where(p.has_demand[ways.family] > 0, np.inf, 0.0))
        if ways is not None and p.has_forecast:
            least = p.min_shortfall[instance.last_step][ways.upper_steps.family]
            v.reached, v.upper_shortfall = columns.add(len(least)), columns.add(len(least), lower=least)
        if instance.sets is not None and p.set_limits is not None:
            v.sets = columns.add(len(instance.sets.keys), upper=p.set_limits, is_integer=True)
            v.served_in_set = columns.add(len(instance.sets.steps))
        return v


def has_served(instance: Instance, rules: Rules) -> bool:
    """Whether a choice serves less than its replicas could, because devices or networks are shared."""
    return rules.is_resident_set or instance.network_choices.shape[0] > 0


def formulate(instance: Instance, rules: Rules, p: Parameters) -> Program:
    """The program for one demand: all that ``rules`` ask for as constraints, and a column for each objective."""
    columns = Columns()
    v = Variables.of(instance, rules, p, columns)
    objectives = list(_objectives(instance, rules, p, v))
    constraints = [*_losses(instance, p, v), *_hosts(instance, p, v)]
    if rules.fairness == "maxmin":
        sums, defined = _sums_of_largest(1 - p.servable_frac + p.servable_frac * v.unserved, columns)
        objectives += [("worst served", each) for each in sums]
        constraints += defined
    if instance.ways is not None:
        constraints += _ways_within_limits(instance.ways, p, v)
    if v.served is not None:
        constraints += _served_within_limits(instance, rules, p, v)
    if v.power_w is not None:
        constraints += _power_drawn(instance, p, v)
    if rules.survives is not None:
        constraints += _losses_survived(instance, rules, p, v, columns)
    places: dict[Objective, list[int]] = {}
    budgets: dict[str, float] = dict(rules.budgets.items())
    for name, expression in objectives:
        column = columns.add(1, lower=-np.inf, upper=budgets.get(name, np.inf))
        constraints.append(column.equals(expression))
        places.setdefault(name, []).append(int(column.column[0]))
    return Program(instance, p, v, places, *rows_of(constraints, columns.count), *columns.bounds())


def _losses(instance: Instance, p: Parameters, v: Variables) -> Iterator[Constraint]:
    """Each step's shortfall is at least each line of the loss curve at the capacity up to that step."""
    capacity, of_step, ways = v.replicas if v.served is None else v.served, instance.step_family, instance.ways
    for j, lost in enumerate(p.lost_at_0):
        answered: Linear = instance.up_to_step @ (p.saved[j] * capacity)
        if ways is not None:
            answered += p.saved_by_all[j][of_step] * (instance.last_step_ways @ v.answered)
        yield v.shortfall + answered >= lost[of_step]
    if p.has_forecast:
        by_family: Linear = instance.family_choices @ _answerable(p, v)
        if ways is not None:
            by_ways = members(ways.family, len(instance.families)) @ v.answered
            by_family = by_family * np.where(ways.has_ways, 0.0, 1.0) + by_ways
        yield v.unserved + by_family >= p.has_demand


def _hosts(instance: Instance, p: Parameters, v: Variables) -> list[Constraint]:
    """Pins are hosted, groups have enough devices, families enough hosts; replicas not hosted now are loads."""
    hosted = _hosted(instance, v)
    return [
        hosted >= instance.pinned[instance.engine_choice],
        v.devices_used <= instance.device_count,
        instance.family_choices @ v.replicas >= p.fewest_hosts * (1 - v.unserved),
        v.loads >= hosted - p.current_replicas,
    ]


def _objectives(instance: Instance, rules: Rules, p: Parameters, v: Variables) -> Iterator[tuple[Objective, Linear]]:
    """The expression of each objective that the rules may ask for."""
    loss: Linear = instance.step_loss @ (p.demand_frac[instance.step_family] * v.shortfall)
    if instance.ways is not None:
        loss += p.demand_frac @ _lost_by_ways(instance.ways, v)
    yield "unserved", p.demand_frac @ v.unserved
    yield "loss", loss
    yield "devices", v.devices_used.sum()
    yield "loads", v.loads.sum()
    if p.has_forecast:
        yield "value", loss + p.load_loss @ v.loads
    if "cost" in rules.resources:
        yield "cost", instance.price_per_hour @ v.devices_used
    if "power" in rules.resources:
        yield "power", instance.power_w @ v.replicas if v.power_w is None else v.power_w.sum()


def _sums_of_largest(missed: Linear, columns: Columns) -> tuple[list[Linear], list[Constraint]]:
    """The sums of the ``k`` largest unserved parts, for each ``k``, and the constraints that define them.

    Minimised one after another they give max-min fairness, also for sets that are not convex (Ogryczak & Śliwiński, "On
    direct methods for lexicographic min-max optimization", 2006).
    """
    families = range(missed.size)
    level, above = [columns.add(1, lower=-np.inf) for _ in families], [columns.add(missed.size) for _ in families]
    constraints = [above[k] + level[k].at(np.zeros(missed.size, dtype=np.int64)) >= missed for k in families]
    return [(k + 1.0) * level[k] + above[k].sum() for k in families], constraints


def _hosted(instance: Instance, v: Variables) -> Any:
    """The number of devices that host each engine [E]."""
    return instance.engines @ v.replicas


def _answerable(p: Parameters, v: Variables) -> Any:
    """The part of the demand that each choice can answer [C]."""
    return (p.capacity_frac * v.replicas) if v.served is None else v.served


# --- cascades


def _ways_within_limits(ways: Ways, p: Parameters, v: Variables) -> list[Constraint]:
    """Ways use no variant beyond its capacity and, with a forecast, lose at least the lines of the loss curves.

    The first has a row for each pool and part of the SLO: the executions that ways need are at most those that choices
    can give, in parts of the demand.
    """
    given = p.usable_frac * v.replicas.at(ways.choice_of) if v.served is None else v.served.at(ways.choice_of)
    constraints = [ways.needed @ v.answered <= members(ways.row_of, len(ways.max_needed)) @ given]
    if v.reached is not None:
        steps = ways.upper_steps
        constraints.append((steps.rise @ v.reached).equals(steps.at_step @ v.answered))
        constraints += [
            v.upper_shortfall + saved[steps.family] * v.reached >= lost[steps.family]
            for lost, saved in zip(p.lost_at_0, p.saved_by_all, strict=True)
        ]
    return constraints


def _lost_by_ways(ways: Ways, v: Variables) -> Any:
    """The accuracy that each family with cascades loses [F], without the loss of its last step."""
    if v.upper_shortfall is not None:
        return ways.upper_steps.loss @ v.upper_shortfall
    return ways.loss @ v.answered + (ways.top - ways.least) * v.unserved


# --- shared devices, sets of variants on them, and networks


def _served_within_limits(instance: Instance, rules: Rules, p: Parameters, v: Variables) -> list[Constraint]:
    """Choices serve no more than their replicas, shared devices and networks can."""
    constraints = [v.served <= p.capacity_frac * v.replicas]
    if rules.is_resident_set:
        constraints += _devices_are_shared(instance, rules, p, v)
    if instance.sets is not None:
        constraints += _devices_hold_sets(instance, p, v)
    if instance.network_choices.shape[0]:
        constraints.append(instance.network_choices @ (p.network_frac * v.served) <= 1)
    return constraints


def _devices_are_shared(instance: Instance, rules: Rules, p: Parameters, v: Variables) -> list[Constraint]:
    """Sums of time, memory and places over the used devices of a group: exact for one device, else a relaxation.

    Residents of a group are on used devices only. No device gets more than its share of a family's demand.
    """
    group_choices = instance.group_choices
    constraints = [
        group_choices @ (p.utilisation * v.served) <= v.devices_used,
        _hosted(instance, v) <= v.devices_used.at(instance.choice_group[instance.engine_choice]),
        group_choices @ (instance.memory_frac * v.replicas) <= v.devices_used,
    ]
    if rules.residency != "memory":
        constraints.append(group_choices @ v.replicas <= int(rules.residency) * v.devices_used)
    pairs, of_pair, pair_group, pair_family = instance.group_family_pairs()
    if pairs and np.any(instance.max_share < 1):
        share = p.max_share_frac[pair_family] * v.devices_used.at(pair_group)
        constraints.append(of_pair @ v.served <= share)
    return constraints


def _devices_hold_sets(instance: Instance, p: Parameters, v: Variables) -> list[Constraint]:
    """Each used device holds one set, and answers in the time that batches take within it (`resident_sets`).

    A set answers no more than is of use. Without that row, the relaxation answers all of a small demand with a small
    part of a device, and proves nothing.
    """
    sets = instance.sets
    assert sets is not None  # noqa: S101 - asked for sets only
    in_shared = np.flatnonzero(instance.is_shared)
    engines_in_shared = np.flatnonzero(instance.is_shared[instance.engine_choice])
    engines = [(instance.choices[c].group, instance.choices[c].key) for c in instance.engine_choice.tolist()]
    served = members(sets.pair_choice, len(instance.choices)) @ v.served_in_set
    constraints = [
        _hosted(instance, v).at(engines_in_shared).equals(sets.members(engines)[engines_in_shared] @ v.sets),
        v.served.at(in_shared).equals(served.at(in_shared)),
        members(sets.pair_set, len(sets.keys)) @ (p.set_utilisation * v.served_in_set) <= v.sets,
        v.served_in_set <= p.pair_frac * v.sets.at(sets.pair_set),
        members(sets.group, len(instance.groups)) @ v.sets <= v.devices_used,
    ]
    if np.any(instance.max_share < 1):
        both = np.stack((sets.pair_set, instance.choice_family[sets.pair_choice]))
        (set_of, family_of), row_of = np.unique(both, axis=1, return_inverse=True)
        share = p.max_share_frac[family_of] * v.sets.at(set_of)
        constraints.append(members(row_of.ravel(), len(set_of)) @ v.served_in_set <= share)
    return constraints


def _power_drawn(instance: Instance, p: Parameters, v: Variables) -> list[Constraint]:
    """Two lower bounds of the watts of a group's used devices. A device draws as much as its hungriest variant."""
    mean_w = instance.group_choices @ ((instance.power_w * p.utilisation) * v.served)
    hungriest_w = instance.power_w * v.replicas
    return [v.power_w >= mean_w, v.power_w.at(instance.choice_group) >= hungriest_w]


# --- losses that plans survive


def _losses_survived(
    instance: Instance, rules: Rules, p: Parameters, v: Variables, columns: Columns
) -> list[Constraint]:
    """Hosts left after the loss of any one device, or any one host, can still answer all that is served."""
    spares_answer_nothing = v.shortfall >= v.unserved.at(instance.step_family)
    if rules.survives == "device":
        return [spares_answer_nothing, *_any_device_lost(instance, p, v, columns)]
    _, of_pair, _, pair_family = instance.host_family_pairs()
    answerable, most = _answerable(p, v), columns.add(len(instance.families))
    return [
        spares_answer_nothing,
        most.at(pair_family) >= of_pair @ answerable,
        instance.family_choices @ answerable - most + v.unserved >= p.has_demand,
    ]


def _any_device_lost(instance: Instance, p: Parameters, v: Variables, columns: Columns) -> list[Constraint]:
    """A family's replicas without the largest of them still have the capacity for all that is served."""
    is_hosted = columns.add(len(instance.choices), is_integer=True, upper=1.0)
    largest = columns.add(len(instance.families))
    return [
        v.replicas <= p.max_replicas * is_hosted,
        largest.at(instance.choice_family) >= (p.capacity_frac * is_hosted),
        instance.family_choices @ _answerable(p, v) - largest + v.unserved >= p.has_demand,
    ]
