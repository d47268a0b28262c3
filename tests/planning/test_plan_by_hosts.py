"""Plans where the batches that count depend on the number of hosts that serve the family."""

from dataclasses import replace

import msgspec
import pytest
from drawing import examples
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tiny_fleets import SLOW_ON_CPUS, Tiny, Worth, tinies

from proteus_cli.arrays import Ints
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT
from proteus_cli.domain.capacity import slo_fraction
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.rules import Rules
from proteus_cli.errors import NoFeasiblePlan
from proteus_cli.planning.check import PlanCheckError, check_plan
from proteus_cli.planning.host_rounds import HostRounds, PlacedSolution
from proteus_cli.planning.planner import Planner
from proteus_cli.planning.solver.solve import OutOfTime

ONE_HOST = Rules(slo_fraction=slo_fraction(1))
ATTAINMENTS = st.sampled_from([None, 0.9, 0.99, 0.999])
SLOW_AND_FAST = Tiny(
    accuracy={"a": {"slow": 0.9, "fast": 0.5}},
    latency_s={("cpu", "a", "slow"): {1: 0.060}, ("cpu", "a", "fast"): {1: 0.010}},
    devices=("cpu",) * 6,
    demand_qps={"a": 80.0},
    rules=Rules(),
)
"""SLO 100 ms: a batch of 60 ms is in time where 5 hosts share the queue; counted with 6."""


def test_a_slow_variant_serves_where_enough_hosts_share_the_queue() -> None:
    """80 qps take five hosts of the slow variant, and it has six. Of four devices, none may host it."""
    assert {p.variant for p in SLOW_AND_FAST.planned().placements} == {"slow"}
    assert {p.variant for p in replace(SLOW_AND_FAST, devices=("cpu",) * 4).planned().placements} == {"fast"}


def test_idle_devices_join_where_the_demand_alone_needs_fewer_hosts() -> None:
    """40 qps take three devices of the slow variant; three more make its batch one that is in time."""
    plan = replace(SLOW_AND_FAST, demand_qps={"a": 40.0}).planned()
    assert [(p.variant, round(p.rate_qps, 6)) for p in plan.placements] == [("slow", 6.666667)] * 6


@pytest.mark.parametrize("attainment", [0.9, 0.99, 0.999])
def test_the_fewer_queries_must_be_in_time_the_fewer_hosts_a_slow_variant_takes(attainment: float) -> None:
    """At 90 % two hosts and a tenth, at 99 % 4.2, at 99.9 % 6.3 let a batch of 60 ms be in time: 3, 6 and 8."""
    needed = {0.9: 3, 0.99: 6, 0.999: 8}[attainment]
    for hosts, variant in ((needed, "slow"), (needed - 1, "fast")):
        asked = replace(SLOW_AND_FAST, devices=("cpu",) * hosts, demand_qps={"a": 15.0 * hosts})
        by_rules = replace(asked, rules=Rules(attainment=attainment)).planned()
        assert {p.variant for p in by_rules.placements} == {variant}
        assert _of_catalog(asked, attainment).placements == by_rules.placements


def test_a_plan_for_one_attainment_is_none_for_a_higher_one() -> None:
    tiny = replace(SLOW_AND_FAST, devices=("cpu",) * 3, demand_qps={"a": 45.0}, rules=Rules(attainment=0.9))
    plan = tiny.planned()
    check_plan(plan, tiny.catalog, tiny.profiles)
    with pytest.raises(PlanCheckError, match="another batch size than its capacity is for"):
        check_plan(plan.with_attainment(0.995), tiny.catalog, tiny.profiles)


def test_no_device_joins_where_devices_are_to_be_few() -> None:
    packed = replace(SLOW_AND_FAST, demand_qps={"a": 40.0}, rules=Rules(pack=True)).planned()
    assert [p.variant for p in packed.placements] == ["fast"]


def test_a_family_whose_variants_all_need_several_hosts_gets_them_before_another_gets_accuracy() -> None:
    """At 90 %, batches of 60 ms need three hosts, though one carries 10 qps; what is left carries the other family."""
    tiny = Tiny(
        accuracy={"a": {"slow": 0.9}, "b": {"good": 0.9, "poor": 0.5}},
        latency_s={("cpu", "a", "slow"): {1: 0.06}, ("cpu", "b", "good"): {1: 0.04}, ("cpu", "b", "poor"): {1: 0.005}},
        devices=("cpu",) * 4,
        demand_qps={"a": 10.0, "b": 60.0},
        rules=Rules(attainment=0.9),
    )
    plan = tiny.planned()
    assert sorted(p.variant for p in plan.placements) == ["poor", "slow", "slow", "slow"]
    assert sum(plan.unserved_qps.values()) == 0


def test_another_plan_counts_on_the_hosts_that_there_are() -> None:
    before = SLOW_AND_FAST.planned()
    again = replace(SLOW_AND_FAST, current=before).planned()
    assert again.hosted() == before.hosted()


def _of_catalog(tiny: Tiny, attainment: float) -> Plan:
    """Where the catalog has the attainment, and the rules have none."""
    families = tuple(msgspec.structs.replace(family, attainment=attainment) for family in tiny.catalog.families)
    catalog = msgspec.structs.replace(tiny.catalog, families=families)
    policy = policy_named("proteus")
    return Planner(catalog, tiny.profiles, policy, headroom=1.0, inputs={}, rules=tiny.rules)(tiny.demand_qps)


