"""Plans in which a new version is placed beside the old one: what the planner made stays as it was for all else."""

import msgspec
import pytest
from builders import (
    make_cascade,
    make_catalog,
    make_family,
    make_measured,
    make_placement,
    make_plan,
    make_profile,
    near,
)
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.policies import policy_named
from proteus_cli.control.rollouts.plan_expansion import blended, contracted, expanded
from proteus_cli.domain.attainment import SloTarget
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rollouts import VersionPair
from proteus_cli.domain.rules import DeviceVariant, Rules
from proteus_cli.planning.check import check_plan
from proteus_cli.planning.planner import Planner

SLO_S = 0.1
TARGET = SloTarget(SLO_S)
CATALOG = make_catalog(make_family("a", {"s": 0.8, "l": 0.9}), make_family("b", {"b": 0.7}))
WITH_NEW = make_catalog(make_family("a", {"s": 0.8, "l": 0.9, "l@2": 0.91}), make_family("b", {"b": 0.7}))
OLD_S = {1: 0.008, 4: 0.016, 8: 0.03}


def pair_of(share: float) -> VersionPair:
    return VersionPair("a", "l", "l@2", share)


def profile_of(device: str, *, slower: float = 1.0, memory_bytes: int = 2**30, slots: int = 1) -> Profile:
    new_s = {batch: slower * seconds for batch, seconds in OLD_S.items()}
    at_once = {slots: {batch: 1.5 * seconds for batch, seconds in OLD_S.items()}} if slots > 1 else None
    at_once_new = {slots: {batch: 1.5 * seconds for batch, seconds in new_s.items()}} if slots > 1 else None
    return make_profile(
        device,
        make_measured("a", "s", 0.8, {1: 0.003, 8: 0.01}),
        make_measured("a", "l", 0.9, OLD_S, at_once_s=at_once),
        make_measured("a", "l@2", 0.91, new_s, at_once_s=at_once_new),
        make_measured("b", "b", 0.7, {1: 0.005, 8: 0.02}),
        memory_bytes=memory_bytes,
        slots=slots,
    )


def planned(
    profiles: dict[str, Profile], demand: dict[str, float], share: float, *, residency: str | int = "memory"
) -> Plan:
    """What the planner makes for a roll-out in which the new version has that share."""
    rules = Rules(residency=residency)  # type: ignore[arg-type]
    known = {device: blended(profile, pair_of(share)) for device, profile in profiles.items()}
    return Planner(CATALOG, known, policy_named("proteus"), headroom=1.0, inputs={}, rules=rules)(demand)


def rates(plan: Plan, *variants: str) -> float:
    return sum(each.rate_qps for each in plan.placements if each.variant in variants)


@examples(25, fuzzed=500)
@given(
    st.lists(st.sampled_from([1.0, 1.4, 2.0]), min_size=1, max_size=3),
    st.floats(0.0, 400.0),
    st.floats(0.0, 200.0),
    st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.9]),
)
def test_a_plan_with_both_versions_keeps_all_that_the_planner_has_made(
    slower: list[float], of_a_qps: float, of_b_qps: float, share: float
) -> None:
    """Its rates are the same, it still agrees with the profiles, and without the new version it is as it was.

    A new version that is so slow that it must have smaller batches loses more by that than the planner counts on.
    """
    profiles = {f"cpu{n}": profile_of(f"cpu{n}", slower=each) for n, each in enumerate(slower)}
    plan = planned(profiles, {"a": of_a_qps, "b": of_b_qps}, share)
    found = expanded(plan, pair_of(share), profiles, TARGET)
    if _has_as_large_batches(found.plan):
        check_plan(found.plan, WITH_NEW, profiles)
    assert not found.without
    assert rates(found.plan, "l", "l@2") == near(rates(plan, "l"))
    assert rates(found.plan, "l@2") == near(share * rates(plan, "l"))
    others = [each for each in plan.placements if each.variant != "l"]
    assert [each for each in found.plan.placements if each.variant not in {"l", "l@2"}] == others
    back = contracted(found.plan, pair_of(share), profiles)
    assert back.hosted() == plan.hosted()
    assert [p.rate_qps for p in back.placements] == pytest.approx([p.rate_qps for p in plan.placements])
    assert back.effective_accuracy == pytest.approx(plan.effective_accuracy)
    again = expanded(back, pair_of(share), profiles, TARGET)
    assert [p.capacity_qps for p in again.plan.placements] == pytest.approx(
        [p.capacity_qps for p in found.plan.placements]
    )


