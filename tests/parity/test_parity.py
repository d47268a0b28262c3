"""One controller, two clocks: the live code and the simulator make the same batches of the same requests."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import accumulate, groupby, product

import msgspec
import numpy as np
import pytest
from builders import make_sharing_cost
from parity_world import LOAD_S, VARIANTS, arrivals, make_world
from virtual_time import LiveRun, run_live

from proteus_cli.cli.simulating import with_load_time
from proteus_cli.control.decision import Effects, Launch, StandbyEnd, StandbyLoad
from proteus_cli.control.policies import policy_named
from proteus_cli.control.replanning.replan_rules import PeriodicRule
from proteus_cli.control.topology.topology import Topology
from proteus_cli.domain.catalog import Catalog, FamilyPolicy, Preference, VariantKey
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.device import NONE_OUT, Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Point, Profile
from proteus_cli.domain.request import Outcome
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.planner import Planner
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.simulation.fleet import SimulationResult
from proteus_cli.simulation.run import simulate

CPUS = ("cpu0", "cpu1", "cpu2", "cpu3", "cpu4")
StandbyOutcome = tuple[str, VariantKey, float, StandbyEnd, float]
"""Device, variant, start, how its load ended, and when."""
AT_ONCE = {2: 1.3, 3: 1.8}
"""How many times longer a batch takes with so many on the device."""


def _with_slots(profile: Profile, slots: int) -> Profile:
    """The same device, on which that many batches may be at once."""
    return msgspec.structs.replace(
        profile,
        slots=slots,
        variants=tuple(
            msgspec.structs.replace(
                measured,
                concurrent=tuple(
                    _longer(point, times, count) for point in measured.points for count, times in AT_ONCE.items()
                ),
            )
            for measured in profile.variants
        ),
    )


def _longer(point: Point, times: float, slots: int) -> Point:
    names = ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s")
    longer = {name: times * getattr(point, name) for name in names}
    return msgspec.structs.replace(point, **longer, qps=slots * point.qps / times, slots=slots)


def _batch(launch: Launch) -> tuple[str, str, tuple[int, ...]]:
    return launch.hosted.device, launch.hosted.variant, tuple(request.id for request in launch.requests)


@cache
def _both(
    kind: str, devices: int, policy_name: str, preferred: Preference = "accuracy"
) -> tuple[LiveRun, SimulationResult]:
    """What the live code and the simulator do with the same trace. ``preferred``: by family a."""
    catalog, profiles = make_world(CPUS[:devices])
    catalog = _with_policy(catalog, FamilyPolicy(preferred))
    policy, trace = policy_named(policy_name), arrivals(kind)
    planner = Planner(catalog, profiles, policy, headroom=1.2, inputs={})
    plan = planner(trace.demand(0.0, 4.0))
    live = run_live(trace, plan, catalog, profiles, policy, planner)
    return live, simulate(trace, plan, catalog, profiles, policy, planner)


def _with_policy(catalog: Catalog, of_first: FamilyPolicy) -> Catalog:
    first, *others = catalog.families
    first = msgspec.structs.replace(first, policy=of_first)
    return msgspec.structs.replace(catalog, families=(first, *others))


@pytest.mark.parametrize("kind", ["poisson", "burst"])
@pytest.mark.parametrize("devices", [2, 5])
@pytest.mark.parametrize("policy_name", ["proteus", "most-accurate"])
def test_live_workers_and_simulator_make_the_same_batches(kind: str, devices: int, policy_name: str) -> None:
    """Same requests, same plan, same engine times: same batches at the same moments, and the same results."""
    live, simulated = _both(kind, devices, policy_name)
    assert len(simulated.launches) > 100
    assert [_batch(launch) for _, launch in live.launches] == [_batch(launch) for _, launch in simulated.launches]
    assert [at_s for at_s, _ in live.launches] == pytest.approx([at_s for at_s, _ in simulated.launches], abs=1e-6)
    results = {outcome: sum(ended.outcome is outcome for ended in simulated.ended) for outcome in Outcome}
    assert live.outcomes == results
    assert live.changes == [(change.reason, change.swaps) for change in simulated.changes]


@pytest.mark.parametrize("kind", ["poisson", "burst"])
@pytest.mark.parametrize("devices", [2, 5])
def test_so_they_do_where_a_family_prefers_latency_and_its_plans_and_answers_are_quick(kind: str, devices: int) -> None:
    """All plans on the way have its small variant alone. The other family loses no query by that."""
    live, simulated = _both(kind, devices, "proteus", "latency")
    assert [_batch(launch) for _, launch in live.launches] == [_batch(launch) for _, launch in simulated.launches]
    assert live.changes == [(change.reason, change.swaps) for change in simulated.changes]
    without = _both(kind, devices, "proteus")[1]
    variants = {launch.hosted.variant for _, launch in simulated.launches if launch.hosted.family == "a"}
    assert variants == {"a-small"}
    assert _mean_s(simulated, "a") < _mean_s(without, "a") / 2
    for family in ("a", "b"):
        assert _in_time(simulated, family) >= _in_time(without, family)


@pytest.mark.parametrize("bound_ms", [100, 60, 40, 20])
@pytest.mark.parametrize("devices", [2, 5])
def test_answers_keep_the_latency_that_a_policy_bounds_where_demand_is_as_planned(devices: int, bound_ms: int) -> None:
    """At their p95, of an SLO of 200 ms. With the SLO alone, it is 82 ms on two devices."""
    catalog, profiles = make_world(CPUS[:devices])
    catalog = _with_policy(catalog, FamilyPolicy(max_latency=f"{bound_ms}ms"))
    policy, trace = policy_named("proteus"), arrivals("poisson")
    planner = Planner(catalog, profiles, policy, headroom=1.2, inputs={})
    simulated = simulate(trace, planner(trace.demand(0.0, 4.0)), catalog, profiles, policy, planner)
    answered = [each.latency_s for each in simulated.ended if each.family == "a" and each.latency_s is not None]
    assert len(answered) == sum(each.family == "a" for each in simulated.ended) > 800
    assert np.percentile(answered, 95) <= bound_ms / 1000


def _mean_s(simulated: SimulationResult, family: str) -> float:
    """Of answered requests, from arrival to end."""
    answered = [each.latency_s for each in simulated.ended if each.family == family and each.latency_s is not None]
    return sum(answered) / len(answered)


def _in_time(simulated: SimulationResult, family: str) -> int:
    return sum(each.family == family and each.outcome is Outcome.SERVED for each in simulated.ended)


def test_they_do_so_on_devices_with_several_slots() -> None:
    """Batches end in another order than they began in, and take longer beside others; a device of one slot is there."""
    catalog, profiles = make_world(CPUS[:3])
    profiles |= {device: _with_slots(profiles[device], slots) for device, slots in (("cpu0", 2), ("cpu1", 3))}
    policy, trace = policy_named("proteus"), arrivals("burst")
    planner = Planner(catalog, profiles, policy, headroom=1.2, inputs={})
    plan = planner(trace.demand(0.0, 4.0))

    simulated = simulate(trace, plan, catalog, profiles, policy, planner)
    live = run_live(trace, plan, catalog, profiles, policy, planner)

    assert [_batch(launch) for _, launch in live.launches] == [_batch(launch) for _, launch in simulated.launches]
    assert [at_s for at_s, _ in live.launches] == pytest.approx([at_s for at_s, _ in simulated.launches], abs=1e-6)
    results = {outcome: sum(ended.outcome is outcome for ended in simulated.ended) for outcome in Outcome}
    assert live.outcomes == results
    assert max_at_once(simulated) == {"cpu0": 2, "cpu1": 3, "cpu2": 1}


def test_they_do_so_where_variants_on_a_device_cost_each_other_time() -> None:
    """Each batch takes as long as dispatch expects it to, among what the plan has on its device; also in a burst."""
    catalog, profiles = make_world(CPUS[:1])
    profiles = with_load_time(profiles, 0.0)  # live, a device loads one variant after the other
    of_a, of_b = ([(name, f"{name}-{size}") for size in VARIANTS] for name in "ab")
    pairs = [*product(of_a, of_b), *product(of_b, of_a)]
    costs = tuple(make_sharing_cost(key, beside, ratio=1.3) for key, beside in pairs)
    profiles = {device: msgspec.structs.replace(profile, sharing=costs) for device, profile in profiles.items()}
    policy, trace = replace(policy_named("proteus"), replanning=None), arrivals("burst")
    planner = Planner(catalog, profiles, policy, headroom=1.2, inputs={}, rules=Rules(residency=2))
    plan = planner(trace.demand(0.0, 4.0))

    simulated = simulate(trace, plan, catalog, profiles, policy, planner)
    live = run_live(trace, plan, catalog, profiles, policy, planner)

    assert [_batch(launch) for _, launch in live.launches] == [_batch(launch) for _, launch in simulated.launches]
    assert [at_s for at_s, _ in live.launches] == pytest.approx([at_s for at_s, _ in simulated.launches], abs=1e-6)
    shared = [launch for _, launch in simulated.launches if launch.hosted.others]
    assert len(shared) > 100
    took_s = {(ended.family, ended.arrival_s): ended.latency_s for ended in simulated.ended}
    first = shared[0]
    waited_s = first.at_s - first.requests[0].arrival_s
    assert took_s[first.hosted.family, first.requests[0].arrival_s] == pytest.approx(
        waited_s + first.hosted.mean_latency(first.rows)
    )
    assert first.hosted.alone_latency is not None
    assert first.hosted.mean_latency(first.rows) == pytest.approx(1.3 * first.hosted.alone_latency(first.rows))


def test_they_roll_a_plan_out_in_the_same_steps_where_devices_load_in_place() -> None:
    """No device has memory for two engines: each frees one before it loads another, and serves nothing meanwhile."""
    catalog, profiles = make_world(CPUS[:5])
    profiles = {
        name: msgspec.structs.replace(profile, device=msgspec.structs.replace(profile.device, memory_bytes=1500))
        for name, profile in profiles.items()
    }
    policy = replace(policy_named("proteus"), replanning=PeriodicRule(period_s=4.0))
    planner = Planner(catalog, profiles, policy, headroom=1.2, inputs={})
    little, much = planner({"a": 60.0, "b": 40.0}), planner({"a": 750.0, "b": 500.0})

    def other(
        _demand: Demand, current: Plan, _without: Outages = NONE_OUT, _standbys: object = None, _measured: object = ()
    ) -> Plan:
        return little if current is much else much

    trace, conditions = arrivals("poisson"), Conditions(load_time_s=LOAD_S)
    simulated = simulate(trace, little, catalog, profiles, policy, other, conditions=conditions)
    live = run_live(trace, little, catalog, profiles, policy, other)

    assert [change.swaps > 1 for change in simulated.changes] == [True] * 3
    assert live.changes == [(change.reason, change.swaps) for change in simulated.changes]
    assert _steps(live.launches) == _steps(simulated.launches)


@pytest.mark.parametrize(("devices", "load_s"), [(3, 2.0), (3, 2.5), (3, 3.0), (5, 1.5)])
def test_they_load_the_same_standbys_and_cancel_those_in_the_way_of_a_plan(
    devices: int, load_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loads go on while a plan is solved, and where one is in the way, what the plan loads comes after it."""
    ended = list[StandbyOutcome]()
    standby_ended = Topology.standby_ended

    def note(topology: Topology, load: StandbyLoad, how: StandbyEnd, now_s: float, **gave_way: bool) -> Effects:
        ended.append((load.device, load.key, round(load.start_s, 6), how, round(now_s, 6)))
        return standby_ended(topology, load, how, now_s, **gave_way)

    monkeypatch.setattr(Topology, "standby_ended", note)
    catalog, profiles = make_world(CPUS[:devices])
    profiles = with_load_time(profiles, load_s)
    policy, trace = replace(policy_named("proteus"), replanning=PeriodicRule(period_s=2.0)), arrivals("burst")
    planner = Planner(catalog, profiles, policy, headroom=1.2, inputs={})
    plan = planner(trace.demand(0.0, 4.0))
    conditions = Conditions(memory_bytes=dict.fromkeys(profiles, 3000))

    simulated = simulate(trace, plan, catalog, profiles, policy, planner, conditions=conditions)
    of_simulated = _until(trace.duration_s, ended)
    ended.clear()
    live = run_live(trace, plan, catalog, profiles, policy, planner, memory_bytes=conditions.memory_bytes)

    assert _until(trace.duration_s, ended) == of_simulated
    assert {how for *_, how, _ in of_simulated} == {StandbyEnd.LOADED, StandbyEnd.GIVEN_UP}
    changes = [change for change in simulated.changes if change.at_s <= trace.duration_s]  # the server ends with it
    assert live.changes == [(change.reason, change.swaps) for change in changes]
    assert [_batch(launch) for _, launch in live.launches] == [_batch(launch) for _, launch in simulated.launches]
    assert [at_s for at_s, _ in live.launches] == pytest.approx([at_s for at_s, _ in simulated.launches], abs=1e-6)
    assert sum(change.activated for change in changes) > 0


