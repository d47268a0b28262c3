"""The model: a mixed-integer program in a form that solvers find easy (`formulate`).

What a family loses is counted in steps. With the accuracies ``a_1 > a_2 > …`` of its variants, ``shortfall_k`` is the
part of its demand that replicas of ``a_1 … a_k`` don't answer: 1 less their capacity, or more. The accuracy lost is
then ``Σ (a_k - a_{k+1}) · shortfall_k``, and the shortfall of the last step is the part that stays unserved. Rates need
no variables, but where devices are shared, networks limited, or cascades planned with: once it is known what is
hosted, it is best to fill the most accurate first. Compared with a rate for each
choice this has half the columns, and each row is a covering constraint, from which solvers derive strong cuts: the
hardest of 300 demands of the paper's cluster took 0.1 instead of 2.6 s.

With a forecast, there is more than one such row for each step: arrivals scatter, so with capacity for the mean demand
some miss their SLO, and with more, fewer. The part that does is a convex curve of the capacity (`LossCurve`), the
largest of some lines, and ``shortfall_k`` is at least each of them at the capacity up to step k: the part of the
queries that the k most accurate variants don't answer in time. So the loss is by how much the on-time accuracy falls
short of its best. That there is capacity for all of the mean demand is then a row of its own.

Amounts are parts of the family's demand, so that a family of 0.01 qps counts like one of 10,000.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from proteus_cli.domain.rules import Rules
from proteus_cli.planning.model.affine_map import AffineMap
from proteus_cli.planning.model.answering import lost_by_ways, ways_within_limits
from proteus_cli.planning.model.holding import devices_hold_sets
from proteus_cli.planning.model.instance import Instance, members
from proteus_cli.planning.model.modelling import cp
from proteus_cli.planning.model.surviving import answerable_of, any_device_may_be_lost, any_host_may_be_lost

Objective = Literal["worst served", "unserved", "cost", "power", "loss", "loads", "devices", "value"]


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """What differs between solves of one model: parameters of CVXPY, or the values of these for one demand.

    By family: ``has_demand`` 1 or 0; ``demand_frac`` its part of the demand of all families; ``servable_frac`` and
    ``max_share_frac``: see `TargetDemand`; ``fewest_hosts``: with fewer hosts no choice is in time; 0 where one is.

    By choice: ``capacity_frac`` the part of the family's demand that one replica can answer; ``utilisation`` how many
    devices all of it would keep busy; ``max_replicas``: more are of no use; ``network_frac`` the part of what its
    host's network may carry that all of the family's demand would take.

    By step: ``min_shortfall``, the part that is lost whatever the capacity.

    By line of the curves: ``lost_at_0`` by family, and ``saved`` by choice: what one replica, or one unit of what is
    ``served``, takes from it; ``saved_by_all`` by family what all of its demand takes from it, where there are ways.
    Of those, ``usable_frac`` [N] is what one replica can give to a row, where devices are not shared.

    By engine: ``current_replicas`` replicas that need no load; ``load_loss`` what the load of one costs, as a loss.

    Where sharing a device costs time: ``set_utilisation`` [N] how many devices all of the family's demand would keep
    busy among the set, ``pair_frac`` [N] the part of it that one can answer, as far as that is of use, and
    ``set_limits`` [S] how many may hold it.
    """

    has_demand: Any
    demand_frac: Any
    servable_frac: Any
    max_share_frac: Any
    fewest_hosts: Any
    capacity_frac: Any
    utilisation: Any
    current_replicas: Any
    max_replicas: Any
    load_loss: Any
    network_frac: Any
    min_shortfall: Any
    lost_at_0: Sequence[Any]
    saved: Sequence[Any]
    saved_by_all: Sequence[Any] = ()
    usable_frac: Any = None
    set_utilisation: Any = None
    pair_frac: Any = None
    set_limits: Any = None

    @classmethod
    def of(cls, instance: Instance, lines: int) -> "Parameters":
        """One CVXPY parameter for each, without values yet."""
        families, choices, steps = len(instance.families), len(instance.choices), len(instance.step_family)

        def parameters(count: int, size: int) -> list[Any]:
            return [cp.Parameter(size, nonneg=True) for _ in range(count)]

        engines = len(instance.engine_choice)
        by_choice = [*parameters(2, choices), *parameters(1, engines), *parameters(1, choices), *parameters(1, engines)]
        by_line = [parameters(lines, families), parameters(lines, choices)]
        of_ways: list[Any] = []
        if instance.ways is not None:
            of_ways = [parameters(lines, families), *parameters(1, len(instance.ways.row_of))]
        of_sets: dict[str, Any] = {}
        if instance.sets is not None:
            pairs, sets = len(instance.sets.steps), len(instance.sets.keys)
            sizes = {"set_utilisation": pairs, "pair_frac": pairs, "set_limits": sets}
            of_sets = {name: cp.Parameter(size, nonneg=True) for name, size in sizes.items()}
        return cls(
            *[*parameters(5, families), *by_choice, *parameters(1, choices), *parameters(1, steps), *by_line, *of_ways],
            **of_sets,
        )

    def each(self) -> Iterator[Any]:
        """All parameters of the model, one after another."""
        for name in self.__slots__:
            some = getattr(self, name)
            if some is not None:
                yield from some if isinstance(some, list | tuple) else (some,)

    @property
    def has_forecast(self) -> bool:
        """A demand without a forecast has one line."""
        return len(self.lost_at_0) > 1


def has_served(instance: Instance, rules: Rules) -> bool:
    """What a choice serves is less than what its replicas could: their devices, or networks, are shared."""
    return rules.is_resident_set or instance.network_choices.shape[0] > 0


@dataclass(frozen=True, slots=True, eq=False)
class Variables:
    """What is decided.

    ``replicas`` [C] devices of the choice's group that host it; ``shortfall`` [L] as above; ``unserved`` [F] the part
    of the demand that there is no capacity for: without a forecast, the last step of each family; ``devices_used`` [G];
    ``loads`` [E] replicas that aren't hosted now, by engine. Only where devices may host several variants, or a host's
    network is limited: ``served`` [C], the part of the demand that the choice can answer, of its devices' time and the
    network.
    Only where devices may host several variants and power counts: ``power_w`` [G], what the devices in use draw.
    Only where there are ways: ``answered`` [W], the part of the demand that goes each; and with a forecast ``reached``
    and ``upper_shortfall`` [U], what is answered up to each of the `UpperSteps`, and its shortfall.
    Only where sharing a device costs time: ``sets`` [S] devices that hold each set, and ``served_in_set`` [N].
    """

    replicas: Any
    shortfall: Any
    unserved: Any
    devices_used: Any
    loads: Any
    served: Any
    power_w: Any
    answered: Any = None
    reached: Any = None
    upper_shortfall: Any = None
    sets: Any = None
    served_in_set: Any = None

    @classmethod
    def of(cls, instance: Instance, rules: Rules, lines: int) -> "Variables":
        """One CVXPY variable for each that the rules need."""
        choices, groups = len(instance.choices), len(instance.groups)
        is_shared = rules.is_resident_set
        replicas = cp.Variable(choices, integer=True)
        shortfall = cp.Variable(len(instance.step_family), nonneg=True)
        ways, sets, upper = instance.ways, instance.sets, None
        if ways is not None and lines > 1:
            upper = len(ways.upper_steps.family)
        return cls(
            replicas=replicas,
            shortfall=shortfall,
            unserved=shortfall[instance.last_step] if lines == 1 else cp.Variable(len(instance.families), nonneg=True),
            devices_used=cp.Variable(groups, integer=True) if is_shared else instance.group_choices @ replicas,
            loads=cp.Variable(len(instance.engine_choice), nonneg=True),
            served=cp.Variable(choices, nonneg=True) if has_served(instance, rules) else None,
            power_w=cp.Variable(groups, nonneg=True) if is_shared and "power" in rules.resources else None,
            answered=cp.Variable(len(ways.ways), nonneg=True) if ways is not None else None,
            reached=cp.Variable(upper, nonneg=True) if upper is not None else None,
            upper_shortfall=cp.Variable(upper, nonneg=True) if upper is not None else None,
            sets=cp.Variable(len(sets.keys), integer=True) if sets is not None else None,
            served_in_set=cp.Variable(len(sets.steps), nonneg=True) if sets is not None else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Compiled once for an instance, to ``arrays``; between solves only the values of ``parameters`` change (DPP).

    ``objectives`` is a variable with an entry for each objective, to be minimised one after another;
    ``objective_index`` says which is which ("worst served" has one for each number of families). ``is_by_host``: some
    groups are of one host of the cluster each.
    """

    arrays: AffineMap
    parameters: Parameters
    variables: Variables
    objectives: Any
    objective_index: Mapping[Objective, tuple[int, ...]]
    is_by_host: bool
    instance: Instance


