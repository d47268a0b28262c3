"""Planners of other systems, to compare with: rules of thumb instead of an optimum."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from proteus_cli.domain.capacity import Capacity
from proteus_cli.domain.catalog import VariantKey, VariantsByDevice
from proteus_cli.domain.demand import Demand, check_demand
from proteus_cli.domain.device import NONE_OUT, Outages
from proteus_cli.domain.plan import Placement, Plan, Solver
from proteus_cli.domain.profile_changes import best_accuracy
from proteus_cli.domain.rules import Reserved
from proteus_cli.planning.model.instance import make_instance
from proteus_cli.planning.planner import Planner

DEVICE_BY_DEVICE = "device by device"


@dataclass(frozen=True, slots=True)
class _Option:
    """A variant on a device: its capacity, and how much less accurate it is than the best of its family."""

    key: VariantKey
    capacity: Capacity
    drop: float


Hosting = dict[str, _Option]
"""The option that each device hosts, without idle devices."""


class _Heuristic(Planner):
    """Plans by a rule of thumb: `_hosting` decides which device hosts what, `_weight` how queries are shared."""

    def __call__(
        self,
        demand: Demand,
        current: Plan | None = None,
        without: Outages = NONE_OUT,
        standbys: VariantsByDevice = MappingProxyType({}),  # noqa: ARG002 - heuristics know no loads to save
    ) -> Plan:
        check_demand(demand, self.catalog)
        start_s = time.perf_counter()
        demand_qps = {name: float(demand.get(name, 0.0)) for name in self.catalog.names}
        asked_qps = {name: qps * self.headroom for name, qps in demand_qps.items()}
        options = {
            device: [option for option in found if (device, *option.key) not in without.engines]
            for device, found in self._options().items()
            if device not in without.devices
        }
        hosted = current.hosted() if current is not None else {}
        now = {d: each for d, keys in hosted.items() for each in options.get(d, []) if each.key in keys}
        hosting = self._hosting(options, asked_qps, now)
        weights, placed = {device: self._weight(option) for device, option in hosting.items()}, []
        for device, option in sorted(hosting.items()):
            family, capacity = option.key.family, option.capacity
            share = weights[device] / sum(weights[other] for other in _hosts(hosting, family))
            rate_qps = min(share * min(demand_qps[family], _capacity_qps(hosting, family)), capacity.qps)
            share = share if demand_qps[family] > 0 else 0.0
            placed.append(Placement(device, *option.key, capacity.max_batch, rate_qps, share, capacity.qps))
        solver = Solver(DEVICE_BY_DEVICE, "heuristic", 1.0, time.perf_counter() - start_s)
        return self.plan_of(demand_qps, tuple(placed), solver)

    def _options(self) -> dict[str, list[_Option]]:
        """The options of each device, most accurate first."""
        instance = make_instance(self.catalog, self.profiles, self.policy.variants, self.rules)
        best, found = best_accuracy(self.profiles.values()), dict[int, list[_Option]]()
        for c, choice in enumerate(instance.choices):
            drop = best[choice.key.family] - choice.accuracy
            found.setdefault(choice.group, []).append(_Option(choice.key, instance.capacities[c], drop))
        ordered = {g: sorted(options, key=lambda o: (o.drop, -o.capacity.qps)) for g, options in found.items()}
        return {device: ordered.get(g, []) for g, group in enumerate(instance.groups) for device in group.devices}

    def _hosting(self, options: Mapping[str, list[_Option]], asked_qps: Mapping[str, float], now: Hosting) -> Hosting:
        raise NotImplementedError

    def _weight(self, option: _Option) -> float:
        """A device's part of its family's queries, relative to other devices of the family."""
        return option.capacity.qps


class InfaasPlanner(_Heuristic):
    """INFaaS with accuracy for cost, on a fixed fleet (Romero et al., ATC 2021; the paper's "INFaaS-Accuracy").

    Family by family: where its capacity exceeds its demand, devices are given up, then variants are replaced by more
    accurate ones. While its capacity is too small, the cheapest step that adds capacity is taken: a variant on an idle
    device, or a faster one on a device of the family. Its cost is the accuracy that is lost.
    """

    def _hosting(self, options: Mapping[str, list[_Option]], asked_qps: Mapping[str, float], now: Hosting) -> Hosting:
        hosting = dict(now)
        for family, qps in asked_qps.items():
            _give_up(hosting, family, qps)
        for family, qps in asked_qps.items():
            _improve(hosting, options, family, qps)
            while _capacity_qps(hosting, family) < qps:
                steps = list(_steps(hosting, options, family))
                if not steps:
                    break
                _, _, device, option = min(steps, key=lambda step: step[:2])
                hosting[device] = option
        return hosting


def _give_up(hosting: Hosting, family: str, asked_qps: float) -> None:
    """Give up devices without which the family is still served, the least accurate first."""
    for device in sorted(_hosts(hosting, family), key=lambda d: -hosting[d].drop):
        if _capacity_qps(hosting, family) - hosting[device].capacity.qps >= asked_qps:
            del hosting[device]


def _improve(hosting: Hosting, options: Mapping[str, list[_Option]], family: str, asked_qps: float) -> None:
    """Put a more accurate variant on each device of the family, while there is enough capacity for its demand."""
    for device in _hosts(hosting, family):
        held = hosting[device]
        spare_qps = _capacity_qps(hosting, family) - held.capacity.qps - asked_qps
        better = (each for each in options[device] if each.key.family == family and each.drop < held.drop)
        hosting[device] = next((each for each in better if each.capacity.qps + spare_qps >= 0), held)


def _steps(
    hosting: Hosting, options: Mapping[str, list[_Option]], family: str
) -> Iterator[tuple[float, float, str, _Option]]:
    """All steps that add capacity: the drop of accuracy, minus the capacity, device and variant."""
    for device, found in options.items():
        held = hosting.get(device)
        if held is not None and held.key.family != family:
            continue
        for option in found:
            if option.key.family == family and (held is None or option.capacity.qps > held.capacity.qps):
                before = held.drop if held is not None else 0.0
                yield option.drop - before, -option.capacity.qps, device, option


class SommelierPlanner(_Heuristic):
    """Each device keeps the family that it is `frozen_to` and switches among its variants (Guo et al., SIGMOD 2022).

    A family's queries are shared equally among its devices, and each hosts the most accurate variant that has the
    capacity for its share, else the fastest. Idle devices stay idle.
    """

    def _hosting(self, options: Mapping[str, list[_Option]], asked_qps: Mapping[str, float], now: Hosting) -> Hosting:
        del now
        hosting: Hosting = {}
        for family, qps in asked_qps.items():
            mine = {device: found for device, found in options.items() if {o.key.family for o in found} == {family}}
            for device, found in mine.items():
                enough = (option for option in found if option.capacity.qps >= qps / len(mine))
                hosting[device] = next(enough, None) or max(found, key=lambda option: option.capacity.qps)
        return hosting

    def _weight(self, option: _Option) -> float:
        del option
        return 1.0


def frozen_to(planner: Planner, plan: Plan) -> Planner:
    """The same planner where each device keeps the family that it has in ``plan``, or stays idle."""
    family_of = {placement.device: placement.family for placement in plan.placements}
    reserved = tuple(Reserved(device, family_of.get(device)) for device in plan.devices)
    return planner.with_changes(rules=msgspec.structs.replace(planner.rules, reserved=reserved))


def _hosts(hosting: Hosting, family: str) -> list[str]:
    return [device for device, option in hosting.items() if option.key.family == family]


def _capacity_qps(hosting: Hosting, family: str) -> float:
    return sum(hosting[device].capacity.qps for device in _hosts(hosting, family))
