import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from builders import make_catalog, make_family, make_measured, make_profile, near, swaps_from

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.device import Outages, host_of
from proteus_cli.domain.fleet import fleet_of
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rules import Rules
from proteus_cli.errors import NoFeasiblePlan, UsageError
from proteus_cli.planning.model.instance import make_instance
from proteus_cli.planning.planner import Planner

# Within half of 100 ms: a-s 4 in 20 ms = 200 qps, a-m 2 in 25 ms = 80 qps, a-l 1 in 50 ms = 20 qps; b-s 4 in 40 ms.
LATENCY_S = {
    "a-s": {1: 0.008, 4: 0.020, 5: 0.050, 16: 0.060},
    "a-m": {1: 0.015, 2: 0.025, 4: 0.080},
    "a-l": {1: 0.050},
    "b-s": {1: 0.020, 4: 0.040},
}
ACCURACY = {"a-s": 0.6, "a-m": 0.8, "a-l": 1.0, "b-s": 0.7}
CATALOG = make_catalog(
    make_family("a", {v: ACCURACY[v] for v in ("a-s", "a-m", "a-l")}), make_family("b", {"b-s": 0.7})
)


def fleet(**counts: int) -> dict[str, Profile]:
    """So many devices of each type; type `old` takes twice as long as any other."""
    profiles = {}
    for kind, count in counts.items():
        slower = 2.0 if kind == "old" else 1.0
        measured = [
            make_measured(name[0], name, ACCURACY[name], {n: s * slower for n, s in latency_s.items()})
            for name, latency_s in LATENCY_S.items()
        ]
        for i in range(count):
            profiles[f"{kind}{i}"] = make_profile(f"{kind}{i}", *measured, device_type=kind)
    return profiles


def planner_of(
    profiles: Mapping[str, Profile], *, catalog: Catalog = CATALOG, policy: str = "proteus", headroom: float = 1.0
) -> Planner:
    return Planner(catalog, profiles, policy_named(policy), headroom=headroom, inputs={"some/file": "digest"})


def placed(plan: Plan) -> dict[str, str]:
    return {placement.device: placement.variant for placement in plan.placements}


def test_a_hundred_hosts_are_as_easy_to_plan_for_as_their_devices_alone() -> None:
    """Devices that are alike are one group, whichever hosts have them."""
    types = fleet(cpu=1, old=1)
    alone, on_hosts = (
        fleet_of(types, text)
        for text in ("cpu:400,old:400", ";".join(f"h{number}=cpu:4,old:4" for number in range(100)))
    )
    groups = make_instance(CATALOG, on_hosts, "all", Rules()).groups
    assert [(group.type, len(group.devices)) for group in groups] == [("cpu", 400), ("old", 400)]
    plans = [planner_of(each)({"a": 9000.0, "b": 4000.0}) for each in (alone, on_hosts)]
    hosts, alike = (Counter((p.variant, p.max_batch, round(p.rate_qps, 6)) for p in plan.placements) for plan in plans)
    assert hosts == alike
    assert {host_of(p.device) for p in plans[1].placements} <= {f"h{number}" for number in range(100)}


def test_one_device_hosts_the_most_accurate_variant_that_carries_the_demand() -> None:
    """20 qps fit a-l, 21 need a-m, 81 need a-s; 250 leave 50 unserved."""
    planner = planner_of(fleet(cpu=1))
    assert [placed(planner({"a": qps})) for qps in (20.0, 21.0, 80.0, 81.0, 250.0)] == [
        {"cpu0": "a-l"}, {"cpu0": "a-m"}, {"cpu0": "a-m"}, {"cpu0": "a-s"}, {"cpu0": "a-s"}
    ]  # fmt: skip


def test_the_accuracy_of_a_plan_is_the_mean_over_its_queries() -> None:
    """200 qps on two devices: 80 on a-m, which leaves 120 to a-s. (80·0.8 + 120·0.6) / 200 = 0.68; `a` has 1.0."""
    plan = planner_of(fleet(cpu=2))({"a": 200.0})
    assert sorted(placed(plan).values()) == ["a-m", "a-s"]
    rates = {placement.variant: placement.rate_qps for placement in plan.placements}
    assert rates == pytest.approx({"a-m": 80.0, "a-s": 120.0}, rel=1e-4)
    shares = {placement.variant: placement.share for placement in plan.placements}
    assert shares == pytest.approx({"a-m": 0.4, "a-s": 0.6}, rel=1e-4)
    assert plan.effective_accuracy == pytest.approx(0.68, rel=1e-4)
    assert plan.relative_accuracy == pytest.approx(0.68, rel=1e-4)


