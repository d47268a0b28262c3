"""The planning instance: catalog, profiles and rules as arrays."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from proteus_cli.arrays import Floats, Ints
from proteus_cli.control.policies import VariantRule
from proteus_cli.domain.capacity import Capacity, CapacityStep, capacity_at
from proteus_cli.domain.catalog import Catalog, Family, VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile, VariantProfile, best_accuracy
from proteus_cli.domain.rules import DeviceLimits, Rules, limits_of
from proteus_cli.errors import UsageError
from proteus_cli.planning.networks import limits_of_hosts, row_bytes

HostedKeys = Mapping[str, frozenset[VariantKey]]

NOTHING: frozenset[VariantKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Now:
    """What each device hosts in the plan in force, and what is ``resident``: that and its standbys. False: no plan is.

    With standbys, the fewest loads that are counted are a lower bound: of two variants that a device has loaded, it can
    host but one, and to tell devices apart by their standbys would make a large model of a small one.
    """

    hosted: HostedKeys
    resident: HostedKeys

    @classmethod
    def of(cls, current: Plan | None, standbys: HostedKeys, profiles: Mapping[str, Profile]) -> "Now":
        """Of the devices with profiles."""
        if current is None:
            return NOWHERE
        hosted = {device: keys for device, keys in current.hosted().items() if device in profiles}
        return cls(hosted, {device: keys | standbys.get(device, NOTHING) for device, keys in hosted.items()})

    @property
    def has_standbys(self) -> bool:
        return self.resident != self.hosted

    def __bool__(self) -> bool:
        return bool(self.hosted)


NOWHERE = Now({}, {})


@dataclass(frozen=True, slots=True)
class DeviceGroup:
    """Devices of equal type, measurements, limits and price, which host the same variants where that matters.

    ``price_per_hour`` is None where it is unknown; ``hosted`` is empty where it doesn't matter. ``host`` is the host of
    the cluster that all of them belong to, None where that doesn't matter.
    """

    type: str
    devices: tuple[str, ...]
    profile: Profile
    price_per_hour: float | None
    limits: DeviceLimits
    hosted: frozenset[VariantKey]
    host: str | None


@dataclass(frozen=True, slots=True)
class Choice:
    """One variant on one group of devices: a column of the model.

    ``capacity`` for the number of hosts that the instance counts on, ``capacity_steps`` for any.
    """

    group: int
    family: int
    measured: VariantProfile
    capacity: Capacity
    capacity_steps: tuple[CapacityStep, ...]

    @property
    def key(self) -> VariantKey:
        return self.measured.key


@dataclass(frozen=True, eq=False)
class Instance:
    """``F`` families, ``G`` device groups, ``C`` choices, ``L`` steps of accuracy.

    By choice: ``capacity_qps``, ``accuracy``, ``power_w``, ``pinned`` (devices that must host it), ``memory_frac``, the
    part of a device's memory that it takes, and ``network_frac_s``, the part of what its host's network may carry that
    one query per second takes; 0 without a limit. ``family_choices`` [F, C] and ``group_choices`` [G, C] are 1 where
    the choice is of the family, or of the group, else 0; ``device_count`` is [G].

    The steps of a family are its distinct accuracies, falling; a family without choices has one step, of 0.
    ``up_to_step`` [L, C] is 1 where the choice is at least as accurate as the step, ``step_family`` [L] its family,
    ``step_loss`` [L] how much less accurate the next step is (or not being served), ``last_step`` [F] the index of each
    family's last step.

    A choice meets its SLO, if all devices serve its family, fits its device and is allowed. Capacities count on a
    number of hosts of each family: that of all devices, or what `with_hosts` was told. ``unplaceable``: pins whose
    variant has no choice on that group.
    """

    families: tuple[str, ...]
    groups: tuple[DeviceGroup, ...]
    choices: tuple[Choice, ...]
    capacity_qps: Floats
    accuracy: Floats
    power_w: Floats
    pinned: Floats
    memory_frac: Floats
    network_frac_s: Floats
    family_choices: sp.csr_array
    group_choices: sp.csr_array
    device_count: Floats
    up_to_step: sp.csr_array
    step_family: Ints
    step_loss: Floats
    last_step: Ints
    best_accuracy: Floats
    max_share: Floats
    unplaceable: tuple[str, ...]

    def with_hosts(self, hosts: Ints) -> "Instance":
        """The same instance with the capacities where so many hosts serve each family [F]."""
        counts = hosts.tolist()
        choices = tuple(
            replace(choice, capacity=capacity_at(choice.capacity_steps, counts[choice.family]))
            for choice in self.choices
        )
        return replace(self, choices=choices, capacity_qps=np.array([choice.capacity.qps for choice in choices]))

    @cached_property
    def depends_on_hosts(self) -> bool:
        """Some capacity depends on the number of hosts."""
        return any(step.hosts > 1 for choice in self.choices for step in choice.capacity_steps)

    @cached_property
    def load_s(self) -> Floats:
        """Seconds to load each choice [C]."""
        return np.array([choice.measured.load_s for choice in self.choices])

    @cached_property
    def price_per_hour(self) -> Floats:
        """The price of a device of each group [G]; 0 where it is unknown."""
        return np.array([group.price_per_hour or 0.0 for group in self.groups])

    @cached_property
    def top_accuracy(self) -> Floats:
        """The accuracy of each family's most accurate choice [F]; 0 where it has none."""
        top: Floats = np.zeros(len(self.families))
        np.maximum.at(top, self.choice_family, self.accuracy)
        return top

    @cached_property
    def family_steps(self) -> sp.csr_array:
        """Which steps are of which family: 0/1 [F, L]."""
        return members(self.step_family, len(self.families))

    def group_family_pairs(self) -> tuple[int, sp.csr_array, Ints, Ints]:
        """The P pairs of a group and a family with choices there: P, their choices 0/1 [P, C], groups, families."""
        return self._pairs_with_family(self.choice_group)

    def host_family_pairs(self) -> tuple[int, sp.csr_array, Ints, Ints]:
        """The same of hosts of the cluster, in the order of their first groups, where all groups have one."""
        return self._pairs_with_family(self._choice_host)

    @cached_property
    def network_choices(self) -> sp.csr_array:
        """Which choices take of which host's network, for hosts with a limit: 0/1 [N, C]."""
        is_limited = self.network_frac_s > 0
        limited, row_of = np.unique(self._choice_host[is_limited], return_inverse=True)
        columns = np.flatnonzero(is_limited)
        return sp.csr_array((np.ones(len(columns)), (row_of, columns)), (len(limited), len(self.choices)))

    @cached_property
    def _choice_host(self) -> Ints:
        """A number for the host of each choice [C]; one for all where it doesn't matter."""
        hosts = {host: h for h, host in enumerate(dict.fromkeys(group.host for group in self.groups))}
        return np.array([hosts[self.groups[choice.group].host] for choice in self.choices], dtype=np.int64)

    def _pairs_with_family(self, of_choice: Ints) -> tuple[int, sp.csr_array, Ints, Ints]:
        both = np.stack((of_choice, self.choice_family))
        (firsts, families), pair_of = np.unique(both, axis=1, return_inverse=True)
        return len(firsts), members(pair_of.ravel(), len(firsts)), firsts, families

    @cached_property
    def rivals(self) -> tuple[Ints, ...]:
        """For each pair of `group_family_pairs`: the indices of its choices."""
        of_pair = self.group_family_pairs()[1]
        return tuple(row.astype(np.int64) for row in np.split(of_pair.indices, of_pair.indptr[1:-1]))

    @cached_property
    def choice_group(self) -> Ints:
        """Index of the group of each choice [C]."""
        return np.array([choice.group for choice in self.choices], dtype=np.int64)

    @cached_property
    def choice_family(self) -> Ints:
        """Index of the family of each choice [C]."""
        return np.array([choice.family for choice in self.choices], dtype=np.int64)

    @cached_property
    def max_qps(self) -> Floats:
        """An upper bound of what any plan can serve of each family [F]."""
        bound: Floats = self.family_choices @ (self.capacity_qps * (self.device_count @ self.group_choices))
        return bound


