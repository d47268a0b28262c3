"""The planner that commands, server and simulator are handed."""

import math
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from proteus_cli import store
from proteus_cli.control.policies import Policy
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.demand import Demand, check_demand
from proteus_cli.domain.plan import Placement, Plan, Solver
from proteus_cli.domain.profile import Profile, best_accuracy
from proteus_cli.errors import NoFeasiblePlan, UsageError
from proteus_cli.planning.check import check_plan
from proteus_cli.planning.decode import placements
from proteus_cli.planning.instance import Instance, make_instance
from proteus_cli.planning.milp import Model, formulate
from proteus_cli.planning.solve import solve

OBJECTIVE = "serve the most demand, then the highest mean accuracy over queries"
TIME_LIMIT_S = 5.0


class Planner:
    """Plans for one set of profiled devices (by id). The model is compiled once; each demand only re-solves it.

    Calling it with a demand and the plan in force makes the next plan: the `replan` that serving and simulation take.
    It can be pickled, so that it runs in another process.
    """

    def __init__(
        self,
        catalog: Catalog,
        profiles: Mapping[str, Profile],
        policy: Policy,
        *,
        headroom: float,
        inputs: Mapping[str, str],
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        if not 1 <= headroom < math.inf:
            raise UsageError(
                f"The headroom {headroom:g} is not a finite number from 1 up.",
                hint="1.2 plans for 20 % more than the demand",
            )
        self._catalog, self._profiles, self._policy = catalog, dict(profiles), policy
        self._headroom, self._inputs, self._time_limit_s = headroom, dict(inputs), time_limit_s

    def __call__(self, demand: Demand, current: Plan | None = None) -> Plan:
        """The best plan for a demand. Raises `UsageError` and `NoFeasiblePlan`."""
        check_demand(demand, self._catalog)
        demand_qps = {name: float(demand.get(name, 0.0)) for name in self._catalog.names}
        if len(self._instance.choices) == 0:
            raise NoFeasiblePlan(
                "No variant meets its family's SLO on any profiled device.",
                hint="loosen `slo` in the catalog, or add faster variants",
            )
        wanted = np.array([qps * self._headroom for qps in demand_qps.values()])
        # No plan serves more than that, and the solver takes very large numbers for infinity.
        wanted = np.minimum(wanted, self._instance.most_qps)
        solution = solve(self._model, wanted, self._time_limit_s)
        plan = self._plan(demand_qps, placements(self._instance, solution, demand_qps, current), solution.solver)
        check_plan(plan, self._catalog, self._profiles)
        return plan

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name not in {"_model", "_instance"}}

    @cached_property
    def _instance(self) -> Instance:
        return make_instance(self._catalog, self._profiles, self._policy.variants)

    @cached_property
    def _model(self) -> Model:
        return formulate(self._instance)

    def _plan(self, demand_qps: Mapping[str, float], placed: tuple[Placement, ...], solver: Solver) -> Plan:
        rate_of = {name: sum(p.rate_qps for p in placed if p.family == name) for name in demand_qps}
        served_qps = {name: min(qps, rate_of[name]) for name, qps in demand_qps.items()}
        best = best_accuracy(self._profiles.values())
        return Plan(
            format=FORMAT,
            made_by=store.made_by(),
            policy=self._policy.name,
            objective=OBJECTIVE,
            headroom=self._headroom,
            demand_qps=dict(demand_qps),
            served_qps=served_qps,
            unserved_qps={name: qps - served_qps[name] for name, qps in demand_qps.items()},
            effective_accuracy=self._mean(placed, dict.fromkeys(demand_qps, 1.0)),
            relative_accuracy=self._mean(placed, best),
            solver=solver,
            fleet=_fleet(self._profiles),
            placements=placed,
            inputs=self._inputs,
        )

    def _mean(self, placed: tuple[Placement, ...], per: Mapping[str, float]) -> float | None:
        """Accuracy over queries, each divided by ``per`` of its family; None where nothing is served."""
        total_qps = sum(p.rate_qps for p in placed)
        if total_qps <= 0:
            return None
        accuracy = {
            (device, v.family, v.variant): v.accuracy
            for device, profile in self._profiles.items()
            for v in profile.variants
        }
        return sum(p.rate_qps * accuracy[p.device, p.family, p.variant] / per[p.family] for p in placed) / total_qps


def _fleet(profiles: Mapping[str, Profile]) -> dict[str, tuple[str, ...]]:
    fleet: dict[str, tuple[str, ...]] = {}
    for device, profile in profiles.items():
        fleet[profile.device.type] = (*fleet.get(profile.device.type, ()), device)
    return fleet