def formulate(instance: Instance, rules: Rules, lines: int = 1) -> Model:
    """All that ``rules`` ask for as constraints, and all that may be minimised as ``objectives``.

    ``lines``: how many there are in each family's curve; one for a demand without a forecast.
    """
    p, v = Parameters.of(instance, lines), Variables.of(instance, rules, lines)
    constraints = _constraints(instance, rules, p, v)
    objectives, defined = _objectives(instance, rules, p, v)
    constraints += [objectives[name][0] <= budget for name, budget in rules.budgets.items()]
    order = [(name, expression) for name, expressions in objectives.items() for expression in expressions]
    values = cp.Variable(len(order))
    constraints += [*defined, values == cp.hstack([expression for _, expression in order])]
    return Model(
        arrays=AffineMap.of(cp.Problem(cp.Minimize(values[0]), constraints)),
        parameters=p,
        variables=v,
        objectives=values,
        objective_index={
            objective: tuple(i for i, (name, _) in enumerate(order) if name == objective) for objective in objectives
        },
        is_by_host=any(group.host is not None for group in instance.groups),
        instance=instance,
    )


def _constraints(instance: Instance, rules: Rules, p: Parameters, v: Variables) -> list[Any]:
    """What holds for all plans that obey the rules, whatever is minimised."""
    answering = v.replicas if v.served is None else v.served
    answered_up_to = [instance.up_to_step @ cp.multiply(saved, answering) for saved in p.saved]
    if instance.ways is not None:
        of_ways = instance.last_step_ways @ v.answered
        answered_up_to = [
            of_choices + cp.multiply(saved[instance.step_family], of_ways)
            for of_choices, saved in zip(answered_up_to, p.saved_by_all, strict=True)
        ]
    constraints = [
        *(
            v.shortfall + answered >= lost[instance.step_family]
            for lost, answered in zip(p.lost_at_0, answered_up_to, strict=True)
        ),
        _hosted(instance, v) >= instance.pinned[instance.engine_choice],
        v.devices_used <= instance.device_count,
        instance.family_choices @ v.replicas >= cp.multiply(p.fewest_hosts, 1 - v.unserved),
    ]
    if p.has_forecast:
        constraints.append(v.unserved + _answerable_by_family(instance, p, v) >= p.has_demand)
    if instance.ways is not None:
        constraints += ways_within_limits(instance, p, v)
    if v.served is not None:
        constraints += _served_within_limits(instance, rules, p, v)
    if rules.survives is not None:
        constraints.append(v.shortfall >= v.unserved[instance.step_family])  # spares answer nothing
        any_may_be_lost = any_host_may_be_lost if rules.survives == "host" else any_device_may_be_lost
        constraints += any_may_be_lost(instance, p, v)
    constraints.append(v.loads >= _hosted(instance, v) - p.current_replicas)
    if v.power_w is not None:
        constraints += _devices_draw_power(instance, p, v)
    return constraints


