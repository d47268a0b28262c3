"""From what devices host to what a plan wants, without a family losing what it needs on the way."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from proteus_cli.control.decision import Hosted
from proteus_cli.domain.catalog import VariantKey

MAX_UNAVAILABLE_FRAC = 0.5  # of a family's capacity


@dataclass(slots=True)
class DeviceRollout:
    """One device on its way: what it hosts ``now``, and what it should host ``next``.

    ``is_loading``: it is loading that, and serves nothing.
    """

    now: tuple[Hosted, ...] = ()
    next: tuple[Hosted, ...] = ()
    is_loading: bool = False

    @property
    def is_there(self) -> bool:
        """Nothing has to be loaded."""
        return keys(self.next) <= keys(self.now)

    @property
    def hosted(self) -> tuple[Hosted, ...]:
        """What it takes queries for: while it loads what comes, else what it has."""
        return self.next if self.is_loading or self.is_there else self.now


def next_to_load(
    rollouts: Mapping[str, DeviceRollout], demand_qps: Mapping[str, float], max_unavailable_frac: float = 1.0
) -> list[str]:
    """The devices that should start to load now.

    First those whose family has the least of what it needs. A device leaves a family only where the others that are
    there carry its demand. Where not even all carry it, the change is what helps: the more is missing, the larger the
    part of the family's capacity that may be on its way at once, up to ``max_unavailable_frac``. Where all wait for
    each other, the one that is missed least goes.
    """
    capacity = _Capacity.of(rollouts.values(), demand_qps)
    coming = [device for device, rollout in rollouts.items() if not rollout.is_there and not rollout.is_loading]
    coming.sort(key=lambda device: min(capacity.ratio(host.family) for host in rollouts[device].next))
    starting = []
    for device in coming:
        if all(capacity.spares(host, max_unavailable_frac) for host in rollouts[device].now):
            starting.append(device)
            capacity.leave(rollouts[device])
    if not starting and coming and not any(rollout.is_loading for rollout in rollouts.values()):
        starting = [max(coming, key=lambda device: capacity.ratio_without(rollouts[device]))]
    return starting


@dataclass(slots=True)
class _Capacity:
    """By family in queries per second: what is ``there``, what would be if nobody were on the way, what is asked."""

    there: dict[str, float]
    whole: dict[str, float]
    asked: Mapping[str, float]

    @classmethod
    def of(cls, rollouts: Iterable[DeviceRollout], asked: Mapping[str, float]) -> "_Capacity":
        there: dict[str, float] = {}
        whole: dict[str, float] = {}
        for rollout in rollouts:
            for host in rollout.now if rollout.is_loading else rollout.hosted:
                whole[host.family] = whole.get(host.family, 0.0) + host.capacity_qps
                there[host.family] = there.get(host.family, 0.0) + host.capacity_qps * (not rollout.is_loading)
        return cls(there, whole, asked)

    def ratio(self, family: str, without_qps: float = 0.0) -> float:
        """The part of what is asked of a family that is there."""
        asked_qps = self.asked.get(family, 0.0)
        return (self.there.get(family, 0.0) - without_qps) / asked_qps if asked_qps > 0 else math.inf

    def ratio_without(self, rollout: DeviceRollout) -> float:
        """What is left of what the worst off of a device's families needs, when it leaves them."""
        return min((self.ratio(host.family, host.capacity_qps) for host in rollout.now), default=math.inf)

    def spares(self, host: Hosted, max_unavailable_frac: float) -> bool:
        """Whether its family can do without it for a while, or is better off if it goes soon."""
        if self.there[host.family] - host.capacity_qps < (1 - max_unavailable_frac) * self.whole[host.family] * (
            1 - 1e-9
        ):
            return False
        if self.ratio(host.family, host.capacity_qps) >= 1:
            return True
        whole_qps = self.whole[host.family]
        served_frac = whole_qps / self.asked[host.family]
        return served_frac < 1 and self.there[host.family] - host.capacity_qps >= served_frac * whole_qps

    def leave(self, rollout: DeviceRollout) -> None:
        for host in rollout.now:
            self.there[host.family] -= host.capacity_qps


def keys(hosted: Sequence[Hosted]) -> frozenset[VariantKey]:
    """Which variants these are."""
    return frozenset(host.key for host in hosted)
