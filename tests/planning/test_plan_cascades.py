"""Plans that use cascades: what they say, when a cascade counts, and what a plan without them is spared."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from builders import make_cascade_point, make_catalog, make_family, make_measured, make_profile, near

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.demand import Forecast, LossCurve
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rules import PAPER_RULES, DeviceVariant, Rules
from proteus_cli.domain.stages.cascade import CascadeProfile
from proteus_cli.errors import NoFeasiblePlan, RulesConflict
from proteus_cli.planning.check import PlanCheckError, check_plan
from proteus_cli.planning.planner import Planner

CATALOG = make_catalog(make_family("a", {"s": 0.8, "l": 0.9}, slo="1s"))
POINT = make_cascade_point(0.5, 0.2, 0.88)
KNOWN = (CascadeProfile("a", "s", "l", "digest", (POINT,)),)
RULES = msgspec.structs.replace(PAPER_RULES, cascades=True)


def profile(
    device: str, accuracy: Mapping[str, float] | None = None, cascades: tuple[CascadeProfile, ...] = KNOWN
) -> Profile:
    """``s`` answers 100 qps in batches of 4, ``l`` 8 in batches of 1, or 10 of 4, which take 400 ms."""
    of = {"s": 0.8, "l": 0.9} | dict(accuracy or {})
    measured = (
        make_measured("a", "s", of["s"], {1: 0.02, 4: 0.04}),
        make_measured("a", "l", of["l"], {1: 0.125, 4: 0.4}),
    )
    return msgspec.structs.replace(make_profile(device, *measured, device_type=device), cascades=cascades)


def planned(*profiles: Profile, qps: float = 40.0, rules: Rules = RULES) -> Plan:
    by_device = {each.device.id: each for each in profiles}
    return Planner(CATALOG, by_device, policy_named("proteus"), headroom=1.0, inputs={}, rules=rules)({"a": qps})


SOUND = planned(profile("x"), profile("y"))


def test_what_goes_through_a_cascade_is_counted_at_both_stages() -> None:
    """40 qps go first to `s`, a fifth of them then to `l`, whose batches of 1 fit the half of the SLO that is left."""
    first, second = SOUND.placements
    assert (first.variant, first.rate_qps, first.deferred_qps) == ("s", near(40.0), 0.0)
    assert (second.variant, second.rate_qps, second.deferred_qps) == ("l", 0.0, near(8.0))
    (cascade,) = SOUND.cascades
    assert (cascade.first, cascade.second, cascade.point) == ("s", "l", POINT)
    assert (cascade.rate_qps, cascade.share) == (near(40.0), near(1.0))
    assert SOUND.effective_accuracy == pytest.approx(0.88)
    assert msgspec.json.decode(msgspec.json.encode(SOUND), type=Plan) == SOUND
    again = planned(profile("x"), profile("y"))
    assert (again.placements, again.cascades) == (SOUND.placements, SOUND.cascades)


def test_queries_are_mixed_where_a_second_stage_has_capacity_left() -> None:
    """What `l` can answer beside a fifth of those, it answers alone: 0.2 · 21.25 + 3.75 = 8 of 25 qps."""
    plan = planned(profile("x"), profile("y"), qps=25.0)
    second = plan.placements[1]
    assert plan.cascades[0].rate_qps == pytest.approx(21.25)
    assert (second.rate_qps, second.deferred_qps) == (near(3.75), near(4.25))
    assert plan.effective_accuracy == pytest.approx(0.88 + 0.02 * 3.75 / 25)


def expecting(accuracy: float, **others: Any) -> Rules:
    return msgspec.structs.replace(RULES, min_expected_accuracy={"a": accuracy}, **others)


def test_answers_may_be_expected_to_be_more_accurate_than_the_first_stage() -> None:
    """`s` alone is too inaccurate, the cascade and `l` are not: what these can't answer is not served."""
    plan = planned(profile("x"), profile("y"), qps=60.0, rules=expecting(0.85))
    assert sum(cascade.rate_qps for cascade in plan.cascades) == near(plan.served_qps["a"]) == near(40.0)
    assert plan.unserved_qps["a"] == near(20.0)
    free = planned(profile("x"), profile("y"), qps=60.0)
    assert (free.served_qps["a"], free.effective_accuracy) == (near(60.0), near(0.8 + 0.08 * 2 / 3))


@pytest.mark.parametrize("rules", [expecting(0.89), expecting(0.85, cascades=False), expecting(0.85, survive=1)])
def test_without_a_cascade_that_is_accurate_enough_only_such_variants_are_hosted(rules: Rules) -> None:
    plan = planned(profile("x"), profile("y"), qps=60.0, rules=rules)
    assert {placement.variant for placement in plan.placements} == {"l"}
    assert not plan.cascades


def test_a_second_stage_is_accurate_enough_by_itself() -> None:
    """It gets queries that no first stage has time for."""
    better = (CascadeProfile("a", "s", "l", "digest", (make_cascade_point(0.5, 0.2, 0.92),)),)
    with pytest.raises(NoFeasiblePlan):
        planned(profile("x", cascades=better), profile("y", cascades=better), rules=expecting(0.91))


