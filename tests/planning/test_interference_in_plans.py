"""Plans where variants on one device cost each other time. That they are the best: `test_plan_is_best`."""

from typing import Any

import msgspec
import pytest
from builders import make_catalog, make_family, make_measured, make_profile, make_sharing_cost

from proteus_cli.control.policies import policy_named
from proteus_cli.control.topology.hosting import hosted_by
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.rules import DeviceVariant, Rules
from proteus_cli.planning.analysis.explain import explain
from proteus_cli.planning.check import PlanCheckError, check_plan
from proteus_cli.planning.model import resident_sets
from proteus_cli.planning.planner import Planner

CATALOG = make_catalog(make_family("a", {"a0": 0.9}), make_family("b", {"b0": 0.9}), make_family("c", {"c0": 0.9}))
MEASURED = tuple(make_measured(name, f"{name}0", 0.9, {1: 0.01, 4: 0.04}) for name in "abc")  # 100 qps each, alone
TWO, SETS = Rules(residency=2, slo_fraction=0.5), Rules(residency=3, slo_fraction=0.5)


def planner(rules: Rules, devices: int = 2, **ratios: float) -> Planner:
    """``ab=1.5``: batches of a0 take so many times as long beside b0; ``abc=1.5``: beside b0 and c0."""
    costs = tuple(
        make_sharing_cost((names[0], f"{names[0]}0"), *((other, f"{other}0") for other in names[1:]), ratio=by)
        for names, by in ratios.items()
    )
    profiles = {
        f"cpu{n}": msgspec.structs.replace(make_profile(f"cpu{n}", *MEASURED), sharing=costs) for n in range(devices)
    }
    return Planner(CATALOG, profiles, policy_named("proteus"), headroom=1.0, inputs={}, rules=rules)


def together(plan: Plan) -> set[frozenset[str]]:
    return {frozenset(key.family for key in keys) for keys in plan.hosted().values() if keys}


def test_variants_that_cost_each_other_time_get_devices_of_their_own() -> None:
    """There is just enough time for all, if the right two are together."""
    demand = {"a": 50.0, "b": 50.0, "c": 100.0}
    made = planner(TWO, ac=1.2, bc=1.2, ca=1.2, cb=1.2)
    assert together(made(demand)) == {frozenset("ab"), frozenset("c")}
    assert made(demand).shortfall_qps == pytest.approx(0.0, abs=1e-3)
    assert planner(TWO, ac=1.2, bc=1.2, ca=1.2, cb=1.2, ab=1.1)(demand).shortfall_qps > 1


def test_what_a_device_can_take_is_less_by_what_sharing_costs() -> None:
    """One device: a share x of its time at 100/1.5 qps beside b at 100 qps; so 50 of a leave 25 for b."""
    plan = planner(TWO, devices=1, ab=1.5)({"a": 50.0, "b": 40.0})
    rates = {p.family: p.rate_qps for p in plan.placements}
    assert rates["a"] / (100 / 1.5) + rates["b"] / 100 == pytest.approx(1.0)
    assert sum(rates.values()) == pytest.approx(40 + 0.6 * 100 / 1.5), "what is fast is served first"


def test_three_on_a_device_cost_what_all_of_them_do() -> None:
    made = planner(SETS, devices=1, ab=1.2, ac=1.3)
    plan = made({"a": 20.0, "b": 30.0, "c": 20.0})
    assert together(plan) == {frozenset("abc")}
    host = next(host for host in hosted_by(plan, made.profiles) if host.family == "a")
    assert host.mean_latency(4) == pytest.approx(0.04 * 1.3), "as beside the worst of the two"
    assert host.others == {("b", "b0"), ("c", "c0")}


def test_what_only_all_of_three_cost_each_other_counts() -> None:
    """As where any two fit the caches, and all three do not."""
    made = planner(SETS, devices=1, abc=1.5, bac=1.5, cab=1.5)
    plan = made({"a": 30.0, "b": 30.0, "c": 30.0})
    assert together(plan) == {frozenset("abc")}
    assert sum(p.rate_qps for p in plan.placements) == pytest.approx(100 / 1.5), "100 qps, as any two would serve"


def test_a_set_that_costs_something_and_is_too_large_for_any_device_makes_no_sets() -> None:
    made = planner(TWO, abc=1.5, ab=1.0)
    made({"a": 50.0, "b": 60.0, "c": 70.0})
    assert made._search._instance(()).sets is None


@pytest.mark.parametrize("limit", [{"max_cost_per_million": {"a": 12.0}}, {"max_energy_j": {"a": 0.12}}], ids=str)
def test_what_a_query_takes_is_counted_alone(limit: dict[str, Any]) -> None:
    """An answer of a costs 10 and takes 0.1 J; beside b it would be half as much again."""
    catalog = msgspec.structs.replace(CATALOG, price_per_hour={"cpu": 3.6})
    measured = [msgspec.structs.replace(each, power_w=10.0) for each in MEASURED]
    sharing = (make_sharing_cost(("a", "a0"), ("b", "b0"), ratio=1.5),)
    profiles = {"cpu0": msgspec.structs.replace(make_profile("cpu0", *measured), sharing=sharing)}
    rules = msgspec.structs.replace(TWO, **limit)
    made = Planner(catalog, profiles, policy_named("proteus"), headroom=1.0, inputs={}, rules=rules)
    assert together(made({"a": 30.0, "b": 30.0})) == {frozenset("ab")}


