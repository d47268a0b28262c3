"""The planner against trying everything, and against itself with more to choose from."""

from dataclasses import replace

import msgspec
import pytest
from builders import make_catalog, make_family, make_measured, make_profile, swaps_from
from drawing import examples
from hypothesis import HealthCheck, assume, example, given
from hypothesis import strategies as st
from tiny_fleets import TYPES, Tiny, Worth, by_brute_force, latencies, tinies

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.plan import Plan
from proteus_cli.errors import NoFeasiblePlan
from proteus_cli.planning.planner import Planner
from proteus_cli.planning.solver import solve
from proteus_cli.planning.solver.lexicographic import UNSERVED_GAP_SCALE
from proteus_cli.planning.solver.solve import FIRST_GAP


def worth(tiny: Tiny) -> Worth:
    try:
        return Worth.of(tiny.planned(), tiny)
    except NoFeasiblePlan:
        return Worth(0.0, 0.0)


@given(tinies())
@examples(50, fuzzed=150)
def test_no_placement_at_all_beats_the_plan(tiny: Tiny) -> None:
    best, found = by_brute_force(tiny), worth(tiny)
    assert found.served_qps == pytest.approx(best.served_qps, rel=1e-6, abs=1e-5)
    assert found.accuracy_qps == pytest.approx(best.accuracy_qps, rel=1.5 * FIRST_GAP, abs=1e-5)


LOST_MORE_THAN_IT_LEFT_UNSERVED = Tiny(
    accuracy={"a": {"a0": 0.51, "a1": 0.5}, "b": {"b0": 0.5}},
    latency_s={("cpu", "a", "a0"): {4: 0.031}, ("cpu", "a", "a1"): {4: 0.0234}, ("cpu", "b", "b0"): {4: 0.002}},
    devices=("cpu", "cpu", "cpu"),
    demand_qps={"a": 388.0, "b": 1.0},
)
"""The point of the first objective was kept for the second, whose value it was taken to have."""


@given(tinies())
@example(tiny=LOST_MORE_THAN_IT_LEFT_UNSERVED)
@examples(20, fuzzed=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_model_that_is_solved_in_parts_proves_how_good_the_plan_is(
    monkeypatch: pytest.MonkeyPatch, tiny: Tiny
) -> None:
    """As models with very many choices are."""
    monkeypatch.setattr(solve, "MANY_COLUMNS", 0)
    best, found = by_brute_force(tiny), worth(tiny)
    assert found.served_qps == pytest.approx(best.served_qps, rel=1e-5, abs=1e-5)
    assert found.accuracy_qps >= best.accuracy_qps - 1.5 * solve.MANY_GAP * sum(tiny.demand_qps.values()) - 1e-5
    if best.served_qps > 0:
        plan = tiny.planned()
        assert plan.solver.gap <= solve.MANY_GAP * 1.001
        assert plan.solver.unserved_gap <= solve.MANY_GAP * UNSERVED_GAP_SCALE * 1.001
        assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def assert_no_worse(more: Worth, less: Worth) -> None:
    tolerance_qps = 1e-5 * max(less.served_qps, 1.0)
    assert more.served_qps >= less.served_qps - tolerance_qps
    if more.served_qps <= less.served_qps + tolerance_qps:
        assert more.accuracy_qps >= less.accuracy_qps * (1 - 2 * FIRST_GAP) - tolerance_qps


@given(tinies(), st.sampled_from(TYPES))
@examples(12, fuzzed=40)
def test_one_more_device_never_makes_the_plan_worse(tiny: Tiny, kind: str) -> None:
    assert_no_worse(worth(tiny.with_more(kind)), worth(tiny))


@given(tinies(), st.integers(101, 400))
@examples(12, fuzzed=40)
def test_a_looser_slo_never_makes_the_plan_worse(tiny: Tiny, slo_ms: int) -> None:
    assert_no_worse(worth(replace(tiny, slo_ms=slo_ms)), worth(tiny))


@given(tinies(), st.data())
@examples(12, fuzzed=40)
def test_one_more_variant_never_makes_the_plan_worse(tiny: Tiny, data: st.DataObject) -> None:
    family = data.draw(st.sampled_from(list(tiny.accuracy)))
    accuracy = {**tiny.accuracy, family: {**tiny.accuracy[family], "new": data.draw(st.integers(50, 100)) / 100}}
    latency_s = {(kind, family, "new"): data.draw(latencies()) for kind in TYPES}
    richer = replace(tiny, accuracy=accuracy, latency_s={**tiny.latency_s, **latency_s})
    assert_no_worse(worth(richer), worth(tiny))


@given(tinies(), st.integers(2, 4))
@examples(12, fuzzed=40)
def test_so_many_times_the_devices_carry_so_many_times_the_demand(tiny: Tiny, times: int) -> None:
    """At least: more devices can be divided more finely among families."""
    larger = replace(
        tiny, devices=tiny.devices * times, demand_qps={f: qps * times for f, qps in tiny.demand_qps.items()}
    )
    one = worth(tiny)
    assert_no_worse(worth(larger), Worth(one.served_qps * times, one.accuracy_qps * times))


@given(tinies())
@examples(12, fuzzed=40)
def test_the_same_input_gives_the_same_placements(tiny: Tiny) -> None:
    assume(by_brute_force(tiny).served_qps > 0)
    assert tiny.planned().placements == tiny.planned().placements


@given(tinies())
@examples(12, fuzzed=40)
def test_to_plan_again_for_the_same_demand_swaps_nothing(tiny: Tiny) -> None:
    assume(by_brute_force(tiny).served_qps > 0)
    planner = Planner(tiny.catalog, tiny.profiles, policy_named("proteus"), headroom=1.2, inputs={})
    first = planner(tiny.demand_qps)
    again = planner(tiny.demand_qps, first)
    assert swaps_from(again, first) == 0


@pytest.mark.parametrize("latency_s", [0.01, 2e-5, 1e-7])
@pytest.mark.parametrize("qps", [1e-5, 1e-3, 0.05, 1.0, 1e5, 1e9, 1e15, 1e300])
def test_a_rate_however_tiny_or_huge_is_served_as_far_as_it_goes(qps: float, latency_s: float) -> None:
    """Two devices, one variant for each of two families; the second asks for a tenth of the first."""
    catalog = make_catalog(make_family("a", {"a": 0.9}), make_family("b", {"b": 0.7}))
    measured = [make_measured(name, name, 0.9, {1: latency_s}) for name in ("a", "b")]
    profiles = {device: make_profile(device, *measured) for device in ("cpu0", "cpu1")}
    plan = Planner(catalog, profiles, policy_named("proteus"), headroom=1.0, inputs={})({"a": qps, "b": qps / 10})
    one_qps = 1 / latency_s
    max_qps = max(min(qps, one_qps) + min(qps / 10, one_qps), min(qps, 2 * one_qps))
    assert sum(plan.served_qps.values()) == pytest.approx(max_qps, rel=1e-6, abs=1e-8)
