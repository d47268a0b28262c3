"""The cascades of the plan in force: the levels of their first stages, and what these defer."""

from dataclasses import replace

import pytest
from builders import (
    controller_hosting,
    hosted,
    make_cascade,
    make_cascade_point,
    make_deferred,
    make_request,
    plan_hosting,
)

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import CascadeRoute, HostedVariant
from proteus_cli.control.policies import Policy
from proteus_cli.control.replanning.replan_rules import PeriodicRule
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.stages.cascade import CascadeProfile, PlannedCascade

KNOWN = CascadeProfile(
    "a", "a-s", "a-l", "digest", (make_cascade_point(0.2, 0.1, 0.85), make_cascade_point(0.5, 0.5, 0.9))
)
FIRST = replace(
    hosted("cpu0", "a", "a-s", latency_s={1: 0.01}, weight=10.0, capacity_qps=100.0, accuracy=0.8), cascades=(KNOWN,)
)
SECOND = hosted("cpu1", "a", "a-l", latency_s={1: 0.02}, weight=0.0, capacity_qps=50.0, accuracy=0.95)
CASCADE = make_cascade("a", "a-s", "a-l", rate_qps=10.0)
KEY = VariantKey("a", "a-s")


def plan_of(*cascades: PlannedCascade) -> Plan:
    return plan_hosting(FIRST, SECOND, demand_qps={"a": 10.0}, cascades=cascades)


def controller_of(*cascades: PlannedCascade, first: HostedVariant = FIRST) -> Controller:
    policy = Policy("test", "all", GreedyBatcher(), PeriodicRule(period_s=1e6))
    return controller_hosting(first, SECOND, policy=policy, families=("a",), cascades=cascades)


def test_the_levels_of_a_first_stage_are_those_of_all_thresholds_that_its_profile_knows() -> None:
    (route,) = controller_of(CASCADE).cascades.in_use
    assert (route.stage.key, route.stage.thresholds, route.stage.ranks, route.cut) == (KEY, (0.2, 0.5), (0.1, 0.5), 1)
    assert [route.stage.level_of_rank(rank) for rank in (0.0, 0.1, 0.3, 0.5, 0.9)] == [0, 1, 1, 2, 2]


def test_or_those_of_the_plan_where_the_profile_has_changed_since() -> None:
    (route,) = controller_of(CASCADE, first=replace(FIRST, cascades=())).cascades.in_use
    assert (route.stage.thresholds, route.stage.ranks, route.cut) == ((0.5,), (0.5,), 0)


def test_ranks_rise_even_where_device_types_contradict_each_other() -> None:
    other = CascadeProfile("a", "a-s", "a-l", "digest", (make_cascade_point(0.3, 0.7, 0.85),))
    (route,) = controller_of(CASCADE, first=replace(FIRST, cascades=(KNOWN, other))).cascades.in_use
    assert route.stage.ranks == (0.1, 0.7, 0.7)
    assert route.stage.thresholds[route.cut] == 0.5


def test_the_rows_below_the_threshold_of_the_plan_are_observed() -> None:
    cascades = controller_of(CASCADE).cascades
    (route,) = cascades.in_use
    assert cascades.observed(route) == (None, 0)
    cascades.observe(route.stage, [0, 1, 2, 2, 2])
    assert cascades.observed(route) == (0.4, 5)


def test_other_thresholds_are_observed_anew() -> None:
    controller = controller_of(CASCADE)
    (before,) = controller.cascades.in_use
    controller.cascades.observe(before.stage, [0, 2])
    controller.adopt(plan_of(CASCADE), (FIRST, SECOND), 1.0)
    assert controller.cascades.observed(before) == (0.5, 2)
    controller.adopt(plan_of(CASCADE), (replace(FIRST, cascades=()), SECOND), 2.0)
    controller.cascades.observe(before.stage, [2])  # a batch of the plan before ends
    (after,) = controller.cascades.in_use
    assert controller.cascades.observed(after) == (None, 0)


