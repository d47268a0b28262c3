"""Which changes of conditions a server refuses, and that nothing has changed then."""

import asyncio
from typing import Any

import pytest
from conditioned import EXIT, Loop, conditions_of, patch_body
from short_forms import parse_condition

from proteus_cli.domain.stages.exits import ExitProfile
from proteus_cli.errors import (
    BodyTooLarge,
    Conflict,
    EngineError,
    NotReady,
    RequestError,
    Unprocessable,
)
from proteus_cli.serving.adaptation.conditions import LiveConditions

JUDGED = (ExitProfile(0.5, 0.9, 0.4, EXIT.points), ExitProfile(0.5, 0.7, None, EXIT.points))


def change(conditions: LiveConditions, body: bytes = patch_body("exit >= 2")) -> object:
    return asyncio.run(conditions.from_client("a", body))


@pytest.mark.parametrize(
    ("how", "refusal", "said"),
    [
        ({"is_ready": False}, NotReady, ""),
        ({"has_exits": False}, Conflict, "no variant of `a` has exits"),
        ({"is_emulated": True}, Conflict, "devices are emulated"),
        ({"is_known": False}, Conflict, "the profile knows no exits of `a-s`"),
    ],
)
def test_where_a_condition_would_change_nothing_none_is_taken(
    how: dict[str, Any], refusal: type[RequestError], said: str
) -> None:
    loop = Loop()
    conditions, controller = conditions_of(loop, **how)
    with pytest.raises(refusal) as refused:
        change(conditions)
    assert said in refused.value.message
    assert (controller.dispatch.stop_when, loop.reasons) == ({}, [])


def test_a_body_that_is_far_too_long_is_not_decoded() -> None:
    conditions, controller = conditions_of(Loop())
    with pytest.raises(BodyTooLarge, match="at most 16,384 bytes; got 30,000"):
        change(conditions, b"[" * 30_000)
    assert controller.dispatch.stop_when == {}


def test_a_condition_is_taken_and_the_same_one_again_changes_nothing() -> None:
    loop = Loop()
    conditions, controller = conditions_of(loop)
    change(conditions)
    change(conditions, patch_body("exit >= 2.0"))
    assert controller.dispatch.stop_when == {"a": parse_condition("exit >= 2")}
    assert loop.reasons == ["request: a stops when exit >= 2"]


def test_where_the_plan_can_not_be_put_in_force_the_condition_is_what_it_was() -> None:
    loop = Loop()
    conditions, controller = conditions_of(loop)
    change(conditions)
    loop.error = EngineError("no memory")
    for body in (patch_body("exit >= 1"), patch_body(None)):
        with pytest.raises(Unprocessable, match="no memory"):
            change(conditions, body)
        assert controller.dispatch.stop_when == {"a": parse_condition("exit >= 2")}


def changed(stop_when: str, **how: Any) -> str:
    conditions, controller = conditions_of(Loop(), **how)
    change(conditions, patch_body(stop_when))
    return str(controller.dispatch.stop_when["a"])


def test_a_condition_may_compare_all_that_is_known_of_a_query() -> None:
    example = "confidence >= 0.8 or latency >= 0.03 and exit >= 2"
    assert changed(example) == "confidence >= 0.8 or (latency >= 0.03 and exit >= 2)"
    assert changed("latency >= 0.03 or computation > 0.5") == "latency >= 0.03 or computation > 0.5"
    assert changed("energy >= 2 and accuracy >= 0.9", power_w=5.0, exits=JUDGED) == "energy >= 2 and accuracy >= 0.9"


@pytest.mark.parametrize(
    ("stop_when", "said"),
    [
        ("energy >= 2", "the profile of `a-s` on `cpu0` has no power"),
        ("exit >= 2 or accuracy > 0.5", "the profile of `a-s` on `cpu0` knows no accuracy of its exits"),
    ],
)
def test_metrics_that_no_profile_knows_are_refused(stop_when: str, said: str) -> None:
    with pytest.raises(Conflict) as refused:
        changed(stop_when)
    assert said in refused.value.message
