"""Fleets that benchmarks plan for and simulate: the paper's cluster, synthetic ones, and alike workers; all seeded.

The paper's profiles and trace are read from `../shared/data/proteus-asplos24` beside the repository (`PAPER`).
"""

import csv
import gzip
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import scipy.sparse as sp
from scipy.optimize import linprog

from benchmarks.frame import ROOT
from proteus_cli.arrays import Floats, Ints
from proteus_cli.control.policies import Policy
from proteus_cli.domain.base import FORMAT, MadeBy
from proteus_cli.domain.catalog import Catalog, Family, Variant
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.device import Device
from proteus_cli.domain.fleet import fleet_of, hypothetical_fleet
from proteus_cli.domain.plan import PLAN_FORMAT, Placement, Plan, Solver
from proteus_cli.domain.profile import BackendInfo, Point, Profile, VariantProfile
from proteus_cli.domain.rules import PAPER_RULES, Rules
from proteus_cli.planning.from_workspace import planner_settings
from proteus_cli.planning.planner import Planner
from proteus_cli.profiling.csv_file import parse_rows, profiles_from
from proteus_cli.profiling.importing import new_catalog
from proteus_cli.store import Workspace, to_json, write_in_order
from proteus_cli.store.catalog_text import new_text

PAPER = ROOT.parent / "shared" / "data" / "proteus-asplos24"
NOBODY = MadeBy(version="", host="", time="")
SEED = 2024
BATCHES = (1, 2, 4, 8)  # as in the paper's artifact
VARIANT_BYTES = 2**30  # of each variant, where memory is counted in variants: the paper's data lack it


# --- parts


def measured(
    family: str, variant: str, accuracy: float, times_s: Mapping[int, float], *, tail: float = 1.0
) -> VariantProfile:
    """A variant with the mean time of each batch size; the p90 and beyond are ``tail`` times the mean."""
    points = tuple(Point(rows, 1, s, s, *3 * (tail * s,), qps=rows / s) for rows, s in sorted(times_s.items()))
    return VariantProfile(family, variant, accuracy, None, "", None, 0.0, 0.0, 0, points)


def profile(kind: str, variants: Sequence[VariantProfile], device: str = "") -> Profile:
    """Of a device type, or of one device."""
    known = Device(device or kind, kind, "cpu", kind, 0, (0,))
    return Profile(FORMAT, NOBODY, known, device or kind, BackendInfo("imported", {}), tuple(variants))


def plan_by_hand(placements: Sequence[Placement], kind: str, devices: Sequence[str]) -> Plan:
    """A plan for the rates of its placements."""
    qps: dict[str, float] = {}
    for placement in placements:
        qps[placement.family] = qps.get(placement.family, 0.0) + placement.rate_qps
    return Plan(
        format=PLAN_FORMAT, made_by=NOBODY, policy="proteus", objective="by hand", rules=Rules(), headroom=1.0,
        demand_qps=qps, served_qps=qps, unserved_qps=dict.fromkeys(qps, 0.0), effective_accuracy=None,
        relative_accuracy=None, solver=Solver("by hand", "optimal", 0.0, 0.0), fleet={kind: tuple(devices)},
        placements=tuple(placements), inputs={},
    )  # fmt: skip


def never(*_asked: object) -> Plan:
    raise AssertionError("a policy without a rule must not re-plan")


