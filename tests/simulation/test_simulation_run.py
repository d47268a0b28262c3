import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from builders import (
    make_catalog,
    make_family,
    make_measured,
    make_placement,
    make_plan,
    make_profile,
    make_trace,
    near,
    never,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from proteus_cli.control.batching import ProactiveBatcher
from proteus_cli.control.policies import Policy, policy_named
from proteus_cli.control.replanning.replan_rules import PeriodicRule
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.trace import Trace
from proteus_cli.errors import ArtefactError
from proteus_cli.planning.planner import Planner
from proteus_cli.simulation.conditions import SOLVE_S, Conditions, Failure, SlowSpan
from proteus_cli.simulation.fleet import SimulationResult
from proteus_cli.simulation.run import simulate

EXACT = Policy("test", "all", ProactiveBatcher(answer_frac=0.0, margin_frac=0.0), None)
PROTEUS = policy_named("proteus")
LARGE_QPS, SMALL_QPS = 20.0, 200.0  # within half of 100 ms: 1 in 50 ms, 4 in 20 ms


def one_device(
    trace: Trace,
    latency_s: Mapping[int, float],
    *,
    max_batch: int,
    slow_by: float = 1.0,
    policy: Policy = EXACT,
    conditions: Conditions = Conditions(),  # noqa: B008 - frozen
    saw: Callable[[RequestRecord], object] | None = None,
) -> SimulationResult:
    """A device that always hosts one variant; a batch really takes ``slow_by`` × what its p95 promises."""
    measured = make_measured("a", "s", 0.8, latency_s)
    points = tuple(msgspec.structs.replace(point, mean_s=point.mean_s * slow_by) for point in measured.points)
    profile = make_profile("cpu0", msgspec.structs.replace(measured, points=points))
    capacity_qps = max_batch / latency_s[max_batch]
    plan = make_plan(make_placement("cpu0", "a", "s", capacity_qps=capacity_qps, max_batch=max_batch))
    catalog = make_catalog(make_family("a", {"s": 0.8}, slo="105ms"))
    return simulate(trace, plan, catalog, {"cpu0": profile}, policy, never, conditions=conditions, saw=saw)


def always(plan: Plan) -> Callable[..., Plan]:
    """Makes the same plan whatever it is asked for."""
    return lambda *_, **__: plan


def at_once(number: int) -> Trace:
    return make_trace(*[(0.0, "a")] * number)


def outcomes(simulated: SimulationResult) -> dict[str, int]:
    return dict(Counter(ended.outcome.value for ended in simulated.ended))


def latencies(simulated: SimulationResult) -> list[float]:
    return [ended.latency_s for ended in simulated.ended if ended.latency_s is not None]


def test_a_single_request_waits_for_a_second_as_long_as_it_can_and_is_served_alone() -> None:
    """It comes at 1 s and is due at 1.105 s; two rows take 20 ms, so it starts at 1.085 and ends at 1.095 s."""
    run = one_device(make_trace((1.0, "a")), {1: 0.010, 2: 0.020}, max_batch=2)
    assert run.launches[0][0] == pytest.approx(1.085)
    assert run.ended == [
        RequestRecord("a", 1.0, Outcome.SERVED, near(0.095), accuracy=0.8, variant="s", device="cpu0", batch=1)
    ]


def test_records_may_go_elsewhere_and_then_nothing_of_a_query_is_kept() -> None:
    trace, latency_s = make_trace(*((n / 50, "a") for n in range(100))), {1: 0.010, 2: 0.020}
    kept, seen = one_device(trace, latency_s, max_batch=2), list[RequestRecord]()
    run = one_device(trace, latency_s, max_batch=2, saw=seen.append)
    assert seen == kept.ended
    assert len(seen) == 100
    assert run.ended == []
    assert run.launches == []
    failing = Conditions(failures=(Failure(("cpu0",), 0.5, 1.0),))
    with pytest.raises(ValueError, match="failures are simulated"):
        one_device(trace, latency_s, max_batch=2, conditions=failing, saw=seen.append)


def test_a_device_runs_as_many_batches_at_once_as_it_has_slots() -> None:
    """Of three, the first takes 10 ms alone, the second 15 beside it; the third starts at 10 and takes 15, too."""
    measured = make_measured("a", "s", 0.8, {1: 0.010}, at_once_s={2: {1: 0.015}})
    plan = make_plan(make_placement("gpu0", "a", "s", capacity_qps=133.0, max_batch=1))
    profiles = {"gpu0": make_profile("gpu0", measured, slots=2)}
    run = simulate(at_once(3), plan, make_catalog(make_family("a", {"s": 0.8})), profiles, EXACT, never)
    assert latencies(run) == pytest.approx([0.010, 0.015, 0.025])


def test_the_margin_makes_it_start_earlier() -> None:
    """A tenth of 105 ms is kept back: due at 94.5 ms, started at 74.5, ended at 84.5 ms."""
    policy = replace(EXACT, batching=ProactiveBatcher(margin_frac=0.1))
    run = one_device(make_trace((0.0, "a")), {1: 0.010, 2: 0.020}, max_batch=2, policy=policy)
    assert latencies(run) == pytest.approx([0.0845])


def test_two_requests_fill_a_batch_of_two_and_start_at_once() -> None:
    """The second comes at 1.02 s; together they take 20 ms, until 1.04 s."""
    run = one_device(make_trace((1.0, "a"), (1.02, "a")), {1: 0.010, 2: 0.020}, max_batch=2)
    assert [at_s for at_s, _ in run.launches] == [1.02]
    assert latencies(run) == pytest.approx([0.04, 0.02])
    assert [ended.batch for ended in run.ended] == [2, 2]


def test_a_batch_takes_the_mean_time_though_decisions_go_by_the_95th_percentile() -> None:
    """Started at 85 ms as the p95 of two is 20 ms; the mean of one is half of its 10 ms."""
    run = one_device(at_once(1), {1: 0.010, 2: 0.020}, max_batch=2, slow_by=0.5)
    assert latencies(run) == pytest.approx([0.090])


def test_slow_devices_take_longer_than_anyone_is_told() -> None:
    """Batches of 40 ms take 50. Two of 45 ms would be in time within 105 ms; they take 56.25, so the second is late."""
    conditions = Conditions(slow=SlowSpan(1.25))
    run = one_device(at_once(2), {1: 0.040}, max_batch=1, conditions=conditions)
    assert latencies(run) == [near(0.050), near(0.100)]
    assert outcomes(one_device(at_once(2), {1: 0.045}, max_batch=1, conditions=conditions)) == {"served": 1, "late": 1}


def test_devices_that_are_slow_for_a_while_slow_the_batches_that_begin_meanwhile() -> None:
    """From 1 to 2 s batches of 40 ms take 50, also the one that ends after 2 s, and not the one that ends after 1 s."""
    conditions = Conditions(slow=SlowSpan(1.25, 1.0, 2.0))
    trace = make_trace(*((at_s, "a") for at_s in (0.5, 0.99, 1.5, 1.99, 2.5)), families=("a",))
    run = one_device(trace, {1: 0.040}, max_batch=1, conditions=conditions)
    assert latencies(run) == pytest.approx([0.040, 0.040, 0.050, 0.050, 0.040])


@pytest.mark.parametrize("span", [(0.0,), (math.inf,), (1.2, 2.0, 2.0), (1.2, 2.0, 1.0)])
def test_a_slow_span_that_makes_no_sense_is_refused(span: Sequence[float]) -> None:
    with pytest.raises(ValueError, match=r"positive|ends"):
        SlowSpan(*span)


def test_more_than_fits_the_slo_is_rejected_at_the_door() -> None:
    """10 ms each: 10 of 30 fit 105 ms, one after the other; the rest is told at once."""
    run = one_device(at_once(30), {1: 0.010}, max_batch=1)
    assert outcomes(run) == {"served": 10, "rejected": 20}
    assert latencies(run) == pytest.approx([0.01 * n for n in range(1, 11)])


def test_what_can_no_longer_be_in_time_is_dropped() -> None:
    """10 of 30 get in, but take 20 ms each: 5 end by 100 ms; then 5 ms are left, too few for the others."""
    run = one_device(at_once(30), {1: 0.010}, max_batch=1, slow_by=2.0)
    assert outcomes(run) == {"served": 5, "dropped": 5, "rejected": 20}


def test_what_started_in_time_but_ended_late_counts_as_late() -> None:
    """30 ms each: three end by 90 ms; the fourth starts then, with 15 ms left, and ends at 120 ms."""
    run = one_device(at_once(30), {1: 0.010}, max_batch=1, slow_by=3.0)
    assert outcomes(run) == {"served": 3, "late": 1, "dropped": 6, "rejected": 20}
    assert max(latencies(run)) == pytest.approx(0.120)


def test_the_own_slo_of_a_request_holds_instead_of_its_familys() -> None:
    """Due after 50 ms, so it starts at 30; the next, without one of its own, at 1.085 s."""
    trace = make_trace((0.0, "a"), (1.0, "a"), slo_s=(0.05, float("nan")))
    run = one_device(trace, {1: 0.010, 2: 0.020}, max_batch=2)
    assert [at_s for at_s, _ in run.launches] == pytest.approx([0.03, 1.085])


def test_an_own_slo_beyond_its_familys_does_not_make_a_request_wait_longer() -> None:
    """As live: company is waited for within the family's 105 ms, two rows take 20: it starts at 85 ms, not at 980."""
    run = one_device(make_trace((0.0, "a"), slo_s=(1.0,)), {1: 0.010, 2: 0.020}, max_batch=2)
    assert [at_s for at_s, _ in run.launches] == pytest.approx([0.085])


def test_a_request_is_answered_by_a_variant_as_accurate_as_it_asks_for_or_rejected_where_none_is_hosted() -> None:
    """One of 0.8 on cpu0 and one of 0.9 on cpu1, busy in part: who asks for more than 0.9 is rejected."""
    measured = {"cpu0": make_measured("a", "s", 0.8, {1: 0.010}), "cpu1": make_measured("a", "l", 0.9, {1: 0.010})}
    profiles = {device: make_profile(device, variant) for device, variant in measured.items()}
    plan = make_plan(*(make_placement(device, "a", variant.variant) for device, variant in measured.items()))
    minima = [*[0.0] * 12, 0.9, 0.85, 0.95] * 4
    at_s = [3.0 * group + (0.2 * n - 2.0 if n > 11 else 0.0) for group in range(4) for n in range(15)]
    trace = make_trace(*((each_s, "a") for each_s in at_s))
    trace = replace(trace, min_accuracy=np.array(minima))
    catalog = make_catalog(make_family("a", {"s": 0.8, "l": 0.9}))
    run = simulate(trace, plan, catalog, profiles, EXACT, never)
    ended = sorted(run.ended, key=lambda each: each.arrival_s)
    for each, minimum in zip(ended, minima, strict=True):
        assert each.outcome is (Outcome.REJECTED if minimum > 0.9 else Outcome.SERVED)
        assert (each.accuracy or 1.0) >= minimum
    assert {each.variant for each in ended} == {"s", "l", None}


def test_an_empty_trace_ends_at_once() -> None:
    assert one_device(make_trace(families=("a",)), {1: 0.01}, max_batch=1).ended == []


def test_a_plan_of_what_was_never_profiled_is_refused() -> None:
    catalog = make_catalog(make_family("a", {"s": 0.8}))
    with pytest.raises(ArtefactError, match="never profiled"):
        simulate(at_once(1), make_plan(make_placement("cpu0", "a", "s")), catalog, {}, EXACT, never)


# Changes of plan

CATALOG = make_catalog(make_family("a", {"small": 0.6, "large": 1.0}))


def profiles(load_s: float = 1.0) -> dict[str, Profile]:
    measured = (
        make_measured("a", "small", 0.6, {1: 0.008, 4: 0.020}, load_s=load_s),
        make_measured("a", "large", 1.0, {1: 0.050}, load_s=load_s),
    )
    return {"cpu0": make_profile("cpu0", *measured)}


def burst() -> Trace:
    """10 qps, 100 qps from 8 to 16 s, and 10 qps again until 36 s; evenly."""
    slow = [i / 10 + 0.05 for i in range(80)]
    fast = [8 + i / 100 for i in range(800)]
    after = [16 + i / 10 for i in range(200)]
    return make_trace(*((at_s, "a") for at_s in [*slow, *fast, *after]))


def played(policy: Policy, *, load_s: float = 1.0) -> SimulationResult:
    planner = Planner(CATALOG, profiles(load_s), policy, headroom=1.0, inputs={})
    return simulate(burst(), planner({"a": 10.0}), CATALOG, profiles(load_s), policy, planner)


def variants(simulated: SimulationResult, start_s: float, stop_s: float) -> set[str | None]:
    """Who answered what was launched then."""
    return {launch.hosted.variant for at_s, launch in simulated.launches if start_s <= at_s < stop_s}


def test_a_burst_makes_proteus_change_to_a_faster_variant_and_back() -> None:
    """20 queries in 0.2 s are far more than 10 qps bring. The plan is there after 0.05 s and its variant loaded after
    1 s more. Back with one of the plans that are made every 2 s, once the burst is long enough ago.
    """
    run = played(PROTEUS)
    up, down = (change for change in run.changes if change.swaps > 0)
    assert len(run.changes) <= 3
    assert up.at_s == pytest.approx(8.2 + SOLVE_S + 1.0, abs=0.21)
    assert "more than was planned for" in up.reason
    assert 16 < down.at_s < 16 + 3 * (2.0 + SOLVE_S) + 1.0
    assert [up.swaps, down.swaps] == [1, 1]
    assert variants(run, 0, up.at_s) == {"large"}
    assert variants(run, up.at_s, down.at_s) == {"small"}
    assert variants(run, down.at_s, 99) == {"large"}


def test_the_most_accurate_never_change_and_lose_the_burst_instead() -> None:
    fixed, adapting = played(policy_named("most-accurate")), played(PROTEUS)
    assert fixed.replans == []
    assert variants(fixed, 0, 99) == {"large"}
    assert outcomes(fixed)["served"] < 0.55 * len(burst())
    assert outcomes(adapting)["served"] > 0.89 * len(burst())


@pytest.mark.parametrize("load_s", [0.0, 0.5, 3.0])
def test_loading_delays_the_switch_while_the_old_variant_goes_on(load_s: float) -> None:
    """Make before break: the worker is never idle for a load."""
    run, at_once = played(PROTEUS, load_s=load_s), played(PROTEUS, load_s=0.0)
    assert run.changes[0].at_s == pytest.approx(at_once.changes[0].at_s + load_s)
    switch_s = run.changes[0].at_s
    assert variants(run, 8.0, switch_s) == {"large"}
    starts = [at_s for at_s, _ in run.launches if 8.0 <= at_s < switch_s + 1]
    assert max((later - earlier for earlier, later in pairwise(starts)), default=0.0) < 0.15


@pytest.mark.parametrize("policy", ["proteus", "most-accurate", "least-accurate"])
def test_each_request_of_the_burst_ends_once_and_the_same_way_each_time(policy: str) -> None:
    first, second = played(policy_named(policy)), played(policy_named(policy))
    assert len(first.ended) == len(burst())
    assert sorted(ended.arrival_s for ended in first.ended) == burst().arrival_s.tolist()
    assert first.ended == second.ended
    assert [(at_s, launch.requests[0].id) for at_s, launch in first.launches] == [
        (at_s, launch.requests[0].id) for at_s, launch in second.launches
    ]
    assert first.replans == second.replans


def test_what_waits_for_a_family_that_the_next_plan_leaves_out_is_dropped() -> None:
    """100 at once, 50 ms each; the plan after 0.25 s hosts another family, so of the 100 only those that run till
    then are answered.
    """
    catalog = make_catalog(make_family("a", {"s": 0.8}, slo="10s"), make_family("b", {"s": 0.8}))
    measured = (make_measured(family, "s", 0.8, {1: 0.05}, load_s=0.0) for family in ("a", "b"))
    of_a = make_placement("cpu0", "a", "s", capacity_qps=20.0, max_batch=1)
    of_b = make_placement("cpu0", "b", "s", capacity_qps=20.0, max_batch=1)
    before, after = make_plan(of_a), make_plan(of_b)
    trace = make_trace(*[(0.0, "a")] * 100, (0.2, "a"), families=("a", "b"))
    policy = replace(EXACT, replanning=PeriodicRule(every_s=0.2))
    run = simulate(trace, before, catalog, {"cpu0": make_profile("cpu0", *measured)}, policy, lambda *_: after)
    assert [replan.at_s for replan in run.replans] == pytest.approx([0.25])
    counts = outcomes(run)
    assert sum(counts.values()) == len(trace)
    assert counts["served"] in (5, 6)
    assert counts["dropped"] == len(trace) - counts["served"]


@given(
    gaps=st.lists(st.floats(0, 0.3) | st.just(0.0), min_size=1, max_size=60),
    slo_s=st.sampled_from([0.02, 0.1, 0.5, float("nan")]),
    load_s=st.sampled_from([0.0, 0.7]),
)
@settings(max_examples=40, deadline=None)
def test_each_request_of_any_trace_ends_once(gaps: list[float], slo_s: float, load_s: float) -> None:
    arrivals, now_s = [], 0.0
    for gap_s in gaps:
        now_s += gap_s
        arrivals.append((now_s, "a"))
    trace = make_trace(*arrivals, slo_s=[slo_s] * len(arrivals))
    planner = Planner(CATALOG, profiles(load_s), PROTEUS, headroom=1.0, inputs={})
    run = simulate(trace, planner({"a": 5.0}), CATALOG, profiles(load_s), PROTEUS, planner)
    assert sorted(ended.arrival_s for ended in run.ended) == [at_s for at_s, _ in arrivals]
    answered = [ended for ended in run.ended if ended.latency_s is not None]
    assert len(answered) == sum(len(launch.requests) for _, launch in run.launches)
    assert all(ended.outcome in (Outcome.SERVED, Outcome.LATE) for ended in answered)


def test_progress_rises_from_nothing_and_stays_below_all() -> None:
    trace, told = make_trace(*((i / 100, "a") for i in range(2500))), list[float]()
    planner = Planner(CATALOG, profiles(), EXACT, headroom=1.0, inputs={})
    simulate(trace, planner({"a": 100.0}), CATALOG, profiles(), EXACT, never, progress=told.append)
    assert told == [0.0, 0.4, 0.8]


TWO = {"cpu0": 2000}
"""Memory for two of the variants, of 1000 bytes each."""


@pytest.mark.parametrize("load_time_s", [None, 1.0])
def test_with_memory_for_both_variants_a_burst_activates_what_stands_by(load_time_s: float | None) -> None:
    """Without it the switch comes a second later, as the variant loads. Until then, it answers the overflow alone."""
    planner = Planner(CATALOG, profiles(), PROTEUS, headroom=1.0, inputs={})

    def run(memory_bytes: dict[str, int]) -> SimulationResult:
        conditions = Conditions(load_time_s=load_time_s, memory_bytes=memory_bytes)
        first = planner({"a": 10.0})
        return simulate(burst(), first, CATALOG, profiles(), PROTEUS, planner, conditions=conditions)

    cold, warm = run({}), run(TWO)
    changes = [(replan.swaps, replan.activated) for replan in warm.replans if replan.swaps or replan.activated]
    assert changes == [(0, 1), (0, 1)]
    up = next(replan for replan in warm.replans if replan.activated)
    assert up.at_s == pytest.approx(8.2 + SOLVE_S, abs=0.21)
    assert variants(warm, 0, 8.0) == {"large"}
    assert variants(warm, 8.0, up.at_s) == {"large", "small"}
    assert variants(warm, up.at_s, up.at_s + 1) == {"small"}
    assert all(replan.activated == 0 for replan in cold.replans)
    assert sum(replan.swaps for replan in cold.replans) == 2
    assert outcomes(warm)["served"] > outcomes(cold)["served"]
    assert sorted(ended.arrival_s for ended in warm.ended) == burst().arrival_s.tolist()


def changed_while_a_standby_loads(wanted: VariantKey, load_time_s: float | None = None) -> SimulationResult:
    """The standby `best` loads on cpu1 from 0.1 to 1.1 s; a plan that has another variant there is solved by 0.35 s."""
    measured = (
        make_measured("a", "good", 0.9, {1: 0.05}, memory_bytes=1000, load_s=1.0),
        make_measured("a", "fast", 0.95, {1: 0.0025, 8: 0.02}, memory_bytes=1000, load_s=1.0),
        make_measured("b", "other", 0.9, {1: 0.05}, memory_bytes=1000, load_s=1.0),
        make_measured("b", "best", 1.0, {1: 0.06}, memory_bytes=1000, load_s=1.0),
    )
    catalog = make_catalog(
        make_family("a", {"good": 0.9, "fast": 0.95}, slo="500ms"),
        make_family("b", {"other": 0.9, "best": 1.0}, slo="500ms"),
    )
    own = make_placement("cpu0", "a", "good", capacity_qps=20.0, max_batch=1)
    before, after = (
        make_plan(own, make_placement("cpu1", *key, capacity_qps=16.0, max_batch=1))
        for key in (VariantKey("b", "other"), wanted)
    )
    return simulate(
        make_trace(*((n / 4, family) for n in range(16) for family in "ab")), before, catalog,
        {device: make_profile(device, *measured) for device in ("cpu0", "cpu1")},
        replace(PROTEUS, replanning=PeriodicRule(period_s=0.3, every_s=0.3)), always(after),
        conditions=Conditions(memory_bytes={"cpu1": 2000}, load_time_s=load_time_s),
    )  # fmt: skip


def test_a_standby_loads_on_while_a_plan_is_solved_and_one_that_is_in_its_way_is_given_up() -> None:
    """It has begun, and so runs to its end; what the plan loads on that device comes after it."""
    fast = VariantKey("a", "fast")
    beside, in_place = changed_while_a_standby_loads(fast), changed_while_a_standby_loads(fast, 1.0)
    assert (beside.replans[0].at_s, beside.replans[0].swaps) == (near(2.1), 1)
    assert in_place.replans[0].at_s == near(0.35)
    for run in (beside, in_place):
        first_s = {launch.hosted.variant: at_s for at_s, launch in reversed(run.launches)}
        assert first_s["other"] == 0.0
        assert first_s["fast"] >= 2.1
        assert "best" not in first_s


def test_a_plan_waits_for_a_standby_that_it_wants_and_does_not_load_it_again() -> None:
    run = changed_while_a_standby_loads(VariantKey("b", "best"))
    assert (run.replans[0].at_s, run.replans[0].swaps) == (near(1.1), 1)


def test_standbys_load_also_where_each_look_asks_for_a_plan() -> None:
    """The plan is the same, and each takes all of the time between two looks to solve."""
    measured = (
        make_measured("a", "good", 0.9, {1: 0.1, 4: 0.2}, memory_bytes=1000),
        make_measured("a", "fast", 0.6, {1: 0.0025, 8: 0.02}, memory_bytes=1000),
    )
    catalog = make_catalog(make_family("a", {"good": 0.9, "fast": 0.6}, slo="500ms"))
    plan = make_plan(make_placement("cpu0", "a", "good", capacity_qps=20.0, max_batch=4), demand_qps={"a": 1000.0})
    run = simulate(
        make_trace((0.0, "a"), *[(3.0, "a")] * 40), plan, catalog, {"cpu0": make_profile("cpu0", *measured)},
        replace(PROTEUS, replanning=PeriodicRule(period_s=0.05, every_s=0.1)), always(plan),
        conditions=Conditions(memory_bytes={"cpu0": 2000}, load_time_s=1.0, solve_s=0.5),
    )  # fmt: skip
    assert len(run.replans) > 3
    assert any(launch.hosted.variant == "fast" for _, launch in run.launches)


def test_a_published_system_has_no_standbys_whatever_memory_there_is() -> None:
    policy = policy_named("proteus-paper")
    planner = Planner(CATALOG, profiles(), policy, headroom=1.0, inputs={})
    conditions = Conditions(memory_bytes=TWO)
    run = simulate(burst(), planner({"a": 10.0}), CATALOG, profiles(), policy, planner, conditions=conditions)
    assert sum(replan.swaps for replan in run.replans) > 0
    assert all(replan.activated == 0 for replan in run.replans)


@pytest.mark.parametrize(("max_unavailable_frac", "by_second"), [(0.25, [1, 1, 1, 1]), (0.5, [2, 2]), (1.0, [3, 1])])
def test_no_more_capacity_is_away_at_once_than_may_be_during_a_change_in_place(
    max_unavailable_frac: float, by_second: list[int]
) -> None:
    """More is asked by far than the four devices carry, and each load takes 1 s. One device goes on in any case."""
    devices = [f"cpu{place}" for place in range(4)]
    before, after = (
        make_plan(
            *(make_placement(device, "a", variant, capacity_qps=20.0) for device in devices), demand_qps={"a": qps}
        )
        for variant, qps in (("large", 80.0), ("small", 10_000.0))
    )
    trace = make_trace(*((n / 2000, "a") for n in range(12_000)))
    policy = replace(EXACT, replanning=PeriodicRule(every_s=0.2))
    conditions = Conditions(load_time_s=1.0, max_unavailable_frac=max_unavailable_frac)
    known = dict.fromkeys(devices, profiles()["cpu0"])
    run = simulate(trace, before, CATALOG, known, policy, lambda *_: after, conditions=conditions)
    first_s = {
        device: min(
            at_s for at_s, launch in run.launches if launch.hosted.device == device and launch.hosted.variant == "small"
        )
        for device in devices
    }
    seconds = Counter(round(at_s - min(first_s.values())) for at_s in first_s.values())
    assert [seconds[second] for second in sorted(seconds)] == by_second


def test_a_device_answers_by_its_quicker_variant_what_the_one_with_the_rate_cannot_in_time() -> None:
    """A query of 20 ms alone, each 0.1 s: `quick` takes 10 ms for it, `bulky`, which has most of the rate, 30 ms."""
    catalog = make_catalog(make_family("a", {"quick": 0.9, "bulky": 0.8}, slo="200ms"))
    measured = [
        make_measured("a", "quick", 0.9, {1: 0.010, 32: 0.320}),
        make_measured("a", "bulky", 0.8, {1: 0.030, 32: 0.060}),
    ]
    placed = [
        make_placement("cpu0", "a", "quick", rate_qps=1.0, capacity_qps=10.0),
        make_placement("cpu0", "a", "bulky", rate_qps=9.0, capacity_qps=400.0),
    ]
    plan = make_plan(*placed, devices=("cpu0",), demand_qps={"a": 10.0})
    trace = make_trace(*((i / 10, "a") for i in range(100)), slo_s=[0.020] * 100)
    policy = replace(policy_named("proteus"), replanning=None, standbys=False)
    found = simulate(trace, plan, catalog, {"cpu0": make_profile("cpu0", *measured)}, policy, never)
    assert Counter((each.outcome, each.variant) for each in found.ended) == {(Outcome.SERVED, "quick"): 100}