def _objectives(
    instance: Instance, rules: Rules, p: Parameters, v: Variables
) -> tuple[dict[Objective, list[Any]], list[Any]]:
    """The expressions of each objective that the rules may ask for, and the constraints that define some of them."""
    objectives: dict[Objective, list[Any]] = {
        "unserved": [p.demand_frac @ v.unserved],
        "loss": [instance.step_loss @ cp.multiply(p.demand_frac[instance.step_family], v.shortfall)],
        "devices": [cp.sum(v.devices_used)],
        "loads": [cp.sum(v.loads)],
    }
    if instance.ways is not None:
        objectives["loss"][0] += p.demand_frac @ lost_by_ways(instance, v, has_forecast=p.has_forecast)
    defined: list[Any] = []
    if p.has_forecast:
        objectives["value"] = [objectives["loss"][0] + p.load_loss @ v.loads]
    if "cost" in rules.resources:
        objectives["cost"] = [instance.price_per_hour @ v.devices_used]
    if "power" in rules.resources:
        objectives["power"] = [instance.power_w @ v.replicas if v.power_w is None else cp.sum(v.power_w)]
    if rules.fairness == "maxmin":
        missed = 1 - p.servable_frac + cp.multiply(p.servable_frac, v.unserved)
        objectives["worst served"], sums = _sums_of_largest(missed, len(instance.families))
        defined += sums
    return objectives, defined


