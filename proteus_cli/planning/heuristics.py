"""Planners of other systems, to compare with: rules of thumb instead of an optimum."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from proteus_cli.domain.capacity import Capacity
from proteus_cli.domain.catalog import VariantsByDevice
from proteus_cli.domain.demand import Demand, check_demand
from proteus_cli.domain.device import NONE_OUT, Outages
from proteus_cli.domain.plan import Placement, Plan, Solver
from proteus_cli.domain.rules import Reserved
from proteus_cli.planning.model.choices import Choice
from proteus_cli.planning.model.instance import make_instance
from proteus_cli.planning.planner import Planner

DEVICE_BY_DEVICE = "device by device"


@dataclass(frozen=True, slots=True)
class _Option:
    """A variant on a device: its capacity, and how much less accurate it is than the best of its family."""

    choice: Choice
    capacity: Capacity
    drop: float

    @property
    def capacity_qps(self) -> float:
        return self.capacity.qps

    @property
    def family(self) -> str:
        return self.choice.measured.family


Hosting = dict[str, _Option]
"""The option that each device hosts, without idle devices."""


class _Heuristic(Planner):
    """Plans by a rule of thumb: `_hosting` decides which device hosts what; queries are shared by capacity."""

    def __call__(
        self,
        demand: Demand,
        current: Plan | None = None,
        without: Outages = NONE_OUT,
        standbys: VariantsByDevice = MappingProxyType({}),  # noqa: ARG002 - what these would do without a load is not known
    ) -> Plan:
        check_demand(demand, self.catalog)
        start_s = time.perf_counter()
        demand_qps = {name: float(demand.get(name, 0.0)) for name in self.catalog.names}
        asked_qps = {name: qps * self.headroom for name, qps in demand_qps.items()}
        options = {
            device: [option for option in found if (device, *option.choice.key) not in without.engines]
            for device, found in self._options().items()
            if device not in without.devices
        }
        hosting = self._hosting(options, asked_qps, _now(options, current))
        placed = tuple(_placements(hosting, demand_qps, self._shares(hosting)))
        solver = Solver(DEVICE_BY_DEVICE, "heuristic", 1.0, time.perf_counter() - start_s)
        return self.plan_of(demand_qps, placed, solver)

    def _options(self) -> dict[str, list[_Option]]:
        """The options of each device, most accurate first."""
        instance = make_instance(self.catalog, self.profiles, self.policy.variants, self.rules)
        found: dict[int, list[_Option]] = {}
        for c, choice in enumerate(instance.choices):
            drop = float(instance.best_accuracy[choice.family] - instance.accuracy[c])
            found.setdefault(choice.group, []).append(_Option(choice, instance.capacities[c], drop))
        ordered = {g: sorted(options, key=lambda o: (o.drop, -o.capacity_qps)) for g, options in found.items()}
        return {device: ordered.get(g, []) for g, group in enumerate(instance.groups) for device in group.devices}

    def _hosting(self, options: Mapping[str, list[_Option]], asked_qps: Mapping[str, float], now: Hosting) -> Hosting:
        raise NotImplementedError

    def _shares(self, hosting: Hosting) -> dict[str, float]:
        """The part of its family's queries that each device gets."""
        capacity_qps = _capacity_qps(hosting)
        return {device: option.capacity_qps / capacity_qps[option.family] for device, option in hosting.items()}


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
            while _capacity_qps(hosting).get(family, 0.0) < qps:
                steps = list(_steps(hosting, options, family))
                if not steps:
                    break
                _, _, device, option = min(steps, key=lambda step: step[:2])
                hosting[device] = option
        return hosting


def _give_up(hosting: Hosting, family: str, asked_qps: float) -> None:
    """Give up devices without which the family is still served, the least accurate first."""
    mine = sorted((d for d, o in hosting.items() if o.family == family), key=lambda d: -hosting[d].drop)
    for device in mine:
        if _capacity_qps(hosting)[family] - hosting[device].capacity_qps >= asked_qps:
            del hosting[device]


def _improve(hosting: Hosting, options: Mapping[str, list[_Option]], family: str, asked_qps: float) -> None:
    """Put a more accurate variant on each device of the family, while there is enough capacity for its demand."""
    for device in [d for d, o in hosting.items() if o.family == family]:
        spare_qps = _capacity_qps(hosting)[family] - hosting[device].capacity_qps - asked_qps
        for option in options[device]:
            if option.drop >= hosting[device].drop:
                break
            if option.family == family and option.capacity_qps + spare_qps >= 0:
                hosting[device] = option
                break


def _steps(
    hosting: Hosting, options: Mapping[str, list[_Option]], family: str
) -> Iterator[tuple[float, float, str, _Option]]:
    """All steps that add capacity: the drop of accuracy, minus the capacity, device and variant."""
    for device, found in options.items():
        held = hosting.get(device)
        if held is not None and held.family != family:
            continue
        for option in found:
            if option.family == family and (held is None or option.capacity_qps > held.capacity_qps):
                before = held.drop if held is not None else 0.0
                yield option.drop - before, -option.capacity_qps, device, option


class SommelierPlanner(_Heuristic):
    """Each device keeps the family that it is `frozen_to` and switches among its variants (Guo et al., SIGMOD 2022).

    A family's queries are shared equally among its devices, and each hosts the most accurate variant that has the
    capacity for its share, else the fastest. Idle devices stay idle.
    """

    def _hosting(self, options: Mapping[str, list[_Option]], asked_qps: Mapping[str, float], now: Hosting) -> Hosting:
        del now
        hosting: Hosting = {}
        for family, qps in asked_qps.items():
            mine = {device: found for device, found in options.items() if {each.family for each in found} == {family}}
            for device, found in mine.items():
                enough = [option for option in found if option.capacity_qps >= qps / len(mine)]
                hosting[device] = enough[0] if enough else max(found, key=lambda option: option.capacity_qps)
        return hosting

    def _shares(self, hosting: Hosting) -> dict[str, float]:
        count = Counter(option.family for option in hosting.values())
        return {device: 1 / count[option.family] for device, option in hosting.items()}


def frozen_to(planner: Planner, plan: Plan) -> Planner:
    """The same planner where each device keeps the family that it has in ``plan``, or stays idle."""
    family_of = {placement.device: placement.family for placement in plan.placements}
    reserved = tuple(Reserved(device, family_of.get(device)) for device in plan.devices)
    return planner.with_changes(rules=msgspec.structs.replace(planner.rules, reserved=reserved))


def _now(options: Mapping[str, list[_Option]], current: Plan | None) -> Hosting:
    hosted = current.hosted() if current is not None else {}
    return {
        device: option
        for device, keys in hosted.items()
        for option in options.get(device, [])
        if option.choice.key in keys
    }


def _capacity_qps(hosting: Hosting) -> dict[str, float]:
    capacity_qps: dict[str, float] = {}
    for option in hosting.values():
        capacity_qps[option.family] = capacity_qps.get(option.family, 0.0) + option.capacity_qps
    return capacity_qps


def _placements(hosting: Hosting, demand_qps: Mapping[str, float], shares: Mapping[str, float]) -> Iterator[Placement]:
    capacity_qps = _capacity_qps(hosting)
    for device, option in sorted(hosting.items()):
        served_qps = min(demand_qps[option.family], capacity_qps[option.family])
        yield Placement(
            device=device,
            family=option.family,
            variant=option.choice.measured.variant,
            max_batch=option.capacity.max_batch,
            rate_qps=min(shares[device] * served_qps, option.capacity_qps),
            share=shares[device] if served_qps > 0 else 0.0,
            capacity_qps=option.capacity_qps,
        )
