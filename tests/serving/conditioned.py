"""Live conditions on a controller and a catalog, without a server."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import msgspec
from builders import hosted, make_catalog, make_family, plan_hosting
from short_forms import parse_condition

from proteus_cli.control.controller import Controller
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.catalog_changes import CatalogContent
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.serving.adaptation.catalog_reading import ServedCatalog
from proteus_cli.serving.adaptation.conditions import KeptConditions, LiveConditions
from proteus_cli.serving.lifecycle import Lifecycle, LifecycleEvent

EXIT = ExitProfile(points=(StagePoint(1, 0.001, 0.001),))


def patch_body(stop_when: str | None) -> bytes:
    """The body of a request that sets a live condition."""
    return msgspec.json.encode({"stop_when": parse_condition(stop_when) if stop_when is not None else None})


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
        chain = msgspec.structs.replace(
            family.variants[0], onnx=None, exits=("1", "2"), stop_when=parse_condition("confidence > 0.5")
        )
        family = msgspec.structs.replace(family, variants=(chain,))
    return make_catalog(family)


def conditions_of(
    loop: Loop,
    *,
    device: str = "cpu0",
    has_exits: bool = True,
    is_known: bool = True,
    exits: tuple[ExitProfile, ...] = (EXIT, EXIT),
    power_w: float | None = None,
    later_devices: Sequence[str] = (),
    **how: Any,
) -> tuple[LiveConditions, Controller]:
    """Of a family `a` with one variant, hosted on ``device``; later plans may place it on others, too."""
    host = replace(hosted(device, latency_s={1: 0.01}), exits=exits if is_known else (), power_w=power_w)
    controller = Controller({"a": 0.1}, dict.fromkeys((device, *later_devices), 1), policy_named("proteus"))
    controller.adopt(plan_hosting(host, demand_qps={"a": 1.0}, devices=(device,)), (host,), 0.0)
    lifecycle = Lifecycle()
    if how.pop("is_ready", True):
        lifecycle.on(LifecycleEvent.WARMED_UP)
    plane: Any = SimpleNamespace(controller=controller, lifecycle=lifecycle, is_emulated=how.pop("is_emulated", False))
    served = ServedCatalog(CatalogContent(catalog_of(has_exits=has_exits), {}))
    how = {"kept": KeptConditions(None), **how}
    return LiveConditions(plane, loop, served, **how), controller  # type: ignore[arg-type]
