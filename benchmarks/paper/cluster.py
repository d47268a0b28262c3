"""The workspaces that are simulated: the paper's cluster, or a synthetic one where its data is absent."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.planner_instances import Fleet, paper_fleet, synthetic_fleet
from benchmarks.planner_rivals import Choices, max_multiple_of
from proteus_cli.control.policies import Policy
from proteus_cli.domain.fleet import fleet_of
from proteus_cli.domain.profile import Point, Profile
from proteus_cli.planning.from_workspace import planner_settings
from proteus_cli.planning.planner import Planner
from proteus_cli.store import Workspace, to_json, write_in_order
from proteus_cli.store.catalog_text import new_text

SEED = 2024
VARIANT_BYTES = 2**30
"""What each variant takes where memory is counted in variants: the paper's data say nothing of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """A workspace on disk, and the fleet in it: profiles by device id."""

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
        """The most that could be carried of a mix, whatever the accuracy, if devices could be divided at will.

        Queries per second, all families together, for the SLOs of the fleet's own catalog.
        """
        mix = {family: shares.get(family, 0.0) for family in self.families}
        return max_multiple_of(Choices.of(self.fleet), mix) * sum(mix.values())

    def slowed(self, by: float) -> "Cluster":
        """The same devices as they are where batches take ``by`` times as long as measured."""
        fleet = replace(self.fleet, types={kind: slowed(profile, by) for kind, profile in self.fleet.types.items()})
        return replace(self, fleet=fleet, profiles=fleet.profiles())

    def with_memory_for(self, variants: int) -> "Cluster":
        """The same devices, each with memory for so many variants, which all take the same."""
        types = {kind: _with_memory_for(profile, variants) for kind, profile in self.fleet.types.items()}
        fleet = replace(self.fleet, types=types)
        return replace(self, fleet=fleet, profiles=fleet.profiles())


def _with_memory_for(profile: Profile, count: int) -> Profile:
    variants = tuple(msgspec.structs.replace(variant, memory_bytes=VARIANT_BYTES) for variant in profile.variants)
    device = msgspec.structs.replace(profile.device, memory_bytes=count * VARIANT_BYTES)
    return msgspec.structs.replace(profile, device=device, variants=variants)


def slowed(profile: Profile, by: float) -> Profile:
    """A device as it is where batches take ``by`` times as long as measured."""
    variants = tuple(
        msgspec.structs.replace(variant, points=tuple(_slower(point, by) for point in variant.points))
        for variant in profile.variants
    )
    return msgspec.structs.replace(profile, variants=variants)


def _slower(point: Point, by: float) -> Point:
    times_s = {name: by * getattr(point, name) for name in ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s")}
    return msgspec.structs.replace(point, qps=point.qps / by, **times_s)


def cluster_at(directory: Path, *, is_paper: bool, slo: str | None = None) -> Cluster:
    """The paper's cluster as a workspace in ``directory``, or a synthetic one; with one SLO for all, or its own."""
    name = "the paper's cluster" if is_paper else "a synthetic cluster"
    fleet = paper_fleet() if is_paper else synthetic_fleet(9, 5, 3, 40, np.random.default_rng(SEED))
    catalog = fleet.catalog
    if slo is not None:
        families = tuple(msgspec.structs.replace(family, slo=slo) for family in catalog.families)
        catalog = msgspec.structs.replace(catalog, families=families)
    return cluster_of(replace(fleet, catalog=catalog), directory, name)


def cluster_of(fleet: Fleet, directory: Path, name: str) -> Cluster:
    """A fleet as a workspace in ``directory``."""
    place = Workspace(directory)
    files = {place.profile_path(kind): to_json(profile) for kind, profile in fleet.types.items()}
    text = new_text(fleet.catalog, made_by="python -m benchmarks.paper")
    write_in_order({**files, place.catalog_path: text.encode()})
    counts = ",".join(f"{kind}:{count}" for kind, count in fleet.counts.items())
    return Cluster(f"{name} ({counts})", place, fleet_of(place.profiles(), counts), fleet)