def slowed(of: Profile, by: float) -> Profile:
    """A device on which batches take ``by`` times as long as measured."""

    def slower(point: Point) -> Point:
        times_s = {name: by * getattr(point, name) for name in ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s")}
        return msgspec.structs.replace(point, qps=point.qps / by, **times_s)

    variants = tuple(msgspec.structs.replace(each, points=tuple(map(slower, each.points))) for each in of.variants)
    return msgspec.structs.replace(of, variants=variants)


# --- fleets


@dataclass(frozen=True, slots=True)
class Fleet:
    """A profile for each device type, and how many devices there are of each."""

    catalog: Catalog
    types: Mapping[str, Profile]
    counts: Mapping[str, int]

    def profiles(self) -> dict[str, Profile]:
        """By device id; the devices of a type share one tuple of variants."""
        return hypothetical_fleet(self.counts, self.types)

    def slowed(self, by: float) -> "Fleet":
        """The same devices, where batches take ``by`` times as long as measured."""
        return replace(self, types={kind: slowed(each, by) for kind, each in self.types.items()})

    def with_memory_for(self, variants: int) -> "Fleet":
        """The same devices, each with memory for so many variants, which all take the same."""

        def sized(each: Profile) -> Profile:
            device = msgspec.structs.replace(each.device, memory_bytes=variants * VARIANT_BYTES)
            own = tuple(msgspec.structs.replace(variant, memory_bytes=VARIANT_BYTES) for variant in each.variants)
            return msgspec.structs.replace(each, device=device, variants=own)

        return replace(self, types={kind: sized(each) for kind, each in self.types.items()})


def paper_fleet() -> Fleet:
    """40 devices of 3 types, 46 variants of 9 families."""
    rows = parse_rows((PAPER / "profiles.csv").read_text(), "profiles.csv")
    slos = {row["family"]: f"{row['slo_ms']}ms" for row in _read("slo.csv")}
    counts = {row["device_type"]: int(row["count"]) for row in _read("fleet.csv")}
    return Fleet(new_catalog(rows, slos), profiles_from(rows, NOBODY), counts)


def _read(name: str) -> list[dict[str, str]]:
    with (PAPER / name).open() as file:
        return list(csv.DictReader(file))


def paper_rates() -> tuple[Demand, ...]:
    """Queries per second by family in each second of the paper's trace."""
    with gzip.open(PAPER / "medium-normal_load.csv.gz", "rt") as file:
        counts = Counter((int(float(row["arrival_s"])), row["family"]) for row in csv.DictReader(file))
    families = sorted({family for _, family in counts})
    seconds = range(max(second for second, _ in counts) + 1)
    return tuple({family: float(counts[second, family]) for family in families} for second in seconds)


def scaled(demand: Demand, by: float) -> dict[str, float]:
    """A multiple of a demand."""
    return {family: qps * by for family, qps in demand.items()}


def quantiles(demands: tuple[Demand, ...], count: int) -> tuple[Demand, ...]:
    """So many of them, from the quietest to the busiest."""
    by_total = sorted(demands, key=lambda demand: sum(demand.values()))
    return tuple(by_total[int((i + 0.5) / count * len(by_total))] for i in range(count))


def synthetic_fleet(families: int, variants: int, types: int, devices: int, rng: np.random.Generator) -> Fleet:
    """Types differ in speed up to 16-fold; a family's variants up to 60-fold, from 0.55 of its accuracy to all of it.

    The best variant of the median family takes 40 ms for one query on a type of speed 1; SLOs are from 100 to 500 ms.
    Latencies are off by up to 30 %, and one variant in ten doesn't run on a type.
    """
    speeds = rng.uniform(0.5, 8, types)
    made = [_synthetic_family(f"family{f}", variants, rng) for f in range(families)]
    found: dict[str, list[VariantProfile]] = {f"type{t}": [] for t in range(types)}
    for family in made:
        best_s = float(rng.lognormal(np.log(0.04), 0.7))
        lighter = np.sort(rng.uniform(1, 60, variants))[::-1]
        lighter[-1] = 1.0
        for own, speed in zip(found.values(), speeds, strict=True):
            for variant, by in zip(family.variants, lighter, strict=True):
                latency_s = best_s / by / speed * rng.uniform(0.7, 1.3)
                if rng.random() < 0.9:
                    times_s = {batch: float(latency_s * (0.5 + 0.5 * batch)) for batch in BATCHES}
                    own.append(measured(family.name, variant.name, variant.accuracy, times_s))
    counts = {kind: devices // types + (t < devices % types) for t, kind in enumerate(found)}
    return Fleet(Catalog(FORMAT, tuple(made)), {kind: profile(kind, own) for kind, own in found.items()}, counts)


def _synthetic_family(name: str, variants: int, rng: np.random.Generator) -> Family:
    accuracies = np.sort(rng.uniform(0.55, 1, variants)).round(4)
    accuracies[-1] = 1.0
    slo = f"{rng.choice([100, 200, 300, 500])}ms"
    return Family(name, slo, tuple(Variant(f"v{v}", accuracy) for v, accuracy in enumerate(accuracies.tolist())))


def synthetic_mix(fleet: Fleet, rng: np.random.Generator) -> dict[str, float]:
    """Parts of the whole demand by family: some ask for several times as much as others."""
    parts = rng.dirichlet(np.full(len(fleet.catalog.families), 3.0))
    return dict(zip(fleet.catalog.names, parts.tolist(), strict=True))


# --- alike workers

FAMILY, WORKER = "images", "worker"
BATCH_OF_1_S = (0.022, 0.028, 0.036, 0.047, 0.062, 0.085, 0.115, 0.160)
ACCURACIES = (0.66, 0.81, 0.87, 0.91, 0.94, 0.965, 0.985, 1.0)


def alike(count: int) -> Fleet:
    """So many workers for one family of eight variants, the most accurate of which is slower than its SLO of 150 ms.

    The fastest variant does 63 queries per second by its p95 in half the SLO.
    """
    names = tuple(Variant(f"v{place}", accuracy) for place, accuracy in enumerate(ACCURACIES))
    variants = [
        measured(FAMILY, each.name, each.accuracy, {b: s * (0.45 + 0.55 * b) for b in (*BATCHES, 16)}, tail=1.09)
        for each, s in zip(names, BATCH_OF_1_S, strict=True)
    ]
    catalog = Catalog(FORMAT, (Family(FAMILY, "150ms", names),))
    return Fleet(catalog, {WORKER: profile(WORKER, variants)}, {WORKER: count})


# --- what a fleet carries


@dataclass(frozen=True, slots=True)
class Choices:
    """Each variant on each type of devices where it can meet its SLO: type, family, rate and accuracy of each [C]."""

    fleet: Fleet
    kind: Ints
    family: Ints
    qps: Floats
    accuracy: Floats

    @classmethod
    def of(cls, fleet: Fleet, hosts: Mapping[str, int] | None = None) -> "Choices":
        """By the paper's rules. With ``hosts`` by the default ones, where each family has so many; one, if left out."""
        rules = PAPER_RULES if hosts is None else Rules()
        families, slo_s = fleet.catalog.names, fleet.catalog.slo_s()
        in_time = rules.attainment_targets(fleet.catalog)
        found = [
            (k, families.index(name), within.qps, each.accuracy)
            for k, known in enumerate(fleet.types.values())
            for each in known.variants
            for name in [each.family]
            for count in [1 if hosts is None else hosts.get(name, 1)]
            if (within := rules.capacity_within(slo_s[name], each.points, count, in_time[name])).qps > 0
        ]
        kind, family, qps, accuracy = (np.array(column) for column in zip(*found, strict=True))
        return cls(fleet, kind, family, qps, accuracy)

    def array(self, demand: Mapping[str, float]) -> Floats:
        """A demand as [F]."""
        return np.array([demand[name] for name in self.fleet.catalog.names])

    @property
    def device_count(self) -> Floats:
        """By type."""
        return np.array([float(self.fleet.counts[kind]) for kind in self.fleet.types])

    @property
    def of_kind(self) -> sp.csr_array:
        """0/1 [types, C]."""
        return _members(self.kind, len(self.fleet.types))

    @property
    def of_family(self) -> sp.csr_array:
        """0/1 [F, C]."""
        return _members(self.family, len(self.fleet.catalog.families))


def _members(of: Ints, count: int) -> sp.csr_array:
    return sp.csr_array((np.ones(len(of)), (of, np.arange(len(of)))), shape=(count, len(of)))


def max_multiple_of(choices: Choices, mix: Mapping[str, float]) -> float:
    """The largest multiple of a demand that could be served if devices could be divided at will."""
    shares = sp.hstack([choices.of_kind, sp.csr_array((len(choices.device_count), 1))])
    carried = sp.hstack([-(choices.of_family @ sp.diags_array(choices.qps)), sp.csr_array(choices.array(mix)[:, None])])
    limits = np.concatenate([choices.device_count, np.zeros(carried.shape[0])])
    objective = np.append(np.zeros(len(choices.qps)), -1.0)
    found = linprog(objective, A_ub=sp.vstack([shares, carried]), b_ub=limits)
    assert found.status == 0, found.message
    return -float(found.fun)


# --- workspaces


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """A fleet as a workspace on disk, with profiles by device id."""

    name: str
    place: Workspace
    profiles: Mapping[str, Profile]
    fleet: Fleet

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(self.fleet.catalog.names)

    def planner(self, policy: Policy, headroom: float) -> Planner:
        """The planner that the command line would use."""
        return planner_settings(self.place, policy, headroom, profiles=self.profiles).make()

    def max_qps(self, shares: Mapping[str, float]) -> float:
        """The most that could be carried of a mix, in queries per second, if devices could be divided at will."""
        mix = {family: shares.get(family, 0.0) for family in self.families}
        return max_multiple_of(Choices.of(self.fleet), mix) * sum(mix.values())

    def with_fleet(self, fleet: Fleet) -> "Cluster":
        """The same workspace with other profiles, which it does not know."""
        return replace(self, fleet=fleet, profiles=fleet.profiles())


def cluster_at(directory: Path, *, is_paper: bool, slo: str | None = None) -> Cluster:
    """The paper's cluster as a workspace in ``directory``, or a synthetic one; with one SLO for all, or its own."""
    fleet = paper_fleet() if is_paper else synthetic_fleet(9, 5, 3, 40, np.random.default_rng(SEED))
    if slo is not None:
        families = tuple(msgspec.structs.replace(family, slo=slo) for family in fleet.catalog.families)
        fleet = replace(fleet, catalog=msgspec.structs.replace(fleet.catalog, families=families))
    return cluster_of(fleet, directory, "the paper's cluster" if is_paper else "a synthetic cluster")


def cluster_of(fleet: Fleet, directory: Path, name: str) -> Cluster:
    """A fleet as a workspace in ``directory``."""
    place = Workspace(directory)
    files = {place.profile_path(kind): to_json(each) for kind, each in fleet.types.items()}
    text = new_text(fleet.catalog, made_by="python -m benchmarks")
    write_in_order({**files, place.catalog_path: text.encode()})
    counts = ",".join(f"{kind}:{count}" for kind, count in fleet.counts.items())
    return Cluster(f"{name} ({counts})", place, fleet_of(place.profiles(), counts), fleet)
