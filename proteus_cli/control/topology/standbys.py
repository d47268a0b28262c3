"""Standbys: variants that a device keeps loaded and warmed up beside those that the plan has there.

The plan sends a standby no requests. When a plan places it, it needs no load: it is *activated* at once, and the
variant that it replaces stays as a standby in turn, as long as memory lasts. Until then, the fastest standby of a
family on each device answers the *overflow*: what all active variants together cannot answer in time. On a device that
hosts none of the family it is *foreign*, and does so only where nothing else is to do there.

**Value.** A standby is worth the probability that the next plan wants it, times the time that its load takes; the
variants that are worth most per byte stand by. The probability is the part of the recent plans that had at least so
many replicas of the variant on devices of that type: one replica is wanted more often than a second. One of these plans
is imagined: a burst, for which each device has the fastest variant of each of its families. So the fast variant of a
family stands by before it was ever needed.

**What is left.** Memory that no such variant needs holds the others of the device's families, those with the longest
loads first: a plan that wants one that no plan had is then free to place it, too. Then come the fastest variants of
the other families that are served, for their overflow: those that have the fewest first.
"""

import math
from collections import Counter, deque
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType

from proteus_cli.control.decision import Host
from proteus_cli.domain.catalog import NO_VARIANTS, VariantKey, VariantsByDevice

RECENT_PLANS = 10
"""What the plans before these wanted no longer counts."""


