import math
from collections.abc import Sequence

import numpy as np
import pytest
from builders import hosted, make_placement, make_plan
from msgspec.structs import replace

from proteus_cli.control.replanning.demand import DemandEstimator, Rate
from proteus_cli.control.replanning.loss_curves import loss_curves
from proteus_cli.control.replanning.replan_rules import (
    ForecastRule,
    PeriodicRule,
    ReplanContext,
    ReplanRequest,
    TimedRule,
)
from proteus_cli.control.replanning.replanning import slack_s
from proteus_cli.domain.demand import Forecast
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.rules import Rules

RULE = ForecastRule()


def plan_for(demand_qps: float, *, capacity_qps: float | None = None, **others_qps: float) -> Plan:
    """Family `a` with a capacity of its demand with the headroom of 1.2, or as given; other families just as asked."""
    max_qps = demand_qps * 1.2 if capacity_qps is None else capacity_qps
    served_qps = min(demand_qps, max_qps)
    others = (
        make_placement(f"cpu-{family}", family, "s", rate_qps=qps, capacity_qps=qps * 1.2)
        for family, qps in others_qps.items()
    )
    return make_plan(
        make_placement("cpu0", "a", "s", rate_qps=served_qps, capacity_qps=max_qps),
        *others,
        demand_qps={"a": demand_qps, **others_qps},
        headroom=1.2,
    )


def evenly(*stretches: tuple[float, float]) -> list[float]:
    """(qps, seconds) one after the other, without any noise."""
    arrivals, start_s = [], 0.0
    for qps, length_s in stretches:
        arrivals += [start_s + (i + 0.5) / qps for i in range(round(qps * length_s))]
        start_s += length_s
    return arrivals


def poisson(qps: float, length_s: float, seed: int) -> list[float]:
    gaps_s = np.random.default_rng(seed).exponential(1 / qps, round(qps * length_s))
    return [float(at_s) for at_s in np.cumsum(gaps_s)]


def context(
    plan: Plan,
    demand: DemandEstimator,
    now_s: float,
    *,
    hosting_since_s: float = 0.0,
    asked_s: float = 0.0,
    changed_s: float = 0.0,
    slowdown: float = 1.0,
) -> ReplanContext:
    """Serving since 0 s; of all families the same. Queries may wait for half of their SLO."""
    slowdowns = dict.fromkeys(demand.families, slowdown)
    slacks_s = {family: each / 2 for family, each in demand.slo_s.items()}
    return ReplanContext(
        plan, plan.demand_qps, demand, slowdowns, slacks_s, now_s, 0.0, hosting_since_s, asked_s, changed_s
    )


def asked(
    plan: Plan, arrivals: Sequence[float], *, until_s: float, slowdown: float = 1.0
) -> list[tuple[float, ReplanRequest]]:
    """What the rule says each 0.2 s, with the plan left as it is."""
    demand, wanted, coming = DemandEstimator(dict.fromkeys(plan.demand_qps, 0.1)), [], list(reversed(arrivals))
    asked_s = 0.0
    for tick in range(1, round(until_s / RULE.every_s) + 1):
        now_s = tick * RULE.every_s + 0.01  # past the edge of a bucket, whatever the rounding
        while coming and coming[-1] <= now_s:
            demand.counts_of("a").arrived(1, coming.pop())
        decided = RULE.decide(context(plan, demand, now_s, asked_s=asked_s, slowdown=slowdown))
        if decided is not None:
            wanted.append((now_s, decided))
            asked_s = now_s
    return wanted


def up(wanted: Sequence[tuple[float, ReplanRequest]]) -> list[tuple[float, ReplanRequest]]:
    """Those for more than was planned."""
    return [(at_s, each) for at_s, each in wanted if "more than was planned" in each.reason]


