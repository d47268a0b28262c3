"""From one plan to another, device by device."""

import msgspec
import pytest
from builders import make_cascade_point, make_placement, make_plan

from proteus_cli.cli.plan_diff import BeforeAfter, difference
from proteus_cli.domain.stages.cascade import PlannedCascade

BEFORE = make_plan(
    make_placement("cpu0", "a", "a-l", rate_qps=10.0, share=0.5, capacity_qps=12.0),
    make_placement("cpu1", "a", "a-l", rate_qps=10.0, share=0.5, capacity_qps=12.0),
    demand_qps={"a": 20.0},
    devices=("cpu0", "cpu1", "cpu2"),
)
AFTER = make_plan(
    make_placement("cpu0", "a", "a-s", rate_qps=70.0, share=0.875, capacity_qps=90.0),
    make_placement("cpu1", "a", "a-l", rate_qps=10.0, share=0.125, capacity_qps=12.0),
    make_placement("cpu3", "b", "b-s", rate_qps=5.0, capacity_qps=9.0),
    demand_qps={"a": 80.0, "b": 5.0},
    devices=("cpu0", "cpu1", "cpu3"),
)


def test_each_device_says_what_stays_what_is_loaded_and_what_is_unloaded() -> None:
    found = difference(BEFORE, AFTER)
    assert found.swaps == 2
    said = {
        each.device: [[change.variant for change in group] for group in (each.stays, each.loads, each.unloads)]
        for each in found.devices
    }
    assert said == {
        "cpu0": [[], ["a-s"], ["a-l"]],
        "cpu1": [["a-l"], [], []],
        "cpu3": [[], ["b-s"], []],
        "cpu2": [[], [], []],
    }
    assert [(each.device, each.is_new, each.is_gone) for each in found.devices if each.is_new or each.is_gone] == [
        ("cpu3", True, False), ("cpu2", False, True),
    ]  # fmt: skip
    (stays,) = found.devices[1].stays
    assert (stays.share, stays.rate_qps) == (BeforeAfter(0.5, 0.125), BeforeAfter(10.0, 10.0))


def test_each_family_says_what_is_asked_and_what_its_hosts_can_take() -> None:
    a, b = difference(BEFORE, AFTER).families
    assert (a.demand_qps, a.capacity_qps) == (BeforeAfter(20.0, 80.0), BeforeAfter(24.0, 102.0))
    assert (b.demand_qps, b.capacity_qps) == (BeforeAfter(None, 5.0), BeforeAfter(0.0, 9.0))


def test_each_family_says_which_attainment_the_plans_expect() -> None:
    """A plan that was made for no forecast expects none."""
    after = msgspec.structs.replace(AFTER, expected_attainment={"a": 0.97})
    assert [each.expected_attainment for each in difference(BEFORE, after).families] == [
        BeforeAfter(None, 0.97), BeforeAfter(None, None),
    ]  # fmt: skip


def test_cascades_that_begin_end_or_change_are_listed() -> None:
    """Of thresholds 0.1 and 0.2, the former stays as it was, and 0.2 becomes 0.4; a pair ends and another begins."""
    s, m, large = (make_placement(f"cpu{i}", "a", f"a-{size}") for i, size in enumerate("sml"))

    def cascade(first: str, threshold: float, rate_qps: float) -> PlannedCascade:
        return PlannedCascade("a", first, "a-l", make_cascade_point(threshold, threshold, 0.9), rate_qps, 0.1)

    before = make_plan(s, m, large, cascades=(cascade("a-s", 0.1, 2.0), cascade("a-s", 0.2, 5.0)))
    after = make_plan(
        s, m, large, cascades=(cascade("a-s", 0.4, 5.0), cascade("a-s", 0.1, 2.0), cascade("a-m", 0.5, 4.0))
    )
    changed, begun = difference(before, after).cascades
    assert (changed.first, changed.threshold, changed.rate_qps) == ("a-s", BeforeAfter(0.2, 0.4), BeforeAfter(5.0, 5.0))
    assert changed.deferred_qps == BeforeAfter(1.0, 2.0)
    assert (begun.first, begun.threshold, begun.deferred_qps) == ("a-m", BeforeAfter(None, 0.5), BeforeAfter(None, 2.0))
    assert difference(after, before).cascades[1].rate_qps == BeforeAfter(4.0, None)


@pytest.mark.parametrize("plan", [BEFORE, AFTER])
def test_nothing_changes_from_a_plan_to_itself(plan: object) -> None:
    found = difference(plan, plan)  # type: ignore[arg-type]
    assert found.swaps == 0
    assert all(each.is_same for each in found.devices)


def test_back_again_loads_and_unloads_change_places() -> None:
    there, back = difference(BEFORE, AFTER), difference(AFTER, BEFORE)
    loaded = {(each.device, c.variant) for each in there.devices for c in each.loads}
    assert {(each.device, c.variant) for each in back.devices for c in each.unloads} == loaded
