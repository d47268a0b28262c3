"""``/proteus/status``: what runs, what is asked for, and how the plan changed."""

from dataclasses import asdict
from typing import Any

from proteus_cli.control.demand import DemandEstimator
from proteus_cli.domain.request import Outcome
from proteus_cli.serving.adaptation import Adaptation
from proteus_cli.serving.dataplane import DataPlane
from proteus_cli.serving.fleet import Fleet

DEMAND_WINDOW_S = 1.0


def status(plane: DataPlane, fleet: Fleet, adaptation: Adaptation | None) -> dict[str, Any]:
    """A JSON document for people and for `proteus replay`."""
    controller = plane.controller
    return {
        "state": plane.lifecycle.state.value,
        "policy": controller.policy.name,
        "emulated": plane.is_emulated,
        "inside": plane.inside,
        "demand_qps": _demand(controller.demand, plane.clock()),
        "planned_qps": controller.plan.demand_qps,
        "slo_s": plane.slo_s,
        "best_accuracy": plane.best_accuracy,
        "placements": controller.placements,
        "pace": {device: controller.pace_of(device) for device in controller.plan.devices},
        "devices": {device: _device(fleet, device, plane.clock()) for device in fleet.lanes},
        "broken": [
            {"device": device, "family": family, "variant": variant, "reason": breaker.reason}
            for (device, (family, variant)), breaker in fleet.broken.items()
            if not breaker.is_closed
        ],
        "outcomes": {
            family: {outcome.value: counts.of_outcome(outcome) for outcome in Outcome}
            for family, counts in plane.counts.items()
        },
        "changes": [asdict(change) for change in adaptation.changes] if adaptation is not None else [],
    }


def _device(fleet: Fleet, device: str, now_s: float) -> dict[str, Any]:
    """``since_s``: how long the breaker has been as it is."""
    breaker, lane = fleet.breakers[device], fleet.lanes[device]
    return {
        "breaker": breaker.state.value,
        "reason": breaker.reason,
        "since_s": now_s - breaker.since_s,
        "losses": breaker.opened,
        "pid": lane.executor.pid,
        "variants": sorted(variant for _, variant in fleet.loader.loaded(device)),
    }


def _demand(demand: DemandEstimator, now_s: float) -> dict[str, float]:
    return {family: demand.rate_qps(family, DEMAND_WINDOW_S, now_s) for family in demand.families}