def test_under_pressure_the_surest_of_what_is_deferred_gets_its_first_answer_first() -> None:
    """Each row of the second stage takes 20 ms: with 90 ms left, four are made, and a fifth of that is 0.8 rows."""
    controller = controller_of(CASCADE)
    (route,) = controller.cascades.in_use
    room_frac = [controller.cascades.room_frac(route, level) for level in range(3)]
    assert room_frac == [1.0, 0.8, 0.8]

    def is_taken(number: int, level: int) -> bool:
        waits = make_deferred(make_request(number), route)
        return controller.dispatch.defer(waits, 0.0, controller.cascades.room_frac(route, level)) is not None

    assert [is_taken(number, 1) for number in range(5)] == [True, True, True, False, False]
    assert [is_taken(number, 0) for number in (5, 6)] == [True, False]


def test_at_the_lowest_threshold_all_that_is_deferred_is_alike() -> None:
    controller = controller_of(CASCADE, first=replace(FIRST, cascades=()))
    (route,) = controller.cascades.in_use
    assert controller.cascades.room_frac(route, 0) == 1.0


def test_answers_are_worth_what_was_profiled_of_their_level() -> None:
    """Of the 10 % below the first threshold all are the second variant's gain, as of the 40 % up to the next."""
    (route,) = controller_of(CASCADE).cascades.in_use
    assert route.second_accuracy[0] == 0.85
    assert route.second_accuracy[1] == pytest.approx((0.5 * 0.9 - 0.1 * 0.85) / 0.4)
    assert route.first_accuracy == (0.0, 0.0, 0.9)


SPARE = hosted("cpu1", "a", "a-m", latency_s={1: 0.01}, weight=0.0, capacity_qps=80.0, accuracy=0.84)


def known_of_spare(*points: tuple[float, float]) -> HostedVariant:
    """The spare, whose cascade to the second stage of the plan has points (deferred, accuracy)."""
    found = tuple(make_cascade_point(deferred, deferred, accuracy) for deferred, accuracy in points)
    return replace(SPARE, cascades=(CascadeProfile("a", "a-m", "a-l", "digest", found),))


def routes_with(spare: HostedVariant, *cascades: PlannedCascade) -> dict[str, CascadeRoute]:
    policy = Policy("test", "all", GreedyBatcher(), PeriodicRule(period_s=1e6))
    controller = controller_hosting(FIRST, SECOND, spare, policy=policy, families=("a",), cascades=cascades)
    return {route.cascade.first: route for route in controller.cascades.in_use}


def test_a_variant_without_planned_queries_defers_no_larger_part_than_the_cascades_of_the_plan() -> None:
    """It helps where the first stage is behind, and its answers alone would be worse than what was planned."""
    routes = routes_with(known_of_spare((0.3, 0.88), (0.4, 0.89), (0.6, 0.92)), CASCADE)
    assert set(routes) == {"a-s", "a-m"}
    assert routes["a-m"].cascade.point.deferred_frac == 0.4
    assert routes["a-m"].cascade.rate_qps == 0.0


def test_a_variant_without_planned_queries_answers_alone_where_all_of_its_cascades_defer_more() -> None:
    assert set(routes_with(known_of_spare((0.6, 0.92)), CASCADE)) == {"a-s"}


def test_without_cascades_in_the_plan_no_variant_defers() -> None:
    assert routes_with(known_of_spare((0.3, 0.88))) == {}


def test_queries_that_such_a_variant_has_answered_go_by_its_cascade() -> None:
    spare = known_of_spare((0.3, 0.88))
    policy = Policy("test", "all", GreedyBatcher(), PeriodicRule(period_s=1e6))
    cascades = controller_hosting(FIRST, SECOND, spare, policy=policy, families=("a",), cascades=(CASCADE,)).cascades
    route = cascades.route(make_request(1), spare)
    assert route is not None
    assert route.cascade.first == "a-m"