def test_more_than_was_planned_is_asked_for_at_once_with_what_is_known_of_it() -> None:
    """300 qps from 10 s on, where 100 were planned: 60 in 0.2 s are 300 qps, give or take √(300/0.2) = 39."""
    (at_s, wanted), *_ = up(asked(plan_for(100.0), evenly((100.0, 10.0), (300.0, 0.4)), until_s=10.4))
    assert at_s <= 10.21
    assert wanted.demand_qps["a"] == pytest.approx(300.0, rel=0.2)
    assert wanted.reason == f"a: {wanted.demand_qps['a']:.0f} qps is more than was planned for (100)"


@pytest.mark.parametrize(("rise_qps", "is_at_once"), [(175.0, False), (300.0, True)])
def test_with_cascades_only_what_the_plan_cannot_carry_is_asked_for_at_once(
    rise_qps: float, *, is_at_once: bool
) -> None:
    """A plan for 100 qps that carries 200. The search for the best one with cascades would outlast a rise."""
    plan = replace(plan_for(100.0, capacity_qps=200.0), rules=Rules(cascades=True))
    wanted = asked(plan, evenly((100.0, 10.0), (rise_qps, 0.8)), until_s=10.8)
    reasons = [each.reason for at_s, each in wanted if at_s > 10.0 and "the demand of" not in each.reason]
    assert (reasons != []) == is_at_once
    assert all("more than the plan carries (200)" in reason for reason in reasons)
    assert up(asked(plan_for(100.0, capacity_qps=200.0), evenly((100.0, 10.0), (rise_qps, 0.8)), until_s=10.8)) != []


def test_a_slow_rise_is_seen_in_a_longer_window() -> None:
    """130 qps for 2 s are 260 ± 16 queries: 3.7 deviations more than 100 qps bring."""
    assert up(asked(plan_for(100.0), evenly((100.0, 10.0), (130.0, 0.4)), until_s=10.4)) == []
    assert up(asked(plan_for(100.0), evenly((100.0, 10.0), (130.0, 4.0)), until_s=14.0)) != []


def test_the_same_demand_is_planned_for_anew_each_time_that_it_is_known_for_twice_as_long() -> None:
    wanted = asked(plan_for(100.0), evenly((100.0, 90.0)), until_s=90.0)
    assert [at_s for at_s, _ in wanted] == pytest.approx([5, 10, 20, 40, 80], rel=0.02)
    assert all(each.is_review for _, each in wanted)
    assert [each.reason for _, each in wanted] == [f"the demand of the last {known} s" for known in (5, 10, 20, 20, 20)]
    assert [each.demand_qps["a"] for _, each in wanted] == pytest.approx([100.0] * 5, rel=0.02)


def test_a_demand_that_has_changed_is_planned_for_every_two_seconds() -> None:
    """The plan in force is for 120 qps, and no other is made for what is asked for."""
    wanted = asked(plan_for(120.0), evenly((100.0, 10.0)), until_s=10.0)
    assert [at_s for at_s, _ in wanted] == pytest.approx([5.01, 7.01, 9.01])


def test_less_is_planned_for_with_the_next_of_these() -> None:
    """From 100 to 30 qps at 10 s: after 2 s, short windows differ from long ones."""
    wanted = asked(plan_for(100.0), evenly((100.0, 10.0), (30.0, 3.0)), until_s=13.0)
    assert wanted[-1][1].reason.startswith("the demand of")
    assert wanted[-1][1].demand_qps["a"] == pytest.approx(30.0, rel=0.1)


def test_silence_is_no_reason() -> None:
    assert asked(plan_for(1.0), [], until_s=30.0) == []
    assert asked(plan_for(0.0, capacity_qps=10.0), [], until_s=30.0) == []


def test_silence_after_a_demand_is_one_until_a_plan_is_made_for_it() -> None:
    assert asked(plan_for(100.0), [], until_s=8.0)[-1][1].demand_qps["a"] == RULE.idle_demand_qps


