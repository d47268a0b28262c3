"""Which changes of conditions a server refuses, and that nothing has changed then."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
from builders import hosted, make_catalog, make_family, plan_hosting

from proteus_cli.control.controller import Controller
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.catalog.catalog import Catalog
from proteus_cli.domain.catalog.changes import CatalogContent
from proteus_cli.domain.plan.plan import Plan
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.errors import BodyTooLarge, Conflict, EngineError, Forbidden, NotReady, RequestError, Unprocessable
from proteus_cli.serving.adaptation.catalog.served_catalog import ServedCatalog
from proteus_cli.serving.adaptation.live_conditions import LiveConditions
from proteus_cli.serving.lifecycle import Lifecycle, LifecycleEvent

EXIT = ExitProfile(points=(StagePoint(1, 0.001, 0.001),))


@dataclass
class Loop:
    """Puts plans in force anew, or fails."""

    error: Exception | None = None
    reasons: list[str] = field(default_factory=list)

    async def redeploy(self, change: Callable[[], Plan], reason: str, origin: str) -> None:
        assert isinstance(change(), Plan)
        if self.error is not None:
            raise self.error
        self.reasons.append(f"{origin}: {reason}")


def catalog_of(*, has_exits: bool) -> Catalog:
    family = make_family("a", {"a-s": 0.8})
    if has_exits:
        chain = msgspec.structs.replace(family.variants[0], onnx=None, exits=("1", "2"), stop_when="confidence > 0.5")
        family = msgspec.structs.replace(family, variants=(chain,))
    return make_catalog(family)


def conditions_of(
    loop: Loop, *, device: str = "cpu0", has_exits: bool = True, is_known: bool = True, **how: Any
) -> tuple[LiveConditions, Controller]:
    host = replace(hosted(device, latency_s={1: 0.01}), exits=(EXIT, EXIT) if is_known else ())
    controller = Controller({"a": 0.1}, {device: 1}, policy_named("proteus"))
    controller.adopt(plan_hosting(host, demand_qps={"a": 1.0}, devices=(device,)), (host,), 0.0)
    lifecycle = Lifecycle()
    if how.pop("is_ready", True):
        lifecycle.on(LifecycleEvent.WARMED_UP)
    how = {"is_guarded": True, "is_emulated": False, **how}
    served = ServedCatalog(CatalogContent(catalog_of(has_exits=has_exits), {}))
    return LiveConditions(loop, controller, lifecycle, served, **how), controller  # type: ignore[arg-type]


def change(conditions: LiveConditions, body: bytes = b'{"stop_when": "exit >= 2"}') -> object:
    return asyncio.run(conditions.from_client("a", body))


@pytest.mark.parametrize(
    ("how", "refusal", "said"),
    [
        ({"is_guarded": False}, Forbidden, "--auth-tokens"),
        ({"is_ready": False}, NotReady, ""),
        ({"has_exits": False}, Conflict, "no variant of `a` has exits"),
        ({"is_emulated": True}, Conflict, "devices are emulated"),
        ({"is_known": False}, Conflict, "the profile knows no exits of `a-s`"),
        ({"device": "b/cpu0"}, Conflict, "`b/cpu0` is a device of another machine"),
    ],
)
def test_where_a_condition_would_change_nothing_or_anybody_could_change_it_none_is_taken(
    how: dict[str, Any], refusal: type[RequestError], said: str
) -> None:
    loop = Loop()
    conditions, controller = conditions_of(loop, **how)
    with pytest.raises(refusal) as refused:
        change(conditions)
    assert said in refused.value.message
    assert (controller.stop_when, loop.reasons) == ({}, [])


def test_a_body_that_is_far_too_long_is_not_decoded() -> None:
    conditions, controller = conditions_of(Loop())
    with pytest.raises(BodyTooLarge, match="at most 16,384 bytes; got 30,000"):
        change(conditions, b"[" * 30_000)
    assert controller.stop_when == {}


def test_a_condition_is_taken_and_the_same_one_again_changes_nothing() -> None:
    loop = Loop()
    conditions, controller = conditions_of(loop)
    change(conditions)
    change(conditions, b'{"stop_when": "(exit>=2)"}')
    assert controller.stop_when == {"a": "exit >= 2"}
    assert loop.reasons == ["request: a stops when exit >= 2"]


def test_where_the_plan_can_not_be_put_in_force_the_condition_is_what_it_was() -> None:
    loop = Loop()
    conditions, controller = conditions_of(loop)
    change(conditions)
    loop.error = EngineError("no memory")
    for body in (b'{"stop_when": "exit >= 1"}', b'{"stop_when": null}'):
        with pytest.raises(Unprocessable, match="no memory"):
            change(conditions, body)
        assert controller.stop_when == {"a": "exit >= 2"}