def _until(end_s: float, ended: Sequence[StandbyOutcome]) -> list[StandbyOutcome]:
    """Without what is reported twice, or as the server ends."""
    return [*dict.fromkeys(each for each in ended if each[-1] < end_s)]


def _steps(launches: Sequence[tuple[float, Launch]]) -> dict[str, list[str]]:
    """The variants that each device served, one after another."""
    by_device: dict[str, list[str]] = {}
    for _, launch in launches:
        by_device.setdefault(launch.hosted.device, []).append(launch.hosted.variant)
    return {device: [variant for variant, _ in groupby(found)] for device, found in by_device.items()}


def max_at_once(simulated: SimulationResult) -> dict[str, int]:
    """The most batches that each device ran at the same time."""
    ends = {(e.family, e.arrival_s): e.arrival_s + e.latency_s for e in simulated.ended if e.latency_s is not None}
    changes: dict[str, list[tuple[float, int]]] = {}
    for at_s, launch in simulated.launches:
        end_s = ends[launch.hosted.family, launch.requests[0].arrival_s]
        changes.setdefault(launch.hosted.device, []).extend([(at_s, 1), (end_s - 1e-9, -1)])
    return {device: max(accumulate(change for _, change in sorted(found))) for device, found in sorted(changes.items())}


def test_the_burst_makes_both_change_the_plan_down_and_up_again() -> None:
    """Parity of nothing would prove nothing: the burst must change what is hosted, and its end must change it back."""
    live, _ = _both("burst", 2, "proteus")
    hosted = [launch.hosted.variant for _, launch in live.launches if launch.hosted.family == "b"]
    assert hosted[0].endswith("large")
    assert any(variant.endswith(("medium", "small")) for variant in hosted)
    assert hosted[-1].endswith("large")
