"""From what devices host to what a plan wants, without a family losing what it needs on the way."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from proteus_cli.control.decision import Hosted

Key = tuple[str, str]  # (family, variant)


@dataclass(slots=True)
class Station:
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


def next_to_load(stations: Mapping[str, Station], demand_qps: Mapping[str, float]) -> list[str]:
    """The devices that should start to load now.

    First those whose family has the least of what it needs. A device leaves a family only where the others that are
    there carry its demand; where all wait for each other, the one that is missed least goes.
    """
    there = _capacity_qps(stations.values())
    coming = [device for device, station in stations.items() if not station.is_there and not station.is_loading]
    coming.sort(key=lambda device: min(_ratio(there, demand_qps, host.family) for host in stations[device].next))
    starting = []
    for device in coming:
        if _is_spared(stations[device], there, demand_qps):
            starting.append(device)
            _leave(there, stations[device])
    if not starting and coming and not any(station.is_loading for station in stations.values()):
        starting = [max(coming, key=lambda device: _left_ratio(stations[device], there, demand_qps))]
    return starting


def _capacity_qps(stations: Iterable[Station]) -> dict[str, float]:
    there: dict[str, float] = {}
    for station in stations:
        if not station.is_loading:
            for host in station.hosted:
                there[host.family] = there.get(host.family, 0.0) + host.capacity_qps
    return there


def _ratio(there: Mapping[str, float], demand_qps: Mapping[str, float], family: str) -> float:
    asked_qps = demand_qps.get(family, 0.0)
    return there.get(family, 0.0) / asked_qps if asked_qps > 0 else float("inf")


def _left_ratio(station: Station, there: Mapping[str, float], demand_qps: Mapping[str, float]) -> float:
    """What is left of what the worst off of its families needs, when the device leaves them."""
    without = dict(there)
    _leave(without, station)
    return min((_ratio(without, demand_qps, host.family) for host in station.now), default=float("inf"))


def _is_spared(station: Station, there: Mapping[str, float], demand_qps: Mapping[str, float]) -> bool:
    return _left_ratio(station, there, demand_qps) >= 1.0


def _leave(there: dict[str, float], station: Station) -> None:
    for host in station.now:
        there[host.family] -= host.capacity_qps


def keys(hosted: Sequence[Hosted]) -> frozenset[Key]:
    """Which variants these are."""
    return frozenset((host.family, host.variant) for host in hosted)