def test_the_relative_accuracy_is_against_the_best_of_each_family() -> None:
    """20 qps on a-l of 1.0 and 20 on b-s of 0.7, the only one of its family: all is relatively best, 0.85 in fact."""
    plan = planner_of(fleet(cpu=2))({"a": 20.0, "b": 20.0})
    assert plan.relative_accuracy == pytest.approx(1.0)
    assert plan.effective_accuracy == pytest.approx(0.85, rel=1e-4)


def test_a_placement_says_the_batch_size_and_capacity_that_the_profile_gives() -> None:
    (placement,) = planner_of(fleet(cpu=1))({"a": 150.0}).placements
    assert (placement.max_batch, placement.capacity_qps) == (4, near(200.0))


def test_a_device_with_several_slots_carries_what_goes_through_all_of_them() -> None:
    """A batch of 1 takes 10 ms alone and 15 ms beside another: 133 qps where one slot carries 100."""
    measured = make_measured("a", "a-s", 0.8, {1: 0.010}, at_once_s={2: {1: 0.015}})
    catalog = make_catalog(make_family("a", {"a-s": 0.8}, slo="30ms"))
    for slots, qps in ((1, 100.0), (2, 133.3)):
        profiles = {"gpu0": make_profile("gpu0", measured, slots=slots)}
        plan = Planner(catalog, profiles, policy_named("proteus"), headroom=1.0, inputs={})({"a": 150.0})
        assert plan.served_qps["a"] == pytest.approx(qps, rel=1e-3)


def test_what_fits_with_one_slot_may_not_fit_with_two() -> None:
    measured = make_measured("a", "a-s", 0.8, {1: 0.01}, at_once_s={2: {1: 0.01}}, memory_bytes=900, slot_bytes=200)
    catalog = make_catalog(make_family("a", {"a-s": 0.8}))
    one, two = ({"gpu0": make_profile("gpu0", measured, slots=slots, memory_bytes=1000)} for slots in (1, 2))
    assert Planner(catalog, one, policy_named("proteus"), headroom=1.0, inputs={})({"a": 1.0}).placements
    with pytest.raises(NoFeasiblePlan):
        Planner(catalog, two, policy_named("proteus"), headroom=1.0, inputs={})({"a": 1.0})


def test_serving_comes_before_accuracy() -> None:
    """281 qps of two devices: a-s and a-m carry 280, so both must be a-s, accurate or not."""
    planner = planner_of(fleet(cpu=2))
    assert sorted(placed(planner({"a": 280.0})).values()) == ["a-m", "a-s"]
    assert sorted(placed(planner({"a": 281.0})).values()) == ["a-s", "a-s"]


def test_over_demand_says_what_stays_unserved() -> None:
    """One device takes 200 of 250 qps, of which its share is all."""
    plan = planner_of(fleet(cpu=1))({"a": 250.0})
    assert plan.served_qps == pytest.approx({"a": 200.0, "b": 0.0})
    assert plan.unserved_qps == pytest.approx({"a": 50.0, "b": 0.0})
    assert plan.shortfall_qps == pytest.approx(50.0)
    assert plan.placements[0].share == 1.0


def test_headroom_is_capacity_that_is_kept_free() -> None:
    """190 qps with a headroom of 1.1 need 209: more than the 200 of a-s, which serves 190 all the same."""
    plan = planner_of(fleet(cpu=1), headroom=1.1)({"a": 190.0})
    assert plan.unserved_qps["a"] == pytest.approx(0.0)
    assert plan.placements[0].rate_qps == pytest.approx(190.0)
    assert placed(planner_of(fleet(cpu=1), headroom=1.1)({"a": 75.0})) == {"cpu0": "a-s"}


@pytest.mark.parametrize("headroom", [0.9, float("nan"), float("inf"), -1.0])
def test_a_headroom_below_one_is_refused(headroom: float) -> None:
    with pytest.raises(UsageError, match="headroom"):
        planner_of(fleet(cpu=1), headroom=headroom)


def test_without_demand_nothing_is_hosted() -> None:
    plan = planner_of(fleet(cpu=2))({})
    assert plan.placements == ()
    assert plan.served_qps == plan.unserved_qps == {"a": 0.0, "b": 0.0}
    assert plan.effective_accuracy is None
    assert plan.relative_accuracy is None
    assert plan.devices == ("cpu0", "cpu1")


def test_a_family_without_demand_takes_no_device_of_another() -> None:
    assert set(placed(planner_of(fleet(cpu=3))({"a": 60.0, "b": 0.0})).values()) == {"a-l"}


def test_a_family_that_no_device_can_serve_stays_unserved_and_the_others_are_served() -> None:
    """Its only variant takes 60 ms, more than half of 100."""
    catalog = make_catalog(make_family("a", {"a-s": 0.6}), make_family("c", {"c-s": 0.9}))
    measured = [make_measured("a", "a-s", 0.6, {4: 0.02}), make_measured("c", "c-s", 0.9, {1: 0.06})]
    plan = planner_of({"cpu0": make_profile("cpu0", *measured)}, catalog=catalog)({"a": 10.0, "c": 5.0})
    assert plan.unserved_qps == pytest.approx({"a": 0.0, "c": 5.0})
    assert placed(plan) == {"cpu0": "a-s"}


