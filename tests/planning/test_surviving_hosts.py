"""Plans that serve no less when a host of the cluster, or a device, is lost; and plans once one is lost."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from builders import make_catalog, make_family, make_measured, make_placement, make_plan, make_profile
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_fleets import Tiny, tinies

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.attainment import SloTarget
from proteus_cli.domain.capacity import capacity_at
from proteus_cli.domain.device import Outages, host_of
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.rules import Rules
from proteus_cli.errors import NoFeasiblePlan
from proteus_cli.planning import search
from proteus_cli.planning.analysis.conflict import irreducible_conflict
from proteus_cli.planning.analysis.explain import explain
from proteus_cli.planning.check import PlanCheckError, check_plan
from proteus_cli.planning.model.instance import Instance, make_instance
from proteus_cli.planning.planner import Planner

ANY_HOST = Rules(survive=1, survive_unit="host")
ANY_DEVICE = Rules(survive=1)
CATALOG = make_catalog(make_family("a", {"s": 0.7, "l": 0.9}), make_family("b", {"m": 0.8}))
MEASURED = (
    make_measured("a", "s", 0.7, {1: 0.01}),
    make_measured("a", "l", 0.9, {1: 0.02}),
    make_measured("b", "m", 0.8, {1: 0.02}),
)
"""100 and 50 qps of ``a``, 50 qps of ``b``."""


def planner(devices: str, rules: Rules) -> Planner:
    profiles = {device: make_profile(device, *MEASURED) for device in devices.split()}
    return Planner(CATALOG, profiles, policy_named("proteus"), headroom=1.0, inputs={}, rules=rules)


def hosts_by_family(plan: Plan) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for placement in plan.placements:
        found.setdefault(placement.family, set()).add(host_of(placement.device))
    return found


def test_a_family_is_on_several_hosts_where_any_may_be_lost() -> None:
    """Four devices on two hosts: two on one host would survive the loss of a device only."""
    plan = planner("x/cpu0 x/cpu1 y/cpu0 y/cpu1", ANY_HOST)({"a": 50.0, "b": 50.0})
    assert hosts_by_family(plan) == {"a": {"x", "y"}, "b": {"x", "y"}}
    assert plan.shortfall_qps == 0


def test_this_machine_is_a_host_like_any_other() -> None:
    plan = planner("cpu0 cpu1 x/cpu0", ANY_HOST)({"a": 50.0})
    assert hosts_by_family(plan) == {"a": {"", "x"}}


def test_what_one_host_has_alone_is_not_served() -> None:
    """Of three devices on one host and one on the other only the capacity of one is sure."""
    plan = planner("x/cpu0 x/cpu1 x/cpu2 y/cpu0", ANY_HOST)({"a": 300.0})
    assert plan.served_qps == {"a": pytest.approx(100.0), "b": 0.0}


def test_two_hosts_take_the_place_of_the_largest() -> None:
    """Without x, 150 qps are left; without y or z more."""
    plan = planner("x/cpu0 x/cpu1 y/cpu0 z/cpu0", ANY_HOST)({"a": 300.0})
    assert plan.served_qps["a"] == pytest.approx(200.0)


@pytest.mark.parametrize(
    ("devices", "rules", "only"),
    [
        ("x/cpu0 x/cpu1", ANY_HOST, "one host, x"),
        ("cpu0 cpu1", ANY_HOST, "one host, this machine"),
        ("cpu0", ANY_DEVICE, "one device"),
    ],
)
def test_the_only_one_cannot_be_lost(devices: str, rules: Rules, only: str) -> None:
    with pytest.raises(NoFeasiblePlan, match=f"there is only {only}") as refusal:
        planner(devices, rules)({"a": 10.0})
    assert refusal.value.exit_code == 3


def test_a_conflict_names_the_loss() -> None:
    of_two = planner("x/cpu0 y/cpu0", ANY_HOST)
    assert irreducible_conflict(of_two, {"a": 150.0}) == ("a: serve 150 qps", "any one host may be lost")


def test_an_explanation_prices_the_loss_and_keeps_another_device_on_its_host() -> None:
    """Another device of x serves no more, as y alone must be able to serve all. One of a third host would."""
    of_two = planner("x/cpu0 y/cpu0", ANY_HOST)
    found = explain(of_two, of_two({"a": 150.0}))
    prices = {price.what: price.unserved_qps for price in found.prices}
    assert prices["without “any one host may be lost”"] == pytest.approx(-50.0)
    assert prices["one more cpu"] == 0, "it makes the plan more accurate"


@pytest.mark.parametrize("rules", [ANY_HOST, ANY_DEVICE])
def test_once_something_is_lost_what_is_left_serves_first(rules: Rules) -> None:
    """Two devices that cannot both serve and be spare: each family has one, where the rule would leave one out."""
    lost = Outages(frozenset({"x/cpu0", "x/cpu1"}))
    of_three = planner("x/cpu0 x/cpu1 y/cpu0 z/cpu0", rules)
    plan = of_three({"a": 50.0, "b": 50.0}, without=lost)
    assert plan.shortfall_qps == 0
    assert plan.rules == rules, "later plans must survive losses again"


@pytest.mark.parametrize("rules", [ANY_HOST, ANY_DEVICE])
def test_once_something_is_lost_the_next_loss_is_survived_where_that_costs_no_service(rules: Rules) -> None:
    of_three = planner("x/cpu0 y/cpu0 z/cpu0", rules)
    plan = of_three({"a": 50.0}, without=Outages(frozenset({"x/cpu0"})))
    assert hosts_by_family(plan) == {"a": {"y", "z"}}


def test_a_further_plan_after_a_loss_makes_no_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where what is left must serve all, so that it cannot survive another loss."""
    made, lost = list[Instance](), Outages(frozenset({"x/cpu0"}))

    def making(*given: Any, **named: Any) -> Instance:
        made.append(make_instance(*given, **named))
        return made[-1]

    monkeypatch.setattr(search, "make_instance", making)
    of_three = planner("x/cpu0 y/cpu0 z/cpu0", ANY_HOST)
    first = of_three({"a": 50.0, "b": 50.0}, without=lost)
    assert (first.shortfall_qps, len(made)) == (0, 2), "one that survives another loss, and one that does not"
    assert of_three({"a": 50.0, "b": 50.0}, without=lost).placements == first.placements
    assert len(made) == 2


