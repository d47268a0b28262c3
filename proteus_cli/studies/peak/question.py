"""What a peak is asked of, and how: the question of a cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.store import Workspace
from proteus_cli.studies.results import PeakRules
from proteus_cli.studies.study import CellMode, Scalar
from proteus_cli.units import format_percent

FIRST_OF_CAPACITY = 0.7
"""Of what the profile says that batches can carry: where the search begins."""

SEARCH = 4
"""Counts changes of the search that change results: cells of an earlier one are measured anew."""


@dataclass(frozen=True, slots=True)
class PeakQuestion:
    """``batchings`` are names of batching rules. ``jitter`` is of simulated devices, a name of `JITTERS`, or empty."""

    rules: PeakRules
    mode: CellMode = "measured"
    batchings: Sequence[str] = ("greedy",)
    jitter: str = "p99"
    seed: int = 0

    def options(self) -> dict[str, Scalar]:
        """What decides the results."""
        asked: dict[str, Scalar] = msgspec.to_builtins(self.rules)
        return {
            **asked,
            "search": SEARCH,
            "mode": self.mode,
            "jitter": self.jitter if self.mode == "simulated" else "",
            "seed": self.seed,
        }

    def words(self) -> dict[str, str]:
        """The question in words."""
        words = {"within the SLO": f"at least {format_percent(1 - self.rules.allowed_frac)} of the requests"}
        if self.rules.min_accuracy:
            words["accuracy"] = f"at least {format_percent(self.rules.min_accuracy)}, asked for by each request"
        return words


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan to offer requests to, and what it is made of; ``mix`` is the part of each family of the requests."""

    workspace: Workspace
    catalog: Catalog
    profiles: Mapping[str, Profile]
    plan: Plan
    mix: Demand

    @property
    def slo_s(self) -> float:
        """The longest of the families that are asked for."""
        return max(self.catalog.slo_s()[family] for family in self.mix)

    @property
    def first_qps(self) -> float:
        """A guess of the peak."""
        return FIRST_OF_CAPACITY * sum(self.plan.capacity_qps(family) for family in self.mix)
