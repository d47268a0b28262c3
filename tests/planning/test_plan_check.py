"""A plan that contradicts its inputs is never handed out, whoever made it."""

import msgspec
import pytest
from builders import make_catalog, make_family, make_measured, make_placement, make_plan, make_profile

from proteus_cli.domain.plan import Plan
from proteus_cli.domain.rules import Rules
from proteus_cli.errors import ProteusError
from proteus_cli.planning.check import PlanCheckError, check_plan

# Within half of 100 ms, both take 4 in 40 ms: 100 qps.
CATALOG = make_catalog(make_family("a", {"s": 0.8, "l": 0.9}))
PROFILES = {
    device: make_profile(device, *(make_measured("a", v, 0.8, {1: 0.02, 4: 0.04, 8: 0.09}) for v in ("s", "l")))
    for device in ("cpu0", "cpu1")
}
SOUND = make_plan(
    make_placement("cpu0", "a", "s", rate_qps=90.0, share=0.6),
    make_placement("cpu1", "a", "l", rate_qps=60.0, share=0.4),
    demand_qps={"a": 170.0},
)


def doctored(index: int, **changes: object) -> Plan:
    """One placement changed, and the totals with it."""
    placements = list(SOUND.placements)
    placements[index] = msgspec.structs.replace(placements[index], **changes)
    return make_plan(*placements, demand_qps=SOUND.demand_qps, devices=("cpu0", "cpu1"))


def refused(plan: Plan) -> str:
    with pytest.raises(PlanCheckError, match="contradicts its inputs") as caught:
        check_plan(plan, CATALOG, PROFILES)
    return str(caught.value)


def test_a_sound_plan_passes() -> None:
    check_plan(SOUND, CATALOG, PROFILES)
    check_plan(make_plan(demand_qps={"a": 5.0}, devices=("cpu0",)), CATALOG, PROFILES)


def test_a_device_that_gets_more_than_it_can_take_is_found() -> None:
    assert "cpu0 gets more than its capacity" in refused(doctored(0, rate_qps=100.01))
    check_plan(doctored(0, rate_qps=100.0), CATALOG, PROFILES)


def test_two_variants_on_a_device_are_found() -> None:
    assert "cpu0 hosts 2 variants" in refused(doctored(1, device="cpu0"))


def test_capacities_that_one_device_has_no_time_for_are_found() -> None:
    """What variants on one device could take is no more than its time, also where nothing of it is planned."""
    rules = Rules(residency=2, slo_fraction=0.5, capacity="p95")
    both = [make_placement("cpu0", "a", v, rate_qps=30.0, share=0.5, capacity_qps=50.0) for v in ("s", "l")]
    sound = msgspec.structs.replace(make_plan(*both), rules=rules)
    check_plan(sound, CATALOG, PROFILES)
    more = msgspec.structs.replace(both[1], capacity_qps=50.1)
    assert "cpu0 has no time for what its variants could take together" in refused(
        msgspec.structs.replace(sound, placements=(both[0], more))
    )


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_shares_that_do_not_add_up_to_one_are_found(share: float) -> None:
    assert "shares don't add up to one" in refused(doctored(0, share=share))


def test_a_variant_that_was_never_profiled_is_found() -> None:
    assert "never profiled on cpu0" in refused(doctored(0, variant="xl"))


def test_a_batch_size_that_the_slo_does_not_allow_is_found() -> None:
    assert "another batch size than its capacity is for" in refused(doctored(0, max_batch=8))


def test_totals_that_do_not_add_up_are_found() -> None:
    lost = msgspec.structs.replace(SOUND, unserved_qps={"a": 0.0})
    assert "served and unserved aren't the demand" in refused(lost)
    more = msgspec.structs.replace(SOUND, served_qps={"a": 160.0}, unserved_qps={"a": 10.0})
    assert "rates don't add up to what is served" in refused(more)


def test_a_contradiction_is_a_bug_of_ours_and_keeps_its_traceback() -> None:
    assert not issubclass(PlanCheckError, ProteusError)
