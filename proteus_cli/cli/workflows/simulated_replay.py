"""What `proteus replay` does without a server: each policy on the same trace, in virtual time."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proteus_cli.cli import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from proteus_cli.control.policies import Policy
    from proteus_cli.domain.plan import Plan
    from proteus_cli.domain.profile import Profile
    from proteus_cli.domain.report import Replan, Report
    from proteus_cli.domain.request import RequestRecord
    from proteus_cli.domain.trace import Trace
    from proteus_cli.planning.planner import Planner
    from proteus_cli.simulation.conditions import Conditions
    from proteus_cli.store import Workspace

FIRST_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What all policies are simulated with; ``given``: the plan to start from."""

    place: "Workspace"
    profiles: "Mapping[str, Profile]"
    arrivals: "Trace"
    given: "Plan | None"
    headroom: float
    conditions: "Conditions"
    seed: int


def simulated(setting: Setting, policies: "Sequence[Policy]") -> "Iterator[Report]":
    """A report for each policy. A run that Ctrl-C ends is the last, with what is known of it."""
    from proteus_cli.domain.demand import check_demand
    from proteus_cli.domain.profile import best_accuracy
    from proteus_cli.reporting.measures import report

    catalog, arrivals = setting.place.catalog(), setting.arrivals
    check_demand(first_demand(arrivals), catalog)
    for policy in policies:
        with console.progress(f"simulating {policy.name}") as advance:
            ended, replans, until_s = _run(setting, policy, lambda done: advance("", done))
        yield report(
            ended,
            policy=policy.name,
            mode="simulated",
            trace=arrivals.name,
            duration_s=arrivals.duration_s if until_s is None else until_s,
            slo_s=catalog.slo_s(),
            best_accuracy=best_accuracy(setting.profiles.values()),
            devices=tuple(setting.profiles),
            replans=replans,
        )
        if until_s is not None:
            console.warn(f"interrupted after {until_s:.1f} s of the trace: this is what is known until then")
            raise KeyboardInterrupt


def first_demand(arrivals: "Trace") -> dict[str, float]:
    """What the first seconds ask for."""
    return arrivals.demand(0.0, min(FIRST_SECONDS, max(arrivals.duration_s, 1.0)))


def starting_plan(planner: "Planner", policy: "Policy", given: "Plan | None", arrivals: "Trace") -> "Plan":
    """The plan to start from.

    As given, or for the same demand by another policy. Else for the trace's first seconds; where the policy never
    re-plans, for its busiest ones, or for as much of their mix as the devices carry.
    """
    from proteus_cli.planning.explain import max_multiple

    if given is not None:
        return given if given.policy == policy.name else planner(given.demand_qps)
    if policy.replanning is None:
        peak = arrivals.peak_demand()
        multiple = max(max_multiple(planner, peak), 1.0)
        return planner({family: qps * multiple / planner.headroom for family, qps in peak.items()})
    return planner(policy.replanning.initial_demand(first_demand(arrivals), planner.catalog.slo_s()))


def _run(
    setting: Setting, policy: "Policy", progress: "Callable[[float], None]"
) -> "tuple[Sequence[RequestRecord], Sequence[Replan], float | None]":
    import numpy as np

    from proteus_cli.domain.profile import accuracies
    from proteus_cli.simulation.oracle import simulate_oracle
    from proteus_cli.simulation.run import simulate

    planner = _planner(setting, policy)
    if policy.plans == "oracle":
        return simulate_oracle(setting.arrivals, planner, accuracies(setting.profiles), progress=progress), (), None
    planner, plan = _prepared(planner, policy, setting)
    found = simulate(
        setting.arrivals,
        plan,
        setting.place.catalog(),
        setting.profiles,
        policy,
        planner,
        conditions=setting.conditions,
        rng=np.random.default_rng(setting.seed),
        progress=progress,
    )
    return found.ended, found.replans, found.interrupted_s


def _planner(setting: Setting, policy: "Policy") -> "Planner":
    import msgspec

    from proteus_cli.domain.rules import Rules
    from proteus_cli.planning.from_workspace import planner_for

    rules: Rules | None = setting.given.rules if setting.given is not None else None
    if policy.plans == "oracle":  # without queues, all of the SLO is there for the batch
        rules = msgspec.structs.replace(rules or Rules(), slo_fraction=1.0, capacity="mean")
    headroom = setting.given.headroom if setting.given is not None else setting.headroom
    return planner_for(setting.place, policy, headroom, profiles=setting.profiles, rules=rules)


def _prepared(planner: "Planner", policy: "Policy", setting: Setting) -> "tuple[Planner, Plan]":
    """The planner to go on with, and the plan to start from.

    Where devices keep their families, the first plan is for the largest multiple of the first demand that can be
    served: one for the first demand itself would leave most devices without a family for good.
    """
    from proteus_cli.planning.explain import max_multiple
    from proteus_cli.planning.heuristics import frozen_to

    if policy.plans not in {"frozen", "sommelier"}:
        return planner, starting_plan(planner, policy, setting.given, setting.arrivals)
    whole = _planner(setting, replace(policy, plans="optimal"))
    demand = first_demand(setting.arrivals)
    multiple = max_multiple(whole, demand)
    all_in_use = whole({family: qps * max(multiple, 1.0) for family, qps in demand.items()})
    planner = frozen_to(planner, all_in_use)
    return planner, planner(demand, all_in_use)
