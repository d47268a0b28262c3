"""Which devices stand by, for whom, and with what."""

from collections import Counter
from collections.abc import Mapping

import msgspec
import pytest
from builders import make_catalog, make_family, make_measured, make_placement, make_plan, make_profile, swaps_from
from hypothesis import given, reject, settings
from tiny_fleets import Tiny, tinies

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.device import Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rules import DeviceVariant, Reserved, Rules
from proteus_cli.errors import NoFeasiblePlan
from proteus_cli.planning.check import check_plan
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


def planner_of(
    count: int, *, rules: Rules = NO_RULES, spares: bool = True, headroom: float = 1.0, catalog: Catalog = CATALOG
) -> Planner:
    proteus = policy_named("proteus")
    return Planner(catalog, fleet(count), proteus, headroom=headroom, inputs={}, rules=rules, spares=spares)


def working(plan: Plan) -> list[str]:
    return sorted(p.variant for p in plan.placements if p.rate_qps > 0)


def standing_by(plan: Plan) -> list[str]:
    return sorted(p.variant for p in plan.placements if p.rate_qps == 0)


def where(plan: Plan) -> dict[str, str]:
    return {p.device: p.variant for p in plan.placements}


def current(**hosts: str) -> Plan:
    """What the devices host now, by device."""
    return make_plan(*(make_placement(device, name[0], name.replace("_", "-")) for device, name in hosts.items()))


def test_the_family_with_the_least_room_gets_the_next_device() -> None:
    """20 qps of `a` take all of an a-l: (20 − 20) / √20 = 0 deviations of room. Nobody asks for `b`; one query in a
    second would find nothing: (0 − 1) / √1 = −1, so the first idle device is `b`'s, which then has 99. The next one is
    `a`'s: 40 qps are 4.5 deviations above 20.
    """
    assert standing_by(planner_of(2)({"a": 20.0})) == ["b-s"]
    assert standing_by(planner_of(3)({"a": 20.0})) == ["a-l", "b-s"]


@pytest.mark.parametrize(("count", "spares"), [(4, 2), (5, 3), (6, 3), (9, 3)])
def test_more_room_than_ten_deviations_does_nothing(count: int, spares: int) -> None:
    """With 80 qps `a` has (80 − 20) / √20 = 13.4 deviations, with 60 only 8.9: at most three a-l stand by."""
    plan = planner_of(count)({"a": 20.0})
    assert working(plan) == ["a-l"]
    assert standing_by(plan) == [*["a-l"] * spares, "b-s"]


A_L_TWICE_AS_FAST = make_measured("a", "a-f", 1.0, {1: 0.025})  # 40 qps
WITH_A_F = make_catalog(make_family("a", {"a-s": 0.6, "a-l": 1.0, "a-f": 1.0}), make_family("b", {"b-s": 0.7}))


def planner_with_a_f(count: int) -> Planner:
    profiles = {f"cpu{i}": make_profile(f"cpu{i}", *MEASURED, A_L_TWICE_AS_FAST) for i in range(count)}
    return Planner(WITH_A_F, profiles, policy_named("proteus"), headroom=1.0, inputs={}, spares=True)


def test_who_stands_by_is_as_accurate_as_those_that_serve_and_of_those_the_fastest() -> None:
    """Not a-s of 200 qps, which is less accurate, but a-f of 40, and not a-l of 20."""
    plan = planner_with_a_f(3)({"a": 20.0})
    assert standing_by(plan) == ["a-f", "b-s"]


def test_what_an_idle_device_hosts_already_comes_before_what_carries_more() -> None:
    """cpu1 stays with a-l."""
    before = current(cpu0="a_l", cpu1="a_l")
    plan = planner_with_a_f(3)({"a": 20.0}, before)
    assert where(plan) == {"cpu0": "a-l", "cpu1": "a-l", "cpu2": "b-s"}


def test_where_none_is_as_accurate_the_fastest_stands_by() -> None:
    """An old device takes twice as long: a-l not at all, a-m 33 qps, a-s 100."""
    old = (make_measured("a", "a-s", 0.6, {1: 0.016, 4: 0.040}), make_measured("a", "a-m", 0.8, {1: 0.030}))
    profiles = {**fleet(1), "old0": make_profile("old0", *old, device_type="old")}
    planner = Planner(CATALOG, profiles, policy_named("proteus"), headroom=1.0, inputs={}, spares=True)
    assert where(planner({"a": 20.0})) == {"cpu0": "a-l", "old0": "a-s"}