def test_each_family_is_planned_with_the_floor_at_least() -> None:
    """`b` asks for nothing, and yet is kept hosted."""
    wanted = asked(plan_for(100.0, b=50.0), evenly((500.0, 6.0)), until_s=6.0)
    assert {each.demand_qps["b"] for _, each in wanted} == {RULE.idle_demand_qps}


def test_where_not_all_families_can_be_hosted_those_with_queries_come_first() -> None:
    """One query in 20 s is planned for as more than none."""
    wanted = asked(plan_for(100.0, b=50.0), [1.0], until_s=8.0)[-1][1]
    assert dict(wanted.demand_qps) == {"a": RULE.min_demand_qps, "b": RULE.idle_demand_qps}
    assert RULE.min_demand_qps > RULE.idle_demand_qps


def test_a_device_slower_than_profiled_carries_less() -> None:
    """2,000 qps at 1.5 times the profiled times are as many as 3,000 at those."""
    load = evenly((2000.0, 8.0))
    assert up(asked(plan_for(2400.0), load, until_s=8.0)) == []
    (_, wanted), *_ = up(asked(plan_for(2400.0), load, until_s=8.0, slowdown=1.5))
    assert wanted.demand_qps["a"] == pytest.approx(3000.0, rel=0.02)
    assert "2000 qps at 1.5 × the profiled times (as 3000 qps) is more" in wanted.reason


# --- what is planned for


def forecast_of(arrivals: Sequence[float], now_s: float, slo_s: float = 0.1) -> Forecast:
    demand = DemandEstimator({"a": slo_s})
    for at_s in arrivals:
        demand.counts_of("a").arrived(1, at_s)
    found = RULE.target_demand(context(plan_for(100.0), demand, now_s))
    assert isinstance(found, Forecast)
    return found


def test_clumps_lose_more_than_the_same_arrivals_evenly() -> None:
    """100 qps for 20 s, evenly, or all of each second at once: 100 wait for 50 ms, so even twice the capacity is less
    than it takes.
    """
    even = forecast_of(evenly((100.0, 20.0)), 20.01).curves["a"]
    clumped = forecast_of([s + 0.05 for s in range(20) for _ in range(100)], 20.01).curves["a"]
    assert even.at(1.3) < 0.01
    assert clumped.at(1.3) > 0.5
    assert clumped.at(2.5) > 0.2
    assert all(clumped.at(c / 10) >= even.at(c / 10) - 1e-9 for c in range(51))


def test_after_a_single_clump_no_others_are_expected() -> None:
    """100 qps for 20 s, of which those of 0.8 s came at once: a sender, or this machine, stood still."""
    arrivals = evenly((100.0, 20.0))
    stalled = sorted(10.85 if 10.05 < at_s < 10.85 else at_s for at_s in arrivals)
    once, even = (forecast_of(each, 20.01).curves["a"] for each in (stalled, arrivals))
    assert once.at(1.3) == pytest.approx(even.at(1.3), abs=0.001)
    twice = sorted(14.85 if 14.05 < at_s < 14.85 else at_s for at_s in stalled)
    assert forecast_of(twice, 20.01).curves["a"].at(1.3) > 0.02


def test_a_demand_that_rises_is_no_scatter() -> None:
    rising = forecast_of(evenly(*((500.0 + 50 * step, 1.0) for step in range(20))), 20.01).curves["a"]
    steady = forecast_of(evenly((1450.0, 20.0)), 20.01).curves["a"]
    assert rising.at(1.1) == pytest.approx(steady.at(1.1), abs=0.02)


def test_the_first_plan_counts_on_poisson_arrivals() -> None:
    """No less than the floor. The rarer, the more of them come while one runs."""
    first = RULE.initial_demand({"a": 40.0, "b": 4000.0}, {"a": 0.1, "b": 0.1, "c": 0.1})
    assert isinstance(first, Forecast)
    assert dict(first) == {"a": 40.0, "b": 4000.0, "c": RULE.idle_demand_qps}
    assert first.curves["c"].at(1.1) > first.curves["a"].at(1.1) > first.curves["b"].at(1.1)


