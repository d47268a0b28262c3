"""From replicas by group to bundles by device: which variants are together, and how much each answers."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from proteus_cli.arrays import Ints
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.model.instance import Instance
from proteus_cli.planning.placements.host_counts import kept_replicas
from proteus_cli.planning.solver.solution import Solution
from proteus_cli.planning.solver.target_demand import TargetDemand

NEGLIGIBLE_DEVICE_FRAC = 2e-6  # a smaller part of a device, or of its time, is the solver's rounding

Bundle = dict[int, float]
"""The choices that one device hosts, each with the queries per second that it has room for, with headroom."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A bundle for each device in use, by group.

    ``unplaced``: groups on whose devices not all of the solution fits. ``over_power``: groups that draw more power than
    the solution says.
    """

    bundles: tuple[tuple[Bundle, ...], ...]
    unplaced: frozenset[int] = frozenset()
    over_power: frozenset[int] = frozenset()

    def items(self) -> Iterator[tuple[int, float]]:
        """Each choice on each device, with the queries per second that it has room for."""
        return (item for bundles in self.bundles for bundle in bundles for item in bundle.items())


def pack(instance: Instance, solution: Solution, rules: Rules, target: TargetDemand) -> Packed:
    """Spread each group's rates over its devices.

    With one variant per device that is a division. With several it is bin packing by time and memory, where time may be
    split and memory may not: several orders are tried. Where not all fits, the sums of the group promised too much, and
    its devices must be planned one by one.
    """
    if not rules.is_resident_set:
        return Packed(tuple(tuple(_divided(instance, solution, rules, g)) for g in range(len(instance.groups))))
    packer, shared = _Packer(instance, solution, rules, target), instance.sets.shared if instance.sets else ()
    packings = [_of_sets(instance, solution, g) if g in shared else packer.pack(g) for g in range(len(instance.groups))]
    several = [g for g, count in enumerate(instance.device_count) if count > 1]  # the sums of one device are its own
    return Packed(
        bundles=tuple(packing.bundles for packing in packings),
        unplaced=frozenset(g for g in several if packings[g].unplaced > NEGLIGIBLE_DEVICE_FRAC),
        over_power=frozenset(g for g in several if packings[g].excess_power_w > 0),
    )


def _divided(instance: Instance, solution: Solution, rules: Rules, group: int) -> Iterator[Bundle]:
    """One choice per device. Its replicas have equal rates; `kept_replicas` says which are left."""
    kept = kept_replicas(instance, solution, rules)
    for c in np.flatnonzero(instance.choice_group == group).tolist():
        for _ in range(int(kept[c])):
            yield {c: float(solution.executed_qps[c]) / int(solution.replicas[c])}


def _of_sets(instance: Instance, solution: Solution, group: int) -> "_Packing":
    """The bundles of a group where sharing costs time, from the sets that the solver chose.

    A device holds a variant for one part of the SLO; where the solver counts on several, the others are unplaced.
    """
    sets, counts, served = instance.sets, solution.sets, solution.served_in_set
    assert sets is not None and counts is not None and served is not None  # noqa: S101, PT018 - asked for sets only
    all_served = np.zeros(len(instance.choices))
    np.add.at(all_served, sets.pair_choice, served)
    bundles: list[Bundle] = []
    unplaced = 0.0
    for s in np.flatnonzero((sets.group == group) & (counts > 0)).tolist():
        of_engine: dict[int, dict[int, float]] = {}
        for n in np.flatnonzero(sets.pair_set == s).tolist():
            c = int(sets.pair_choice[n])
            part = float(served[n] / all_served[c]) if all_served[c] > 0 else 0.0
            room_qps = float(solution.room_qps[c]) * part / int(counts[s])
            of_engine.setdefault(int(instance.engine_of[c]), {})[c] = room_qps
        bundle: Bundle = {}
        for parts in of_engine.values():
            chosen = max(parts, key=lambda c: (parts[c], c))
            left_qps = {c: qps for c, qps in parts.items() if c != chosen}
            unplaced += sum(qps / float(instance.capacity_qps[c]) for c, qps in left_qps.items() if qps > 0)
            if parts[chosen] > 0 or solution.is_forecast or instance.pinned[chosen] > 0:
                bundle[chosen] = parts[chosen]
        bundles += [dict(bundle) for _ in range(int(counts[s]) if bundle else 0)]
    return _Packing(tuple(bundles), unplaced, _excess_w(instance, solution, group, bundles))


def _excess_w(instance: Instance, solution: Solution, group: int, held: Iterable[Collection[int]]) -> float:
    """The power that devices draw beyond the solution's, by the choices that each holds."""
    if solution.power_w is None:
        return 0.0
    power_w = sum(max(float(instance.power_w[c]) for c in choices) for choices in held if choices)
    solved_power_w = float(solution.power_w[group])
    return max(power_w - solved_power_w * (1 + NEGLIGIBLE_DEVICE_FRAC) - NEGLIGIBLE_DEVICE_FRAC, 0.0)


@dataclass(slots=True)
class _Item:
    """How many devices a choice keeps busy, and the memory and power that each of its replicas takes."""

    choice: int
    utilisation: float
    memory: float
    power_w: float


@dataclass(slots=True)
class _DeviceLoad:
    free_places: float
    memory: float = 1 + NEGLIGIBLE_DEVICE_FRAC
    time: float = 1 + NEGLIGIBLE_DEVICE_FRAC
    utilisation: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Packing:
    """Bundles, the device time that was not placed, and the power drawn beyond the solution's."""

    bundles: tuple[Bundle, ...]
    unplaced: float
    excess_power_w: float

    @property
    def unmet(self) -> tuple[float, float]:
        return (self.unplaced if self.unplaced > NEGLIGIBLE_DEVICE_FRAC else 0.0, self.excess_power_w)