def make_instance(
    catalog: Catalog,
    profiles: Mapping[str, Profile],
    variants: VariantRule,
    rules: Rules,
    *,
    hosted: HostedKeys | None = None,
    alone: AbstractSet[str] = frozenset(),
) -> Instance:
    """The planning instance of profiled devices (by id).

    With ``hosted``, devices that host different variants now are in different groups; each device in ``alone`` is a
    group. Raises `UsageError` where the rules need a power, price or memory that is unknown.
    """
    limits = limits_of_hosts(catalog, profiles, rules)
    groups = tuple(_groups(catalog, profiles, rules, hosted or {}, alone, limits))
    choices = tuple(_choices(catalog, groups, variants, rules))
    _require_known(groups, choices, rules)
    steps = list(_steps(catalog, choices))
    up_to_step = np.array([(s, c) for s, step in enumerate(steps) for c in step.choices], dtype=np.int64).reshape(-1, 2)
    best = best_accuracy(profiles.values())
    placeable = {(choice.group, choice.key) for choice in choices}
    return Instance(
        families=catalog.names,
        groups=groups,
        choices=choices,
        capacity_qps=np.array([choice.capacity.qps for choice in choices]),
        accuracy=np.array([choice.measured.accuracy for choice in choices]),
        power_w=np.array([choice.measured.power_w or 0.0 for choice in choices]),
        pinned=np.array(
            [len(groups[c.group].devices) * float(c.key in groups[c.group].limits.pinned) for c in choices]
        ),
        memory_frac=np.array([_memory_frac(groups[c.group].profile, c.measured) for c in choices]),
        network_frac_s=np.array([_network_frac_s(groups[choice.group], choice, limits) for choice in choices]),
        family_choices=members([choice.family for choice in choices], len(catalog.families)),
        group_choices=members([choice.group for choice in choices], len(groups)),
        device_count=np.array([float(len(group.devices)) for group in groups]),
        up_to_step=sp.csr_array((np.ones(len(up_to_step)), tuple(up_to_step.T)), shape=(len(steps), len(choices))),
        step_family=np.array([step.family for step in steps]),
        step_loss=np.array([step.loss for step in steps]),
        last_step=np.array([s for s, step in enumerate(steps) if step.is_last]),
        best_accuracy=np.array([best.get(name, 0.0) for name in catalog.names]),
        max_share=np.array([rules.max_share.get(name, 1.0) for name in catalog.names]),
        unplaceable=tuple(
            f"{group.devices[0]}:{'/'.join(key)}"
            for g, group in enumerate(groups)
            for key in sorted(group.limits.pinned)
            if (g, key) not in placeable
        ),
    )


