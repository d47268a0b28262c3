"""Instances small enough to try every placement."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product

import msgspec
from builders import make_catalog, make_family, make_measured, make_profile, make_sharing_cost
from hypothesis import strategies as st

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.device import host_of
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import LatencyStatistic, Point, Profile, VariantProfile
from proteus_cli.domain.rules import PAPER_RULES, Rules
from proteus_cli.domain.stages.cascade import CascadeProfile
from proteus_cli.planning.planner import Planner

FAMILIES = ("a", "b")
TYPES = ("cpu", "gpu")

Latencies = dict[tuple[str, str, str], dict[int, float]]
"""Seconds by batch size, by device type, family and variant."""


@dataclass(frozen=True, eq=False)  # what was worked out for one is found again by which it is
class Tiny:
    """``accuracy`` by family and variant; ``devices`` are the type of each; ``demand_qps`` by family.

    ``hosts`` are those of the devices; without, all are of this machine. ``networks``: of some of them, without time.

    ``memory`` (of variants by name, and of devices by type), ``power_w`` (by device type and variant) and ``price``
    (by device type) are small whole numbers where rules need them. ``tails``: by variant, how many times the latency
    its mean, p50, p95 and p99 are. ``sharing``: by device type, variant and all that are beside it, how many times as
    long batches take.
    """

    accuracy: dict[str, dict[str, float]]
    latency_s: Latencies
    devices: tuple[str, ...]
    demand_qps: dict[str, float]
    slo_ms: int = 100
    memory: dict[str, int] = field(default_factory=dict)
    power_w: dict[tuple[str, str], float] = field(default_factory=dict)
    price: dict[str, float] = field(default_factory=dict)
    tails: dict[str, Mapping[LatencyStatistic, float]] = field(default_factory=dict)
    rules: Rules = PAPER_RULES
    headroom: float = 1.0
    current: Plan | None = None
    hosts: tuple[str, ...] = ()
    networks: dict[str, Network] = field(default_factory=dict)
    cascades: tuple[CascadeProfile, ...] = ()
    sharing: dict[tuple[str, ...], float] = field(default_factory=dict)

    @property
    def catalog(self) -> Catalog:
        families = (make_family(f, dict(v), slo=f"{self.slo_ms}ms") for f, v in self.accuracy.items())
        return msgspec.structs.replace(make_catalog(*families), price_per_hour=self.price)

    @property
    def kind_of(self) -> dict[str, str]:
        """The type of each device by its id."""
        hosts = self.hosts or ("",) * len(self.devices)
        places = enumerate(zip(hosts, self.devices, strict=True))
        return {f"{host}/{kind}{i}" if host else f"{kind}{i}": kind for i, (host, kind) in places}

    @property
    def units(self) -> set[str]:
        """What may be lost, if anything may be: devices, or hosts."""
        return set(map(self.rules.unit_of, self.kind_of))

    @property
    def profiles(self) -> dict[str, Profile]:
        return {device: self._profile(device, kind) for device, kind in self.kind_of.items()}

    def _profile(self, device: str, kind: str) -> Profile:
        measured = (
            self._measured(kind, family, variant, accuracy)
            for family, variants in self.accuracy.items()
            for variant, accuracy in variants.items()
        )
        profile = make_profile(device, *measured, device_type=kind, memory_bytes=self.memory.get(kind, 2**30))
        family_of = {variant: family for family, of in self.accuracy.items() for variant in of}
        costs = tuple(
            make_sharing_cost((family_of[variant], variant), *((family_of[each], each) for each in others), ratio=ratio)
            for (of_kind, variant, *others), ratio in self.sharing.items()
            if of_kind == kind
        )
        network = self.networks.get(host_of(device))
        return msgspec.structs.replace(profile, network=network, cascades=self.cascades, sharing=costs)

    def _measured(self, kind: str, family: str, variant: str, accuracy: float) -> VariantProfile:
        latency_s = self.latency_s[kind, family, variant]
        measured = make_measured(
            family,
            variant,
            accuracy,
            latency_s,
            memory_bytes=self.memory.get(variant, 1000),
            power_w=self.power_w.get((kind, variant)),
        )
        if variant not in self.tails:
            return measured
        times = self.tails[variant]
        points = (
            Point(n, 10, s * times["mean"], s * times["p50"], s, s * times["p95"], s * times["p99"], n / s)
            for n, s in latency_s.items()
        )
        return msgspec.structs.replace(measured, points=tuple(points))

    @property
    def planner(self) -> Planner:
        proteus = policy_named("proteus")
        return Planner(self.catalog, self.profiles, proteus, headroom=self.headroom, inputs={}, rules=self.rules)

    def planned(self) -> Plan:
        return self.planner(self.demand_qps, self.current)

    def with_more(self, kind: str) -> "Tiny":
        return replace(self, devices=(*self.devices, kind))


SLOW_ON_CPUS = Tiny(
    accuracy={"a": {"slow": 0.9, "fast": 0.5}},
    latency_s={
        ("cpu", "a", "slow"): {1: 0.060},
        ("cpu", "a", "fast"): {1: 0.200},
        ("gpu", "a", "slow"): {1: 0.060},
        ("gpu", "a", "fast"): {1: 0.040},
    },
    devices=("gpu",) + ("cpu",) * 6,
    demand_qps={"a": 40.0},
    price={"cpu": 1.0, "gpu": 1.0},
    rules=Rules(),
)
"""A CPU is in time with the slow variant alone, where 5 hosts share the queue; the GPU carries 25 qps by itself."""


@dataclass(frozen=True)
class Worth:
    """What a plan is worth, the first before the second: queries served per second, and the sum of their accuracies."""

    served_qps: float
    accuracy_qps: float

    @classmethod
    def of(cls, plan: Plan, tiny: Tiny) -> "Worth":
        weighted = (tiny.accuracy[p.family][p.variant] * p.rate_qps for p in plan.placements)
        return cls(sum(plan.served_qps.values()), sum(weighted))


def by_brute_force(tiny: Tiny) -> Worth:
    """The best of all ways to put one variant, or none, on each device.

    With the hosting fixed, each device works for one family, so the families no longer compete: each is served as far
    as its devices go, most accurate device first.
    """
    choices = []
    for kind in tiny.devices:
        found: list[tuple[str, float, float] | None] = [None]
        for family, variants in tiny.accuracy.items():
            for variant, accuracy in variants.items():
                points = tiny.profiles[f"{kind}{tiny.devices.index(kind)}"].of(family, variant)
                assert points is not None
                found.append((family, accuracy, PAPER_RULES.capacity_within(tiny.slo_ms / 1000, points.points).qps))
        choices.append(found)
    worths = (_worth([host for host in hosting if host], tiny.demand_qps) for hosting in product(*choices))
    return max(worths, key=lambda worth: (round(worth.served_qps, 6), worth.accuracy_qps))


def _worth(hosting: list[tuple[str, float, float]], demand_qps: dict[str, float]) -> Worth:
    left, accuracy_qps = dict(demand_qps), 0.0
    for family, accuracy, capacity_qps in sorted(hosting, key=lambda host: -host[1]):
        rate_qps = min(left[family], capacity_qps)
        left[family] -= rate_qps
        accuracy_qps += accuracy * rate_qps
    return Worth(sum(demand_qps.values()) - sum(left.values()), accuracy_qps)


@st.composite
def tinies(draw: st.DrawFn) -> Tiny:
    """One or two families of up to three variants, on up to three devices of up to two types."""
    families = FAMILIES[: draw(st.integers(1, 2))]
    accuracies = st.lists(st.integers(50, 100).map(lambda percent: percent / 100), min_size=1, max_size=3)
    accuracy = {f: {f"{f}{i}": a for i, a in enumerate(draw(accuracies))} for f in families}
    latency_s = {
        (kind, family, variant): draw(latencies())
        for kind in TYPES
        for family, variants in accuracy.items()
        for variant in variants
    }
    devices = tuple(draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=3)))
    demands = st.sampled_from([0.0, 1.0, 50.0]) | st.floats(0.1, 1000.0)
    return Tiny(accuracy, latency_s, devices, {family: draw(demands) for family in families})


@st.composite
def latencies(draw: st.DrawFn) -> dict[int, float]:
    """Of batches of 1 and 4; of every seventh even the first is too slow for an SLO of 100 ms."""
    first_ms = draw(st.integers(2, 57))
    return {1: first_ms / 1000, 4: first_ms * draw(st.sampled_from([1.0, 2.0, 3.9])) / 1000}
