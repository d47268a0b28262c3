"""What `planner.py` plans for: the paper's cluster, fleets derived from it, and synthetic ones, all of them seeded."""

import csv
import gzip
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import cycle, islice, pairwise
from pathlib import Path

import msgspec
import numpy as np

from proteus_cli.domain.base import FORMAT, MadeBy
from proteus_cli.domain.catalog import Catalog, Family, Variant
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.device import Device
from proteus_cli.domain.fleet import hypothetical_fleet
from proteus_cli.domain.profile import BackendInfo, Point, Profile, VariantProfile
from proteus_cli.domain.stages.cascade import CascadePoint, CascadeProfile
from proteus_cli.profiling.csv_file import parse_rows, profiles_from
from proteus_cli.profiling.importing import new_catalog

PAPER = Path(__file__).parents[2] / "shared" / "data" / "proteus-asplos24"
NOBODY = MadeBy(version="", host="", time="")
GIGABYTE = 10**9
BATCHES = (1, 2, 4, 8)  # as in the paper's artifact

MIN_BYTES, MAX_BYTES = 0.1 * GIGABYTE, 4 * GIGABYTE
MEMORY_BYTES = {"cpu": 16 * GIGABYTE, "v100": 16 * GIGABYTE, "gtx1080ti": 11 * GIGABYTE}


@dataclass(frozen=True, slots=True)
class Fleet:
    """A profile for each device type, and how many devices there are of each."""

    catalog: Catalog
    types: Mapping[str, Profile]
    counts: Mapping[str, int]

    def profiles(self) -> dict[str, Profile]:
        """By device id; the devices of a type share one tuple of variants."""
        return hypothetical_fleet(self.counts, self.types)


# --- the paper's cluster


def paper_fleet() -> Fleet:
    """40 devices of 3 types, 46 variants of 9 families."""
    rows = parse_rows((PAPER / "profiles.csv").read_text(), "profiles.csv")
    slos = {row["family"]: f"{row['slo_ms']}ms" for row in _read("slo.csv")}
    counts = {row["device_type"]: int(row["count"]) for row in _read("fleet.csv")}
    return Fleet(new_catalog(rows, slos), profiles_from(rows, NOBODY), counts)


def paper_rates() -> tuple[Demand, ...]:
    """Queries per second by family in each second of the paper's trace."""
    with gzip.open(PAPER / "medium-normal_load.csv.gz", "rt") as file:
        arrivals = [(int(float(row["arrival_s"])), row["family"]) for row in csv.DictReader(file)]
    counts = Counter(arrivals)
    families = sorted({family for _, family in arrivals})
    seconds = range(max(second for second, _ in arrivals) + 1)
    return tuple({family: float(counts[second, family]) for family in families} for second in seconds)


def scaled(demand: Demand, by: float) -> dict[str, float]:
    """A multiple of a demand."""
    return {family: qps * by for family, qps in demand.items()}


def spread(demands: tuple[Demand, ...], count: int) -> tuple[Demand, ...]:
    """So many of them, from the quietest to the busiest: quantiles of their totals."""
    by_total = sorted(demands, key=lambda demand: sum(demand.values()))
    return tuple(by_total[int((i + 0.5) / count * len(by_total))] for i in range(count))


def mean_mix(demands: tuple[Demand, ...]) -> dict[str, float]:
    """The mean demand of each family."""
    return {family: sum(demand[family] for demand in demands) / len(demands) for family in demands[0]}


def _read(name: str) -> list[dict[str, str]]:
    with (PAPER / name).open() as file:
        return list(csv.DictReader(file))


# --- fleets derived from it