def _groups(
    catalog: Catalog,
    profiles: Mapping[str, Profile],
    rules: Rules,
    hosted: HostedKeys,
    alone: AbstractSet[str],
    limited_hosts: Collection[str],
) -> Iterator[DeviceGroup]:
    measurements: list[tuple[VariantProfile, ...]] = []
    is_by_host = rules.survives == "host"
    limits: dict[tuple[str, str], DeviceLimits] = {}
    named = {pair.device for pair in (*rules.pinned, *rules.banned)} | {each.device for each in rules.reserved}
    alike: dict[object, DeviceGroup] = {}
    devices: dict[object, list[str]] = {}
    for device_id, profile in profiles.items():
        device = profile.device
        named_as = (device.id if device.id in named else "", device.type)  # all that rules can name it by
        if named_as not in limits:
            limits[named_as] = limits_of(device, rules)
        group = DeviceGroup(
            type=device.type,
            devices=(),
            profile=profile,
            price_per_hour=catalog.price_per_hour.get(device.id, catalog.price_per_hour.get(device.type)),
            limits=limits[named_as],
            hosted=hosted.get(device_id, NOTHING),
            host=device.host if is_by_host or (limited_hosts and device.host in limited_hosts) else None,
        )
        number = _number(measurements, profile.variants)
        key = (
            number,
            profile.slots,
            device.type,
            device.memory_bytes,
            group.price_per_hour,
            group.limits,
            group.hosted,
            group.host,
        )
        key_alone = (key, device_id if device_id in alone else None)
        alike.setdefault(key_alone, group)
        devices.setdefault(key_alone, []).append(device_id)
    return (replace(group, devices=tuple(devices[key])) for key, group in alike.items())


def _number(known: list[tuple[VariantProfile, ...]], measured: tuple[VariantProfile, ...]) -> int:
    """A number that equal measurements share; devices with the very same tuple are found without comparing values."""
    for number, each in enumerate(known):
        if each is measured or each == measured:
            return number
    known.append(measured)
    return len(known) - 1


