"""The best plan by trying all: what each device may host, and for each such hosting the best way to share queries.

Written from the rules' own words, not from the package's model.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from linear_program import least
from tiny_fleets import Tiny

from proteus_cli.arrays import Floats
from proteus_cli.domain.device import host_of
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.rules import DeviceVariant
from proteus_cli.domain.stages.cascade import CascadePoint, CascadeProfile
from proteus_cli.errors import NoFeasiblePlan, RulesConflict

Objective = tuple[str, int]
"""What to make large, and for "least served" of how many families."""

SAME = 1e-9  # hostings that differ less are equally good
CLOSE = 3e-6  # a plan that is worse by less is as good
SERVED = 1e-6  # a smaller part of a demand isn't served


@dataclass(frozen=True)
class Host:
    """One variant on one device: all that decides its worth.

    ``first_s`` is the p95 of a batch of one, ``most_row_s`` the most that a row takes of any batch, in the mean.
    """

    device: str
    family: str
    variant: str
    capacity_qps: float
    accuracy: float
    memory: int
    power_w: float
    price: float
    first_s: float
    most_row_s: float
    max_batch: int
    slo_part: float
    worth: float = math.nan


Residents = tuple[Host, ...]
Hosting = tuple[Residents, ...]
"""What each device holds, in the order of the fleet."""


def objectives(tiny: Tiny) -> list[Objective]:
    """What the rules want, in order; all to be made large."""
    rules, families = tiny.rules, sum(qps > 0 for qps in tiny.demand_qps.values())
    if rules.minimize is not None:
        first: list[Objective] = [(rules.minimize, 0)]
    elif rules.fairness == "maxmin":
        first = [*(("least served", k) for k in range(1, families + 1)), ("served", 0)]
    else:
        first = [("served", 0)]
    loads: list[Objective] = [("loads", 0)] if tiny.current is not None else []
    pack: list[Objective] = [("devices", 0)] if rules.pack else []
    return [*first, ("accuracy", 0), *loads, *pack]


def assert_best(tiny: Tiny) -> None:
    """The plan is one that the rules allow, and in each aim as good as all that are as good in the aims before."""
    hostings = list(allowed_hostings(tiny))
    is_all_lost = tiny.rules.survives is not None and len(tiny.units) == 1
    if is_all_lost or not any(hosts_of(tiny).values()):
        with pytest.raises(NoFeasiblePlan):
            tiny.planned()
        return
    remaining = [rated(tiny, hosting) for hosting in _worth_a_try(tiny, hostings)]
    if not remaining or (tiny.rules.minimize is not None and not any(each.serves_all() for each in remaining)):
        with pytest.raises(RulesConflict):
            tiny.planned()
        return
    plan = tiny.planned()
    assert plan.solver.status == "optimal"
    mine = hosting_of(tiny, plan)
    assert mine in hostings, f"{plan.placements} obey no rules"
    worths = {"what it hosts": rated(tiny, mine)} | ({"its rates": _Rates(tiny, plan)} if tiny.headroom == 1 else {})
    for objective in objectives(tiny):
        best, values = -math.inf, list[float]()
        for each in remaining:
            values.append(each.value(objective, best - SAME))
            best = max(best, values[-1])
        for what, worth in worths.items():
            found = worth.value(objective)
            assert found >= best - CLOSE, f"{objective}: {what} give {found}, the best {best}; {plan.placements}"
        remaining = [each for each, value in zip(remaining, values, strict=True) if value >= best - SAME]
    _assert_rates(tiny, plan, mine)


def _assert_rates(tiny: Tiny, plan: Plan, mine: Hosting) -> None:
    """What the plan says of itself follows from what it hosts."""
    for family, demand_qps in tiny.demand_qps.items():
        share_qps = tiny.rules.max_share.get(family, 1.0) * demand_qps * tiny.headroom * (1 + CLOSE)
        if tiny.cascades and tiny.rules.max_share.get(family, 1.0) == 1:
            share_qps *= 2  # both stages of a query may be on one device
        for device in tiny.kind_of:
            placed = [p for p in plan.placements if (p.device, p.family) == (device, family)]
            assert sum(p.rate_qps + p.deferred_qps for p in placed) <= share_qps
        rates = [(p.share, p.rate_qps) for p in plan.placements if p.family == family]
        if sum(qps for _, qps in rates) > 0:
            assert sum(share for share, _ in rates) == pytest.approx(1.0)
    rate_of = {(p.device, p.family, p.variant): p.rate_qps + p.deferred_qps for p in plan.placements}
    for residents in mine:
        busy = sum(rate_of[h.device, h.family, h.variant] / h.capacity_qps for h in residents)
        assert busy <= 1 + CLOSE
    for name, network in tiny.networks.items():
        here = [p for p in plan.placements if host_of(p.device) == name]
        bytes_per_s = sum((p.rate_qps + p.deferred_qps) * network.row_bytes[p.family] for p in here)
        assert bytes_per_s <= network.bytes_per_s / 2 * (1 + CLOSE)
    if not tiny.rules.is_resident_set and not tiny.networks and not tiny.cascades:
        single = _Single(tiny, mine)
        for family, demand_qps in tiny.demand_qps.items():
            served_qps = min(demand_qps, single.served_qps[family])
            assert plan.served_qps[family] == pytest.approx(served_qps, rel=CLOSE, abs=1e-9)


# What may be hosted ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def hosts_of(tiny: Tiny) -> dict[str, list[Host]]:
    """By device, each variant that may be there at all."""
    allowed = {
        device: [
            host
            for family, variants in tiny.accuracy.items()
            for variant, accuracy in variants.items()
            for host in _hosts(tiny, device, kind, family, variant, accuracy)
            if _is_allowed(tiny, host)
        ]
        for device, kind in tiny.kind_of.items()
    }
    every = [host for hosts in allowed.values() for host in hosts]
    firsts = {first for first, _, _ in _pairs(tiny, every)}
    return _valued(
        tiny,
        {
            device: [host for host in hosts if _is_accurate(tiny, host) or host in firsts]
            for device, hosts in allowed.items()
        },
    )


def _valued(tiny: Tiny, hosts: Mapping[str, list[Host]]) -> dict[str, list[Host]]:
    """With what an answer is worth to its family: its accuracy, or how little it takes, and a bit its accuracy."""
    amounts: dict[str, Callable[[Host], float]] = {
        "latency": lambda host: host.first_s,
        "energy": lambda host: host.power_w / host.capacity_qps,
        "cost": lambda host: host.price / host.capacity_qps,
    }
    every = [host for of_device in hosts.values() for host in of_device]

    def worth(host: Host) -> float:
        preferred = tiny.rules.prefers(host.family)
        if preferred == "accuracy":
            return host.accuracy
        amount = amounts[preferred]
        most = max(amount(other) for other in every if other.family == host.family)
        part = amount(host) / (tiny.slo_ms / 1000 if preferred == "latency" else most or 1.0)
        return 0.99 * (1 - min(part, 1.0) / 2) + 0.01 * host.accuracy

    return {device: [replace(host, worth=worth(host)) for host in of_device] for device, of_device in hosts.items()}


def _cascades_of(tiny: Tiny) -> list[CascadeProfile]:
    """Those of families that want nothing but accuracy."""
    limited = {*tiny.rules.max_energy_j, *tiny.rules.max_cost_per_million}
    return [c for c in tiny.cascades if tiny.rules.prefers(c.family) == "accuracy" and c.family not in limited]


def _pairs(tiny: Tiny, hosts: Sequence[Host]) -> Iterator[tuple[Host, Host, CascadePoint]]:
    """The stages of cascades that fit the SLO together, at each point that is as accurate as must be expected."""
    for cascade in _cascades_of(tiny):
        for first, second in product(hosts, hosts):
            is_pair = (first.variant, second.variant) == (cascade.first, cascade.second)
            if not is_pair or not _is_accurate(tiny, second):
                continue
            at_least = tiny.rules.min_expected_accuracy.get(first.family, 0.0)
            if any(first.slo_part <= split and second.slo_part <= 1 - split for split in (0.25, 0.5)):
                yield from ((first, second, point) for point in cascade.points if point.accuracy >= at_least)


def _hosts(tiny: Tiny, device: str, kind: str, family: str, variant: str, accuracy: float) -> Iterator[Host]:
    """For each part of the SLO that gives more capacity than a shorter one."""
    slower = 0.0
    is_stage = any(variant in {each.first, each.second} for each in _cascades_of(tiny))
    for part in (0.25, 0.5, 0.75, 1.0) if is_stage else (1.0,):
        host = _host(tiny, device, kind, family, variant, accuracy, part)
        if host.capacity_qps > slower:
            slower = host.capacity_qps
            yield host


def _host(
    tiny: Tiny, device: str, kind: str, family: str, variant: str, accuracy: float, part: float, slowed: float = 1.0
) -> Host:
    times = slowed * tiny.tails.get(variant, {}).get(tiny.rules.capacity, 1.0)
    latencies = [(batch, seconds * times) for batch, seconds in tiny.latency_s[kind, family, variant].items()]
    assert tiny.rules.slo_fraction is not None, "by the number of hosts, a capacity is not known before the plan"
    slo_s = min(tiny.slo_ms / 1000, bounds_of(tiny, family)[0])
    longest_s = slo_s * part * tiny.rules.slo_fraction
    rates = [(batch / seconds, batch) for batch, seconds in latencies if seconds <= longest_s]
    qps, max_batch = max(rates, key=lambda rate: rate[0], default=(0.0, 0))
    return Host(
        device=device,
        family=family,
        variant=variant,
        capacity_qps=qps,
        accuracy=accuracy,
        memory=tiny.memory.get(variant, 1000),
        power_w=tiny.power_w.get((kind, variant), 0.0),
        price=tiny.price.get(kind, 0.0),
        first_s=tiny.latency_s[kind, family, variant][1] * tiny.tails.get(variant, {}).get("p95", 1.0),
        most_row_s=_most_row_s(tiny, kind, family, variant, max_batch),
        max_batch=max_batch,
        slo_part=part,
    )


def _most_row_s(tiny: Tiny, kind: str, family: str, variant: str, max_batch: int) -> float:
    mean_s = {
        n: s * tiny.tails.get(variant, {}).get("mean", 1.0) for n, s in tiny.latency_s[kind, family, variant].items()
    }
    return max((float(np.interp(n, [*mean_s], [*mean_s.values()])) / n for n in range(1, max_batch + 1)), default=0.0)


def bounds_of(tiny: Tiny, family: str) -> tuple[float, float, float]:
    """The latency, energy and cost that the rules allow."""
    bounds = tiny.rules.max_latency_s, tiny.rules.max_energy_j, tiny.rules.max_cost_per_million
    latency_s, energy_j, cost = (bound.get(family, math.inf) for bound in bounds)
    return latency_s, energy_j, cost


def _is_accurate(tiny: Tiny, host: Host) -> bool:
    """Whether it may answer by itself."""
    rules = tiny.rules
    return host.accuracy >= max(rules.min_accuracy.get(host.family, 0), rules.min_expected_accuracy.get(host.family, 0))


def _is_allowed(tiny: Tiny, host: Host) -> bool:
    rules, kind = tiny.rules, tiny.kind_of[host.device]
    is_pinned = any(_names(pair, host, kind) for pair in rules.pinned)
    may_defer = any(each.family == host.family for each in _cascades_of(tiny)) and not rules.survive and not is_pinned
    holders = {each.family for each in rules.reserved if each.device in {host.device, kind}}
    _, energy_j, cost = bounds_of(tiny, host.family)
    return (
        host.capacity_qps > 0
        and host.power_w * host.most_row_s <= energy_j
        and 1e6 * host.price / 3600 / host.capacity_qps <= cost
        and host.memory <= tiny.memory.get(kind, 2**30)
        and host.accuracy >= rules.min_accuracy.get(host.family, 0.0)
        and (_is_accurate(tiny, host) or may_defer)
        and (not holders or (None not in holders and host.family in holders))
        and not any(_names(pair, host, kind) for pair in rules.banned)
    )


def _names(pair: DeviceVariant, host: Host, kind: str) -> bool:
    return pair.device in {host.device, kind} and (pair.family, pair.variant) == (host.family, host.variant)


def allowed_hostings(tiny: Tiny) -> Iterator[Hosting]:
    """All that the devices may hold together."""
    sets = [list(_resident_sets(tiny, device, hosts)) for device, hosts in hosts_of(tiny).items()]
    for hosting in product(*sets):
        if all(_spent(tiny, hosting, of) <= budget for of, budget in tiny.rules.budgets.items()):
            yield hosting


def _worth_a_try(tiny: Tiny, hostings: list[Hosting]) -> list[Hosting]:
    """Without those where a device could hold more at no expense; of mirror images only one."""
    rules = tiny.rules
    named = {pair.device for pair in (*rules.pinned, *rules.banned)} | {each.device for each in rules.reserved}
    if tiny.current is None and named.isdisjoint(tiny.kind_of):
        hostings = [hosting for hosting in hostings if _is_in_order(tiny, hosting)]
    held = [{hosting[i] for hosting in hostings} for i in range(len(tiny.devices))]
    expense = {residents: _expense(tiny, residents) for sets in held for residents in sets}
    most = [{each for each in sets if not any(_is_more(expense, other, each) for other in sets)} for sets in held]
    return [h for h in hostings if all(residents in sets for residents, sets in zip(h, most, strict=True))]


def _expense(tiny: Tiny, residents: Residents) -> list[float]:
    """By all that the rules count, what it takes that a device holds these."""
    hosting, rules = (residents,), tiny.rules
    spent = [_spent(tiny, hosting, of) for of in sorted(rules.resources)]
    loads = [float(_loads(tiny, hosting))] if tiny.current is not None else []
    used = [float(bool(residents))] if rules.pack else []
    return [*spent, *loads, *used]


def _is_more(expense: Mapping[Residents, list[float]], more: Residents, less: Residents) -> bool:
    return set(more) > set(less) and expense[more] == expense[less]  # beside more, a host that is slowed is another one


def _is_in_order(tiny: Tiny, hosting: Hosting) -> bool:
    alike = [(kind, host_of(device)) for device, kind in tiny.kind_of.items()]
    held = [
        (like, [(h.variant, h.slo_part) for h in residents]) for like, residents in zip(alike, hosting, strict=True)
    ]
    return all(left[0] != right[0] or left[1] <= right[1] for left, right in pairwise(held))


def _resident_sets(tiny: Tiny, device: str, hosts: list[Host]) -> Iterator[Residents]:
    kind, residency = tiny.kind_of[device], tiny.rules.residency
    most = len(hosts) if residency == "memory" else int(residency)
    pins = [pair for pair in tiny.rules.pinned if pair.device in {device, kind}]
    for size in range(most + 1):
        for residents in combinations(hosts, size):
            is_once = len({host.variant for host in residents}) == size
            fits = is_once and sum(host.memory for host in residents) <= tiny.memory.get(kind, 2**30)
            if fits and all(any(_names(pair, host, kind) for host in residents) for pair in pins):
                among = _among(tiny, kind, residents)
                if all(host.capacity_qps > 0 for host in among):
                    yield among


def _among(tiny: Tiny, kind: str, residents: Residents) -> Residents:
    """The same, each as slow as the others make it."""
    if not tiny.sharing:
        return residents
    held = {host.variant for host in residents}
    return tuple(
        replace(
            _host(tiny, host.device, kind, host.family, host.variant, host.accuracy, host.slo_part, slowed),
            worth=host.worth,
        )
        if (slowed := _slowed(tiny, kind, host.variant, held)) > 1
        else host
        for host in residents
    )


def _slowed(tiny: Tiny, kind: str, variant: str, held: set[str]) -> float:
    """By the worst of all that was measured of what its device holds."""
    mine = ((others, by) for (of, one, *others), by in tiny.sharing.items() if (of, one) == (kind, variant))
    return max((by for others, by in mine if held.issuperset(others)), default=1.0)


def hosting_of(tiny: Tiny, plan: Plan) -> Hosting:
    """What a plan hosts."""
    placed = {(p.device, p.family, p.variant, p.max_batch) for p in plan.placements}
    assert len(placed) == len(plan.placements)
    every, named = hosts_of(tiny), {each[:3] for each in placed}
    held = {d: tuple(h for h in every[d] if (d, h.family, h.variant) in named) for d in tiny.kind_of}
    found = tuple(
        tuple(h for h in _among(tiny, kind, held[d]) if (d, h.family, h.variant, h.max_batch) in placed)
        for d, kind in tiny.kind_of.items()
    )
    assert sum(map(len, found)) == len(placed), f"{plan.placements} are not all allowed"
    return found


# What a hosting is worth ------------------------------------------------------------------------------------------


def _spent(tiny: Tiny, hosting: Hosting, of: str) -> float:
    used = [residents for residents in hosting if residents]
    if of == "power":
        return sum(max(host.power_w for host in residents) for residents in used)
    return sum(tiny.price[tiny.kind_of[residents[0].device]] for residents in used)


def _loads(tiny: Tiny, hosting: Hosting) -> int:
    now = tiny.current.hosted() if tiny.current is not None else {}
    return sum((h.family, h.variant) not in now.get(h.device, ()) for residents in hosting for h in residents)


def wanted_qps(tiny: Tiny) -> dict[str, float]:
    """With headroom."""
    return {family: qps * tiny.headroom for family, qps in tiny.demand_qps.items()}


@dataclass
class _Worth:
    """What can be said of a hosting, or of a plan: the parts of the demands that are served, and how accurately.

    ``accuracy_qps`` counts what answers are worth: where a family prefers something else, not their accuracy.
    """

    tiny: Tiny
    hosting: Hosting
    served_qps: dict[str, float] = field(default_factory=dict)
    accuracy_qps: dict[str, float] = field(default_factory=dict)

    def value(self, objective: Objective, floor: float = -math.inf) -> float:
        """What is less than ``floor`` need not be worked out: anything less may be told."""
        name, number = objective
        wanted = wanted_qps(self.tiny)
        values: Mapping[str, Callable[[], float]] = {
            "cost": lambda: self._saved("cost", floor),
            "power": lambda: self._saved("power", floor),
            "loads": lambda: -_loads(self.tiny, self.hosting),
            "devices": lambda: -sum(bool(residents) for residents in self.hosting),
            "least served": lambda: sum(sorted(self._parts().values())[:number]),
            "served": lambda: sum(self.served_qps.values()) / (sum(wanted.values()) or 1.0),
            "accuracy": lambda: sum(self.accuracy_qps.values()) / (sum(wanted.values()) or 1.0),
        }
        return float(values[name]())

    def serves_all(self) -> bool:
        return min(self._parts().values(), default=1.0) >= 1 - SERVED

    def _saved(self, of: str, floor: float) -> float:
        """What is spent, to be small, where all is served."""
        saved = -_spent(self.tiny, self.hosting, of)
        return saved if saved < floor or self.serves_all() else -math.inf

    def _parts(self) -> Mapping[str, float]:
        return {f: self.served_qps[f] / qps for f, qps in wanted_qps(self.tiny).items() if qps > 0}


class _Rates(_Worth):
    """A plan as its rates say."""

    def __init__(self, tiny: Tiny, plan: Plan) -> None:
        super().__init__(tiny, hosting_of(tiny, plan), dict(plan.served_qps))
        worth = {(h.device, h.variant, h.max_batch): h.worth for residents in self.hosting for h in residents}
        for family in tiny.accuracy:
            placed = [p for p in plan.placements if p.family == family]
            self.accuracy_qps[family] = sum(p.rate_qps * worth[p.device, p.variant, p.max_batch] for p in placed)
        for cascade in plan.cascades:
            gained = cascade.point.accuracy - tiny.accuracy[cascade.family][cascade.first]
            self.accuracy_qps[cascade.family] += cascade.rate_qps * gained


class _Single(_Worth):
    """One variant per device: families don't compete, and to fill the most accurate first is best."""

    def __init__(self, tiny: Tiny, hosting: Hosting) -> None:
        super().__init__(tiny, hosting)
        for family, qps in wanted_qps(tiny).items():
            share_qps = tiny.rules.max_share.get(family, 1.0) * qps
            mine = sorted(
                (host for residents in hosting for host in residents if host.family == family),
                key=lambda host: -host.worth,
            )
            capacities_qps = [min(host.capacity_qps, share_qps) for host in mine]
            lost_qps: dict[str, float] = {}
            if tiny.rules.survives is not None:
                for host, capacity_qps in zip(mine, capacities_qps, strict=True):
                    unit = tiny.rules.unit_of(host.device)
                    lost_qps[unit] = lost_qps.get(unit, 0.0) + capacity_qps
            left = self.served_qps[family] = min(qps, sum(capacities_qps) - max(lost_qps.values(), default=0.0))
            self.accuracy_qps[family] = 0.0
            for host, capacity_qps in zip(mine, capacities_qps, strict=True):
                self.accuracy_qps[family] += min(left, capacity_qps) * host.worth
                left -= min(left, capacity_qps)