def _has_as_large_batches(plan: Plan) -> bool:
    batches = {(each.device, each.variant): each.max_batch for each in plan.placements}
    return all(batches[p.device, "l"] <= p.max_batch for p in plan.placements if p.variant == "l@2")


def place(device: str, variant: str = "l", rate_qps: float = 50.0, **more: float) -> Placement:
    return make_placement(device, "a", variant, rate_qps=rate_qps, share=0.5, capacity_qps=250.0, **more)  # type: ignore[arg-type]


TWO = make_plan(place("cpu0"), place("cpu1"), demand_qps={"a": 100.0})


def test_where_the_new_version_has_no_memory_it_gets_its_share_elsewhere() -> None:
    profiles = {"cpu0": profile_of("cpu0", memory_bytes=1500), "cpu1": profile_of("cpu1")}
    found = expanded(TWO, pair_of(0.25), profiles, TARGET)
    assert found.without == {"cpu0": "the device has no memory for both versions"}
    assert [(p.device, p.variant, p.rate_qps) for p in found.plan.placements] == [
        ("cpu0", "l", near(50.0)),
        ("cpu1", "l", near(25.0)),
        ("cpu1", "l@2", near(25.0)),
    ]


def test_no_more_than_the_devices_with_room_have_is_moved() -> None:
    profiles = {"cpu0": profile_of("cpu0", memory_bytes=1500), "cpu1": profile_of("cpu1")}
    found = expanded(TWO, pair_of(0.8), profiles, TARGET)
    assert rates(found.plan, "l@2") == near(50.0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"broken": {("cpu0", "a", "l@2"), ("cpu1", "a", "l@2")}}, "it is broken there"),
        ({"slower": 20.0}, "it is too slow for the SLO there"),
        ({"banned": True}, "it is banned there"),
        ({"cascades": True}, "the plan has a cascade of the old version"),
        ({"unknown": True}, "it was not measured there"),
    ],
    ids=["broken", "slower", "banned", "cascades", "unknown"],
)
def test_where_it_has_no_place_the_plan_stays_as_it_is_and_says_why(change: dict[str, object], why: str) -> None:
    slower = float(change.get("slower", 1.0))  # type: ignore[arg-type]
    profiles = {device: profile_of(device, slower=slower) for device in ("cpu0", "cpu1")}
    plan = TWO
    if "unknown" in change:
        profiles = {device: blended(profile, pair_of(0.0)) for device, profile in profiles.items()}
    if "banned" in change:
        plan = msgspec.structs.replace(plan, rules=Rules(banned=(DeviceVariant("cpu", "a", "l@2"),)))
    if "cascades" in change:
        small = place("cpu0", "s")
        cascade = make_cascade("a", "s", "l", rate_qps=10.0)
        plan = msgspec.structs.replace(plan, placements=(small, *plan.placements), cascades=(cascade,))
    broken = change.get("broken", ())
    found = expanded(plan, pair_of(0.1), profiles, TARGET, broken)  # type: ignore[arg-type]
    assert found.plan == plan
    assert found.without == {"cpu0": why, "cpu1": why}


def test_the_accuracy_of_the_plan_counts_what_is_moved() -> None:
    profiles = {device: profile_of(device) for device in ("cpu0", "cpu1")}
    plan = msgspec.structs.replace(TWO, effective_accuracy=0.9)
    assert expanded(plan, pair_of(0.5), profiles, TARGET).plan.effective_accuracy == near(0.905)


def test_the_planner_counts_on_what_both_versions_take_in_the_mean_and_no_less_than_the_old_one() -> None:
    slow, fast = (blended(profile_of("cpu0", slower=each), pair_of(0.25)).of("a", "l") for each in (2.0, 0.5))
    assert slow is not None
    assert fast is not None
    assert [point.mean_s for point in slow.points] == [near(1.25 * seconds) for seconds in OLD_S.values()]
    assert [point.p95_s for point in fast.points] == [near(seconds) for seconds in OLD_S.values()]


def test_the_planner_knows_neither_the_new_version_nor_cascades_of_the_old_one() -> None:
    profile = blended(profile_of("cpu0"), pair_of(0.1))
    assert profile.of("a", "l@2") is None
    assert profile.of("a", "s") is not None


