"""What families prefer in their plans, in numbers that heads can add up. `test_plan_is_best` tries everything."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import make_cascade_point
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st
from tiny_fleets import TYPES, Tiny, tinies

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.catalog import PREFERENCES
from proteus_cli.domain.device import Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.rules import PAPER_RULES
from proteus_cli.domain.stages.cascade import CascadeProfile
from proteus_cli.errors import NoFeasiblePlan, UsageError
from proteus_cli.planning.analysis.conflict import irreducible_conflict
from proteus_cli.planning.analysis.explain import explain
from proteus_cli.planning.check import PlanCheckError, check_plan
from proteus_cli.planning.model.instance import make_instance

ONE_FAMILY = Tiny(
    accuracy={"a": {"a-s": 0.8, "a-l": 0.9}},
    latency_s={
        ("cpu", "a", "a-s"): {1: 0.020},
        ("cpu", "a", "a-l"): {1: 0.040},
        ("gpu", "a", "a-s"): {1: 0.010},
        ("gpu", "a", "a-l"): {1: 0.020},
    },
    devices=("cpu", "gpu"),
    demand_qps={"a": 30.0},
    power_w={("cpu", "a-s"): 10.0, ("cpu", "a-l"): 10.0, ("gpu", "a-s"): 100.0, ("gpu", "a-l"): 100.0},
    price={"cpu": 0.1, "gpu": 1.0},
)
"""A GPU is twice as fast as a CPU, and takes five times as much energy and money for a query."""


CASCADED = Tiny(
    accuracy={"a": {"a-s": 0.8, "a-l": 0.9}},
    latency_s={("cpu", "a", "a-s"): {1: 0.005}, ("cpu", "a", "a-l"): {1: 0.025}},
    devices=("cpu", "cpu"),
    demand_qps={"a": 100.0},
    power_w={("cpu", "a-s"): 1.0, ("cpu", "a-l"): 1.0},
    cascades=(CascadeProfile("a", "a-s", "a-l", "digest", (make_cascade_point(0.25, 0.25, 0.89),)),),
    rules=msgspec.structs.replace(PAPER_RULES, cascades=True),
)


def preferring(tiny: Tiny, **rules: Any) -> Tiny:
    return replace(tiny, rules=msgspec.structs.replace(tiny.rules, **rules))


def rates(plan: Plan) -> dict[tuple[str, str], float]:
    return {(p.device, p.variant): round(p.rate_qps, 3) for p in plan.placements if p.rate_qps > 0}


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        ("latency", {("gpu1", "a-s"): 30.0}),
        ("energy", {("cpu0", "a-s"): 30.0}),
        ("cost", {("cpu0", "a-s"): 30.0}),
    ],
)
def test_a_family_gets_what_it_prefers(prefer: str, expected: dict[tuple[str, str], float]) -> None:
    assert rates(preferring(ONE_FAMILY, prefer={"a": prefer}).planned()) == expected


def test_a_family_that_prefers_accuracy_gets_its_most_accurate_variant_on_any_device() -> None:
    """The GPU alone, and both devices together, are equally good plans."""
    found = rates(preferring(ONE_FAMILY, prefer={"a": "accuracy"}).planned())
    assert {variant for _, variant in found} == {"a-l"}
    assert sum(found.values()) == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        ("latency", {("gpu1", "a-s"): 90.0, ("cpu0", "a-s"): 0.0}),
        ("energy", {("cpu0", "a-s"): 50.0, ("gpu1", "a-s"): 40.0}),
    ],
)
def test_the_best_of_what_is_hosted_is_filled_first(prefer: str, expected: dict[tuple[str, str], float]) -> None:
    plan = preferring(replace(ONE_FAMILY, demand_qps={"a": 90.0}), prefer={"a": prefer}).planned()
    assert rates(plan) == {key: qps for key, qps in expected.items() if qps}


@st.composite
def mixes(draw: st.DrawFn) -> Tiny:
    """Families with any mix of preferences, on devices of which power and price are known."""
    tiny = draw(tinies())
    powers = {(kind, variant): float(draw(st.integers(0, 5))) for kind, _, variant in tiny.latency_s}
    prices = {kind: float(draw(st.integers(0, 3))) for kind in TYPES}
    prefer = {family: draw(st.sampled_from(PREFERENCES)) for family in tiny.accuracy}
    return preferring(replace(tiny, power_w=powers, price=prices), prefer=prefer)


@given(mixes(), st.sampled_from(["total", "maxmin"]))
@examples(30, fuzzed=150)
def test_preferences_change_nothing_of_what_is_served(tiny: Tiny, fairness: str) -> None:
    """In all, or to the worst-served family, and so on; and of each family where all can be."""
    tiny = preferring(tiny, fairness=fairness)
    try:
        plan, without = tiny.planned(), preferring(tiny, prefer={}).planned()
    except NoFeasiblePlan:
        return
    served, then = (sum(each.served_qps.values()) for each in (plan, without))
    assert served == pytest.approx(then, rel=1e-5, abs=1e-5)
    asked = [family for family, qps in tiny.demand_qps.items() if qps > 0]
    parts, then_parts = (sorted(p.served_qps[f] / tiny.demand_qps[f] for f in asked) for p in (plan, without))
    if fairness == "maxmin" or served >= sum(tiny.demand_qps.values()) - 1e-5:
        assert parts == pytest.approx(then_parts, rel=1e-5, abs=1e-5)


@given(mixes())
@examples(30, fuzzed=150)
def test_an_answer_is_worth_more_than_half_and_without_preference_its_accuracy(tiny: Tiny) -> None:
    """So to be late, which is worth nothing, never pays; and models of catalogs without policies are as before."""
    all_variants = policy_named("proteus").variants
    instance = make_instance(tiny.catalog, tiny.profiles, all_variants, tiny.rules)
    is_other = np.array([tiny.rules.prefers(choice.key.family) != "accuracy" for choice in instance.choices])
    assert np.all((instance.worth[is_other] >= 0.495) & (instance.worth[is_other] <= 1))
    assert np.array_equal(
        instance.worth[~is_other], np.array([choice.accuracy for choice in instance.choices])[~is_other]
    )


def test_the_bound_of_a_latency_counts_in_place_of_the_slo() -> None:
    """Half of 60 ms is time for batches of 30 ms: not for the large variant on the CPU, which takes 40."""
    plan = preferring(ONE_FAMILY, max_latency_s={"a": 0.06}).planned()
    assert rates(plan) == {("gpu1", "a-l"): 30.0}
    slow = preferring(replace(ONE_FAMILY, devices=("cpu",)), max_latency_s={"a": 0.06}).planned()
    assert {p.variant for p in slow.placements} == {"a-s"}


@pytest.mark.parametrize(
    ("bounds", "allowed"),
    [
        ({"max_energy_j": {"a": 0.4}}, [("cpu", "a-s"), ("cpu", "a-l")]),
        ({"max_energy_j": {"a": 0.3}}, [("cpu", "a-s")]),
        ({"max_energy_j": {"a": 1.0}}, [("cpu", "a-s"), ("cpu", "a-l"), ("gpu", "a-s")]),
        ({"max_cost_per_million": {"a": 0.6}}, [("cpu", "a-s")]),
        ({"max_cost_per_million": {"a": 1.2}}, [("cpu", "a-s"), ("cpu", "a-l")]),
    ],
    ids=["0.4 J", "0.3 J", "1 J", "0.6 a million", "1.2 a million"],
)
def test_what_takes_too_much_is_not_hosted(bounds: dict[str, Any], allowed: list[tuple[str, str]]) -> None:
    """A query takes 0.2 and 0.4 J of the CPU, and 1 and 2 J of the GPU; a million 0.56, 1.11, 2.78 and 5.56."""
    rules = msgspec.structs.replace(ONE_FAMILY.rules, **bounds)
    instance = make_instance(ONE_FAMILY.catalog, ONE_FAMILY.profiles, policy_named("proteus").variants, rules)
    found = {(instance.groups[choice.group].type, choice.key.variant) for choice in instance.choices}
    assert found == set(allowed)


@pytest.mark.parametrize(
    ("rules", "unknown"),
    [
        ({"prefer": {"a": "energy"}}, "power of `a-s` on `cpu`"),
        ({"max_energy_j": {"a": 1.0}}, "power of `a-s` on `cpu`"),
        ({"prefer": {"a": "cost"}}, "price per hour is known of `cpu`, `gpu`"),
        ({"max_cost_per_million": {"a": 1.0}}, "price per hour is known of `cpu`, `gpu`"),
    ],
    ids=str,
)
def test_what_must_be_known_is_named(rules: dict[str, Any], unknown: str) -> None:
    with pytest.raises(UsageError, match=unknown):
        preferring(replace(ONE_FAMILY, power_w={}, price={}), **rules).planned()


@pytest.mark.parametrize(
    ("known", "rules"),
    [
        ({"power_w": {("cpu", "a-s"): 1.0, ("cpu", "a-l"): 1.0}}, {"prefer": {"a": "energy"}}),
        ({"power_w": {("cpu", "a-s"): 1.0, ("cpu", "a-l"): 1.0}}, {"max_energy_j": {"a": 9.0}}),
        ({"price": {"cpu": 1.0}}, {"prefer": {"a": "cost"}}),
        ({"price": {"cpu": 1.0}}, {"max_cost_per_million": {"a": 99.0}}),
    ],
    ids=str,
)
def test_devices_that_do_not_know_what_counts_answer_nothing_of_the_family(
    known: dict[str, Any], rules: dict[str, Any]
) -> None:
    """As one that joined a server may not. Once none is left that knows, there is no plan, as where none is in time."""
    planner = preferring(replace(ONE_FAMILY, **({"power_w": {}, "price": {}} | known)), **rules).planner
    assert {p.device for p in planner({"a": 90.0}).placements} == {"cpu0"}
    with pytest.raises(NoFeasiblePlan):
        planner({"a": 90.0}, None, Outages(frozenset({"cpu0"})))


def test_a_conflict_names_the_bound_of_a_policy_and_no_preference() -> None:
    rules = {"prefer": {"a": "latency"}, "max_energy_j": {"a": 0.3}, "max_latency_s": {"a": 0.1}}
    found = irreducible_conflict(preferring(ONE_FAMILY, **rules).planner, {"a": 60.0})
    assert found == ("a: serve 60 qps", "a: at most 0.3 J for an answer")


def test_an_explanation_says_what_a_preference_costs_in_accuracy() -> None:
    """The small variant answers what the large one could: 0.1 of 0.9."""
    planner = preferring(ONE_FAMILY, prefer={"a": "latency"}).planner
    prices = {price.what: price.accuracy_points for price in explain(planner, planner({"a": 30.0})).prices}
    assert prices["without “a: prefer latency”"] == pytest.approx(100 / 9)


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"max_energy_j": {"a": 0.5}}, "a-s on gpu1 takes 1 J of a query, and may take 0.5 J"),
        ({"max_cost_per_million": {"a": 1.0}}, "a million queries of a-s on gpu1 cost 2.77778, and may cost 1"),
        ({"max_latency_s": {"a": 0.015}}, "a-s on gpu1 has another batch size than its capacity is for"),
    ],
    ids=str,
)
def test_the_check_finds_what_a_plan_takes_too_much_of(rules: dict[str, Any], told: str) -> None:
    plan = preferring(ONE_FAMILY, prefer={"a": "latency"}).planned()
    wrong = msgspec.structs.replace(plan, rules=msgspec.structs.replace(plan.rules, **rules))
    with pytest.raises(PlanCheckError, match=told):
        check_plan(wrong, ONE_FAMILY.catalog, ONE_FAMILY.profiles)


def test_a_family_that_prefers_something_else_has_no_cascades() -> None:
    tiny = CASCADED
    assert tiny.planned().cascades
    for rules in ({"prefer": {"a": "latency"}}, {"max_energy_j": {"a": 9.0}}):
        plan = preferring(tiny, **rules).planned()
        assert not plan.cascades
        wrong = msgspec.structs.replace(tiny.planned(), rules=plan.rules)
        with pytest.raises(PlanCheckError, match="a: its policy leaves it no cascades"):
            check_plan(wrong, tiny.catalog, tiny.profiles)


def test_a_plan_that_is_made_again_prefers_the_same() -> None:
    """The rules are part of the plan, whatever the catalog says by then."""
    plan = preferring(ONE_FAMILY, prefer={"a": "latency"}).planned()
    again = ONE_FAMILY.planner.with_changes(rules=plan.rules)({"a": 30.0}, plan)
    assert (again.rules, again.placements) == (plan.rules, plan.placements)
    assert "a: the least latency" in again.objective