def test_the_last_host_serves_what_it_can() -> None:
    plan = planner("x/cpu0 y/cpu0", ANY_HOST)({"a": 100.0}, without=Outages(frozenset({"x/cpu0"})))
    assert plan.served_qps["a"] == pytest.approx(100.0)


SOUND = msgspec.structs.replace(
    make_plan(
        make_placement("x/cpu0", "a", "l", rate_qps=25.0, share=0.5, capacity_qps=50.0, max_batch=1),
        make_placement("y/cpu0", "a", "l", rate_qps=25.0, share=0.5, capacity_qps=50.0, max_batch=1),
        demand_qps={"a": 50.0},
    ),
    rules=ANY_HOST,
)


def test_a_plan_that_does_not_survive_is_found() -> None:
    profiles = {device: make_profile(device, *MEASURED) for device in ("x/cpu0", "x/cpu1", "y/cpu0")}
    check_plan(SOUND, CATALOG, profiles)
    moved = msgspec.structs.replace(SOUND.placements[1], device="x/cpu1")
    fleet = {"cpu": ("x/cpu0", "x/cpu1")}
    together = msgspec.structs.replace(SOUND, placements=(SOUND.placements[0], moved), fleet=fleet)
    with pytest.raises(PlanCheckError, match="would not survive the loss of a host"):
        check_plan(together, CATALOG, profiles)


@st.composite
def spread_tinies(draw: st.DrawFn) -> Tiny:
    tiny = draw(tinies())
    hosts = draw(st.lists(st.sampled_from(["", "x", "y"]), min_size=len(tiny.devices), max_size=len(tiny.devices)))
    rules = draw(st.sampled_from([ANY_HOST, ANY_DEVICE]))
    return replace(tiny, hosts=tuple(hosts), rules=rules)


@given(spread_tinies())
@settings(max_examples=25, deadline=None)
def test_what_is_left_after_any_loss_has_the_capacity_with_the_hosts_that_are_left(tiny: Tiny) -> None:
    """Fewer hosts have longer waits, so their batches may be smaller."""
    try:
        plan = tiny.planned()
    except NoFeasiblePlan:
        assume(False)
    for lost in tiny.units:
        for family in tiny.accuracy:
            left = [p for p in plan.placements if p.family == family and tiny.rules.unit_of(p.device) != lost]
            steps = [
                tiny.rules.capacity_steps(SloTarget(tiny.slo_ms / 1000), measured.points)
                for p in left
                if (measured := tiny.profiles[p.device].of(family, p.variant)) is not None
            ]
            max_qps = sum(capacity_at(each, len(left)).qps for each in steps)
            assert plan.served_qps[family] <= max_qps * (1 + 1e-5) + 1e-5