def _with_spares(tiny: Tiny) -> Plan:
    return Planner(
        tiny.catalog, tiny.profiles, policy_named("proteus"), headroom=1.0, inputs={}, rules=tiny.rules, spares=True
    )(tiny.demand_qps)


def _assert_in_time(plan: Plan, tiny: Tiny) -> None:
    for placement in plan.placements:
        measured = tiny.profiles[placement.device].of(placement.family, placement.variant)
        assert measured is not None
        hosts = sum(each.family == placement.family for each in plan.placements)
        p95_s = LatencyTable(measured.points, lambda point: point.p95_s)(placement.max_batch)
        assert p95_s <= slo_fraction(hosts, plan.rules.attainment or DEFAULT_ATTAINMENT) * tiny.slo_ms / 1000 + 1e-12


@given(tinies(), ATTAINMENTS)
@examples(30, fuzzed=100)
def test_where_devices_hold_several_variants_each_batch_is_in_time_with_the_hosts_of_the_plan(
    tiny: Tiny, attainment: float | None
) -> None:
    """Few devices may hold all that the solver gave to many; then the family has fewer hosts than it counted on."""
    by_hosts = replace(tiny, rules=Rules(residency="memory", attainment=attainment))
    try:
        plan = by_hosts.planned()
    except NoFeasiblePlan:
        assume(False)
    _assert_in_time(plan, by_hosts)


@given(tinies())
@examples(30, fuzzed=100)
@example(SLOW_AND_FAST)
def test_each_batch_is_in_time_with_the_hosts_of_the_plan_and_none_is_worse_than_with_one_host(tiny: Tiny) -> None:
    """`Planner` checks each plan; counting on one host for each family gives a plan that is no better."""
    by_hosts = replace(tiny, rules=Rules())
    try:
        plan, cautious = by_hosts.planned(), replace(tiny, rules=ONE_HOST).planned()
    except NoFeasiblePlan:
        assume(False)
    _assert_in_time(plan, by_hosts)
    _assert_in_time(_with_spares(by_hosts), by_hosts)
    mine, other = Worth.of(plan, by_hosts), Worth.of(cautious, tiny)
    assert mine.served_qps >= other.served_qps - 1e-4
    if mine.served_qps <= other.served_qps + 1e-4:
        assert mine.accuracy_qps >= other.accuracy_qps - 1e-3


def test_a_family_without_hosts_gets_as_many_as_it_needs_in_the_next_plan() -> None:
    """The plan in force was made without any query of `a`, which needs five hosts for its first answer in time."""
    tiny = Tiny(
        accuracy={"a": {"slow": 0.9}, "b": {"b0": 0.8}},
        latency_s={("cpu", "a", "slow"): {1: 0.060}, ("cpu", "b", "b0"): {1: 0.020}},
        devices=("cpu",) * 8,
        demand_qps={"a": 0.0, "b": 100.0},
        rules=Rules(),
    )
    later = replace(tiny, demand_qps={"a": 20.0, "b": 20.0}, current=tiny.planned()).planned()
    assert later.shortfall_qps == pytest.approx(0.0, abs=1e-6)


def test_a_family_whose_demand_rises_gets_all_hosts_that_it_needs_in_the_next_plan() -> None:
    """For 15 qps, the GPU is enough; 80 qps need all devices."""
    now = replace(SLOW_ON_CPUS, demand_qps={"a": 15.0}, rules=Rules(minimize="cost")).planned()
    assert len(now.placements) == 1
    later = replace(SLOW_ON_CPUS, demand_qps={"a": 80.0}, current=now).planned()
    assert later.shortfall_qps == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    "rules",
    [Rules(), Rules(minimize="cost"), Rules(pack=True), Rules(budget_cost=7.0)],
    ids=["most accurate", "cheapest", "packed", "within a budget"],
)
def test_idle_devices_join_whatever_the_rules_where_demand_would_be_unserved_else(rules: Rules) -> None:
    """40 qps of the slow variant are the work of three CPUs, whose batches are in time with two hosts more."""
    plan = replace(SLOW_ON_CPUS, rules=rules).planned()
    assert plan.unserved_qps["a"] == pytest.approx(0.0, abs=1e-6)


def test_what_the_time_limit_leaves_open_is_not_called_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first search leaves demand unserved, and there is no time for the one that counts on all devices."""
    counting_on = HostRounds._counting_on

    def out_of_time(self: HostRounds, hosts: Ints, *, requires_hosts: bool = False) -> PlacedSolution:
        if requires_hosts:
            raise OutOfTime
        return counting_on(self, hosts)

    now = replace(SLOW_ON_CPUS, demand_qps={"a": 15.0}, rules=Rules(minimize="cost")).planned()
    monkeypatch.setattr(HostRounds, "_counting_on", out_of_time)
    plan = replace(SLOW_ON_CPUS, demand_qps={"a": 80.0}, current=now).planned()
    assert plan.shortfall_qps > 1.0
    assert plan.solver.status == "time limit"
    assert plan.solver.unserved_gap == 1.0
