"""From counts per group to what each device holds: which variants together, and how much each answers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from proteus_cli.domain.rules import Rules
from proteus_cli.planning.instance import Instance, Ints
from proteus_cli.planning.lexicographic import ALMOST_NOTHING, Solution, Wanted

ROUNDING = 2e-6  # a part of a device, or of its time, that is the solver's rounding

Bundle = dict[int, float]
"""What one device holds: queries per second, with headroom, by choice."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A bundle for each device in use, by group.

    ``left`` are groups where something found no place, ``hungrier`` those that draw more power than their sums said.
    """

    bundles: tuple[tuple[Bundle, ...], ...]
    left: frozenset[int] = frozenset()
    hungrier: frozenset[int] = frozenset()


def pack(instance: Instance, solution: Solution, rules: Rules, wanted: Wanted) -> Packed:
    """Spread each group's rates over its devices.

    With one variant per device that is a division. With several it is bin packing, in time and memory, where work may
    be split but memory not: tried in several orders. Where something finds no place, the group's sums were too
    optimistic, and its devices must be planned one by one.
    """
    if not rules.is_resident_set:
        return Packed(tuple(tuple(_divided(instance, solution, rules, g)) for g in range(len(instance.groups))))
    packer = _Packer(instance, solution, rules, wanted)
    tries = [packer.pack(g) for g in range(len(instance.groups))]
    several = [g for g, count in enumerate(instance.device_count) if count > 1]  # the sums of one device are its own
    return Packed(
        bundles=tuple(each.bundles for each in tries),
        left=frozenset(g for g in several if tries[g].left > ROUNDING),
        hungrier=frozenset(g for g in several if tries[g].excess_w > 0),
    )


def serves_all(instance: Instance, packed: Packed, wanted: Wanted) -> bool:
    """Whether the bundles answer all that is wanted."""
    answered_qps = np.zeros(len(instance.families))
    for c, rate_qps in (item for bundles in packed.bundles for bundle in bundles for item in bundle.items()):
        answered_qps[instance.choices[c].family] += rate_qps
    return not wanted.is_beyond_all and bool(np.all(answered_qps >= wanted.qps * (1 - ALMOST_NOTHING)))


def _divided(instance: Instance, solution: Solution, rules: Rules, group: int) -> Iterator[Bundle]:
    """One choice per device, all hosts alike. Spares that answer nothing are left out, unless they are asked for."""
    for c in np.flatnonzero(instance.group_of == group).tolist():
        hosts, rate_qps = int(solution.hosts[c]), float(solution.rate_qps[c])
        needed = hosts if rate_qps > 0 or rules.survive else int(instance.pinned[c])
        for _ in range(needed):
            yield {c: rate_qps / hosts}


@dataclass(slots=True)
class _Work:
    """The part of a device's time that is to be placed of a choice, and the memory and power that each copy takes."""

    choice: int
    busy: float
    memory: float
    power_w: float


@dataclass(slots=True)
class _Device:
    places: float
    memory: float = 1 + ROUNDING
    time: float = 1 + ROUNDING
    busy: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Try:
    """Bundles, the part of device time that found no place, and the power that is drawn above what was promised."""

    bundles: tuple[Bundle, ...]
    left: float
    excess_w: float

    @property
    def misses(self) -> tuple[float, float]:
        return (self.left if self.left > ROUNDING else 0.0, self.excess_w)


_ORDERS: tuple[Callable[[_Work], float], ...] = (
    lambda work: -work.memory,
    lambda work: -work.busy,
    lambda work: -work.memory * work.busy,
    lambda work: work.busy,
    lambda work: -work.power_w,
)


class _Packer:
    def __init__(self, instance: Instance, solution: Solution, rules: Rules, wanted: Wanted) -> None:
        self._instance, self._solution = instance, solution
        self._places = float("inf") if rules.residency == "memory" else float(rules.residency)
        self._max_qps = wanted.share_qps * (1 + ROUNDING)
        self._is_counted = rules.pack or "cost" in rules.resources

    def pack(self, group: int) -> _Try:
        """The first order that misses nothing, else the best."""
        mine = np.flatnonzero(self._instance.group_of == group)
        best: _Try | None = None
        for order in _ORDERS:
            each = self._in_order(group, mine, order)
            if best is None or each.misses < best.misses:
                best = each
            if best.misses == (0.0, 0.0):
                break
        assert best is not None  # noqa: S101 - there are orders
        return best

    def _in_order(self, group: int, mine: Ints, order: Callable[[_Work], float]) -> _Try:
        instance, solution = self._instance, self._solution
        used = solution.used if self._is_counted else None
        count = len(instance.groups[group].devices) if used is None else int(used[group])
        devices = [_Device(places=self._places) for _ in range(count)]
        for c in mine[instance.pinned[mine] > 0].tolist():
            for device in devices:
                self._place(device, c, 0.0)
        busy = solution.rate_qps / instance.capacity_qps
        works = [
            _Work(c, float(busy[c]), float(instance.memory_frac[c]), float(instance.power_w[c]))
            for c in mine.tolist()
            if busy[c] > 0
        ]
        left = sum(self._place_all(devices, work) for work in sorted(works, key=order))
        return _Try(
            bundles=tuple(
                {c: busy * float(instance.capacity_qps[c]) for c, busy in device.busy.items()}
                for device in devices
                if device.busy
            ),
            left=left,
            excess_w=self._excess_w(group, devices),
        )

    def _excess_w(self, group: int, devices: list[_Device]) -> float:
        if self._solution.draw_w is None:
            return 0.0
        draw_w = sum(max(float(self._instance.power_w[c]) for c in device.busy) for device in devices if device.busy)
        promised_w = float(self._solution.draw_w[group])
        return max(draw_w - promised_w * (1 + ROUNDING) - ROUNDING, 0.0)

    def _place_all(self, devices: list[_Device], work: _Work) -> float:
        """Whole where it fits most tightly, else in pieces, the largest first; returns what is left."""
        left = work.busy
        while left > 0:
            rooms = [self._room(device, work.choice) for device in devices]
            fitting = [i for i, room in enumerate(rooms) if room >= left]
            if fitting:
                target = min(fitting, key=lambda i: (work.choice not in devices[i].busy, devices[i].time))
            else:
                target = max(range(len(devices)), key=lambda i: rooms[i])
                if rooms[target] <= 0:
                    break
            piece = min(left, rooms[target])
            self._place(devices[target], work.choice, piece)
            left -= piece
        return left

    def _room(self, device: _Device, choice: int) -> float:
        """How much of its time a device could give to a choice."""
        if choice not in device.busy and (device.places < 1 or self._instance.memory_frac[choice] > device.memory):
            return 0.0
        instance, family = self._instance, self._instance.choices[choice].family
        given_qps = sum(
            busy * instance.capacity_qps[c] for c, busy in device.busy.items() if instance.choices[c].family == family
        )
        return min(device.time, float((self._max_qps[family] - given_qps) / instance.capacity_qps[choice]))

    def _place(self, device: _Device, choice: int, busy: float) -> None:
        if choice not in device.busy:
            device.memory -= float(self._instance.memory_frac[choice])
            device.places -= 1
        device.busy[choice] = device.busy.get(choice, 0.0) + busy
        device.time -= busy