def _choices(catalog: Catalog, groups: Sequence[DeviceGroup], variants: VariantRule, rules: Rules) -> Iterator[Choice]:
    known: dict[tuple[int, int], tuple[CapacityStep, ...]] = {}
    devices = sum(len(group.devices) for group in groups)
    for g, group in enumerate(groups):
        measured_of = {(measured.family, measured.variant): measured for measured in group.profile.variants}
        for f, family in enumerate(catalog.families):
            found = [measured_of.get((family.name, variant.name)) for variant in family.variants]
            for measured in _allowed([each for each in found if each is not None], variants):
                key = id(measured), group.profile.slots
                if key not in known:
                    known[key] = rules.capacity_steps(family.slo_s, group.profile.points_of(measured))
                capacity = capacity_at(known[key], devices)
                if capacity.qps > 0 and _may_host(group, family, measured, rules):
                    yield Choice(g, f, measured, capacity, known[key])


def _may_host(group: DeviceGroup, family: Family, measured: VariantProfile, rules: Rules) -> bool:
    return (
        group.limits.allows(measured.key)
        and measured.accuracy >= rules.min_accuracy.get(family.name, 0.0)
        and _memory_frac(group.profile, measured) <= 1
    )


def _memory_frac(profile: Profile, measured: VariantProfile) -> float:
    """The part of a device's memory that a variant takes; 0 where that of either is unknown."""
    memory_bytes = profile.device.memory_bytes
    return measured.memory_with(profile.slots) / memory_bytes if memory_bytes > 0 else 0.0


def _network_frac_s(group: DeviceGroup, choice: Choice, limits: Mapping[str, float]) -> float:
    limit = limits.get(group.host) if group.host is not None else None
    return row_bytes(group.profile, choice.measured.family) / limit if limit is not None else 0.0


def _allowed(measured: Sequence[VariantProfile], rule: VariantRule) -> Sequence[VariantProfile]:
    if rule == "all" or not measured:
        return measured
    pick = max if rule == "most-accurate" else min
    return [pick(measured, key=lambda variant: variant.accuracy)]


def _require_known(groups: Sequence[DeviceGroup], choices: Sequence[Choice], rules: Rules) -> None:
    if rules.budget_cost is not None or rules.minimize == "cost":
        unpriced = dict.fromkeys(group.type for group in groups if group.price_per_hour is None)
        if unpriced:
            raise UsageError(
                f"No price per hour is known of {', '.join(f'`{name}`' for name in unpriced)}.",
                hint="the table [price_per_hour] of the catalog gives it by device type or id",
            )
    for choice in choices:
        group, measured = groups[choice.group], choice.measured
        where = f"`{measured.variant}` on `{group.type}`"
        if (rules.budget_w is not None or rules.minimize == "power") and measured.power_w is None:
            raise UsageError(f"The profile knows no power of {where}.", hint="give `power_w` in an imported profile")
        is_unknown = measured.memory_bytes == 0 or group.profile.device.memory_bytes == 0
        if rules.residency == "memory" and is_unknown:
            raise UsageError(
                f"The profile doesn't say how much memory {where} takes, or has.",
                hint="import `memory_bytes` and `device_memory_bytes`, or give a number: `--residency 2`",
            )


@dataclass(frozen=True, slots=True)
class _Step:
    family: int
    choices: list[int]
    loss: float
    is_last: bool


def _steps(catalog: Catalog, choices: Sequence[Choice]) -> Iterator[_Step]:
    by_family: list[list[int]] = [[] for _ in catalog.families]
    for c, choice in enumerate(choices):
        by_family[choice.family].append(c)
    for f, mine in enumerate(by_family):
        accuracies = sorted({choices[c].measured.accuracy for c in mine}, reverse=True) or [0.0]
        for accuracy, worse in zip(accuracies, [*accuracies[1:], None], strict=True):
            at_least = [c for c in mine if choices[c].measured.accuracy >= accuracy]
            yield _Step(f, at_least, accuracy - (worse or 0.0), worse is None)


def members(row_of: Sequence[int] | Ints, rows: int) -> sp.csr_array:
    """0/1 [rows, len(row_of)] with a 1 in each column, in the given row."""
    columns = len(row_of)
    return sp.csr_array((np.ones(columns), (np.asarray(row_of, dtype=np.int64), np.arange(columns))), (rows, columns))