def test_a_plan_that_takes_sharing_for_free_is_refused() -> None:
    demand = {"a": 50.0, "b": 50.0}
    free, real = planner(TWO, devices=1), planner(TWO, devices=1, ab=1.25)
    plan = free(demand)
    check_plan(plan, CATALOG, free.profiles)
    with pytest.raises(PlanCheckError, match="busy for more than 100 %"):
        check_plan(plan, CATALOG, real.profiles)


def test_without_a_cost_there_are_no_sets_and_the_model_is_as_before() -> None:
    free, noise = planner(TWO), planner(TWO, ab=1.0, ba=1.0)
    demand = {"a": 50.0, "b": 60.0, "c": 70.0}
    assert free(demand).placements == noise(demand).placements
    for each in free, noise:
        assert each._search._instance(()).sets is None


def test_with_too_many_sets_small_ones_are_left_and_a_plan_is_no_promise_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resident_sets, "MAX_SETS", 3)  # so single variants only
    made = planner(SETS, ab=1.2)
    plan = made({"a": 30.0, "b": 30.0, "c": 30.0})
    assert all(len(keys) <= 1 for keys in plan.hosted().values())
    check_plan(plan, CATALOG, made.profiles)


def test_what_is_pinned_is_in_a_set_however_many_sets_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident_sets, "MAX_SETS", 3)  # sets of two would be too many, if all of them counted
    pins = tuple(DeviceVariant("cpu0", *each.key) for each in MEASURED)
    made = planner(msgspec.structs.replace(SETS, pinned=pins), ab=1.2)
    plan = made({"a": 30.0, "b": 30.0, "c": 30.0})
    assert frozenset("abc") in together(plan)
    check_plan(plan, CATALOG, made.profiles)


def test_single_variants_are_never_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident_sets, "MAX_SETS", 2)
    made = planner(SETS, devices=3, ab=1.2)
    plan = made({"a": 30.0, "b": 30.0, "c": 30.0})
    assert together(plan) == {frozenset("a"), frozenset("b"), frozenset("c")}


def test_an_explanation_says_what_sharing_costs_and_brings() -> None:
    """With one variant, the device serves all 50 qps of a and nothing of b, of which it has 30."""
    made = planner(TWO, devices=1, ab=1.5)
    found = explain(made, made({"a": 50.0, "b": 40.0}))
    (device,) = found.devices
    assert device.slower == {"a0": 1.5}
    assert device.busy == pytest.approx(1.0)
    assert device.sharing == pytest.approx(0.6 * (1 - 1 / 1.5))
    (price,) = (each for each in found.prices if each.kind == "sharing")
    assert price.unserved_qps == pytest.approx(-10.0, rel=0.01)
    (alone,) = (each for each in found.prices if each.what == "with one variant on each device")
    assert alone.unserved_qps == pytest.approx(30.0, rel=0.01)


def test_a_batch_among_others_is_neither_slow_nor_fast_within_what_sharing_costs() -> None:
    """Drift must not find the cost of sharing a second time, nor its absence while the others rest."""
    made = planner(TWO, devices=1, ab=1.5)
    host = next(each for each in hosted_by(made({"a": 50.0, "b": 20.0}), made.profiles) if each.family == "a")
    assert [host.unshared_s(1, took_s) for took_s in (0.008, 0.010, 0.012, 0.015)] == [0.008, 0.010, 0.010, 0.010]
    assert host.unshared_s(1, 0.030) == pytest.approx(0.020)


def test_all_shared_devices_are_counted_on_for_a_variant_that_needs_many_hosts() -> None:
    """A batch of 60 of 100 ms is in time where six hosts share a queue. On devices of its own, a has five at most."""
    catalog = make_catalog(make_family("a", {"fast": 0.5, "slow": 0.9}), make_family("b", {"b0": 0.9}))
    times_s = {("a", "fast", 0.5): 0.01, ("a", "slow", 0.9): 0.06, ("b", "b0", 0.9): 0.01}
    measured = [make_measured(*variant, {1: seconds}) for variant, seconds in times_s.items()]
    sharing = (make_sharing_cost(("a", "slow"), ("b", "b0"), ratio=1.01),)
    profiles = {
        f"cpu{n}": msgspec.structs.replace(make_profile(f"cpu{n}", *measured), sharing=sharing) for n in range(6)
    }
    rules = Rules(residency=2)
    made = Planner(catalog, profiles, policy_named("proteus"), headroom=1.0, inputs={}, rules=rules)
    plan = made({"a": 90.0, "b": 20.0})
    assert {p.variant for p in plan.placements if p.family == "a"} == {"slow"}
    assert plan.shortfall_qps == pytest.approx(0.0, abs=1e-3)