class _Shared(_Worth):
    """Devices or networks that families share: how best to is a linear program, whose aims are fixed in turn."""

    def __init__(self, tiny: Tiny, hosting: Hosting) -> None:
        super().__init__(tiny, hosting)
        self.wanted = {family: qps for family, qps in wanted_qps(tiny).items() if qps > 0}
        hosts = [host for residents in hosting for host in residents if host.family in self.wanted]
        self.size = len(hosts)
        self.wanted_qps = np.array([self.wanted[host.family] for host in hosts])
        self.accuracy = np.array([host.worth for host in hosts])
        self.part_of = {f: np.array([float(host.family == f) for host in hosts]) for f in self.wanted}
        self.rows: list[tuple[Floats, float]] = []  # coefficients, and the most that they may sum up to
        busy = self.wanted_qps / np.array([host.capacity_qps for host in hosts])
        for device in tiny.kind_of:
            is_here = np.array([float(host.device == device) for host in hosts])
            self.rows.append((is_here * busy, 1.0))
            shares = [(part * is_here, tiny.rules.max_share.get(f, 1.0)) for f, part in self.part_of.items()]
            self.rows.extend(shares)
        self.rows.extend((part, 1.0) for part in self.part_of.values())
        for name, network in tiny.networks.items():
            sizes = [
                float(host_of(h.device) == name) * network.row_bytes[h.family] / network.bytes_per_s for h in hosts
            ]
            self.rows.append((np.array(sizes) * self.wanted_qps, 0.5))

    def value(self, objective: Objective, floor: float = -math.inf) -> float:
        name, number = objective
        everything = sum(self.wanted.values()) or 1.0
        if name in {"cost", "power", "loads", "devices"}:
            return super().value(objective, floor)
        if name == "least served":
            return self._least(number)
        each = self.accuracy if name == "accuracy" else np.ones(len(self.accuracy))
        most = sum(qps * max(each[self.part_of[f] > 0], default=0.0) for f, qps in self.wanted.items()) / everything
        return most if most < floor else self._fix(self._padded(each * self.wanted_qps / everything))

    def serves_all(self) -> bool:
        """If so, it will."""
        everyone = np.ones(self.size)
        is_possible = all(part.any() for part in self.part_of.values())
        if not is_possible or self._most(everyone) < len(self.wanted) * (1 - SAME):
            return False
        self.rows.append((-everyone, SAME - len(self.wanted)))
        return True

    def _fix(self, row: Floats) -> float:
        value = self._most(row)
        self.rows.append((-row, SAME - value))
        return value

    def _least(self, number: int) -> float:
        """The largest sum of the ``number`` smallest parts: ``number · t - Σ max(t - part, 0)`` for the best ``t``."""
        first = self.size
        self.size += 1 + len(self.wanted)
        for i, part in enumerate(self.part_of.values()):
            row = self._padded(-part)
            row[first], row[first + 1 + i] = 1.0, -1.0
            self.rows.append((row, 0.0))
        objective = np.zeros(self.size)
        objective[first], objective[first + 1 :] = number, -1.0
        return self._fix(objective)

    def _most(self, row: Floats) -> float:
        value = self._run(row)
        assert value is not None
        return value

    def _run(self, row: Floats) -> float | None:
        if self.size == 0:
            return 0.0
        matrix = np.zeros((len(self.rows), self.size))
        for number, (each, _) in enumerate(self.rows):
            matrix[number, : len(each)] = each
        found = least(-self._padded(row), matrix, [most for _, most in self.rows])
        return None if found is None else -found

    def _padded(self, row: Floats) -> Floats:
        return np.concatenate([row, np.zeros(self.size - len(row))])


