"""Planners of other systems: what their rules of thumb do, step by step."""

import pytest
from builders import make_catalog, make_family, make_measured, make_placement, make_plan, make_profile

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.device import Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rules import DeviceVariant, Rules
from proteus_cli.errors import UsageError
from proteus_cli.planning.heuristics import InfaasPlanner, SommelierPlanner, frozen_to
from proteus_cli.planning.planner import Planner

# Within half of 100 ms: a-s 4 in 20 ms = 200 qps, a-m 2 in 25 ms = 80 qps, a-l 1 in 50 ms = 20 qps; b-s 4 in 40 = 100.
MEASURED = (
    make_measured("a", "a-s", 0.6, {1: 0.008, 4: 0.020}),
    make_measured("a", "a-m", 0.8, {1: 0.015, 2: 0.025}),
    make_measured("a", "a-l", 1.0, {1: 0.050}),
    make_measured("b", "b-s", 0.7, {1: 0.020, 4: 0.040}),
)
CATALOG = make_catalog(make_family("a", {"a-s": 0.6, "a-m": 0.8, "a-l": 1.0}), make_family("b", {"b-s": 0.7}))
NO_RULES = Rules()


def fleet(count: int) -> dict[str, Profile]:
    return {f"cpu{i}": make_profile(f"cpu{i}", *MEASURED) for i in range(count)}


def infaas(count: int, *, headroom: float = 1.0, rules: Rules = NO_RULES) -> InfaasPlanner:
    policy = policy_named("infaas-accuracy")
    return InfaasPlanner(CATALOG, fleet(count), policy, headroom=headroom, inputs={}, rules=rules)


def optimal(count: int, *, policy: str = "proteus-paper") -> Planner:
    return Planner(CATALOG, fleet(count), policy_named(policy), headroom=1.0, inputs={})


def where(plan: Plan) -> dict[str, str]:
    return {p.device: p.variant for p in plan.placements}


def current(*variants: str) -> Plan:
    """What the devices host now, in order; an empty name for nothing."""
    placements = (make_placement(f"cpu{n}", name[0], name) for n, name in enumerate(variants) if name)
    return make_plan(
        *placements, demand_qps={"a": 0.0, "b": 0.0}, served_qps={"a": 0.0, "b": 0.0},
        devices=[f"cpu{n}" for n in range(len(variants))],
    )  # fmt: skip


# --- INFaaS


def test_infaas_adds_what_costs_no_accuracy_while_devices_are_idle() -> None:
    """20 qps each of a-l: 40 need two of them, and the third device stays idle."""
    assert where(infaas(3)({"a": 20.0})) == {"cpu0": "a-l"}
    assert where(infaas(3)({"a": 40.0})) == {"cpu0": "a-l", "cpu1": "a-l"}


def test_infaas_then_takes_the_step_that_costs_least() -> None:
    """50 qps on two devices: a-l on both carries 40. Then a-m for one of them costs 0.2, a-s 0.4: 80 + 20 = 100 qps."""
    assert where(infaas(2)({"a": 50.0})) == {"cpu0": "a-m", "cpu1": "a-l"}


def test_infaas_goes_on_until_all_is_carried_or_nothing_is_left() -> None:
    """250 qps: a-m on both carries 160; then one a-s makes 280. 1000 qps: both a-s, 400 qps are served."""
    assert sorted(where(infaas(2)({"a": 250.0})).values()) == ["a-m", "a-s"]
    plan = infaas(2)({"a": 1000.0})
    assert where(plan) == {"cpu0": "a-s", "cpu1": "a-s"}
    assert plan.served_qps == pytest.approx({"a": 400.0, "b": 0.0})
    assert plan.unserved_qps == pytest.approx({"a": 600.0, "b": 0.0})


def test_infaas_serves_the_families_in_turn_so_the_last_may_find_nothing_left() -> None:
    """`a` takes both devices for 40 qps as accurately as can be; a plan of the whole would have left one for `b`."""
    plan = infaas(2)({"a": 40.0, "b": 10.0})
    assert where(plan) == {"cpu0": "a-l", "cpu1": "a-l"}
    assert plan.unserved_qps["b"] == 10.0
    assert optimal(2)({"a": 40.0, "b": 10.0}).shortfall_qps == pytest.approx(0.0)


def test_infaas_gives_up_devices_that_are_not_needed_the_least_accurate_first() -> None:
    """80 + 20 qps for 20: without a-m there are 20 left. Without demand, all go."""
    assert where(infaas(2)({"a": 20.0}, current("a-m", "a-l"))) == {"cpu1": "a-l"}
    assert where(infaas(2)({"a": 21.0}, current("a-m", "a-l"))) == {"cpu0": "a-m"}
    assert where(infaas(2)({}, current("a-m", "b-s"))) == {}


