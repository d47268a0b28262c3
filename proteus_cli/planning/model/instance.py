"""The planning instance: catalog, profiles and rules as arrays."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from proteus_cli.arrays import Bools, Floats, Ints
from proteus_cli.control.policies import VariantRule
from proteus_cli.domain.capacity import NO_CAPACITY, Capacity, CapacityStep, capacity_at
from proteus_cli.domain.catalog import NO_VARIANTS, Catalog, VariantsByDevice
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.model.choices import (
    Choice,
    DeviceGroup,
    choices_of,
    groups_of,
    memory_frac,
    network_frac_s,
    require_known,
)
from proteus_cli.planning.model.resident_sets import ResidentSets, resident_sets
from proteus_cli.planning.model.ways import Ways, with_ways
from proteus_cli.planning.model.worths import steps_of, worths_of
from proteus_cli.planning.networks import limits_of_hosts

NEVER = np.iinfo(np.int64).max  # hosts

if TYPE_CHECKING:
    _once = cached_property
else:

    class _once(cached_property):  # noqa: N801 - used as a decorator
        """A property that does not depend on hosts, computed once for an instance and its copies by `with_hosts`."""

        def __get__(self, instance: "Instance | None", owner: type | None = None) -> object:
            """Get the value from the instance that counts on all devices."""
            return super().__get__(instance if instance is None else instance.whole or instance, owner)


@dataclass(frozen=True, eq=False)
class Instance:
    """``F`` families, ``G`` device groups, ``C`` choices, ``L`` steps of accuracy.

    By choice: ``capacities``, and the rate of each, ``capacity_qps``; ``worth`` (see `worths`; the accuracy without
    preferences); ``power_w``. ``pinned`` is the number of devices that must host it, ``memory_frac``
    the part of a device's memory that it takes. ``network_frac_s`` is the part of its host's network limit that one
    query per second takes; 0 without a limit. ``family_choices`` [F, C] and ``group_choices`` [G, C] are 1 where the
    choice is of the family, or of the group, else 0; ``device_count`` is [G].

    The steps of a family are the distinct worths of its choices, falling. A family without choices has one step, of 0.
    ``up_to_step`` [L, C] is 1 where the choice is worth at least as much as the step. ``step_family`` [L] is its
    family, ``step_loss`` [L] the difference to the next worth, or to 0 for the last step. ``last_step`` [F] is the
    index of each family's last step.

    A choice meets its SLO, if all devices serve its family, fits its device and is allowed. Capacities hold for a
    number of hosts of each family: all devices, or the number given to `with_hosts`. Then ``whole`` is the instance
    that counts on all devices. Families that are served have ``min_hosts`` at least; empty: as their batches need.
    ``has_unplaceable_pin``: a pinned variant has no choice on its group.

    Families with cascades have ``ways``. Their losses are modelled by way, so each such family has one step here, for
    the least accurate way, without choices. Choices of one variant on one group may differ in their part of the SLO.
    They share one of ``E`` *engines*; without cascades each choice is an engine.

    Devices ``may_hold_several`` variants, or one. Where sharing a device costs time, ``sets`` are what its devices may
    hold, and ``hosts`` how many of them capacities count on, by family.
    """

    families: tuple[str, ...]
    groups: tuple[DeviceGroup, ...]
    choices: tuple[Choice, ...]
    capacities: tuple[Capacity, ...]
    capacity_qps: Floats
    worth: Floats
    power_w: Floats
    pinned: Floats
    memory_frac: Floats
    network_frac_s: Floats
    family_choices: sp.csc_array
    group_choices: sp.csc_array
    device_count: Floats
    up_to_step: sp.csc_array
    step_family: Ints
    step_loss: Floats
    last_step: Ints
    max_share: Floats
    has_unplaceable_pin: bool
    hosts: tuple[int, ...]
    min_hosts: tuple[int, ...] = ()
    may_hold_several: bool = False
    ways: Ways | None = None
    sets: ResidentSets | None = None
    whole: "Instance | None" = None

    def with_hosts(self, hosts: Ints, min_hosts: Ints | None = None) -> "Instance":
        """The same instance with the capacities for these hosts of each family [F], and at least ``min_hosts``."""
        reached = np.count_nonzero(self._hosts_of_steps <= hosts[self.choice_family, None], axis=1).tolist()
        pairs = zip(self.choices, reached, strict=True)
        capacities = tuple(each.capacity_steps[n - 1].capacity if n else NO_CAPACITY for each, n in pairs)
        return replace(
            self,
            capacities=capacities,
            capacity_qps=np.array([capacity.qps for capacity in capacities]),
            hosts=tuple(hosts.tolist()),
            min_hosts=() if min_hosts is None else tuple(min_hosts.tolist()),
            whole=self.whole or self,
        )

    @_once
    def _hosts_of_steps(self) -> Ints:
        """The number of hosts from which each capacity step of a choice begins; rows are padded."""
        most = max(len(choice.capacity_steps) for choice in self.choices)
        rows = ([step.hosts for step in choice.capacity_steps] for choice in self.choices)
        return np.array([hosts + [NEVER] * (most - len(hosts)) for hosts in rows])

    def steps_among(self, c: int, held: Iterable[int]) -> tuple[CapacityStep, ...]:
        """The capacity of a choice on a device that holds these choices, itself among them."""
        if self.sets is None or self.choices[c].group not in self.sets.shared:
            return self.choices[c].capacity_steps
        return self.sets.in_time[c, frozenset(self.choices[each].key for each in held)]

    def capacity_among(self, c: int, held: Iterable[int]) -> Capacity:
        """The same for the hosts that the instance counts on."""
        if self.sets is None:
            return self.capacities[c]
        return capacity_at(self.steps_among(c, held), self.hosts[self.choices[c].family])

    @_once
    def is_shared(self) -> Bools:
        """Whether what else its device holds costs a choice any time [C]."""
        shared = self.sets.shared if self.sets is not None else frozenset()
        return np.array([choice.group in shared for choice in self.choices], dtype=bool)

    @_once
    def depends_on_hosts(self) -> bool:
        """Some capacity depends on the number of hosts."""
        of_sets = self.sets.steps if self.sets is not None else ()
        every = (*(choice.capacity_steps for choice in self.choices), *of_sets)
        return any(step.hosts > 1 for steps in every for step in steps)

    @_once
    def load_s(self) -> Floats:
        """Seconds to load each engine [E]."""
        return np.array([self.choices[c].measured.load_s for c in self.engine_choice.tolist()])

    @_once
    def loads_beside(self) -> Bools:
        """Whether engines [E] load beside what serves: devices may hold several variants, and have memory for all."""
        of_engine = self.engine_choice
        group = self.choice_group[of_engine]
        taken = np.bincount(group, self.memory_frac[of_engine], minlength=len(self.groups))
        return self.may_hold_several & (self.memory_frac[of_engine] > 0) & (taken[group] <= 1)

    @_once
    def price_per_hour(self) -> Floats:
        """The price of a device of each group [G]; 0 where it is unknown."""
        return np.array([group.price_per_hour or 0.0 for group in self.groups])

    @_once
    def top_worth(self) -> Floats:
        """The worth of each family's most valuable choice [F]; 0 where it has none."""
        top: Floats = np.zeros(len(self.families))
        np.maximum.at(top, self.choice_family, self.worth)
        return top if self.ways is None else np.maximum(top, self.ways.top)

    @_once
    def engine_of(self) -> Ints:
        """The engine of each choice [C]: a variant on a group, whatever the part of the SLO."""
        engines = {key: e for e, key in enumerate(dict.fromkeys((each.group, each.key) for each in self.choices))}
        return np.array([engines[choice.group, choice.key] for choice in self.choices], dtype=np.int64)

    @_once
    def engine_choice(self) -> Ints:
        """The first choice of each engine [E]; without cascades, all choices."""
        return np.unique(self.engine_of, return_index=True)[1]

    @_once
    def engines(self) -> sp.csc_array:
        """Membership of choices in engines: 0/1 [E, C]."""
        return members(self.engine_of, len(self.engine_choice))

    def hosted(self, replicas: Ints | Floats) -> Floats:
        """How many devices host each engine [E], by replicas of choices [C]."""
        return np.asarray(self.engines @ replicas, dtype=np.float64)

    @_once
    def last_step_ways(self) -> sp.csc_array:
        """Which ways are of the family of each step: 0/1 [L, W]; where there are any."""
        assert self.ways is not None  # noqa: S101 - asked for ways only
        return members(self.last_step[self.ways.family], len(self.step_family))

    def group_family_pairs(self) -> tuple[int, sp.csc_array, Ints, Ints]:
        """The P pairs of a group and a family with choices there: P, their choices 0/1 [P, C], groups, families."""
        return self._pairs_with_family(self.choice_group)

    def host_family_pairs(self) -> tuple[int, sp.csc_array, Ints, Ints]:
        """The same of hosts of the cluster, in the order of their first groups, where all groups have one."""
        return self._pairs_with_family(self._choice_host)

    @_once
    def network_choices(self) -> sp.csc_array:
        """Membership of choices in hosts with a network limit: 0/1 [N, C]."""
        is_limited = self.network_frac_s > 0
        limited, row_of = np.unique(self._choice_host[is_limited], return_inverse=True)
        columns = np.flatnonzero(is_limited)
        return sp.csc_array((np.ones(len(columns)), (row_of, columns)), (len(limited), len(self.choices)))

    @_once
    def _choice_host(self) -> Ints:
        """A number for the host of each choice [C]; one for all where it doesn't matter."""
        hosts = {host: h for h, host in enumerate(dict.fromkeys(group.host for group in self.groups))}
        return np.array([hosts[self.groups[choice.group].host] for choice in self.choices], dtype=np.int64)

    def _pairs_with_family(self, of_choice: Ints) -> tuple[int, sp.csc_array, Ints, Ints]:
        both = np.stack((of_choice, self.choice_family))
        (firsts, families), pair_of = np.unique(both, axis=1, return_inverse=True)
        return len(firsts), members(pair_of.ravel(), len(firsts)), firsts, families

    @_once
    def rivals(self) -> Ints:
        """The R pairs of a choice and one of its family and group that is worth more [2, R]; none of shared devices."""
        of_pair = self.group_family_pairs()[1].tocsr()
        found = [np.empty((2, 0), dtype=np.int64)]
        for mine in np.split(of_pair.indices.astype(np.int64), of_pair.indptr[1:-1]):
            if not self.is_shared[mine[0]]:  # there it may cost the others less
                one, other = np.nonzero(self.worth[mine][:, None] < self.worth[mine])
                found.append(np.stack((mine[one], mine[other])))
        return np.concatenate(found, axis=1)

    @_once
    def may_answer_alone(self) -> Bools:
        """Whether a choice may answer queries that go through no cascade [C]."""
        if self.ways is None:
            return np.ones(len(self.choices), dtype=bool)
        alone = {way.stages[0].pool for way in self.ways.ways if way.cascade is None}
        has_ways = self.ways.has_ways
        return np.array([not has_ways[each.family] or each.pool in alone for each in self.choices], dtype=bool)

    @_once
    def choice_group(self) -> Ints:
        """Index of the group of each choice [C]."""
        return np.array([choice.group for choice in self.choices], dtype=np.int64)

    @_once
    def choice_family(self) -> Ints:
        """Index of the family of each choice [C]."""
        return np.array([choice.family for choice in self.choices], dtype=np.int64)

    @property
    def max_qps(self) -> Floats:
        """An upper bound of what any plan can serve of each family [F]."""
        capacity_qps = self.capacity_qps * self.device_count[self.choice_group]
        of_engine = np.zeros(len(self.engine_choice))
        np.maximum.at(of_engine, self.engine_of, capacity_qps)
        return np.bincount(self.choice_family[self.engine_choice], of_engine, len(self.families)).astype(np.float64)