def of_size(fleet: Fleet, devices: int) -> Fleet:
    """Another number of devices in the same mix."""
    whole = sum(fleet.counts.values())
    counts = {kind: count * devices // whole for kind, count in fleet.counts.items()}
    assert sum(counts.values()) == devices, "the mix must come out even"
    return replace(fleet, counts=counts)


def with_memory(fleet: Fleet, of_it: float = 1.0) -> Fleet:
    """With memory, of which the paper's data say nothing, so this is assumed.

    CPUs and V100s have 16 GB, the GTX 1080 Ti 11 GB, or a part ``of_it``. What a variant takes is the same on all types
    and rises with its batch-1 latency on the CPU, both on a logarithmic scale: from 0.1 GB for the fastest to 4 GB for
    the slowest.
    """
    on_cpu_s = {(v.family, v.variant): v.points[0].p50_s for v in fleet.types["cpu"].variants}
    fastest_s, slowest_s = min(on_cpu_s.values()), max(on_cpu_s.values())

    def sized(measured: VariantProfile) -> VariantProfile:
        place = math.log(on_cpu_s[measured.family, measured.variant] / fastest_s) / math.log(slowest_s / fastest_s)
        return msgspec.structs.replace(measured, memory_bytes=round(MIN_BYTES * (MAX_BYTES / MIN_BYTES) ** place))

    return replace(
        fleet,
        types={
            kind: msgspec.structs.replace(
                profile,
                device=msgspec.structs.replace(profile.device, memory_bytes=round(of_it * MEMORY_BYTES[kind])),
                variants=tuple(map(sized, profile.variants)),
            )
            for kind, profile in fleet.types.items()
        },
    )


def with_cascades(fleet: Fleet) -> Fleet:
    """With two or three cascades of four thresholds for each family of more than two variants, one for one of two.

    From the least accurate and the middle variant to the most accurate, and from the second to the last but one. Where
    the first defers 10, 20, 35 and 50 %, the composition has 0.5, 0.75, 0.92 and all of what the second is better.
    """
    found = tuple(cascade for family in fleet.catalog.families for cascade in _cascades(family))
    return replace(fleet, types={k: msgspec.structs.replace(p, cascades=found) for k, p in fleet.types.items()})


def _cascades(family: Family) -> Iterator[CascadeProfile]:
    rising = sorted(family.variants, key=lambda variant: variant.accuracy)
    last = len(rising) - 1
    places = [(0, last), *([(len(rising) // 2, last)] if last > 1 else []), *([(1, last - 1)] if last > 2 else [])]
    for first, second in ((rising[i], rising[j]) for i, j in dict.fromkeys(places)):
        gained = second.accuracy - first.accuracy
        points = tuple(
            CascadePoint(deferred, deferred, accuracy, accuracy, accuracy, accuracy, 0.0, accuracy)
            for deferred, part in ((0.1, 0.5), (0.2, 0.75), (0.35, 0.92), (0.5, 1.0))
            for accuracy in [first.accuracy + part * gained]
        )
        if gained > 0:
            yield CascadeProfile(family.name, first.name, second.name, "", points)


def with_variants(fleet: Fleet, count: int, rng: np.random.Generator) -> Fleet:
    """So many variants: the new ones lie between two neighbours of a family, in accuracy and in the log of latency.

    Where between is drawn; on each type, latencies are then off by up to 5 %.
    """
    pairs = [
        (family.name, *pair)
        for family in fleet.catalog.families
        for pair in pairwise(sorted(family.variants, key=lambda variant: variant.accuracy))
    ]
    present = sum(len(family.variants) for family in fleet.catalog.families)
    added: dict[str, list[Variant]] = {}
    measured: dict[str, list[VariantProfile]] = {kind: [] for kind in fleet.types}
    for number, (family, low, high) in enumerate(islice(cycle(pairs), count - present)):
        place = float(rng.uniform(0.05, 0.95))
        variant = Variant(
            name=f"{low.name}-{number}", accuracy=round(low.accuracy + place * (high.accuracy - low.accuracy), 6)
        )
        added.setdefault(family, []).append(variant)
        for kind, profile in fleet.types.items():
            both = profile.of(family, low.name), profile.of(family, high.name)
            off_by = float(rng.uniform(0.95, 1.05))
            measured[kind].append(_measured(family, variant, dict(_between(both[0], both[1], place, off_by))))
    families = (
        msgspec.structs.replace(family, variants=(*family.variants, *added.get(family.name, ())))
        for family in fleet.catalog.families
    )
    return Fleet(
        catalog=msgspec.structs.replace(fleet.catalog, families=tuple(families)),
        types={
            kind: msgspec.structs.replace(profile, variants=(*profile.variants, *measured[kind]))
            for kind, profile in fleet.types.items()
        },
        counts=fleet.counts,
    )


def _between(
    low: VariantProfile | None, high: VariantProfile | None, place: float, off_by: float
) -> Iterator[tuple[int, float]]:
    """Latency by batch, for the batches that both have."""
    assert low is not None, "every variant of the paper runs on every type"
    assert high is not None, "every variant of the paper runs on every type"
    other_s = {point.batch: point.p50_s for point in high.points}
    for point in low.points:
        if point.batch in other_s:
            yield point.batch, off_by * point.p50_s ** (1 - place) * other_s[point.batch] ** place


def with_types(fleet: Fleet, count: int, rng: np.random.Generator) -> Fleet:
    """So many device types, with the devices spread evenly over them; the fleet as it is where it has that many.

    A new type is one of the present ones whose latencies are multiplied by a factor of 0.5 to 2, and those of each
    variant by another of 0.8 to 1.25.
    """
    if count == len(fleet.types):
        return fleet
    types = dict(fleet.types)
    for number, (kind, profile) in enumerate(islice(cycle(fleet.types.items()), count - len(types))):
        factor = float(np.exp2(rng.uniform(-1, 1)))
        name = f"{kind}-like-{number}"
        types[name] = _profile(
            name, tuple(_slower(v, factor * float(0.8 * 1.5625 ** rng.uniform())) for v in profile.variants)
        )
    return Fleet(fleet.catalog, types, _spread_evenly(sum(fleet.counts.values()), list(types)))


def _slower(measured: VariantProfile, factor: float) -> VariantProfile:
    points = tuple(_point(point.batch, point.p50_s * factor) for point in measured.points)
    return msgspec.structs.replace(measured, points=points)


# --- synthetic fleets


def synthetic_fleet(families: int, variants: int, types: int, devices: int, rng: np.random.Generator) -> Fleet:
    """Types differ in speed up to 16-fold; a family's variants up to 60-fold, from 0.55 of its accuracy to all of it.

    The best variant of the median family takes 40 ms for one query on a type of speed 1; SLOs are from 100 to 500 ms.
    Latencies are off by up to 30 %, and one variant in ten doesn't run on a type.
    """
    speeds = rng.uniform(0.5, 8, types)
    made = [_synthetic_family(f"family{f}", variants, rng) for f in range(families)]
    measured: dict[str, list[VariantProfile]] = {f"type{t}": [] for t in range(types)}
    for family in made:
        best_s = float(rng.lognormal(np.log(0.04), 0.7))
        lighter = np.sort(rng.uniform(1, 60, variants))[::-1]
        lighter[-1] = 1.0
        for kind, speed in zip(measured, speeds, strict=True):
            for variant, by in zip(family.variants, lighter, strict=True):
                latency_s = best_s / by / speed * rng.uniform(0.7, 1.3)
                if rng.random() < 0.9:
                    by_batch = {batch: float(latency_s * (0.5 + 0.5 * batch)) for batch in BATCHES}
                    measured[kind].append(_measured(family.name, variant, by_batch))
    return Fleet(
        catalog=Catalog(format=FORMAT, families=tuple(made)),
        types={kind: _profile(kind, tuple(variants)) for kind, variants in measured.items()},
        counts=_spread_evenly(devices, list(measured)),
    )


def synthetic_mix(fleet: Fleet, rng: np.random.Generator) -> dict[str, float]:
    """Parts of the whole demand by family: some ask for several times as much as others."""
    parts = rng.dirichlet(np.full(len(fleet.catalog.families), 3.0))
    return dict(zip(fleet.catalog.names, parts.tolist(), strict=True))


def _synthetic_family(name: str, variants: int, rng: np.random.Generator) -> Family:
    accuracies = np.sort(rng.uniform(0.55, 1, variants)).round(4)
    accuracies[-1] = 1.0
    return Family(
        name=name,
        slo=f"{rng.choice([100, 200, 300, 500])}ms",
        variants=tuple(Variant(name=f"v{v}", accuracy=a) for v, a in enumerate(accuracies.tolist())),
    )


# --- parts


def _spread_evenly(devices: int, types: list[str]) -> dict[str, int]:
    return {kind: devices // len(types) + (t < devices % len(types)) for t, kind in enumerate(types)}


def _profile(kind: str, variants: tuple[VariantProfile, ...]) -> Profile:
    device = Device(id=kind, type=kind, kind="gpu", name=kind, memory_bytes=0)
    return Profile(FORMAT, NOBODY, device, kind, BackendInfo(name="imported", versions={}), variants)


def _measured(family: str, variant: Variant, latency_s_of: Mapping[int, float]) -> VariantProfile:
    return VariantProfile(
        family=family,
        variant=variant.name,
        accuracy=variant.accuracy,
        model_digest=None,
        engine_digest="",
        eval_digest=None,
        build_s=0.0,
        load_s=0.0,
        memory_bytes=0,
        points=tuple(_point(batch, latency_s) for batch, latency_s in sorted(latency_s_of.items())),
    )


def _point(batch: int, latency_s: float) -> Point:
    return Point(batch, 1, latency_s, latency_s, latency_s, latency_s, latency_s, qps=batch / latency_s)