def test_infaas_replaces_what_is_faster_than_it_must_be() -> None:
    """70 qps on a-s of 200: a-l carries 20, a-m 80, so a-m. 90 qps on two a-m: one can be a-l, as 20 + 80 are 100."""
    assert where(infaas(1)({"a": 70.0}, current("a-s"))) == {"cpu0": "a-m"}
    assert where(infaas(2)({"a": 90.0}, current("a-m", "a-m"))) == {"cpu0": "a-l", "cpu1": "a-m"}
    assert where(infaas(1)({"a": 81.0}, current("a-s"))) == {"cpu0": "a-s"}


def test_infaas_counts_what_a_step_costs_from_what_the_device_hosts_now() -> None:
    """150 qps; a-m and a-l carry 100. From a-m to an a-s of 0.75 costs 0.05, though that is 0.25 below a-l; from a-l to
    a-m costs 0.2.
    """
    catalog = make_catalog(make_family("a", {"a-s": 0.75, "a-m": 0.8, "a-l": 1.0}))
    measured = (make_measured("a", "a-s", 0.75, {1: 0.008, 4: 0.020}), *MEASURED[1:3])
    profiles = {f"cpu{i}": make_profile(f"cpu{i}", *measured) for i in range(2)}
    planner = InfaasPlanner(catalog, profiles, policy_named("infaas-accuracy"), headroom=1.0, inputs={})
    assert where(planner({"a": 150.0}, current("a-m", "a-l"))) == {"cpu0": "a-s", "cpu1": "a-l"}


def test_infaas_keeps_a_device_for_the_family_that_has_it() -> None:
    """`a` would need a second device, but cpu1 is `b`'s: a-s on the first instead."""
    assert where(infaas(2)({"a": 100.0, "b": 10.0}, current("a-l", "b-s"))) == {"cpu0": "a-s", "cpu1": "b-s"}


def test_infaas_shares_queries_by_what_each_device_carries() -> None:
    """a-m 80 and a-l 20 of 100: of 50 qps 40 and 10."""
    plan = infaas(2)({"a": 50.0})
    assert [p.variant for p in plan.placements] == ["a-m", "a-l"]
    assert [p.share for p in plan.placements] == pytest.approx([0.8, 0.2])
    assert [p.rate_qps for p in plan.placements] == pytest.approx([40.0, 10.0])
    assert plan.effective_accuracy == pytest.approx(0.8 * 0.8 + 0.2 * 1.0)


def test_infaas_counts_headroom_and_keeps_to_rules_and_to_what_is_there() -> None:
    """20 qps with a headroom of 1.5 need 30; where a-l is banned, a-m serves 20; a lost device serves nothing."""
    assert where(infaas(2, headroom=1.5)({"a": 20.0})) == {"cpu0": "a-l", "cpu1": "a-l"}
    assert where(infaas(2, rules=Rules(banned=(DeviceVariant("cpu", "a", "a-l"),)))({"a": 20.0})) == {"cpu0": "a-m"}
    assert where(infaas(2)({"a": 20.0}, current("a-l", ""), Outages(devices=frozenset({"cpu0"})))) == {"cpu1": "a-l"}
    assert where(infaas(1)({"a": 20.0}, None, Outages(devices=frozenset({"cpu0"})))) == {}


def test_infaas_says_how_it_planned_and_refuses_a_demand_of_nobody() -> None:
    plan = infaas(2)({"a": 20.0})
    assert (plan.policy, plan.solver.name, plan.solver.status) == ("infaas-accuracy", "device by device", "heuristic")
    with pytest.raises(UsageError):
        infaas(2)({"z": 1.0})


# --- Sommelier


def sommelier(first: Plan, *, devices: int) -> Planner:
    planner = SommelierPlanner(CATALOG, fleet(devices), policy_named("sommelier"), headroom=1.0, inputs={})
    return frozen_to(planner, first)


FIRST = current("a-l", "a-s", "b-s", "")


def test_sommelier_switches_each_device_to_the_most_accurate_variant_that_carries_its_share() -> None:
    """Two devices of `a` share alike: 40 qps are 20 each, a-l; 42 are 21 each, a-m; 162 are 81, a-s."""
    planner = sommelier(FIRST, devices=4)
    for qps, variant in ((40.0, "a-l"), (42.0, "a-m"), (160.0, "a-m"), (162.0, "a-s")):
        assert where(planner({"a": qps}, FIRST)) == {"cpu0": variant, "cpu1": variant, "cpu2": "b-s"}