def make_instance(
    catalog: Catalog,
    profiles: Mapping[str, Profile],
    variants: VariantRule,
    rules: Rules,
    *,
    apart: Mapping[str, int] = MappingProxyType({}),
) -> Instance:
    """The planning instance of profiled devices (by id); those with different numbers in ``apart`` form no group.

    Raises `UsageError` where the rules need a power, price or memory that is unknown.
    """
    limits = limits_of_hosts(catalog, profiles, rules)
    groups = tuple(groups_of(catalog, profiles, rules, apart, limits))
    choices, ways = tuple(choices_of(catalog, groups, variants, rules)), None
    if rules.cascades:
        choices, ways = with_ways(catalog, groups, choices, rules)
    require_known(groups, choices, rules)
    targets, devices = rules.planned_targets(catalog.slo_targets()), sum(len(group.devices) for group in groups)
    capacities = tuple(capacity_at(choice.capacity_steps, devices) for choice in choices)
    sets = resident_sets(groups, choices, [targets[name] for name in catalog.names], rules)
    worths = worths_of(catalog, groups, choices, rules)
    steps = list(steps_of(catalog, choices, worths.tolist(), ways))
    up_to_step = np.array([(s, c) for s, step in enumerate(steps) for c in step.choices], dtype=np.int64).reshape(-1, 2)
    placeable = {(choice.group, choice.key) for choice in choices}
    return Instance(
        families=catalog.names,
        groups=groups,
        choices=choices,
        capacities=capacities,
        capacity_qps=np.array([capacity.qps for capacity in capacities]),
        worth=worths,
        power_w=np.array([choice.measured.power_w or 0.0 for choice in choices]),
        pinned=np.array(
            [len(groups[c.group].devices) * float(c.key in groups[c.group].limits.pinned) for c in choices]
        ),
        memory_frac=np.array([memory_frac(groups[c.group].profile, c.measured) for c in choices]),
        network_frac_s=np.array([network_frac_s(groups[choice.group], choice, limits) for choice in choices]),
        family_choices=members([choice.family for choice in choices], len(catalog.families)),
        group_choices=members([choice.group for choice in choices], len(groups)),
        device_count=np.array([float(len(group.devices)) for group in groups]),
        up_to_step=sp.csc_array((np.ones(len(up_to_step)), tuple(up_to_step.T)), shape=(len(steps), len(choices))),
        step_family=np.array([step.family for step in steps]),
        step_loss=np.array([step.loss for step in steps]),
        last_step=np.array([s for s, step in enumerate(steps) if step.is_last]),
        max_share=np.array([rules.max_share.get(name, 1.0) for name in catalog.names]),
        has_unplaceable_pin=any(
            (g, key) not in placeable for g, group in enumerate(groups) for key in group.limits.pinned
        ),
        hosts=(devices,) * len(catalog.families),
        may_hold_several=rules.is_resident_set,
        ways=ways,
        sets=sets,
    )