def _served_within_limits(instance: Instance, rules: Rules, p: Parameters, v: Variables) -> list[Any]:
    """What is served is within the capacity of what is hosted, of shared devices, and of networks."""
    constraints = [v.served <= cp.multiply(p.capacity_frac, v.replicas)]
    if rules.is_resident_set:
        constraints += _devices_are_shared(instance, rules, p, v)
        if instance.sets is not None:
            constraints += devices_hold_sets(instance, instance.sets, p, v, _hosted(instance, v))
    if instance.network_choices.shape[0]:
        constraints.append(instance.network_choices @ cp.multiply(p.network_frac, v.served) <= 1)
    return constraints


def _hosted(instance: Instance, v: Variables) -> Any:
    """How many devices host each engine [E]."""
    return v.replicas if instance.ways is None else instance.engines @ v.replicas


def _answerable_by_family(instance: Instance, p: Parameters, v: Variables) -> Any:
    """The part of the demand that the choices, or the ways, of each family can answer [F]."""
    by_choices = instance.family_choices @ answerable_of(p, v)
    if instance.ways is None:
        return by_choices
    by_ways = members(instance.ways.family, len(instance.families)) @ v.answered
    return cp.multiply(1.0 - instance.ways.has_ways, by_choices) + by_ways


def _devices_are_shared(instance: Instance, rules: Rules, p: Parameters, v: Variables) -> list[Any]:
    """Time, memory and places of the used devices of a group in sum: exact for one device, a relaxation for several.

    A resident of a group is on used devices only. No device gets more than its share of a family's demand.
    """
    group_choices, choice_group = instance.group_choices, instance.choice_group
    constraints = [
        group_choices @ cp.multiply(p.utilisation, v.served) <= v.devices_used,
        _hosted(instance, v) <= v.devices_used[choice_group[instance.engine_choice]],
        group_choices @ cp.multiply(instance.memory_frac, v.replicas) <= v.devices_used,
    ]
    if rules.residency != "memory":
        constraints.append(group_choices @ v.replicas <= int(rules.residency) * v.devices_used)
    pairs, of_pair, pair_group, pair_family = instance.group_family_pairs()
    if pairs and np.any(instance.max_share < 1):
        share = cp.multiply(p.max_share_frac[pair_family], v.devices_used[pair_group])
        constraints.append(of_pair @ v.served <= share)
    return constraints


def _devices_draw_power(instance: Instance, p: Parameters, v: Variables) -> list[Any]:
    """Two lower bounds of the watts of a group's used devices, each of which draws what its hungriest variant does."""
    mean_w = instance.group_choices @ cp.multiply(instance.power_w, cp.multiply(p.utilisation, v.served))
    hungriest_w = cp.multiply(instance.power_w, v.replicas)
    return [v.power_w >= mean_w, v.power_w[instance.choice_group] >= hungriest_w]


def _sums_of_largest(missed: Any, families: int) -> tuple[list[Any], list[Any]]:
    """The sums of the ``k`` largest unserved parts, for each ``k``, and the constraints that define them.

    Minimised one after another they give max-min fairness, also where sets aren't convex (Ogryczak & Śliwiński, "On
    direct methods for lexicographic min-max optimization", 2006).
    """
    level, above = cp.Variable(families), cp.Variable((families, families), nonneg=True)
    constraints = [above[k] >= missed - level[k] for k in range(families)]
    return [(k + 1) * level[k] + cp.sum(above[k]) for k in range(families)], constraints