def test_where_no_variant_meets_any_slo_there_is_no_plan() -> None:
    catalog = make_catalog(make_family("a", {"a-s": 0.6}, slo="10ms"))
    with pytest.raises(NoFeasiblePlan, match="No variant meets") as caught:
        planner_of(fleet(cpu=1), catalog=catalog)({"a": 1.0})
    assert caught.value.exit_code == 3
    assert "slo" in caught.value.hint


def test_where_rules_leave_out_all_variants_the_hint_says_how_accurate_the_best_is() -> None:
    catalog, measured = make_catalog(make_family("a", {"a-s": 0.6})), make_measured("a", "a-s", 0.6, {1: 0.01})
    profiles, rules = {"cpu0": make_profile("cpu0", measured)}, Rules(min_expected_accuracy={"a": 0.9})
    with pytest.raises(NoFeasiblePlan, match="No variant meets") as caught:
        Planner(catalog, profiles, policy_named("proteus"), headroom=1.0, inputs={}, rules=rules)({"a": 1.0})
    assert caught.value.hint == "no variant of `a` has an accuracy of 0.9, the best has 0.6000"


@pytest.mark.parametrize("demand", [{"z": 1.0}, {"a": -1.0}, {"a": float("nan")}, {"a": float("inf")}])
def test_a_demand_that_makes_no_sense_is_refused(demand: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        planner_of(fleet(cpu=1))(demand)


def test_what_is_profiled_but_not_in_the_catalog_is_left_out() -> None:
    catalog = make_catalog(make_family("a", {"a-s": 0.6}))
    assert placed(planner_of(fleet(cpu=1), catalog=catalog)({"a": 1.0})) == {"cpu0": "a-s"}


@pytest.mark.parametrize(("policy", "variant"), [("most-accurate", "a-l"), ("least-accurate", "a-s")])
def test_a_fixed_policy_hosts_its_variant_whatever_the_demand(policy: str, variant: str) -> None:
    planner = planner_of(fleet(cpu=2), policy=policy)
    assert {v for qps in (1.0, 30.0, 1000.0) for v in placed(planner({"a": qps})).values()} == {variant}
    assert planner({"a": 30.0}).policy == policy


def test_the_slower_devices_get_what_they_can_carry() -> None:
    """An old device takes 40 ms for 4 = 100 qps of a-s, 30 ms for 1 of a-m = 33 qps, and a-l not at all."""
    plan = planner_of(fleet(old=1, cpu=1))({"a": 50.0})
    assert placed(plan) == {"old0": "a-m", "cpu0": "a-l"}
    assert plan.fleet == {"old": ("old0",), "cpu": ("cpu0",)}


def test_devices_of_one_type_that_measured_differently_are_planned_apart() -> None:
    """cpu1 is so slow that only a-s is in time there."""
    slow = make_profile("cpu1", make_measured("a", "a-s", 0.6, {1: 0.05}))
    plan = planner_of({**fleet(cpu=1), "cpu1": slow})({"a": 100.0})
    assert placed(plan) == {"cpu0": "a-m", "cpu1": "a-s"}
    assert plan.fleet == {"cpu": ("cpu0", "cpu1")}


def test_a_re_plan_keeps_what_devices_host_already() -> None:
    """Three devices: 120 qps are 20 + 20 on a-l and 80 on a-m; 180 are 20 + 80 + 80: one of them changes, and back."""
    planner = planner_of(fleet(cpu=3))
    before = planner({"a": 120.0})
    assert sorted(placed(before).values()) == ["a-l", "a-l", "a-m"]
    after = planner({"a": 180.0}, before)
    assert sorted(placed(after).values()) == ["a-l", "a-m", "a-m"]
    assert swaps_from(after, before) == 1
    back = planner({"a": 120.0}, after)
    assert swaps_from(back, after) == 1


def test_placements_stay_where_they_are_even_if_a_fresh_plan_would_put_them_elsewhere() -> None:
    """The plan in force hosts a-l on cpu2 alone; a fresh one starts from cpu0."""
    planner = planner_of(fleet(cpu=3))
    fresh = planner({"a": 20.0, "b": 10.0})
    moved = dict(zip(("cpu0", "cpu1", "cpu2"), ("cpu2", "cpu0", "cpu1"), strict=True))
    placements = tuple(msgspec.structs.replace(p, device=moved[p.device]) for p in fresh.placements)
    shifted = msgspec.structs.replace(fresh, placements=placements)
    again = planner({"a": 20.0, "b": 10.0}, shifted)
    assert swaps_from(again, shifted) == 0
    assert placed(again) == placed(shifted)


def test_a_plan_says_what_it_was_made_from_and_how() -> None:
    plan = planner_of(fleet(cpu=1), headroom=1.2)({"a": 10.0})
    assert plan.inputs == {"some/file": "digest"}
    assert (plan.headroom, plan.demand_qps, plan.solver.name) == (1.2, {"a": 10.0, "b": 0.0}, "HiGHS")
    assert 0 <= plan.solver.gap <= 1e-4
    assert plan.solver.solve_s > 0


@pytest.mark.parametrize("is_used", [False, True])
def test_a_planner_survives_the_way_to_another_process(is_used: bool) -> None:  # noqa: FBT001
    planner = planner_of(fleet(cpu=2, old=1))
    expected = planner({"a": 150.0}).placements
    sent = planner if is_used else planner_of(fleet(cpu=2, old=1))
    assert pickle.loads(pickle.dumps(sent))({"a": 150.0}).placements == expected  # noqa: S301 - our own


def test_plans_without_a_device_are_the_same_whatever_was_lost_before() -> None:
    """A planner keeps what it compiled for the last outages; the lost device is another, or is lost again."""
    used, demand = planner_of(fleet(cpu=2, old=1)), {"a": 150.0}
    for lost in ("cpu0", "cpu0", "old0", "cpu0"):
        without = Outages(devices=frozenset({lost}))
        fresh = planner_of(fleet(cpu=2, old=1))(demand, without=without)
        assert used(demand, without=without).placements == fresh.placements
        assert lost not in placed(fresh)
        changed = used.with_changes(headroom=2.0)(demand, without=without)
        assert changed.headroom == 2.0
        assert lost not in placed(changed)
    assert used(demand).placements == planner_of(fleet(cpu=2, old=1))(demand).placements


def test_solving_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    planner = planner_of(fleet(cpu=2))
    for qps in (0.0, 20.0, 150.0, 1e6):
        planner({"a": qps})
    assert capfd.readouterr() == ("", "")


def test_the_first_solve_of_a_process_prints_nothing_either_and_leaves_stdout_to_other_threads() -> None:
    """The solver greets once per process, and from C: only a process of its own shows that it doesn't."""
    code = (
        "import os; os.dup2 = None; from test_planner import fleet, planner_of; planner_of(fleet(cpu=2))({'a': 150.0})"
    )
    path = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"], capture_output=True, check=True
    )
    assert done.stdout == b""