def test_a_spare_answers_by_itself() -> None:
    """Without a demand to be as accurate as, it would be the fastest variant."""
    by_device, policy = {"x": profile("x")}, policy_named("proteus")
    for rules, variant in ((RULES, "s"), (expecting(0.85), "l")):
        planner = Planner(CATALOG, by_device, policy, headroom=1.0, inputs={}, rules=rules, spares=True)
        assert [placement.variant for placement in planner({"a": 0.0}).placements] == [variant]


def test_a_variant_that_is_too_inaccurate_by_itself_cannot_be_pinned() -> None:
    pin = (DeviceVariant("x", "a", "s"),)
    with pytest.raises(RulesConflict):
        planned(profile("x"), profile("y"), rules=expecting(0.85, pinned=pin))


def test_without_the_rule_no_plan_has_cascades() -> None:
    plan = planned(profile("x"), profile("y"), rules=PAPER_RULES)
    plain = planned(profile("x", cascades=()), profile("y", cascades=()), rules=PAPER_RULES)
    assert plan.placements == plain.placements
    assert not plan.cascades


def test_a_cascade_counts_only_if_all_devices_that_may_host_its_first_variant_know_it() -> None:
    other = (CascadeProfile("a", "s", "l", "digest", (make_cascade_point(0.6, 0.2, 0.88),)),)
    for unlike in ((), other):
        assert not planned(profile("x"), profile("y", cascades=unlike)).cascades


def test_the_lowest_accuracy_of_any_device_counts() -> None:
    lower = (CascadeProfile("a", "s", "l", "digest", (make_cascade_point(0.5, 0.2, 0.87),)),)
    plan = planned(profile("x"), profile("y", {"s": 0.79}, lower))
    assert [cascade.point.accuracy for cascade in plan.cascades] == [0.87]
    assert plan.effective_accuracy == pytest.approx(0.87)


def test_a_forecast_is_planned_for_with_cascades() -> None:
    """What goes through the cascade is all that its second stage allows; the first one has capacity for bursts."""
    steady = LossCurve((0.0, 1.0, 1.1), (1.0, 0.05, 0.0))
    planner = Planner(
        CATALOG, {d: profile(d) for d in "xy"}, policy_named("proteus"), headroom=1.0, inputs={}, rules=RULES
    )
    plan = planner(Forecast({"a": 40.0}, {"a": steady}))
    assert [cascade.rate_qps for cascade in plan.cascades] == [pytest.approx(40.0)]
    assert planner(Forecast({"a": 40.0}, {"a": steady}), plan).hosts_as(plan)


def doctored(second: Mapping[str, float], rules: Rules = RULES, **cascade: object) -> Plan:
    """Fields of the second placement and of the cascade changed."""
    placements = (SOUND.placements[0], msgspec.structs.replace(SOUND.placements[1], **second))
    changed = (msgspec.structs.replace(SOUND.cascades[0], **cascade),)
    return msgspec.structs.replace(SOUND, placements=placements, cascades=changed, rules=rules, effective_accuracy=None)


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [
        (doctored({"deferred_qps": 7.0}), "l is to answer another rate than is deferred to it"),
        (doctored({"deferred_qps": 10.0}, rate_qps=50.0, share=1.0), "l on y gets more than its capacity"),
        (doctored({}, share=0.5), "another share than its rate"),
        (doctored({}, point=make_cascade_point(0.5, 0.2, 0.89)), "isn't as good on each device"),
        (doctored({}, point=make_cascade_point(0.4, 0.2, 0.88)), "isn't as good on each device"),
        (doctored({"max_batch": 4, "capacity_qps": 10.0}), "take longer than the SLO together"),
        (msgspec.structs.replace(SOUND, effective_accuracy=0.8801), "isn't that of its placements and cascades"),
        (doctored({"max_batch": 4, "capacity_qps": 10.0}, rules=PAPER_RULES), "the rules allow no cascades"),
        (doctored({}, rules=expecting(0.885)), "s → l is less accurate than the rules allow to expect"),
        (
            doctored({"deferred_qps": 6.0}, rules=expecting(0.85), rate_qps=30.0, share=0.75),
            "s answers by itself, and is less accurate than",
        ),
    ],
)
def test_a_plan_whose_cascades_contradict_its_inputs_is_found(plan: Plan, complaint: str) -> None:
    with pytest.raises(PlanCheckError, match=complaint):
        check_plan(plan, CATALOG, {device: profile(device) for device in "xy"})


def test_more_through_a_cascade_than_its_first_variant_gets_is_found() -> None:
    half = msgspec.structs.replace(SOUND.placements[0], rate_qps=20.0, share=0.5)
    alone = (Placement(device, "a", "l", 4, 10.0, 0.25, 10.0) for device in "vw")
    placements = (half, SOUND.placements[1], *alone)
    plan = msgspec.structs.replace(SOUND, placements=placements, fleet={"x": tuple("vwxy")})
    with pytest.raises(PlanCheckError, match="more queries go through cascades of s than it gets"):
        check_plan(plan, CATALOG, {device: profile(device) for device in "vwxy"})
