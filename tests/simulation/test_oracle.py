"""Who knows what comes: each second is planned for what arrives in it, and answered at once."""

from collections import Counter

import pytest
from builders import make_catalog, make_family, make_measured, make_placement, make_plan, make_profile, make_trace
from hypothesis import given, settings
from hypothesis import strategies as st

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile_changes import accuracies
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.planner import Planner
from proteus_cli.simulation.oracle import simulate_oracle

ACCURACY = {"a-l": 1.0, "a-s": 0.6, "b-s": 0.7}


def accuracy_of(_device: str, _family: str, variant: str) -> float:
    return ACCURACY[variant]


def test_each_second_is_planned_for_just_what_arrives_in_it() -> None:
    """3 of `a` and 1 of `b` in the first second, nothing in the next, 1 of `b` in the third."""
    trace = make_trace((0.0, "a"), (0.5, "a"), (0.9, "b"), (0.99, "a"), (2.0, "b"))
    asked: list[Demand] = []

    def plan_for(demand: Demand) -> Plan:
        asked.append(demand)
        return make_plan(demand_qps=dict(demand), devices=("cpu0",))

    ended = simulate_oracle(trace, plan_for, accuracy_of)
    assert asked == [{"a": 3.0, "b": 1.0}, {"a": 0.0, "b": 1.0}]
    assert Counter(each.outcome for each in ended) == {Outcome.REJECTED: 5}


def test_the_rates_of_the_plan_say_how_many_of_a_second_go_where_in_order_of_arrival() -> None:
    """Of six, two go to a-l, three to a-s, and the sixth is rejected. Who is served is answered at once."""
    plan = make_plan(
        make_placement("cpu0", "a", "a-l", rate_qps=2.0, share=0.4),
        make_placement("cpu1", "a", "a-s", rate_qps=3.0, share=0.6),
        make_placement("cpu2", "b", "b-s", rate_qps=0.0, share=0.0),
        demand_qps={"a": 6.0, "b": 0.0},
    )
    trace = make_trace(*((n / 10, "a") for n in range(6)), families=("a", "b"))
    ended = simulate_oracle(trace, lambda _demand: plan, accuracy_of)
    assert [each.variant for each in ended] == ["a-l", "a-l", "a-s", "a-s", "a-s", None]
    assert ended[0] == RequestRecord("a", 0.0, Outcome.SERVED, 0.0, 1.0, "a-l", "cpu0")
    assert ended[-1] == RequestRecord("a", 0.5, Outcome.REJECTED)


def test_rates_that_are_no_whole_numbers_add_up() -> None:
    """1.5 and 1.5: the first takes one, as the second half would be another's; both take all three."""
    plan = make_plan(
        make_placement("cpu0", "a", "a-l", rate_qps=1.5, share=0.5),
        make_placement("cpu1", "a", "a-s", rate_qps=1.5, share=0.5),
    )
    ended = simulate_oracle(make_trace(*[(0.0, "a")] * 3), lambda _demand: plan, accuracy_of)
    assert [each.variant for each in ended] == ["a-l", "a-s", "a-s"]


def test_devices_that_stand_by_answer_nothing() -> None:
    plan = make_plan(
        make_placement("cpu0", "a", "a-s", rate_qps=0.0, share=0.0),
        make_placement("cpu1", "a", "a-l", rate_qps=2.0),
        make_placement("cpu2", "a", "a-s", rate_qps=0.0, share=0.0),
    )
    ended = simulate_oracle(make_trace(*[(0.0, "a")] * 3), lambda _demand: plan, accuracy_of)
    assert [each.variant for each in ended] == ["a-l", "a-l", None]


def test_an_empty_trace_needs_no_plan() -> None:
    def never(_demand: Demand) -> Plan:
        raise AssertionError("nothing arrives")

    assert simulate_oracle(make_trace(families=("a",)), never, accuracy_of) == []


def test_progress_says_how_much_of_the_trace_is_behind() -> None:
    told: list[float] = []
    trace = make_trace((0.0, "a"), (1.0, "a"), (4.0, "a"))
    simulate_oracle(
        trace, lambda demand: make_plan(demand_qps=dict(demand), devices=("c",)), accuracy_of, progress=told.append
    )
    assert told == pytest.approx([0.0, 0.25, 1.0])


PROFILES = {
    "cpu0": make_profile(
        "cpu0", make_measured("a", "a-s", 0.6, {1: 0.01, 4: 0.02}), make_measured("a", "a-l", 1.0, {1: 0.1})
    )
}
PLANNER = Planner(
    make_catalog(make_family("a", {"a-s": 0.6, "a-l": 1.0})),
    PROFILES,
    policy_named("oracle"),
    headroom=1.0,
    inputs={},
    rules=Rules(slo_fraction=1.0, capacity="mean"),
)


@given(st.lists(st.integers(0, 70), min_size=1, max_size=4))
@settings(max_examples=25)
def test_with_all_of_the_slo_it_serves_what_the_fleet_carries_as_accurately_as_it_can(counts: list[int]) -> None:
    """One device and 100 ms: a-l answers 10 of a second; where more come all go to a-s, which answers 200."""
    trace = make_trace(
        *((second + n / 100, "a") for second, count in enumerate(counts) for n in range(count)), families=("a",)
    )
    ended = simulate_oracle(trace, PLANNER, accuracies(PROFILES))
    assert [each.arrival_s for each in ended] == trace.arrival_s.tolist()
    expected = [("a-l" if count <= 10 else "a-s") for count in counts for _ in range(count)]
    assert [each.variant for each in ended] == expected