@dataclass(frozen=True, slots=True)
class Loadable:
    """A variant: what it takes of a device's memory, and how long its load takes.

    As ``host``, which is one on some device, it serves up to ``qps``, in batches of up to ``max_batch`` rows. Where no
    plan may place it, these are 0 and None.
    """

    memory_bytes: int
    load_s: float
    max_batch: int
    qps: float
    host: Host | None = None


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What the variants on a device of some ``type`` may take together, standbys included; each of known size."""

    type: str
    memory_bytes: int
    loadable: Mapping[VariantKey, Loadable]

    def placing_only(self, keys: Container[VariantKey]) -> "DeviceMemory":
        """The same, where plans may place these variants alone."""
        if all(key in keys for key in self.loadable):
            return self
        loadable = {
            key: each if key in keys else replace(each, qps=0.0, host=None) for key, each in self.loadable.items()
        }
        return replace(self, loadable=loadable)


Replica = tuple[str, VariantKey]
"""A type of devices and a variant."""


class Standbys:
    """Decides what stands by. ``memory`` by device; where a device is left out, nothing stands by.

    What is ``pinned`` makes way for no other standby, only for what a plan places.
    """

    def __init__(self, memory: Mapping[str, DeviceMemory] = MappingProxyType({})) -> None:
        self._memory, self._unshared = dict[str, DeviceMemory](), dict[str, DeviceMemory]()
        self._servers = dict[str, int]()
        self.pinned = NO_VARIANTS
        self._recent: deque[Counter[Replica]] = deque(maxlen=RECENT_PLANS)
        self._burst: Counter[Replica] = Counter()
        self._fastest = dict[str, dict[str, VariantKey]]()
        for device, each in memory.items():
            self.add_device(device, each)

    def add_device(self, device: str, memory: DeviceMemory) -> None:
        """A device that may have standbys from now on."""
        self._memory[device] = self._unshared[device] = memory
        self._fastest[device] = _fastest(memory.loadable)

    @property
    def limits(self) -> dict[str, int]:
        """The bytes that variants may take of each device that may have standbys, where one server has it."""
        return {device: each.memory_bytes for device, each in self._unshared.items()}

    @property
    def known(self) -> set[VariantKey]:
        """The variants that may be loaded somewhere."""
        return {key for each in self._memory.values() for key in each.loadable}

    @property
    def placeable(self) -> set[VariantKey]:
        """The variants that plans may place somewhere."""
        return {key for each in self._memory.values() for key, loadable in each.loadable.items() if loadable.qps > 0}

    def use(self, memory: Mapping[str, DeviceMemory]) -> None:
        """What may be loaded on devices has changed; on one that is left out, nothing may."""
        for device, before in list(self._unshared.items()):
            self.add_device(device, memory.get(device) or replace(before, loadable={}))
            self.share(device, self._servers.get(device, 1))

    def share(self, device: str, servers: int) -> None:
        """Divide the memory of a device by so many servers that share it."""
        self._servers[device] = servers
        if device in self._memory:
            memory = self._unshared[device]
            self._memory[device] = replace(memory, memory_bytes=memory.memory_bytes // servers)

    def adopted(self, hosted: Collection[Host]) -> None:
        """A plan that places ``hosted`` came into force."""
        mine = [host for host in hosted if host.device in self._memory]
        self._recent.append(Counter((self._memory[host.device].type, host.key) for host in mine))
        fast = [(host.device, self._fastest[host.device].get(host.family)) for host in mine]
        idle = Counter[str]()
        for device in sorted(self._memory.keys() - {host.device for host in mine}):
            kind, keys = self._memory[device].type, list(self._fastest[device].values())
            fast.append((device, keys[idle[kind] % len(keys)] if keys else None))
            idle[kind] += 1
        self._burst = Counter((self._memory[device].type, key) for device, key in fast if key is not None)

    def kept(
        self,
        device: str,
        loaded: frozenset[VariantKey],
        needed: frozenset[VariantKey],
        replicas: Mapping[Replica, int],
    ) -> frozenset[VariantKey]:
        """The standbys that a device keeps of what is ``loaded``, beside what is ``needed``.

        Those that are worth least are given up first. ``replicas`` as `replicas` counts them.
        """
        memory = self._memory.get(device)
        if memory is None or loaded <= needed:
            return NO_VARIANTS
        kept, left_bytes = set[VariantKey](), memory.memory_bytes - _bytes(memory, needed)
        spare = loaded - needed
        for key in sorted(spare, key=lambda key: (-self._kept_value(memory, key, replicas), key)):
            if _bytes(memory, [key]) <= left_bytes:
                left_bytes -= _bytes(memory, [key])
                kept.add(key)
        return frozenset(kept)

    def next(
        self,
        active: VariantsByDevice,
        resident: VariantsByDevice,
        devices: Collection[str],
        without: Collection[tuple[str, str, str]],
    ) -> tuple[str, VariantKey] | None:
        """The standby to load next, on one of ``devices``; None where none is worth more than what it would displace.

        ``without``: engines (device, family, variant) that are broken.
        """
        replicas = self.replicas(resident)
        for kind, key in self._wanted(replicas):
            for device in sorted(devices, key=lambda each: key.family not in _families(active.get(each, NO_VARIANTS))):
                memory = self._memory.get(device)
                if memory is None or memory.type != kind or key not in memory.loadable:
                    continue
                if key in resident[device] or (device, *key) in without:
                    continue
                if self._is_gain(memory, key, active.get(device, NO_VARIANTS), resident[device], replicas):
                    return device, key
        return self._in_what_is_left(active, resident, devices, without)

    def _in_what_is_left(
        self,
        active: VariantsByDevice,
        resident: VariantsByDevice,
        devices: Collection[str],
        without: Collection[tuple[str, str, str]],
    ) -> tuple[str, VariantKey] | None:
        """Where there is room, the longest to load of the variants that plans may place, of the device's families."""
        found: list[tuple[float, str, VariantKey]] = []
        for device in devices:
            memory = self._memory.get(device)
            if memory is None:
                continue
            families, mine = _families(active.get(device, NO_VARIANTS)), resident[device]
            left_bytes = memory.memory_bytes - _bytes(memory, mine)
            found += (
                (-each.load_s, device, key)
                for key, each in memory.loadable.items()
                if each.qps > 0 and each.load_s > 0 and each.memory_bytes <= left_bytes
                if key.family in families and key not in mine and (device, *key) not in without
            )
        return min(found)[1:] if found else None

    def next_foreign(
        self,
        hosted: Mapping[str, Sequence[Host]],
        resident: VariantsByDevice,
        devices: Collection[str],
        without: Collection[tuple[str, str, str]],
    ) -> tuple[str, VariantKey] | None:
        """The foreign standby to load next, on one of ``devices`` where there is room; None where there is none.

        It is the fastest variant of a family that other devices serve, of which fewest devices have one. ``hosted`` by
        device; the rest as for `next`, which comes first.
        """
        hosts = list(chain.from_iterable(hosted.values()))
        served = {host.family for host in hosts} - {host.family for host in hosts if host.preference_rank is not None}
        has = Counter(chain.from_iterable(map(_families, resident.values())))
        found: list[tuple[int, str, VariantKey]] = []
        for device in devices:
            memory = self._memory.get(device)
            if memory is None:
                continue
            mine, left_bytes = hosted.get(device, ()), memory.memory_bytes - _bytes(memory, resident[device])
            for family in served - {host.family for host in mine}:
                key = self._fastest[device].get(family)
                loadable = None if key is None else memory.loadable.get(key)
                if key is None or loadable is None or key in resident[device] or (device, *key) in without:
                    continue
                is_worth_it = loadable.load_s > 0 and loadable.memory_bytes <= left_bytes
                if is_worth_it and self.foreign_on(device, [key], mine):
                    found.append((has[family], device, key))
        return min(found)[1:] if found else None

    def foreign_on(self, device: str, standbys: Collection[VariantKey], hosted: Collection[Host]) -> list[Host]:
        """The foreign standbys of a device: the fastest of each family that it does not host.

        Their batches take no longer than a full one of what it hosts, so that what arrives there waits no longer than
        for a batch of its own.
        """
        memory = self._memory.get(device)
        if memory is None:
            return []
        families = {host.family for host in hosted}
        fastest = dict[str, Host]()
        for key in standbys:
            host = memory.loadable[key].host if key in memory.loadable else None
            if host is not None and key.family not in families:
                fastest[key.family] = max(fastest.get(key.family, host), host, key=lambda each: each.capacity_qps)
        longest_s = max((host.latency(host.max_batch) for host in hosted), default=math.inf)
        max_rows = {host: host.latency.max_rows_within(longest_s, host.max_batch) for host in fastest.values()}
        return [
            replace(host, device=device, max_batch=rows, is_foreign=True) for host, rows in max_rows.items() if rows
        ]

    def overflow_of(self, host: Host, standbys: Collection[VariantKey]) -> Host | None:
        """The fastest of the ``standbys`` of its device that carries more of the family than a host does.

        None where there is none, or the family prefers something else to accuracy.
        """
        memory = self._memory.get(host.device)
        if memory is None or host.preference_rank is not None:
            return None
        mine = [memory.loadable[key] for key in standbys if key.family == host.family and key in memory.loadable]
        fastest = max(mine, key=lambda each: each.qps, default=None)
        if fastest is None or fastest.host is None or fastest.qps <= host.capacity_qps:
            return None
        return replace(fastest.host, device=host.device)

    def warm_on(self, device: str, standbys: Collection[VariantKey], families: Container[str]) -> list[Host]:
        """The ``standbys`` of these families that plans may place on a device."""
        loadable = self._memory[device].loadable if device in self._memory else {}
        found = (loadable[key].host for key in sorted(standbys) if key.family in families and key in loadable)
        return [replace(host, device=device) for host in found if host is not None]

    def loadable(self, device: str, key: VariantKey) -> Loadable:
        """What loading a variant on a device takes. Raises `KeyError` where it cannot be loaded there."""
        return self._memory[device].loadable[key]

    def _wanted(self, replicas: Mapping[Replica, int]) -> Iterator[Replica]:
        """Variants of which some plan had more replicas than are loaded, the most valuable first."""
        found: dict[Replica, tuple[float, float]] = {}
        for memory in {(each.type, id(each.loadable)): each for each in self._memory.values()}.values():
            for key, loadable in memory.loadable.items():
                value = self._value(memory, key, replicas[memory.type, key] + 1)
                if value > 0:
                    found[memory.type, key] = value, loadable.qps
        yield from sorted(found, key=lambda each: (*(-number for number in found[each]), each))

    def _is_gain(
        self,
        memory: DeviceMemory,
        key: VariantKey,
        active: frozenset[VariantKey],
        mine: frozenset[VariantKey],
        replicas: Mapping[Replica, int],
    ) -> bool:
        """Whether there is memory for one more standby, or those that it displaces are worth less."""
        wanted = memory.loadable[key]
        missing_bytes = _bytes(memory, mine) + wanted.memory_bytes - memory.memory_bytes
        gain = self._value(memory, key, replicas[memory.type, key] + 1) * wanted.memory_bytes
        for value, standby in sorted((self._kept_value(memory, k, replicas), k) for k in mine - active):
            if missing_bytes <= 0:
                break
            freed_bytes = _bytes(memory, [standby])
            gain -= value * freed_bytes
            missing_bytes -= freed_bytes
        return missing_bytes <= 0 and gain > 0

    def _value(self, memory: DeviceMemory, key: VariantKey, nth: int) -> float:
        """What the ``nth`` replica of a variant is worth: seconds of loading that it is expected to save, per byte."""
        loadable = memory.loadable.get(key)
        if loadable is None or not loadable.qps:  # no plan may place it there
            return 0.0
        replica = memory.type, key
        wanting = sum(plan[replica] >= nth for plan in (*self._recent, self._burst))
        return wanting / (len(self._recent) + 1) * loadable.load_s / loadable.memory_bytes

    def _kept_value(self, memory: DeviceMemory, key: VariantKey, replicas: Mapping[Replica, int]) -> float:
        """What the last replica of a variant is worth."""
        return math.inf if key in self.pinned else self._value(memory, key, replicas[memory.type, key])

    def replicas(self, resident: VariantsByDevice) -> Counter[Replica]:
        """On how many devices of a type each variant is loaded."""
        return Counter(
            (self._memory[device].type, key)
            for device, mine in resident.items()
            if device in self._memory
            for key in mine
        )


def _bytes(memory: DeviceMemory, keys: Iterable[VariantKey]) -> int:
    """What variants take; one of unknown size counts as all of the memory."""
    return sum(memory.loadable[key].memory_bytes if key in memory.loadable else memory.memory_bytes for key in keys)


def _fastest(loadable: Mapping[VariantKey, Loadable]) -> dict[str, VariantKey]:
    """By family, of those that plans may place."""
    allowed = (key for key, each in loadable.items() if each.qps > 0)
    return {key.family: key for key in sorted(allowed, key=lambda key: loadable[key].qps)}


def _families(keys: Iterable[VariantKey]) -> set[str]:
    return {key.family for key in keys}