def test_what_stands_by_needs_no_load_and_is_preferred() -> None:
    """Of three devices with a-l, one must change to a-m for 180 instead of 120 qps: that with a standby, cpu1."""
    planner = planner_of(fleet(cpu=3))
    before = planner({"a": 120.0})
    is_l = [device for device, variant in placed(before).items() if variant == "a-l"]
    standbys = {is_l[-1]: frozenset({VariantKey("a", "a-m")})}
    after = planner({"a": 180.0}, before, standbys=standbys)
    assert placed(after)[is_l[-1]] == "a-m"
    assert (swaps_from(after, before), swaps_from(after, before, standbys)) == (1, 0)


def test_what_is_active_stays_where_standbys_would_save_no_load() -> None:
    """cpu0 has a-m active, and a-l by; cpu1 has a-l active, and a-m by. Without a change both keep what is active."""
    planner = planner_of(fleet(cpu=2))
    before = planner({"a": 100.0})
    assert sorted(placed(before).values()) == ["a-l", "a-m"]
    other = {"a-l": "a-m", "a-m": "a-l"}
    standbys = {device: frozenset({VariantKey("a", other[variant])}) for device, variant in placed(before).items()}
    again = planner({"a": 100.0}, before, standbys=standbys)
    assert placed(again) == placed(before)


def test_a_device_that_hosts_a_variant_gives_way_to_one_where_it_stands_by() -> None:
    """b-s stands by on cpu0 alone, which hosts a-m; a-m stands by on cpu1. So both change, and nothing loads."""
    planner = planner_of(fleet(cpu=2))
    wanted = planner({"a": 50.0, "b": 10.0})
    devices = {placement.variant: placement.device for placement in wanted.placements}
    of_a, of_b = (next(v for v in devices if v.startswith(family)) for family in ("a-", "b-"))
    moved = [msgspec.structs.replace(p, device=devices[of_b]) for p in wanted.placements if p.variant == of_a]
    before = msgspec.structs.replace(wanted, placements=tuple(moved))
    standbys = {
        devices[of_b]: frozenset({VariantKey("b", of_b)}),
        devices[of_a]: frozenset({VariantKey("a", of_a)}),
    }
    after = planner({"a": 50.0, "b": 10.0}, before, standbys=standbys)
    assert swaps_from(after, before, standbys) == 0
    assert placed(after) == placed(wanted)
