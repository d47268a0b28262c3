"""Hosts that decisions need not tell apart."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from proteus_cli.control.decision import Admitted, Host
from proteus_cli.control.devices.slowness import Slowness, StageSlowness


class TierKind(Enum):
    """What a class of hosts is in the tier that it belongs to."""

    NEWCOMERS = "newcomers"
    SECOND_STAGE = "second stage"  # of deferred requests: hosts of the variant that has just the accuracy they need
    BEYOND_SECOND = "beyond second"  # of more accurate ones


@dataclass(slots=True, eq=False)
class HostClass:
    """Hosts of a family with the same variant, batch times, capacity and power; ``host`` is one of them.

    ``weight`` is the rate that the plan sends them together for a tier. Its ``kind`` says which: that of newcomers; for
    the second stage of a tier of deferred requests, that of these; for what is more accurate there, none. A class
    ``is_reserved`` where the plan counts on it for others than the requests of the tier: its workers take over only
    what others can't make.
    ``quota``: rows that their workers may take. ``free``: devices that have a free slot, the longest free first, each
    with the answer that names it. ``serving`` workers serve; at their slowdowns they carry ``usual_qps``, at the upper
    bounds of these ``capacity_qps``, and ``overflow_qps`` more with the standbys for their overflow. ``spared_qps`` is
    what all of them may leave to more accurate variants of the family on their devices, beyond what the plan has these
    carry (`spared_qps`).
    """

    hosts: tuple[Host, ...]
    kind: TierKind = TierKind.NEWCOMERS
    host: Host = field(init=False)
    weight: float = field(init=False)
    is_reserved: bool = field(init=False)
    quota: int = 0
    free: dict[str, Admitted] = field(default_factory=dict)
    serving: int = 0
    capacity_qps: float = 0.0
    overflow_qps: float = 0.0
    usual_qps: float = 0.0
    spared_qps: float = 0.0
    slowdown: float = 1.0  # the mean of those that serve
    least_slowdown: float = 1.0  # the same, until rows have an answer: where rows are cut short, that of stages
    row_s: float = field(init=False)  # how long one row takes
    least_row_s: float = field(init=False)  # until it has an answer
    half_full_s: float = field(init=False)  # half of how long a full batch takes
    _slowdowns: dict[str, tuple[float, float]] = field(default_factory=dict)  # (factor, upper) of devices that serve
    _stage_slowdowns: dict[str, float] = field(default_factory=dict)  # of those that cut rows short

    def __post_init__(self) -> None:
        self.host = self.hosts[0]
        newcomers_qps = sum(host.weight for host in self.hosts)
        deferred_qps = sum(host.deferred_qps for host in self.hosts)
        match self.kind:
            case TierKind.NEWCOMERS:
                self.weight, self.is_reserved = newcomers_qps, deferred_qps > 0
            case TierKind.SECOND_STAGE:
                self.weight, self.is_reserved = deferred_qps, False
            case TierKind.BEYOND_SECOND:
                self.weight, self.is_reserved = 0.0, newcomers_qps + deferred_qps > 0
        self._time()

    @property
    def planned_qps(self) -> float:
        """The capacity of those that serve by the plan, without slowdown."""
        return self.serving * self.host.capacity_qps

    def takes_s(self, rows: int) -> float:
        """How long a batch of so many rows takes."""
        return self.slowdown * self.host.latency(rows)

    def least_s(self, rows: int) -> float:
        """How long it takes until all of so many rows have an answer."""
        return self.least_slowdown * self.host.least_latency(rows)

    def rows_within(self, budget_s: float) -> int:
        """The largest batch whose rows all have an answer in that time."""
        return self.host.least_latency.max_rows_within(budget_s / self.least_slowdown, self.host.max_batch)

    def slowdown_of(self, device: str) -> float:
        """The slowdown of a device that serves."""
        return self._slowdowns[device][0]

    def free_within(self, budget_s: float, rows: int = 1) -> Admitted | None:
        """The longest free device that answers ``rows`` within ``budget_s``; its own slowdown counts."""
        takes_s, stages, whole = self.host.least_latency(rows), self._stage_slowdowns, self._slowdowns
        for device, ask_it in self.free.items():
            if (stages[device] if device in stages else whole[device][0]) * takes_s <= budget_s:
                return ask_it
        return None

    def count(self, host: Host, slowdown: Slowness | None, stages: StageSlowness | None = None) -> None:
        """Count one host, in place of what was counted for it before; None: its worker does not serve.

        ``stages`` is the slowdown of the stages of multi-exit models there.
        """
        self._stage_slowdowns.pop(host.device, None)
        if host.device in self._slowdowns:
            factor, upper = self._slowdowns.pop(host.device)
            self.serving -= 1
            self.capacity_qps -= host.capacity_qps / upper
            self.overflow_qps -= _overflow_qps(host) / upper
            self.usual_qps -= host.capacity_qps / factor
        if slowdown is not None:
            self._slowdowns[host.device] = slowdown.factor, slowdown.upper
            self.serving += 1
            self.capacity_qps += host.capacity_qps / slowdown.upper
            self.overflow_qps += _overflow_qps(host) / slowdown.upper
            self.usual_qps += host.capacity_qps / slowdown.factor
        elif not self.serving:
            self.capacity_qps = self.overflow_qps = self.usual_qps = 0.0  # no rests of rounding
        self.slowdown = self.least_slowdown = self.planned_qps / self.usual_qps if self.usual_qps > 0 else 1.0
        if slowdown is not None and stages is not None and host.cuts:
            self._stage_slowdowns[host.device] = stages.factor
        if self._stage_slowdowns:
            self.least_slowdown = sum(self._stage_slowdowns.values()) / len(self._stage_slowdowns)
        self._time()

    def _time(self) -> None:
        self.row_s, self.half_full_s = self.takes_s(1), self.takes_s(self.host.max_batch) / 2
        self.least_row_s = self.least_s(1)


def classes_of(hosts: Iterable[Host], *, of_deferred: bool = False) -> tuple[HostClass, ...]:
    """Hosts by class, those of the highest rank first; of a tier of deferred requests where ``of_deferred``."""
    alike: dict[Hashable, list[Host]] = {}
    for host in hosts:
        alike.setdefault(_kind(host), []).append(host)
    return by_rank(_of_tier(alike.values(), of_deferred=of_deferred))


def spared_qps(hosts: Iterable[Host], slots: Mapping[str, int]) -> dict[Host, float]:
    """What a host of a family may leave to more accurate ones on its device, beyond what the plan has these carry.

    The plan gives the family a part of the device's time. Of the more accurate variants, there is one that would carry
    the most if all of that went to it. Hosts that are alone on their devices are left out; ``slots`` are by device.
    """
    found, of_device = dict[Host, float](), dict[str, list[Host]]()
    for host in hosts:
        of_device.setdefault(host.device, []).append(host)
    for device, mine in of_device.items():
        if len(mine) == 1:
            continue
        mine.sort(key=lambda each: -each.rank)
        planned_s = min(sum([host.capacity_qps * host.mean_row_s for host in mine]), slots[device])
        alone_qps = planned_qps = 0.0
        for host in mine:
            found[host] = max(alone_qps - planned_qps, 0.0)
            alone_qps = max(alone_qps, planned_s / host.mean_row_s)
            planned_qps += host.capacity_qps
    return found


def single_classes(hosts: Iterable[Host], *, of_deferred: bool = False) -> tuple[HostClass, ...]:
    """A class for each host, in their order."""
    return tuple(_of_tier(([host] for host in hosts), of_deferred=of_deferred))


def _of_tier(alike: Iterable[list[Host]], *, of_deferred: bool) -> list[HostClass]:
    groups = list(alike)
    if not of_deferred:
        return [HostClass(tuple(each)) for each in groups]
    least = min((each[0].accuracy for each in groups), default=0.0)
    variants = {each[0].variant for each in groups if each[0].accuracy <= least}

    def is_second(mine: list[Host]) -> bool:
        """Also of another device type, on which the variant is more accurate, where the plan has it be one."""
        is_planned = mine[0].variant in variants and any(host.deferred_qps > 0 for host in mine)
        return mine[0].accuracy <= least or is_planned

    kinds = (TierKind.SECOND_STAGE if is_second(each) else TierKind.BEYOND_SECOND for each in groups)
    return [HostClass(tuple(each), kind) for each, kind in zip(groups, kinds, strict=True)]


def by_rank(classes: Iterable[HostClass]) -> tuple[HostClass, ...]:
    """The most accurate first, or what the family prefers."""
    return tuple(sorted(classes, key=lambda each: -each.host.rank))


def _overflow_qps(host: Host) -> float:
    return host.overflow.capacity_qps - host.capacity_qps if host.overflow is not None else 0.0


def _kind(host: Host) -> Hashable:
    """What is equal for the hosts of a class."""
    sizes = range(1, host.max_batch + 1)
    times_s = tuple(map(host.latency, sizes))
    least_s = tuple(map(host.least_latency, sizes)) if host.cuts else ()
    return host.variant, host.accuracy, host.rank, host.capacity_qps, host.power_w, times_s, least_s
