"""Reasons of plan requests, and the attainment that plans expected."""

import msgspec
import pytest
from builders import make_placement, make_plan, near

from proteus_cli.control.replanning.replanning import DeviceChanged, ExpectedAttainment, told_by_host
from proteus_cli.domain.plan import Plan

B = [f"b/gpu{number}" for number in range(8)]
DEVICES = ["cpu0", "cpu1", "c/cpu0", *B]
LOST, BACK = DeviceChanged.LOST, DeviceChanged.BACK


@pytest.mark.parametrize(
    ("noted", "lost", "text"),
    [
        ([(LOST, "cpu0"), (LOST, "cpu1")], {"cpu0", "cpu1"}, "cpu0 was lost; cpu1 was lost"),
        ([(LOST, "cpu0"), (BACK, "cpu0"), (LOST, "cpu0")], {"cpu0"}, "cpu0 was lost; cpu0 is back"),
        ([("l is broken on cpu0", "")], set(), "l is broken on cpu0"),
        ([(LOST, "c/cpu0")], {"c/cpu0"}, "c/cpu0 was lost"),
        ([(LOST, each) for each in B], set(B), "host b was lost (8 devices)"),
        ([(BACK, each) for each in B], set(), "host b is back (8 devices)"),
        ([(LOST, each) for each in B[1:]], set(B), "host b was lost (7 devices)"),  # one was lost before
        ([(LOST, each) for each in B[:2]], set(B[:2]), "2 of 8 devices of host b were lost"),
        ([(BACK, each) for each in B[:2]], set(B[2:]), "2 of 8 devices of host b are back"),
        ([(DeviceChanged.JOINED, each) for each in B], set(), "host b has joined (8 devices)"),
        ([(DeviceChanged.JOINED, each) for each in B[:2]], set(B[2:]), "2 of 8 devices of host b have joined"),
        ([(LOST, B[0])], {B[0]}, "b/gpu0 was lost"),
        (
            [(LOST, "cpu0"), *((LOST, each) for each in B), ("l is broken on cpu1", ""), (LOST, "c/cpu0")],
            {"cpu0", "c/cpu0", *B},
            "cpu0 was lost; host b was lost (8 devices); l is broken on cpu1; c/cpu0 was lost",
        ),
    ],
)
def test_the_reason_names_hosts_of_which_all_devices_changed(
    noted: list[tuple[DeviceChanged | str, str]], lost: set[str], text: str
) -> None:
    changes = dict.fromkeys((device, what) for what, device in noted)
    assert "; ".join(told for told, _ in told_by_host(changes, DEVICES, lost)) == text


def plan_for(qps: float, share: float | None) -> Plan:
    plan = make_plan(make_placement("cpu0", "a", "v"), demand_qps={"a": qps, "b": 1.0})
    return msgspec.structs.replace(plan, expected_attainment={} if share is None else {"a": share})


def test_plans_count_by_the_queries_that_they_were_for() -> None:
    """10 s at 10 qps, then 20 s at 40 qps; for the 5 s between, the plan expects nothing; nor of b."""
    expected = ExpectedAttainment()
    expected.use(plan_for(10.0, 1.0), 0.0)
    expected.use(plan_for(70.0, None), 10.0)
    expected.use(plan_for(40.0, 0.9), 15.0)
    assert expected.mean(35.0) == {"a": near((100 * 1.0 + 800 * 0.9) / 900)}
    assert expected.counts("a", 40.0) == (near(1100.0), near(100 * 1.0 + 1000 * 0.9))
    assert expected.counts("b", 40.0) == (0.0, 0.0)


def test_nothing_is_expected_without_a_plan_or_time() -> None:
    expected = ExpectedAttainment()
    assert expected.mean(1.0) == {}
    expected.use(plan_for(10.0, 1.0), 1.0)
    assert expected.mean(1.0) == {}