def test_queries_may_wait_until_their_batch_begins() -> None:
    """Of 100 ms, 20 are left beside a batch of 80 ms and 80 beside one of 20, each for half of the queries."""
    hosts = [hosted(latency_s={1: batch_s}, max_batch=1, weight=10.0) for batch_s in (0.08, 0.02)]
    assert slack_s(hosts, {"a": 0.1, "b": 0.2}) == {"a": pytest.approx(0.05), "b": pytest.approx(0.1)}


def test_where_a_batch_takes_all_of_the_slo_the_curve_is_steep_but_there() -> None:
    """As with `--slo-fraction 1`: nothing may wait, so what comes while hosts are busy is lost."""
    [none, some] = loss_curves([[4] * 200] * 2, 0.1, [0.0, 0.05], [Rate(40.0, 0.0)] * 2)
    assert all(math.isfinite(number) and number >= 0 for number in (*none.capacities, *none.lost))
    assert none.at(1.2) > some.at(1.2)


# --- what is promised of the rule as it is: a burst is seen within half a second

PROMISED_S = 0.5


@pytest.mark.parametrize("qps", [20.0, 100.0, 1000.0])
@pytest.mark.parametrize("phase_s", [0.0, 0.07, 0.13, 0.19])
@pytest.mark.parametrize("seed", range(4))
def test_a_burst_is_seen_within_half_a_second_wherever_it_begins(qps: float, phase_s: float, seed: int) -> None:
    """Ten times the demand from a moment anywhere between two looks; from its first query to the decision."""
    burst_s = 10.0 + phase_s
    calm = [at_s for at_s in poisson(qps, burst_s, seed) if at_s < burst_s]
    burst = [burst_s + at_s for at_s in poisson(10 * qps, 2.0, seed + 100)]
    wanted = up(asked(plan_for(1.5 * qps), [*calm, *burst], until_s=burst_s + 2.0))
    first_s = next(at_s for at_s, _ in wanted if at_s > burst_s)
    assert 0.0 < first_s - burst[0] <= PROMISED_S


def test_a_clock_that_jumps_with_the_machine_asleep_is_no_burst() -> None:
    """Two minutes in which nothing came, and then the same demand as before."""
    before, after = poisson(100.0, 20.0, 1), [120.0 + at_s for at_s in poisson(100.0, 20.0, 2)]
    wanted = asked(plan_for(110.0), [*before, *after], until_s=140.0)
    assert [each for at_s, each in wanted if at_s > 121.0 and each.demand_qps["a"] > 150.0] == []


# --- the paper's rule: every 30 s, and in a burst

PERIODIC = PeriodicRule()


def periodic(
    plan: Plan, arrivals: Sequence[float], *, now_s: float, hosting_since_s: float = 0.0, slowdown: float = 1.0
) -> ReplanRequest | None:
    demand = DemandEstimator(dict.fromkeys(plan.demand_qps, 0.1))
    for at_s in arrivals:
        demand.counts_of("a").arrived(1, at_s)
    return PERIODIC.decide(context(plan, demand, now_s, hosting_since_s=hosting_since_s, slowdown=slowdown))


def test_every_thirty_seconds_it_plans_for_the_mean_of_the_last_ten() -> None:
    """50 qps from 20 to 30 s: 500 in 10 s. At 29 s the plan is too young, and at 30 one made at 1 s is."""
    load = evenly((100.0, 20.0), (50.0, 10.0))
    wanted = periodic(plan_for(100.0), load, now_s=30.01)
    assert wanted is not None
    assert wanted.demand_qps == {"a": pytest.approx(50.0)}
    assert wanted.reason == "30 s have passed"
    assert periodic(plan_for(100.0), load, now_s=29.01) is None
    assert periodic(plan_for(100.0), load, now_s=30.01, hosting_since_s=1.0) is None