def test_devices_of_several_slots_count_batches_at_once() -> None:
    profile = profile_of("cpu0", slower=2.0, slots=2)
    mixed = blended(profile, pair_of(0.5)).of("a", "l")
    assert mixed is not None
    assert [point.mean_s for point in mixed.points_at(2)] == [near(1.5 * 1.5 * seconds) for seconds in OLD_S.values()]
    plan = make_plan(place("cpu0", max_batch=8))
    found = expanded(plan, pair_of(0.5), {"cpu0": profile}, TARGET)
    old, new = found.plan.placements
    assert old.capacity_qps == near(new.capacity_qps)
    of_old_qps, of_new_qps = (2 * p.max_batch / (1.5 * OLD_S[p.max_batch] * by) for p, by in ((old, 1), (new, 2)))
    assert old.capacity_qps / of_old_qps + new.capacity_qps / of_new_qps == near(1.0)


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        (Rules(), None),
        (Rules(min_accuracy={"a": 0.91}), None),
        (Rules(min_accuracy={"a": 0.92}), "its accuracy, 0.91, is below 0.92, which the family must have"),
        (Rules(min_expected_accuracy={"a": 0.92}), "its accuracy, 0.91, is below 0.92, which the family must have"),
        (Rules(max_energy_j={"a": 0.5}), "its power was not measured there, and its family counts energy"),
        (Rules(prefer={"a": "energy"}), "its power was not measured there, and its family counts energy"),
        (Rules(max_cost_per_million={"a": 5.0}), "the device has no price, and its family counts cost"),
        (Rules(max_latency_s={"a": 0.01}), "it is too slow for the family's policy"),
        (Rules(max_latency_s={"a": 0.03}, residency="memory"), None),
        (Rules(attainment=0.5), None),
        (Rules(min_accuracy={"b": 0.99}, max_energy_j={"b": 1e-9}), None),
    ],
    ids=str,
)
def test_a_new_version_keeps_the_rules_about_answers_of_its_family(rules: Rules, why: str | None) -> None:
    profiles = {"cpu0": profile_of("cpu0", slower=1.5)}
    plan = msgspec.structs.replace(make_plan(place("cpu0"), demand_qps={"a": 50.0}), rules=rules)
    found = expanded(plan, pair_of(0.5), profiles, TARGET)
    assert found.without == ({} if why is None else {"cpu0": why})
    planned = rules.planned_target("a", TARGET)
    for each in found.plan.placements:
        if each.variant == "l@2":
            measured = profiles["cpu0"].of(*each.key)
            assert measured is not None
            points = profiles["cpu0"].points_of(measured)
            assert each.max_batch == rules.capacity_within(planned.slo_s, points, 1, planned.attainment).max_batch


@pytest.mark.parametrize(("power_w", "is_allowed"), [(50.0, True), (300.0, False)])
def test_an_answer_of_a_new_version_takes_no_more_energy_than_the_policy_allows(
    power_w: float, *, is_allowed: bool
) -> None:
    new = make_measured("a", "l@2", 0.91, OLD_S, power_w=power_w)
    profile = make_profile("cpu0", make_measured("a", "l", 0.9, OLD_S, power_w=50.0), new)
    plan = make_plan(place("cpu0"), demand_qps={"a": 50.0})
    plan = msgspec.structs.replace(plan, rules=Rules(max_energy_j={"a": 1.0}))
    found = expanded(plan, pair_of(0.5), {"cpu0": profile}, TARGET)
    assert found.without == ({} if is_allowed else {"cpu0": "an answer may take 2.4 J there, and 1 J at most"})


@pytest.mark.parametrize(("slower", "is_allowed"), [(1.0, True), (1.5, False)])
def test_answers_of_a_new_version_cost_no_more_than_the_policy_allows(slower: float, *, is_allowed: bool) -> None:
    """The old version answers 266.7 queries a second in full batches, the new one as many or 177.8."""
    profile = profile_of("cpu0", slower=slower)
    plan = make_plan(place("cpu0"), demand_qps={"a": 50.0})
    plan = msgspec.structs.replace(plan, rules=Rules(max_cost_per_million={"a": 4.0}))
    prices = msgspec.structs.replace(CATALOG, price_per_hour={"cpu": 3.6})
    found = expanded(plan, pair_of(0.5), {"cpu0": profile}, TARGET, price_of=prices.price_of)
    assert found.without == ({} if is_allowed else {"cpu0": "a million answers cost 5.62 there, and may cost 4"})