def members(row_of: Sequence[int] | Ints, rows: int) -> sp.csc_array:
    """0/1 [rows, len(row_of)] with a 1 in each column, in the given row."""
    columns = len(row_of)
    return sp.csc_array((np.ones(columns), np.asarray(row_of, dtype=np.int64), np.arange(columns + 1)), (rows, columns))


@dataclass(frozen=True, slots=True)
class Now:
    """The variants that each device hosts in the plan in force; ``resident`` includes standbys.

    It is false without a plan.

    With standbys, the minimal number of loads is a lower bound: a device can host only one of two loaded variants.
    Grouping devices by their standbys would make the model far larger.
    """

    hosted: VariantsByDevice
    resident: VariantsByDevice

    @classmethod
    def of(cls, current: Plan | None, standbys: VariantsByDevice, profiles: Mapping[str, Profile]) -> "Now":
        """The hosted and resident variants of the devices with profiles."""
        if current is None:
            return NOWHERE
        hosted = {device: keys for device, keys in current.hosted().items() if device in profiles}
        return cls(hosted, {device: keys | standbys.get(device, NO_VARIANTS) for device, keys in hosted.items()})

    @property
    def has_standbys(self) -> bool:
        """Whether anything is loaded that is not active."""
        return self.resident != self.hosted

    def __bool__(self) -> bool:
        return bool(self.hosted)


NOWHERE = Now({}, {})