def test_sommelier_takes_the_fastest_where_none_carries_its_share() -> None:
    """500 qps are 250 each; a-s carries 200. The fourth device would help, and stays idle."""
    plan = sommelier(FIRST, devices=4)({"a": 500.0}, FIRST)
    assert where(plan) == {"cpu0": "a-s", "cpu1": "a-s", "cpu2": "b-s"}
    assert plan.served_qps["a"] == pytest.approx(400.0)
    assert [p.share for p in plan.placements if p.family == "a"] == pytest.approx([0.5, 0.5])


def test_sommelier_shares_alike_though_one_device_carries_more() -> None:
    """An old device takes twice as long: a-m 33 qps, a-s 100. Of 100 qps each gets 50: a-m here, a-s there."""
    old = (make_measured("a", "a-s", 0.6, {1: 0.016, 4: 0.040}), make_measured("a", "a-m", 0.8, {1: 0.030}))
    profiles = {**fleet(1), "old0": make_profile("old0", *old, device_type="old")}
    planner = SommelierPlanner(CATALOG, profiles, policy_named("sommelier"), headroom=1.0, inputs={})
    first = make_plan(make_placement("cpu0", "a", "a-m"), make_placement("old0", "a", "a-m"))
    plan = frozen_to(planner, first)({"a": 100.0}, first)
    assert where(plan) == {"cpu0": "a-m", "old0": "a-s"}
    assert [p.rate_qps for p in plan.placements] == pytest.approx([50.0, 50.0])


def test_sommelier_keeps_each_device_with_its_family_whatever_is_asked() -> None:
    plan = sommelier(FIRST, devices=4)({"a": 0.0, "b": 1000.0}, FIRST)
    assert where(plan) == {"cpu0": "a-l", "cpu1": "a-l", "cpu2": "b-s"}
    assert plan.served_qps == pytest.approx({"a": 0.0, "b": 100.0})


def test_sommelier_goes_on_with_a_device_that_was_lost_once_it_is_back() -> None:
    """30 qps: 30 for cpu1 alone, a-m; with both 15 each, a-l."""
    planner = sommelier(FIRST, devices=4)
    without = planner({"a": 30.0}, FIRST, Outages(devices=frozenset({"cpu0"})))
    assert where(without) == {"cpu1": "a-m", "cpu2": "b-s"}
    assert where(planner({"a": 30.0}, without)) == {"cpu0": "a-l", "cpu1": "a-l", "cpu2": "b-s"}


# --- placement frozen


def test_a_frozen_planner_moves_no_device_to_another_family() -> None:
    """One device each. `b` asks for nothing and `a` for 250, which two devices would carry; variants may change."""
    first = current("a-l", "b-s")
    planner = frozen_to(optimal(2), first)
    plan = planner({"a": 250.0}, first)
    assert where(plan) == {"cpu0": "a-s"}
    assert plan.unserved_qps["a"] == pytest.approx(50.0)
    assert where(planner({"a": 10.0, "b": 10.0}, plan)) == {"cpu0": "a-l", "cpu1": "b-s"}
    assert optimal(2)({"a": 250.0}).shortfall_qps == pytest.approx(0.0)


def test_a_frozen_planner_leaves_idle_devices_idle() -> None:
    first = current("a-l", "")
    assert where(frozen_to(optimal(2), first)({"a": 100.0, "b": 1.0}, first)) == {"cpu0": "a-s"}


def test_a_frozen_planner_knows_where_a_lost_device_belonged() -> None:
    first = current("a-l", "a-l", "b-s")
    planner = frozen_to(optimal(3), first)
    without = planner({"a": 30.0, "b": 10.0}, first, Outages(devices=frozenset({"cpu0"})))
    assert where(without) == {"cpu1": "a-m", "cpu2": "b-s"}
    assert where(planner({"a": 30.0, "b": 10.0}, without)) == {"cpu0": "a-l", "cpu1": "a-l", "cpu2": "b-s"}


def test_freezing_keeps_the_other_rules() -> None:
    rules = Rules(banned=(DeviceVariant("cpu", "a", "a-l"),))
    planner = Planner(CATALOG, fleet(1), policy_named("proteus-paper"), headroom=1.0, inputs={}, rules=rules)
    assert where(frozen_to(planner, current("a-m"))({"a": 10.0})) == {"cpu0": "a-m"}
