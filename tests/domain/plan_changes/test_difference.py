"""From one plan to another, device by device."""

import pytest
from builders import make_placement, make_plan

from proteus_cli.domain.plan_changes.difference import BeforeAfter, difference

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


@pytest.mark.parametrize("plan", [BEFORE, AFTER])
def test_nothing_changes_from_a_plan_to_itself(plan: object) -> None:
    found = difference(plan, plan)  # type: ignore[arg-type]
    assert found.swaps == 0
    assert all(each.is_same for each in found.devices)


def test_back_again_loads_and_unloads_change_places() -> None:
    there, back = difference(BEFORE, AFTER), difference(AFTER, BEFORE)
    loaded = {(each.device, c.variant) for each in there.devices for c in each.loads}
    assert {(each.device, c.variant) for each in back.devices for c in each.unloads} == loaded