def test_a_second_that_brings_more_than_the_plan_carries_is_a_burst() -> None:
    """The plan was made for 100 qps and carries 120; 121 in a second are more, 119 are not."""
    wanted = periodic(plan_for(100.0), evenly((100.0, 5.0), (121.0, 1.0)), now_s=6.01)
    assert wanted is not None
    assert wanted.reason == "a: a burst of 121 qps"
    assert periodic(plan_for(100.0), evenly((100.0, 5.0), (119.0, 1.0)), now_s=6.01) is None


def test_capacity_that_second_stages_need_hides_no_burst() -> None:
    """Of 200 qps of capacity, 80 are a second stage's: 130 newcomers per second are more than the plan carries."""
    first = make_placement("cpu0", "a", "s", rate_qps=100.0, capacity_qps=120.0)
    second = Placement("cpu1", "a", "l", 4, 0.0, 0.0, 80.0, deferred_qps=30.0)
    plan = make_plan(first, second, demand_qps={"a": 100.0}, devices=("cpu0", "cpu1"))
    wanted = periodic(plan, evenly((100.0, 5.0), (130.0, 1.0)), now_s=6.01)
    assert wanted is not None
    assert wanted.reason == "a: a burst of 130 qps"


def test_a_burst_is_planned_for_what_it_brings_though_the_mean_is_less() -> None:
    """(5 · 100 + 300) / 10 = 80 qps over ten seconds, 300 in the last."""
    wanted = periodic(plan_for(100.0), evenly((100.0, 5.0), (300.0, 1.0)), now_s=6.01)
    assert wanted is not None
    assert wanted.demand_qps == {"a": pytest.approx(300.0)}


def test_after_a_burst_the_mean_is_planned_for() -> None:
    """(1 · 300 + 9 · 10) / 10 = 39 qps, 10 in the last second."""
    wanted = periodic(plan_for(100.0), evenly((10.0, 20.0), (300.0, 1.0), (10.0, 9.0)), now_s=30.01)
    assert wanted is not None
    assert wanted.demand_qps == {"a": pytest.approx(39.0)}


def test_a_plan_that_can_not_carry_what_it_was_made_for_is_no_burst_again() -> None:
    """Made for 1000 qps of which 200 are carried."""
    plan = plan_for(1000.0, capacity_qps=200.0)
    assert periodic(plan, evenly((1000.0, 5.0)), now_s=5.01) is None
    assert periodic(plan, evenly((1000.0, 5.0), (1001.0, 1.0)), now_s=6.01) is not None


def test_the_periodic_rule_has_no_minimum_and_ignores_slowdown() -> None:
    """The published system plans for what it sees: a family that is not asked for gets nothing."""
    wanted = periodic(plan_for(100.0, b=50.0), evenly((10.0, 30.0)), now_s=30.01, slowdown=2.0)
    assert wanted is not None
    assert wanted.demand_qps == {"a": pytest.approx(10.0), "b": 0.0}


# --- at a fixed period


def test_a_period_plans_so_often_and_at_no_other_time_with_the_rules_own_estimate() -> None:
    timed = TimedRule(RULE, 10.0)
    demand = DemandEstimator({"a": 0.1})
    for at_s in evenly((100.0, 9.0), (1000.0, 3.0)):
        demand.counts_of("a").arrived(1, at_s)
    plan = plan_for(100.0)
    assert timed.decide(context(plan, demand, 11.9, hosting_since_s=2.0)) is None, "burst or not"
    wanted = timed.decide(context(plan, demand, 12.0, hosting_since_s=2.0))
    assert wanted is not None
    assert wanted.reason == "10 s have passed"
    assert wanted.demand_qps == RULE.target_demand(context(plan, demand, 12.0))
    assert timed.every_s == RULE.every_s
