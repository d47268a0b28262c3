"""Plans that come after a live condition, and place its family where it does not count: who asks is told."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from builders import hosted, plan_hosting
from conditioned import EXIT, Loop, conditions_of, patch_body
from short_forms import parse_condition

from proteus_cli.control.controller import Controller
from proteus_cli.domain.stages.exits import ExitProfile
from proteus_cli.serving.adaptation.conditions import FamilyConditions, LiveConditions


def moved_to(controller: Controller, device: str, **how: Any) -> None:
    """A plan that hosts the family here and there comes into force."""
    here, there = (
        replace(hosted(each, latency_s={1: 0.01}), **{"exits": (EXIT, EXIT), "power_w": 5.0, **changed})
        for each, changed in (("cpu0", {}), (device, how))
    )
    controller.adopt(plan_hosting(here, there, demand_qps={"a": 1.0}, devices=("cpu0", device)), (here, there), 0.0)


def change(conditions: LiveConditions, stop_when: str | None) -> FamilyConditions:
    return asyncio.run(conditions.from_client("a", patch_body(stop_when)))


@pytest.mark.parametrize(
    ("device", "how", "why"),
    [
        ("b/cpu0", {}, None),
        ("cpu1", {"exits": ()}, "the profile knows no exits of `a-s`: run `proteus profile`"),
        ("cpu1", {"power_w": None}, "the profile of `a-s` on `cpu1` has no power, so its energy is not known"),
        ("cpu1", {}, None),
    ],
)
def test_where_a_later_plan_has_a_live_condition_not_count_is_told(
    device: str, how: dict[str, Any], why: str | None
) -> None:
    stop_when = "exit >= 2 or energy >= 1"
    conditions, controller = conditions_of(Loop(), power_w=5.0, later_devices=[device])
    assert change(conditions, stop_when).exceptions == ()
    moved_to(controller, device, **how)
    told = conditions.of("a")
    assert (told.stop_when, told.variants) == (parse_condition(stop_when), {"a-s": parse_condition(stop_when)})
    assert [(each.variant, each.device, each.why) for each in told.exceptions] == (
        [("a-s", device, why)] if why else []
    )
    assert change(conditions, stop_when if why is None else None).exceptions == (), "it can be taken back"
    assert (controller.dispatch.stop_when == {}) == (why is not None)


def test_accuracies_that_a_device_does_not_know_are_told() -> None:
    judged = (ExitProfile(0.5, 0.9, 0.4, EXIT.points), ExitProfile(0.5, 0.7, None, EXIT.points))
    conditions, controller = conditions_of(Loop(), exits=judged, later_devices=["cpu1"])
    change(conditions, "accuracy >= 0.9")
    moved_to(controller, "cpu1")
    assert [each.device for each in conditions.of("a").exceptions] == ["cpu0", "cpu1"]
