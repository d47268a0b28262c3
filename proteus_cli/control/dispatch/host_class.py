"""Hosts that decisions need not tell apart."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from proteus_cli.control.decision import Admitted, HostedVariant
from proteus_cli.control.devices.slowness import Slowness, StageSlowness


@dataclass(slots=True, eq=False)
class HostClass:
    """Hosts of a queue with the same variant, batch times, capacity and power; ``host`` is one of them.

    The classes of a queue are asked in their ``order``: active hosts before standbys, then hosts that no other requests
    of the family are planned for, then by rank. The fastest of equals comes first. ``free`` has the devices with a free
    slot, the longest free first, each with the answer that names it. ``serving`` counts hosts on devices that serve.
    They carry ``capacity_qps`` at their slowdowns. ``slowdown`` is the mean slowdown. ``least_slowdown`` is the mean
    slowdown until a row has an answer: if rows may be cut short, the slowdown of first stages.
    """

    hosts: tuple[HostedVariant, ...]
    is_reserved: bool = False
    host: HostedVariant = field(init=False)
    order: tuple[bool, bool, float] = field(init=False)
    free: dict[str, Admitted] = field(default_factory=dict)
    serving: int = 0
    capacity_qps: float = 0.0
    slowdown: float = 1.0
    least_slowdown: float = 1.0
    _speed: float = 0.0  # 1 for each host that serves without slowdown
    _slowdowns: dict[str, float] = field(default_factory=dict)  # of devices that serve
    _stage_slowdowns: dict[str, float] = field(default_factory=dict)  # of devices that cut rows short

    def __post_init__(self) -> None:
        self.host = self.hosts[0]
        self.order = self.host.is_standby, self.is_reserved, -self.host.rank

    def takes_s(self, rows: int) -> float:
        """How long a batch of ``rows`` takes."""
        return self.slowdown * self.host.latency(rows)

    def least_s(self, rows: int) -> float:
        """How long it takes until each of ``rows`` has an answer."""
        return self.least_slowdown * self.host.least_latency(rows)

    def rows_within(self, budget_s: float) -> int:
        """The largest batch whose rows all have an answer within ``budget_s``."""
        return self.host.least_latency.max_rows_within(budget_s / self.least_slowdown, self.host.max_batch)

    def free_within(self, budget_s: float, rows: int) -> Admitted | None:
        """The longest free device that answers ``rows`` within ``budget_s`` at its own slowdown."""
        takes_s, stages, whole = self.host.least_latency(rows), self._stage_slowdowns, self._slowdowns
        for device, ask_it in self.free.items():
            if (stages[device] if device in stages else whole[device]) * takes_s <= budget_s:
                return ask_it
        return None

    def count(self, host: HostedVariant, slowdown: Slowness | None, stages: StageSlowness) -> None:
        """Count one host anew; ``slowdown`` is None if its device does not serve.

        ``stages`` is the slowdown of the stages of multi-exit models there.
        """
        self._stage_slowdowns.pop(host.device, None)
        if host.device in self._slowdowns:
            self.serving -= 1
            self._speed -= 1 / self._slowdowns.pop(host.device)
        if slowdown is not None:
            self._slowdowns[host.device] = slowdown.factor
            self.serving += 1
            self._speed += 1 / slowdown.factor
            if host.cuts:
                self._stage_slowdowns[host.device] = stages.factor
        elif not self.serving:
            self._speed = 0.0  # no remainder of rounding
        self.capacity_qps = self.host.capacity_qps * self._speed
        self.slowdown = self.serving / self._speed if self.serving else 1.0
        self.least_slowdown = self.slowdown
        if self._stage_slowdowns:
            self.least_slowdown = sum(self._stage_slowdowns.values()) / len(self._stage_slowdowns)


def classes_of(hosts: Iterable[HostedVariant], *, of_deferred: bool, is_bound: bool) -> tuple[HostClass, ...]:
    """The classes of a queue's hosts in their order; a class for each host if requests are bound to hosts.

    In a queue of newcomers, the hosts of second stages are reserved. The second stage of a queue of deferred requests
    is its least accurate variant; all other hosts with a share of the plan are reserved there.
    """
    alike: dict[Hashable, list[HostedVariant]] = {}
    for host in hosts:
        alike.setdefault(host if is_bound else _kind(host), []).append(host)
    active = [host for host in hosts if not host.is_standby] if of_deferred else []
    second = min(active, key=lambda host: host.accuracy, default=None)
    found = []
    for mine in alike.values():
        is_reserved = any(host.deferred_qps > 0 for host in mine)
        if second is not None:
            is_reserved = (is_reserved or any(host.weight > 0 for host in mine)) and mine[0].variant != second.variant
        found.append(HostClass(tuple(mine), is_reserved))
    return tuple(sorted(found, key=lambda each: (each.order, each.host.least_latency(1))))


def _kind(host: HostedVariant) -> Hashable:
    """A value that is equal for the hosts of a class."""
    times_s = host.latency.up_to(host.max_batch).tobytes()
    least_s = host.least_latency.up_to(host.max_batch).tobytes() if host.cuts else b""
    return host.variant, host.is_standby, host.accuracy, host.rank, host.capacity_qps, host.power_w, times_s, least_s
