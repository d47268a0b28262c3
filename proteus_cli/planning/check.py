"""A plan against the profiles, by other means than the model: a wrong answer of the solver must never become a plan."""

import math
from collections.abc import Mapping

from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile, capacity

_REL = 1e-6


class PlanCheckError(RuntimeError):
    """A plan that contradicts its inputs: a bug of ours or of the solver, not something the user can mend."""


def check_plan(plan: Plan, catalog: Catalog, profiles: Mapping[str, Profile]) -> None:
    """Raise `PlanCheckError` unless devices, capacities, shares and totals of the plan add up."""
    used = [placement.device for placement in plan.placements]
    _require(len(used) == len(set(used)), "a device hosts two variants")
    for placement in plan.placements:
        measured = profiles[placement.device].of(placement.family, placement.variant)
        _require(measured is not None, f"{placement.variant} was never profiled on {placement.device}")
        assert measured is not None  # noqa: S101 - told to the type checker
        within = capacity(measured.points, catalog.family(placement.family).slo_s)
        _require(placement.rate_qps <= within.qps * (1 + _REL), f"{placement.device} gets more than it can take")
        _require(placement.max_batch == within.max_batch, f"{placement.device} has a batch size of its own")
    for family, demand_qps in plan.demand_qps.items():
        hosts = [placement for placement in plan.placements if placement.family == family]
        served_qps, unserved_qps = plan.served_qps[family], plan.unserved_qps[family]
        _require(_close(served_qps + unserved_qps, demand_qps), f"{family}: served and unserved aren't the demand")
        _require(_close(sum(p.rate_qps for p in hosts), served_qps), f"{family}: rates don't add up to what is served")
        _require(not hosts or _close(sum(p.share for p in hosts), 1.0), f"{family}: shares don't add up to one")


def _close(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=_REL, abs_tol=1e-5)


def _require(condition: bool, problem: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not condition:
        raise PlanCheckError(f"the plan contradicts its inputs: {problem}")
