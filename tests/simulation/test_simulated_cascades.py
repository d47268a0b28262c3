"""Plans with cascades in virtual time: what the second stage answers, and where the first answer goes out instead."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from builders import (
    make_cascade,
    make_cascade_point,
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
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.policies import POLICIES, Policy
from proteus_cli.control.replanning.replan_rules import PeriodicRule
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.stages.cascade import CascadeProfile, PlannedCascade
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.trace import Trace
from proteus_cli.planning.planner import Planner
from proteus_cli.simulation.answers import RowAnswers
from proteus_cli.simulation.conditions import Conditions, Failure
from proteus_cli.simulation.fleet import SimulationResult
from proteus_cli.simulation.oracle import simulate_oracle
from proteus_cli.simulation.run import simulate

EXACT = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)
CATALOG = make_catalog(make_family("a", {"s": 0.8, "l": 0.95}))
SURE, UNSURE = 0.9, 0.1
CASCADE = make_cascade("a", "s", "l", rate_qps=10.0)
FIRST = make_placement("cpu0", "a", "s", rate_qps=10.0, capacity_qps=250.0)
SECOND = Placement("cpu1", "a", "l", 4, 0.0, 0.0, 100.0, deferred_qps=5.0)


def profiles(second_s: float = 0.020, *, devices: Sequence[str] = ("cpu0", "cpu1")) -> dict[str, Profile]:
    measured = (
        make_measured("a", "s", 0.8, {1: 0.010, 4: 0.016}, load_s=0.0, power_w=10.0),
        make_measured("a", "l", 0.95, {1: second_s, 4: 2 * second_s}, load_s=0.0, power_w=20.0),
    )
    return {device: make_profile(device, *measured) for device in devices}


def plan_of(
    *placements: Placement, cascades: tuple[PlannedCascade, ...] = (CASCADE,), devices: Sequence[str] = ("cpu0", "cpu1")
) -> Plan:
    return make_plan(*placements, cascades=cascades, devices=devices, demand_qps={"a": 10.0})


def trace_of(*queries: tuple[float, float], slo_s: float = 0.1) -> Trace:
    """(second, confidence) pairs."""
    trace = make_trace(*((at_s, "a") for at_s, _ in queries), slo_s=[slo_s] * len(queries))
    return replace(trace, confidence=np.array([confidence for _, confidence in queries]))


def run(trace: Trace, plan: Plan, conditions: Conditions | None = None, policy: Policy = EXACT) -> SimulationResult:
    return simulate(trace, plan, CATALOG, profiles(), policy, never, conditions=conditions or Conditions())


def by_first(at_s: float, accuracy: float, batch: int = 1, **kind: bool) -> RequestRecord:
    return RequestRecord("a", 0.0, Outcome.SERVED, near(at_s), accuracy, "s", "cpu0", batch, **kind)


def by_second(at_s: float, batch: int = 1) -> RequestRecord:
    return RequestRecord("a", 0.0, Outcome.SERVED, near(at_s), 0.9, "l", "cpu1", batch, is_deferred=True)


def test_sure_answers_go_out_at_once_and_others_are_the_second_stages() -> None:
    """The first runs alone until 10 ms, the others until 22; the second stage until 30 and 50."""
    found = run(trace_of((0.0, UNSURE), (0.0, SURE), (0.0, UNSURE)), plan_of(FIRST, SECOND))
    assert found.ended == [by_first(0.022, 0.95, batch=2), by_second(0.030), by_second(0.050)]


def test_a_query_is_deferred_below_the_fraction_that_its_cascade_defers() -> None:
    found = run(trace_of((0.0, 0.5), (0.2, 0.49999)), plan_of(FIRST, SECOND))
    assert [ended.is_deferred for ended in found.ended] == [False, True]


def test_rows_of_an_eval_split_are_deferred_and_judged_as_they_were_profiled() -> None:
    """Of every second row, answers are known: of 0 and 4 the first is unsure, of 2 it is sure and wrong."""
    answers = {
        ("cpu0", "a", "s"): RowAnswers(np.array([0.49, 0.5, np.nan], np.float32), np.array([True, False, False]), 2),
        ("cpu1", "a", "l"): RowAnswers(np.zeros(3, np.float32), np.array([False, True, True]), 2),
    }
    trace = trace_of(*((n / 10, SURE) for n in range(6)))
    trace = replace(trace, eval_row=np.array([0, 2, 4, 3, np.nan, 0]))
    found = simulate(trace, plan_of(FIRST, SECOND), CATALOG, profiles(), EXACT, never, answers=answers)
    judged = [(ended.variant, ended.is_correct) for ended in sorted(found.ended, key=lambda ended: ended.arrival_s)]
    assert judged == [("l", False), ("s", False), ("l", True), ("s", None), ("s", None), ("l", False)]


def test_rows_that_are_less_confident_than_the_query_asks_for_are_deferred_where_that_is_known() -> None:
    """The first reaches its threshold, 0.5, with 0.6 and 0.8; of the last query, nobody knows how sure it is."""
    answers = {("cpu0", "a", "s"): RowAnswers(np.array([0.6, 0.8], np.float32), np.array([True, True]))}
    trace = trace_of(*((n / 10, SURE) for n in range(5)))
    rows, minima = np.array([0, 0, 1, 1, np.nan]), np.array([np.nan, 0.7, 0.7, np.float32(0.8), 0.99])
    trace = replace(trace, eval_row=rows, min_confidence=minima)
    found = simulate(trace, plan_of(FIRST, SECOND), CATALOG, profiles(), EXACT, never, answers=answers)
    ended = sorted(found.ended, key=lambda each: each.arrival_s)
    assert [each.variant for each in ended] == ["s", "l", "s", "s", "s"]


def test_who_asks_for_a_confidence_goes_by_a_cascade_where_others_need_none() -> None:
    half = make_cascade("a", "s", "l", rate_qps=5.0)
    trace, plan = trace_of((0.0, UNSURE), (0.2, UNSURE)), plan_of(FIRST, SECOND, cascades=(half,))
    found = run(replace(trace, min_confidence=np.full(2, 0.1)), plan)
    assert [ended.is_deferred for ended in found.ended] == [True, True]


def test_queries_that_go_by_no_cascade_are_worth_what_the_variant_is() -> None:
    half = make_cascade("a", "s", "l", rate_qps=5.0)
    found = run(trace_of(*((n / 10, UNSURE) for n in range(4))), plan_of(FIRST, SECOND, cascades=(half,)))
    assert [ended.accuracy for ended in found.ended] == [0.9, 0.8, 0.9, 0.8]


def test_where_the_second_stage_is_overloaded_first_answers_go_out_and_all_are_served() -> None:
    """The second stage answers two newcomers, which are too much for the first, and later four deferred ones.
    It refuses the others, whose first answers go out.
    """
    found = run(trace_of(*[(0.0, UNSURE)] * 20), plan_of(FIRST, SECOND))
    assert Counter((near_ms(ended), ended.is_fallback) for ended in found.ended) == {
        (20, False): 1, (40, False): 1, (80, False): 4, (100, False): 1,
        (42, True): 4, (58, True): 4, (74, True): 4, (84, True): 1,
    }  # fmt: skip
    assert {ended.outcome for ended in found.ended} == {Outcome.SERVED}
    assert {(ended.accuracy, ended.variant) for ended in found.ended if ended.is_fallback} == {(0.6, "s")}


def near_ms(ended: RequestRecord) -> int:
    assert ended.latency_s is not None
    return round(1000 * ended.latency_s)


def test_when_the_device_of_the_second_stage_is_lost_the_first_answer_goes_out() -> None:
    """One runs there and one waits at 23 ms."""
    lost = Conditions(failures=(Failure(("cpu1",), 0.023, math.inf),))
    found = run(trace_of((0.0, UNSURE), (0.001, UNSURE)), plan_of(FIRST, SECOND), lost)
    assert [(near_ms(ended), ended.is_fallback) for ended in found.ended] == [(23, True), (22, True)]


def test_of_two_devices_of_the_second_stage_the_other_takes_what_is_lost() -> None:
    lost = Conditions(failures=(Failure(("cpu1",), 0.023, math.inf),))
    other = replace_device(SECOND, "cpu2")
    devices = ("cpu0", "cpu1", "cpu2")
    found = simulate(
        trace_of((0.0, UNSURE)), plan_of(FIRST, SECOND, other, devices=devices), CATALOG, profiles(devices=devices),
        EXACT, never, conditions=lost,
    )  # fmt: skip
    assert [(near_ms(ended), ended.device, ended.is_fallback) for ended in found.ended] == [(43, "cpu2", False)]


def test_when_a_plan_leaves_the_second_variant_out_the_first_answer_of_what_waits_goes_out() -> None:
    """The first is at the second stage from 210 ms to 710, the other waits there from 220. After 300 ms another plan
    is wanted, and is in force 50 ms later: what runs is still answered.
    """
    other = plan_of(FIRST, make_placement("cpu1", "a", "s", rate_qps=0.0), cascades=())
    policy = replace(EXACT, replanning=PeriodicRule(period_s=0.3, every_s=0.3))
    trace = trace_of((0.2, UNSURE), (0.209, UNSURE), (0.4, UNSURE), (0.59, UNSURE), slo_s=2.0)
    found = simulate(trace, plan_of(FIRST, SECOND), CATALOG, profiles(0.5), policy, lambda *_: other)
    assert found.replans[0].at_s == near(0.35)
    ended = [(round(e.arrival_s + (e.latency_s or 0.0), 3), e.accuracy, e.is_deferred) for e in found.ended]
    assert ended == [(0.35, 0.6, True), (0.41, 0.8, False), (0.6, 0.8, False), (0.71, 0.9, True)]


def test_requests_for_more_accuracy_than_the_first_stage_has_begin_at_the_second() -> None:
    trace = trace_of((0.0, UNSURE), (0.0, UNSURE))
    trace = replace(trace, min_accuracy=np.array([0.9, 0.0]))
    found = run(trace, plan_of(FIRST, SECOND))
    assert [(e.variant, e.accuracy, near_ms(e), e.is_deferred) for e in found.ended] == [
        ("l", 0.95, 20, False), ("l", 0.9, 40, True),
    ]  # fmt: skip


def test_requests_that_expect_what_only_the_cascade_reaches_go_by_it() -> None:
    """Half of the queries go by it; with an expectation of 0.92 both do, and only one may be of the first alone."""
    half = make_cascade("a", "s", "l", rate_qps=5.0)
    trace = trace_of((0.0, UNSURE), (0.2, UNSURE))
    plan = plan_of(FIRST, SECOND, cascades=(half,))
    assert Counter(ended.is_deferred for ended in run(trace, plan).ended) == {True: 1, False: 1}
    expecting = replace(trace, min_expected_accuracy=np.full(2, 0.92))
    assert [ended.is_deferred for ended in run(expecting, plan).ended] == [True, True]
    found = run(replace(trace, min_expected_accuracy=np.full(2, 0.96)), plan)
    assert [ended.outcome for ended in found.ended] == [Outcome.REJECTED] * 2


def test_a_query_takes_no_more_energy_than_it_allows() -> None:
    """The first stage takes 0.1 J, and the second 0.4 J."""
    trace = trace_of((0.0, UNSURE), (0.2, UNSURE), (0.4, UNSURE))
    found = run(replace(trace, max_energy_j=np.array([0.51, 0.49, 0.09])), plan_of(FIRST, SECOND))
    ended = sorted(found.ended, key=lambda each: each.arrival_s)
    assert [(each.variant, each.is_fallback) for each in ended] == [("l", False), ("s", True), (None, False)]
    assert [each.accuracy for each in ended] == [0.9, 0.6, None]


def test_confidences_that_the_trace_does_not_know_are_drawn_the_same_for_the_same_seed() -> None:
    trace = make_trace(*((n / 20, "a") for n in range(400)), slo_s=[0.1] * 400)

    def deferred(seed: int) -> list[bool]:
        found = simulate(
            trace, plan_of(FIRST, SECOND), CATALOG, profiles(), EXACT, never, rng=np.random.default_rng(seed)
        )
        assert not any(ended.is_fallback for ended in found.ended)
        return [ended.is_deferred for ended in sorted(found.ended, key=lambda ended: ended.arrival_s)]

    assert deferred(1) == deferred(1) != deferred(2)
    assert sum(deferred(1)) == pytest.approx(200, abs=40)


def test_the_oracle_answers_with_the_accuracy_of_the_composition() -> None:
    """Of the queries of `s` half go by the cascade, whose answers are right in 92.5 % of all cases."""
    half = make_cascade("a", "s", "l", rate_qps=5.0)
    plan = plan_of(FIRST, SECOND, cascades=(half,))
    ended = simulate_oracle(make_trace((0.0, "a")), lambda _demand: plan, lambda *_: 0.8)
    assert [each.accuracy for each in ended] == [near(0.5 * 0.8 + 0.5 * 0.925)]


def replace_device(placement: Placement, device: str) -> Placement:
    return Placement(
        device, placement.family, placement.variant, placement.max_batch, placement.rate_qps, placement.share,
        placement.capacity_qps, placement.deferred_qps,
    )  # fmt: skip


def test_what_has_left_a_batch_whose_device_is_lost_ends_once() -> None:
    """Behind a sure query, two are a batch on cpu0 from 10 ms on. One leaves at 20 ms; its second stage ends at 520. At
    350 a plan without the family is in force, and at 400 cpu0 is lost: only the other is dropped then.
    """
    times = [(StagePoint(1, takes_s, takes_s), StagePoint(2, takes_s, takes_s)) for takes_s in (0.010, 1.0)]
    exits = (ExitProfile(0.5, 0.9, 0.7, times[0]), ExitProfile(0.5, 0.7, None, times[1]))
    first, second = profiles(0.5)["cpu0"].variants
    of_exits = make_profile("cpu0", msgspec.structs.replace(first, exits=exits), second)
    trace = trace_of((0.0, SURE), (0.001, UNSURE), (0.002, UNSURE), (0.7, SURE))
    found = simulate(
        replace(trace, slo_s=np.array([9.0, 0.9, 9.0, 9.0])), plan_of(FIRST, SECOND), CATALOG,
        profiles(0.5) | {"cpu0": of_exits}, replace(EXACT, replanning=PeriodicRule(period_s=0.3, every_s=0.3)),
        lambda *_, **__: plan_of(cascades=()), conditions=Conditions(failures=(Failure(("cpu0",), 0.4, 1.0),)),
    )  # fmt: skip
    ended = sorted((each.arrival_s, each.outcome, each.is_deferred) for each in found.ended)
    assert ended == [
        (0.0, Outcome.SERVED, False), (0.001, Outcome.SERVED, True), (0.002, Outcome.DROPPED, False),
        (0.7, Outcome.REJECTED, False),
    ]  # fmt: skip


@given(
    queries=st.lists(st.tuples(st.sampled_from([0.0, 0.002, 0.01, 0.05]), st.floats(0, 1)), min_size=1, max_size=80),
    slo_s=st.sampled_from([0.02, 0.04, 0.1, 0.5]),
    deferred_frac=st.sampled_from([0.01, 0.3, 0.7, 0.99]),
    rate_qps=st.sampled_from([2.5, 5.0, 10.0]),
    failures=st.lists(
        st.builds(
            Failure,
            st.sampled_from([("cpu0",), ("cpu1",)]),
            st.sampled_from([0.01, 0.05]),
            st.sampled_from([0.06, 0.3, math.inf]),
        ),
        max_size=2,
    ),
    policy=st.sampled_from(
        [EXACT, *(replace(POLICIES[name], replanning=None) for name in ("proteus", "proteus-paper"))]
    ),
)
@examples(60, fuzzed=200)
def test_each_query_ends_once_and_with_a_first_answer_it_is_served(
    queries: list[tuple[float, float]],
    slo_s: float,
    deferred_frac: float,
    rate_qps: float,
    failures: list[Failure],
    policy: Policy,
) -> None:
    arrivals_s = np.cumsum([gap_s for gap_s, _ in queries]).tolist()
    trace = trace_of(*zip(arrivals_s, (confidence for _, confidence in queries), strict=True), slo_s=slo_s)
    cascade = make_cascade("a", "s", "l", rate_qps=rate_qps, deferred_frac=deferred_frac)
    conditions = Conditions(failures=tuple(failures))
    found = run(trace, plan_of(FIRST, SECOND, cascades=(cascade,)), conditions, policy)
    assert sorted(ended.arrival_s for ended in found.ended) == arrivals_s
    for ended in found.ended:
        assert ended.is_deferred or not ended.is_fallback
        if ended.is_deferred:
            assert ended.outcome is Outcome.SERVED
            assert ended.accuracy == (0.6 if ended.is_fallback else 0.9)
    if not failures and rate_qps == FIRST.rate_qps:
        by_first = [ended for ended in found.ended if ended.variant == "s" or ended.is_deferred]
        confidence = dict(zip(arrivals_s, (confidence for _, confidence in queries), strict=True))
        if len(confidence) == len(queries):
            assert all(e.is_deferred == (confidence[e.arrival_s] < deferred_frac) for e in by_first)


@pytest.mark.parametrize("accuracies", [(0.95, 0.95), (0.95, 0.94), (0.94, 0.95)])
def test_second_stages_answer_what_is_planned_though_devices_differ_in_their_accuracy(
    accuracies: tuple[float, float],
) -> None:
    """The planner counts on the lowest; so does dispatch, which has all of these devices answer what is deferred."""
    catalog = make_catalog(make_family("a", {"s": 0.8, "l": 0.95}, slo="200ms"))
    known = CascadeProfile("a", "s", "l", "digest", (make_cascade_point(0.5, 0.5, 0.935),))
    profiles = {
        f"{kind}{i}": msgspec.structs.replace(
            make_profile(
                f"{kind}{i}",
                make_measured("a", "s", 0.8, {1: 0.003, 8: 0.012}),
                make_measured("a", "l", accuracy, {1: 0.020, 4: 0.040}),
                device_type=kind,
            ),
            cascades=(known,),
        )
        for kind, accuracy in zip(("cpu", "gpu"), accuracies, strict=True)
        for i in range(2)
    }
    policy = replace(POLICIES["proteus"], replanning=None, standbys=False)
    rules = msgspec.structs.replace(policy.rules, cascades=True)
    plan = Planner(catalog, profiles, policy, headroom=1.2, inputs={}, rules=rules)({"a": 400.0})
    assert plan.cascades
    trace = make_trace(*((i / 400, "a") for i in range(4000)))
    trace = replace(trace, confidence=np.random.default_rng(0).random(4000))
    found = simulate(trace, plan, catalog, profiles, policy, never)
    assert sum(each.is_fallback for each in found.ended) < 0.03 * 4000