def test_the_device_that_hosts_it_stands_by_with_it() -> None:
    """cpu1 hosts b-s and cpu2 a-l: neither loads anything."""
    before = current(cpu0="a_l", cpu1="b_s", cpu2="a_l")
    plan = planner_of(3)({"a": 20.0}, before)
    assert Counter(where(plan).values()) == {"a-l": 2, "b-s": 1}
    assert where(plan) == where(before)
    assert swaps_from(plan, before) == 0


def test_a_device_that_hosts_nothing_is_taken_before_one_that_hosts_something_else() -> None:
    """cpu0 serves; `b` and then `a` want one: cpu2 is empty, cpu1 hosts a-s."""
    plan = planner_of(3, rules=Rules(banned=(DeviceVariant("cpu", "a", "a-l"), DeviceVariant("cpu", "a", "a-m"))))(
        {"a": 150.0}, current(cpu0="a_s", cpu1="a_s")
    )
    assert where(plan) == {"cpu0": "a-s", "cpu1": "a-s", "cpu2": "b-s"}


def test_a_device_that_nobody_needs_goes_on_with_what_it_hosts() -> None:
    """Of nine devices four are idle (above); two of them host something."""
    before = current(**{f"cpu{n}": "a_l" for n in range(4)}, cpu4="b_s", cpu5="a_s", cpu6="a_m")
    plan = planner_of(9)({"a": 20.0}, before)
    assert where(plan) == where(before)
    assert swaps_from(planner_of(9, spares=False)({"a": 20.0}, before), before) == 0


def test_spares_change_neither_rates_nor_accuracy() -> None:
    with_spares, without = planner_of(5)({"a": 20.0, "b": 30.0}), planner_of(5, spares=False)({"a": 20.0, "b": 30.0})
    assert len(with_spares.placements) > len(without.placements)
    assert [p for p in with_spares.placements if p.rate_qps > 0] == list(without.placements)
    assert with_spares.relative_accuracy == without.relative_accuracy
    assert with_spares.served_qps == without.served_qps


def test_a_spare_says_what_it_could_carry_and_that_it_is_sent_nothing() -> None:
    spare = next(p for p in planner_of(2)({"a": 20.0}).placements if p.rate_qps == 0)
    assert (spare.family, spare.max_batch, spare.share) == ("b", 4, 0.0)
    assert spare.capacity_qps == pytest.approx(100.0)


@pytest.mark.parametrize("rules", [{"pack": True}, {"budget_cost": 100.0}, {"minimize": "cost"}], ids=str)
def test_where_devices_should_be_few_or_cost_something_none_stands_by(rules: Mapping[str, object]) -> None:
    priced = msgspec.structs.replace(CATALOG, price_per_hour={"cpu": 1.0})
    plan = planner_of(4, rules=msgspec.convert(dict(rules), Rules), catalog=priced)({"a": 20.0})
    assert standing_by(plan) == []


def test_spares_keep_to_the_rules_of_a_plan() -> None:
    """Nothing on cpu1, `b` alone on cpu2, and no variant of `a` below 0.9."""
    rules = Rules(reserved=(Reserved("cpu1"), Reserved("cpu2", "b")), min_accuracy={"a": 0.9})
    plan = planner_of(5, rules=rules)({"a": 20.0}, current(cpu1="a_l", cpu2="a_l", cpu3="a_s"))
    assert "cpu1" not in where(plan)
    assert where(plan).get("cpu2", "b-s") == "b-s"
    assert set(where(plan).values()) == {"a-l", "b-s"}


def test_a_lost_device_does_not_stand_by() -> None:
    plan = planner_of(3)({"a": 20.0}, None, Outages(devices=frozenset({"cpu1"})))
    assert set(where(plan)) == {"cpu0", "cpu2"}


@given(tinies())
@settings(max_examples=25)
def test_with_spares_a_plan_is_still_one_that_keeps_to_its_inputs(tiny: Tiny) -> None:
    """And no device with a spare hosts anything else."""
    planner = Planner(tiny.catalog, tiny.profiles, policy_named("proteus"), headroom=1.0, inputs={}, spares=True)
    try:
        plan = planner(tiny.demand_qps)
    except NoFeasiblePlan:  # nothing is fast enough
        reject()
    check_plan(plan, tiny.catalog, tiny.profiles)
    assert max(Counter(p.device for p in plan.placements).values(), default=0) <= 1
    # Of plans that are equally good one may use a device that a re-plan finds idle, and gives to a family without room.
    settled = planner(tiny.demand_qps, plan)
    assert swaps_from(planner(tiny.demand_qps, settled), settled) == 0