_ORDERS: tuple[Callable[[_Item], float], ...] = (
    lambda item: -item.memory,
    lambda item: -item.utilisation,
    lambda item: -item.memory * item.utilisation,
    lambda item: item.utilisation,
    lambda item: -item.power_w,
)


class _Packer:
    def __init__(self, instance: Instance, solution: Solution, rules: Rules, target: TargetDemand) -> None:
        self._instance, self._solution = instance, solution
        self._max_residents = float("inf") if rules.residency == "memory" else float(rules.residency)
        self._max_qps = target.share_qps * target.useful * (1 + NEGLIGIBLE_DEVICE_FRAC)
        if instance.ways is not None:  # both stages of a query may be on one device
            self._max_qps[instance.ways.has_ways & (instance.max_share >= 1)] = np.inf
        self._is_counted = rules.pack or "cost" in rules.resources

    def pack(self, group: int) -> _Packing:
        """The packing in the first order in which all fits, else in the best one."""
        mine = np.flatnonzero(self._instance.choice_group == group)
        best: _Packing | None = None
        for order in _ORDERS:
            packing = self._pack_in_order(group, mine, order)
            if best is None or packing.unmet < best.unmet:
                best = packing
            if best.unmet == (0.0, 0.0):
                break
        assert best is not None  # noqa: S101 - there are orders
        return best

    def _pack_in_order(self, group: int, mine: Ints, order: Callable[[_Item], float]) -> _Packing:
        instance, solution = self._instance, self._solution
        devices_used = solution.devices_used if self._is_counted else None
        count = len(instance.groups[group].devices) if devices_used is None else int(devices_used[group])
        devices = [_DeviceLoad(free_places=self._max_residents) for _ in range(count)]
        for device, choices in zip(devices, self._pinned(mine, count), strict=False):
            for c in choices:
                self._place(device, c, 0.0)
        utilisation = np.divide(
            solution.room_qps,
            instance.capacity_qps,
            out=np.zeros(len(instance.choices)),
            where=instance.capacity_qps > 0,
        )
        items = [
            _Item(c, float(utilisation[c]), float(instance.memory_frac[c]), float(instance.power_w[c]))
            for c in mine.tolist()
            if utilisation[c] > 0
        ]
        unplaced = sum(self._place_all(devices, item) for item in sorted(items, key=order))
        return _Packing(
            bundles=tuple(
                {c: utilisation * float(instance.capacity_qps[c]) for c, utilisation in device.utilisation.items()}
                for device in devices
                if device.utilisation
            ),
            unplaced=unplaced,
            excess_power_w=_excess_w(instance, solution, group, (device.utilisation for device in devices)),
        )

    def _pinned(self, mine: Ints, count: int) -> list[list[int]]:
        """The choices that each of ``count`` devices must host, on as many devices as the solution says."""
        instance, replicas = self._instance, self._solution.replicas
        by_engine: dict[int, list[int]] = {}
        for c in mine[instance.pinned[mine] > 0].tolist():
            times = count if instance.ways is None else int(replicas[c])
            by_engine.setdefault(int(instance.engine_of[c]), []).extend([c] * times)
        return [[hosts[d] for hosts in by_engine.values() if d < len(hosts)] for d in range(count)]

    def _place_all(self, devices: list[_DeviceLoad], item: _Item) -> float:
        """Place an item whole where it fits most tightly, else in pieces, the largest first; returns what is left."""
        unplaced = item.utilisation
        while unplaced > 0:
            free_times = [self._free_time(device, item.choice) for device in devices]
            fitting = [i for i, free_time in enumerate(free_times) if free_time >= unplaced]
            if fitting:
                target = min(fitting, key=lambda i: (item.choice not in devices[i].utilisation, devices[i].time))
            else:
                target = max(range(len(devices)), key=lambda i: free_times[i])
                if free_times[target] <= 0:
                    break
            piece = min(unplaced, free_times[target])
            self._place(devices[target], item.choice, piece)
            unplaced -= piece
        return unplaced

    def _free_time(self, device: _DeviceLoad, choice: int) -> float:
        """The part of its time that a device can still give to a choice."""
        if choice not in device.utilisation and (
            device.free_places < 1 or self._instance.memory_frac[choice] > device.memory
        ):
            return 0.0
        if self._instance.ways is not None and self._holds_another_part(device, choice):
            return 0.0
        instance, family = self._instance, self._instance.choices[choice].family
        given_qps = sum(
            utilisation * instance.capacity_qps[c]
            for c, utilisation in device.utilisation.items()
            if instance.choices[c].family == family
        )
        return min(device.time, float((self._max_qps[family] - given_qps) / instance.capacity_qps[choice]))

    def _holds_another_part(self, device: _DeviceLoad, choice: int) -> bool:
        engine_of = self._instance.engine_of
        return any(c != choice and engine_of[c] == engine_of[choice] for c in device.utilisation)

    def _place(self, device: _DeviceLoad, choice: int, utilisation: float) -> None:
        if choice not in device.utilisation:
            device.memory -= float(self._instance.memory_frac[choice])
            device.free_places -= 1
        device.utilisation[choice] = device.utilisation.get(choice, 0.0) + utilisation
        device.time -= utilisation
