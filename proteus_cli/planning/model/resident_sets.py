"""Devices whose variants cost each other time: the sets of variants that one of them may hold.

Where sharing a device costs nothing, a variant's capacity is its own, and counts of replicas are all that is decided.
Where it does (`domain.batch_times`), the capacity of a variant depends on what else its device holds, which would make
a product of two unknowns. In groups with such a cost the model chooses sets: ``sets[s]`` devices hold set ``s``, and a
choice answers ``served_in_set[n]`` on these. Beside a given set a capacity is a number, so the model is linear and
exact. Devices that hold the same set are alike, so there is no packing left to do:

    Σ_n of s  utilisation[n] · served_in_set[n] ≤ sets[s]        served[c]   = Σ_n of c  served_in_set[n]
    Σ_s of g  sets[s] ≤ devices used of g                        replicas[e] = Σ_s with e  sets[s]

A set counts if it fits the memory, holds all that is pinned there, and each of its variants is in time beside the
others. More variants beside it make no variant faster. Sets therefore grow from smaller ones that count, beginning with
the pinned variants or with single ones. Beyond `MAX_SETS` of a group, the largest are left out, never the smallest.
This forbids some plans, and the others are valid. With cascades, a variant has a choice for each part of the SLO.
Where a device would hold two of them, `search` splits its group, as for any group that cannot be packed.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from proteus_cli.arrays import Ints
from proteus_cli.domain.attainment import SloTarget
from proteus_cli.domain.batch_times import beside
from proteus_cli.domain.capacity import Capacity, CapacityStep, capacity_at
from proteus_cli.domain.catalog import VariantKey, name_in_catalog
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.model.choices import Choice, DeviceGroup, memory_frac

MAX_SETS = 400
"""Sets of one group. Up to three of twelve variants make 298 sets."""

Keys = frozenset[VariantKey]
CapacitySteps = tuple[CapacityStep, ...]
Pairs = list[tuple[int, CapacitySteps]]
"""The choices of a set, each with its capacity there."""


@dataclass(frozen=True, eq=False)
class ResidentSets:
    """``S`` sets, each of a group, and ``N`` pairs of a choice and a set that it is in.

    By set: ``group``, and ``keys``, what it holds. By pair: ``pair_set``, ``pair_choice``, and ``steps``, the capacity
    of the choice beside the rest of the set. Groups of the ``shared`` have no other sets.
    """

    shared: frozenset[int]
    group: Ints
    keys: tuple[Keys, ...]
    pair_set: Ints
    pair_choice: Ints
    steps: tuple[CapacitySteps, ...]

    @cached_property
    def in_time(self) -> dict[tuple[int, Keys], CapacitySteps]:
        """The capacity by choice and all that its device holds."""
        pairs = zip(self.pair_choice.tolist(), self.pair_set.tolist(), self.steps, strict=True)
        return {(c, self.keys[s]): steps for c, s, steps in pairs}

    def members(self, engines: Sequence[tuple[int, VariantKey]]) -> sp.csc_array:
        """Which engines, each of a group, are in which set: 0/1 [E, S]."""
        place = {engine: e for e, engine in enumerate(engines)}
        entries = [(place[g, key], s) for s, g in enumerate(self.group.tolist()) for key in self.keys[s]]
        rows, columns = zip(*entries, strict=True)
        return sp.csc_array((np.ones(len(entries)), (rows, columns)), (len(engines), len(self.keys)))

    def capacities(self, hosts: Sequence[int], choices: Sequence[Choice]) -> list[Capacity]:
        """The capacity of each pair [N] for these hosts of each family."""
        families = (choices[c].family for c in self.pair_choice.tolist())
        return [capacity_at(steps, hosts[f]) for steps, f in zip(self.steps, families, strict=True)]


def resident_sets(
    groups: Sequence[DeviceGroup], choices: Sequence[Choice], targets: Sequence[SloTarget], rules: Rules
) -> ResidentSets | None:
    """The sets of all groups where sharing costs anything; None where it does in none. ``targets`` by family."""
    if not rules.is_resident_set:
        return None
    known: dict[tuple[int, SloTarget, int], tuple[VariantProfile, CapacitySteps]] = {}
    found: list[tuple[int, Keys, Pairs]] = []
    shared = []
    for g, group in enumerate(groups):
        mine = [(c, choice) for c, choice in enumerate(choices) if choice.group == g]
        if _costs_anything(group.profile, {choice.key: choice.measured for _, choice in mine}, rules):
            shared.append(g)
            of_group = _SetsOfGroup(group, mine, targets, rules, known)
            found += [(g, keys, pairs) for keys, pairs in of_group.all().items()]
    if not shared:
        return None
    pairs = [(s, c, steps) for s, (_, _, of_set) in enumerate(found) for c, steps in of_set]
    return ResidentSets(
        shared=frozenset(shared),
        group=np.array([g for g, _, _ in found], dtype=np.int64),
        keys=tuple(keys for _, keys, _ in found),
        pair_set=np.array([s for s, _, _ in pairs], dtype=np.int64),
        pair_choice=np.array([c for _, c, _ in pairs], dtype=np.int64),
        steps=tuple(steps for _, _, steps in pairs),
    )


def _costs_anything(profile: Profile, measured: Mapping[VariantKey, VariantProfile], rules: Rules) -> bool:
    """Whether any set that a device may hold has a cost. It does where one that was measured has: pairs, or larger.

    Costs are by name in the catalog. ``measured`` includes versions of these names.
    """
    named: dict[VariantKey, list[VariantProfile]] = {}
    for key, each in measured.items():
        named.setdefault(VariantKey(key.family, name_in_catalog(key.variant)), []).append(each)
    largest = math.inf if rules.residency == "memory" else int(rules.residency)
    return any(
        beside(profile, each, cost.others) is not each
        for cost in profile.sharing
        if len(cost.others) < largest and named.keys() >= {cost.key, *cost.others}
        for each in named[cost.key]
    )


@dataclass(frozen=True, slots=True)
class _SetsOfGroup:
    """Finds the resident sets of one device group.

    ``choices`` are the group's choices with their columns; ``targets`` are the SLO targets by family. ``known`` caches
    capacity steps under the `id` of a measured variant, its SLO target and slots. Each entry also holds that variant,
    so that its `id` stays unique.
    """

    group: DeviceGroup
    choices: Sequence[tuple[int, Choice]]
    targets: Sequence[SloTarget]
    rules: Rules
    known: dict[tuple[int, SloTarget, int], tuple[VariantProfile, CapacitySteps]]

    def all(self) -> dict[Keys, Pairs]:
        """Each set with the choices that are in time in it, the smallest sets first.

        If no set holds all pinned variants, no plan obeys the pins. Then the sets are single variants, because the
        model needs sets.
        """
        keys = sorted({choice.key for _, choice in self.choices})
        singles = [frozenset({key}) for key in keys]
        pinned = self.group.limits.pinned
        return dict(self._growing([pinned] if pinned else singles, keys)) or self._in_time(singles, len(singles))

    def _growing(self, smallest: Sequence[Keys], keys: Sequence[VariantKey]) -> Iterator[tuple[Keys, Pairs]]:
        """All sets that are in time, from the ``smallest``, up to a size at which there are `MAX_SETS`.

        The smallest are always among them, however many they are.
        """
        largest = len(keys) if self.rules.residency == "memory" else int(self.rules.residency)
        size, left = len(smallest[0]), max(MAX_SETS, len(smallest))
        now = self._in_time(smallest, left) if size <= largest else {}
        while now and len(now) <= left:
            yield from now.items()
            size, left = size + 1, left - len(now)
            now = self._in_time(self._grown(now, keys), left) if size <= largest else {}

    def _in_time(self, sets: Iterable[Keys], most: int) -> dict[Keys, Pairs]:
        """The sets in which each variant is in time. The search ends at ``most`` + 1 sets, which callers discard."""
        found: dict[Keys, Pairs] = {}
        for held in sets:
            if pairs := self._pairs(held):
                found[held] = pairs
                if len(found) > most:
                    break
        return found

    def _grown(self, before: Collection[Keys], keys: Sequence[VariantKey]) -> Iterator[Keys]:
        """The sets with one variant more whose subsets are all in ``before``, each once.

        Only subsets that hold all pinned variants count.
        """
        pinned, seen = self.group.limits.pinned, set[Keys]()
        for held in sorted(before, key=sorted):
            for key in keys:
                grown = held | {key}
                if key not in held and grown not in seen:
                    seen.add(grown)
                    if all(grown - {other} in before for other in grown - pinned):
                        yield grown

    def _pairs(self, keys: Keys) -> Pairs:
        """The choices that are in time beside the rest of a set; none where one of its variants has none."""
        mine = [(c, choice) for c, choice in self.choices if choice.key in keys]
        memory = {choice.key: memory_frac(self.group.profile, choice.measured) for _, choice in mine}
        if sum(memory.values()) > 1:
            return []
        pairs = [(c, steps) for c, choice in mine if (steps := self._steps(choice, keys))]
        in_time = {choice.key for c, choice in mine if any(c == other for other, _ in pairs)}
        return pairs if in_time == keys else []

    def _steps(self, choice: Choice, keys: Keys) -> CapacitySteps:
        profile = self.group.profile
        among = beside(profile, choice.measured, keys - {choice.key})
        if among is choice.measured:
            return choice.capacity_steps
        target = self.targets[choice.family].of_part(choice.slo_part)
        place = id(among), target, profile.slots
        if place not in self.known:
            self.known[place] = among, self.rules.capacity_steps(target, profile.points_of(among))
        return self.known[place][1]
