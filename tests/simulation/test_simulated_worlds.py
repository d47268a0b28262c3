"""The rules that hold for every policy, whatever the fleet, the load, the loads of variants and the failures."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest
from builders import NO_SLO, make_catalog, make_family, make_measured, make_profile, make_trace
from drawing import examples
from hypothesis import Phase, given
from hypothesis import strategies as st

from proteus_cli.control.decision import Launch
from proteus_cli.control.policies import POLICIES, Policy
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.device import NONE_OUT, Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.trace import Trace
from proteus_cli.planning.heuristics import InfaasPlanner, SommelierPlanner, frozen_to
from proteus_cli.planning.planner import Planner
from proteus_cli.simulation.conditions import JITTERS, Conditions, Failure
from proteus_cli.simulation.fleet import SimulationResult
from proteus_cli.simulation.run import simulate

SEED = 7
SIMULATED = [policy for policy in POLICIES.values() if policy.plans != "oracle"]
FAMILIES = ("a", "b")
KINDS = {"infaas": InfaasPlanner, "sommelier": SommelierPlanner}


@dataclass(frozen=True)
class World:
    catalog: Catalog
    profiles: dict[str, Profile]
    trace: Trace
    conditions: Conditions

    def planner(self, policy: Policy) -> Planner:
        """As `proteus replay` makes it."""
        kind = KINDS.get(policy.plans, Planner)
        headroom = policy.headroom or 1.2
        return kind(self.catalog, self.profiles, policy, headroom=headroom, inputs={}, spares=policy.spares)

    def start(self, policy: Policy) -> tuple[Planner, Plan]:
        """The planner to go on with, and the plan to start from: for half of what the trace asks for at its peak."""
        planner = self.planner(policy)
        demand = {family: qps / 2 for family, qps in self.trace.peak_demand().items()}
        if policy.plans not in {"frozen", "sommelier"}:
            return planner, planner(demand)
        whole = Planner(self.catalog, self.profiles, policy, headroom=1.0, inputs={})(demand)
        planner = frozen_to(planner, whole)
        return planner, planner(demand, whole)


@dataclass
class Recorded:
    """A planner that notes which plans it made."""

    planner: Planner
    plans: list[Plan] = field(default_factory=list)

    def __call__(self, demand: Demand, current: Plan, without: Outages = NONE_OUT) -> Plan:
        self.plans.append(self.planner(demand, current, without))
        return self.plans[-1]


@st.composite
def profiles(draw: st.DrawFn, accuracy: Mapping[str, Mapping[str, float]]) -> dict[str, Profile]:
    """Up to three devices of two types, some on a host h; a tail of each latency up to twice its median."""
    by_type = {}
    for kind in ("cpu", "gpu"):
        measured = []
        for family, variants in accuracy.items():
            for variant, value in variants.items():
                first_s, tail = draw(st.integers(2, 33)) / 1000, draw(st.floats(1.0, 2.0))
                latency_s = {1: first_s, 4: first_s * draw(st.sampled_from([1.0, 2.0, 3.9]))}
                found = make_measured(family, variant, value, latency_s, load_s=draw(st.sampled_from([0.0, 0.3])))
                points = tuple(
                    msgspec.structs.replace(p, p95_s=p.p50_s * (1 + tail) / 2, p99_s=p.p50_s * tail)
                    for p in found.points
                )
                measured.append(msgspec.structs.replace(found, points=points))
        by_type[kind] = measured
    kinds = draw(st.lists(st.sampled_from(("cpu", "gpu")), min_size=1, max_size=3))
    names = [f"{draw(st.sampled_from(['', 'h/']))}{kind}{number}" for number, kind in enumerate(kinds)]
    return {n: make_profile(n, *by_type[k], device_type=k) for n, k in zip(names, kinds, strict=True)}


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """A few seconds at rates that change, some with a deadline of their own."""
    now_s, arrivals, slo_s = 0.0, [], []
    for _ in range(draw(st.integers(1, 4))):
        gap_s, share = draw(st.sampled_from([0.0, 0.002, 0.01, 0.1])), draw(st.integers(1, 4))
        own_slo_s = draw(st.sampled_from([NO_SLO, NO_SLO, 0.05, 1.0]))
        for number in range(draw(st.integers(1, 60))):
            now_s += gap_s
            arrivals.append((now_s, FAMILIES[number % share == 0]))
            slo_s.append(own_slo_s)
        now_s += draw(st.sampled_from([0.0, 0.4, 3.0]))
    return make_trace(*arrivals, families=FAMILIES, slo_s=slo_s)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    variants = st.lists(st.integers(50, 100).map(lambda percent: percent / 100), min_size=1, max_size=3)
    accuracy = {family: {f"{family}{i}": each for i, each in enumerate(draw(variants))} for family in FAMILIES}
    fleet, times = draw(profiles(accuracy)), st.sampled_from([0.0, 0.11, 0.5, 1.3, 2.0])
    failures = []
    on_host = tuple(device for device in fleet if device.startswith("h/"))
    for device in draw(st.lists(st.sampled_from(sorted(fleet)), max_size=2)):
        from_s, lasts_s = draw(times), draw(st.sampled_from([0.01, 0.2, 1.0, math.inf]))
        is_host = device in on_host and draw(st.booleans())
        failing, host = (on_host, "h") if is_host else ((device,), "")
        failures.append(Failure(failing, from_s, from_s + lasts_s, host))
    conditions = Conditions(
        load_time_s=draw(st.sampled_from([None, 0.0, 0.07, 0.3, 1.0])),
        jitter=draw(st.sampled_from([None, *JITTERS.values()])),
        failures=tuple(failures),
    )
    catalog = make_catalog(*(make_family(family, each) for family, each in accuracy.items()))
    return World(catalog, fleet, draw(traces()), conditions)


def played(world: World, policy: Policy, planner: Planner, first: Plan) -> tuple[list[Plan], SimulationResult]:
    recorded, rng = Recorded(planner), np.random.default_rng(SEED)
    run = simulate(
        world.trace, first, world.catalog, world.profiles, policy, recorded, conditions=world.conditions, rng=rng
    )
    return recorded.plans, run


@pytest.mark.parametrize("policy", SIMULATED, ids=lambda policy: policy.name)
@given(world=worlds())
@examples(8, fuzzed=15, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_the_rules_hold_in_any_world(policy: Policy, world: World) -> None:
    planner, first = world.start(policy)
    plans, run = played(world, policy, planner, first)
    each_request_ends_once(world.trace, run)
    batches_fit(run)
    each_answer_is_of_its_plan(first, plans, run)
    lost_devices_answer_nothing(world, run)
    loading_devices_answer_nothing(world, first, plans, run)
    _, again = played(world, policy, planner, first)
    assert (again.ended, again.replans, batches(again)) == (run.ended, run.replans, batches(run))


def each_request_ends_once(trace: Trace, run: SimulationResult) -> None:
    asked = zip(trace.arrival_s.tolist(), (trace.families[f] for f in trace.family.tolist()), strict=True)
    assert Counter((ended.arrival_s, ended.family) for ended in run.ended) == Counter(asked)
    answers = [ended for ended in run.ended if ended.latency_s is not None]
    lost = sum(len(launch.requests) for _, launch in run.launches) - len(answers)
    assert lost >= 0
    twice = Counter(request.id for _, launch in run.launches for request in launch.requests)
    assert sum(number - 1 for number in twice.values()) <= lost


def batches_fit(run: SimulationResult) -> None:
    assert all(launch.rows == len(launch.requests) <= launch.hosted.max_batch for _, launch in run.launches)


def each_answer_is_of_its_plan(first: Plan, plans: list[Plan], run: SimulationResult) -> None:
    """Each batch is of what a plan in force, or one before where devices still load, puts on its device."""
    wanted = [(0.0, first), *((replan.at_s, plan) for replan, plan in zip(run.replans, plans, strict=False))]
    for at_s, launch in run.launches:
        key = launch.hosted.key
        assert any(since_s <= at_s and key in hosts(plan, launch) for since_s, plan in wanted)


def hosts(plan: Plan, launch: Launch) -> frozenset[tuple[str, str]]:
    return plan.hosted().get(launch.hosted.device, frozenset())


def lost_devices_answer_nothing(world: World, run: SimulationResult) -> None:
    for failure in world.conditions.failures:
        for at_s, launch in run.launches:
            is_away = failure.from_s < at_s < failure.until_s
            assert launch.hosted.device not in failure.devices or not is_away
        for ended in run.ended:
            if ended.device in failure.devices and ended.latency_s is not None:
                assert not failure.from_s < ended.arrival_s + ended.latency_s < failure.until_s


def loading_devices_answer_nothing(world: World, first: Plan, plans: list[Plan], run: SimulationResult) -> None:
    """Between batches of different variants a device loads for the whole time, and so it does after a failure."""
    load_s = world.conditions.load_time_s or 0.0
    for device in world.profiles:
        loaded = next(iter(first.hosted()[device]), None)
        free_s = -math.inf
        back_s = sorted(f.until_s for f in world.conditions.failures if device in f.devices)
        for at_s, launch in run.launches:
            if launch.hosted.device != device:
                continue
            key = launch.hosted.key
            returned_s = max((each for each in back_s if free_s <= each <= at_s), default=-math.inf)
            if key != loaded or returned_s > -math.inf:
                since_s = [0.0] + [r.at_s for r, p in zip(run.replans, plans, strict=False) if key in hosts(p, launch)]
                assert at_s >= max(free_s, returned_s) + load_s - 1e-9
                assert key == loaded or at_s >= min(since_s[0 if key in hosts(first, launch) else 1 :]) + load_s - 1e-9
            loaded, free_s = key, at_s


def batches(run: SimulationResult) -> list[tuple[float, str, str, tuple[int, ...]]]:
    return [
        (at_s, launch.hosted.device, launch.hosted.variant, tuple(request.id for request in launch.requests))
        for at_s, launch in run.launches
    ]
