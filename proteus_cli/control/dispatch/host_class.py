"""Hosts that decisions need not tell apart."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from proteus_cli.control.decision import Admitted, Host
from proteus_cli.control.topology.slowdown import SlowdownEstimator


@dataclass(slots=True, eq=False)
class HostClass:
    """Hosts of a family with the same variant, batch times and capacity; ``host`` is one of them.

    ``weight`` is the rate that the plan sends them together, of newcomers; in the tier of a second stage
    (``of_deferred``), of deferred queries. A class of newcomers ``is_reserved`` where a second stage counts on it: its
    workers take over only what others can't make.
    ``quota``: rows that their workers may take. ``free``: devices that have a free slot, the longest free first, each
    with the answer that names it. ``serving`` workers serve; at their slowdowns they carry ``usual_qps``, at the upper
    bounds of these ``capacity_qps``.
    """

    hosts: tuple[Host, ...]
    of_deferred: bool = False
    host: Host = field(init=False)
    weight: float = field(init=False)
    is_reserved: bool = field(init=False)
    quota: int = 0
    free: dict[str, Admitted] = field(default_factory=dict)
    serving: int = 0
    capacity_qps: float = 0.0
    usual_qps: float = 0.0
    slowdown: float = 1.0  # the mean of those that serve
    row_s: float = field(init=False)  # how long one row takes
    half_full_s: float = field(init=False)  # half of how long a full batch takes
    _slowdowns: dict[str, tuple[float, float]] = field(default_factory=dict)  # (factor, upper) of devices that serve

    def __post_init__(self) -> None:
        self.host = self.hosts[0]
        deferred_qps = sum(host.deferred_qps for host in self.hosts)
        self.weight = deferred_qps if self.of_deferred else sum(host.weight for host in self.hosts)
        self.is_reserved = deferred_qps > 0 and not self.of_deferred
        self._time()

    @property
    def planned_qps(self) -> float:
        """The capacity of those that serve by the plan, without slowdown."""
        return self.serving * self.host.capacity_qps

    def takes_s(self, rows: int) -> float:
        """How long a batch of so many rows takes."""
        return self.slowdown * self.host.latency(rows)

    def slowdown_of(self, device: str) -> float:
        """The slowdown of a device that serves."""
        return self._slowdowns[device][0]

    def count(self, host: Host, slowdown: SlowdownEstimator | None) -> None:
        """Count one host, in place of what was counted for it before; None: its worker does not serve."""
        if host.device in self._slowdowns:
            factor, upper = self._slowdowns.pop(host.device)
            self.serving -= 1
            self.capacity_qps -= host.capacity_qps / upper
            self.usual_qps -= host.capacity_qps / factor
        if slowdown is not None:
            self._slowdowns[host.device] = slowdown.factor, slowdown.upper
            self.serving += 1
            self.capacity_qps += host.capacity_qps / slowdown.upper
            self.usual_qps += host.capacity_qps / slowdown.factor
        elif not self.serving:
            self.capacity_qps = self.usual_qps = 0.0  # no rests of rounding
        self.slowdown = self.planned_qps / self.usual_qps if self.usual_qps > 0 else 1.0
        self._time()

    def _time(self) -> None:
        self.row_s, self.half_full_s = self.takes_s(1), self.takes_s(self.host.max_batch) / 2


def classes_of(hosts: Iterable[Host], *, of_deferred: bool = False) -> tuple[HostClass, ...]:
    """Hosts by class, the most accurate first."""
    alike: dict[Hashable, list[Host]] = {}
    for host in hosts:
        alike.setdefault(_kind(host), []).append(host)
    return by_accuracy(HostClass(tuple(each), of_deferred) for each in alike.values())


def by_accuracy(classes: Iterable[HostClass]) -> tuple[HostClass, ...]:
    """The most accurate first."""
    return tuple(sorted(classes, key=lambda each: -each.host.accuracy))


def _kind(host: Host) -> Hashable:
    """What is equal for the hosts of a class."""
    times_s = tuple(map(host.latency, range(1, host.max_batch + 1)))
    return host.variant, host.accuracy, host.capacity_qps, times_s