class Cascading(_Shared):
    """Each query is answered by one host, or by one and some by another whose batches fit the SLO after the first's."""

    def __init__(self, tiny: Tiny, hosting: Hosting) -> None:
        _Worth.__init__(self, tiny, hosting)
        self.wanted = {family: qps for family, qps in wanted_qps(tiny).items() if qps > 0}
        hosts = [host for residents in hosting for host in residents if host.family in self.wanted]
        ways = [(host.worth, {host: 1.0}) for host in hosts if _is_accurate(tiny, host)]
        for first, second, point in _pairs(tiny, hosts):
            ways.append((point.accuracy, {first: 1.0, second: point.deferred_frac}))
        family_of = [next(iter(uses)).family for _, uses in ways]
        self.size = len(ways)
        self.wanted_qps = np.array([self.wanted[family] for family in family_of])
        self.accuracy = np.array([accuracy for accuracy, _ in ways])
        self.part_of = {f: np.array([float(family == f) for family in family_of]) for f in self.wanted}
        self.rows = [(part, 1.0) for part in self.part_of.values()]

        def limited(most: float, each: Callable[[Host], float]) -> None:
            sums = [sum(times * each(host) for host, times in uses.items()) for _, uses in ways]
            self.rows.append((np.array(sums), most))

        for device in tiny.kind_of:
            limited(1.0, lambda h, d=device: (h.device == d) * self.wanted[h.family] / h.capacity_qps)  # type: ignore[misc]
            for family in (f for f, share in tiny.rules.max_share.items() if share < 1 and f in self.wanted):
                most = tiny.rules.max_share[family]
                limited(most, lambda h, d=device, f=family: float((h.device, h.family) == (d, f)))  # type: ignore[misc]
        for name, network in tiny.networks.items():
            bits = {f: self.wanted[f] * network.row_bytes[f] / network.bytes_per_s for f in self.wanted}
            limited(0.5, lambda h, n=name, b=bits: (host_of(h.device) == n) * b[h.family])  # type: ignore[misc]
        if tiny.rules.survives is not None:
            self.rows += [(self.part_of[f], self._left(f, hosts) / qps) for f, qps in self.wanted.items()]

    def _left(self, family: str, hosts: list[Host]) -> float:
        """The capacity that is left for queries of a family, if all are answered by one host, after the worst loss."""
        share_qps = self.tiny.rules.max_share.get(family, 1.0) * self.wanted[family]
        of_unit: dict[str, float] = {}
        for host in hosts:
            if host.family == family:
                unit = self.tiny.rules.unit_of(host.device)
                of_unit[unit] = of_unit.get(unit, 0.0) + min(host.capacity_qps, share_qps)
        return sum(of_unit.values()) - max(of_unit.values(), default=0.0)


def rated(tiny: Tiny, hosting: Hosting) -> _Worth:
    if tiny.cascades:
        return Cascading(tiny, hosting)
    return _Shared(tiny, hosting) if tiny.rules.is_resident_set or tiny.networks else _Single(tiny, hosting)
