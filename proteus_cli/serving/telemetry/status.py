"""``/v2/proteus/status``: what runs, what is asked for, how the plan changed, and what went wrong."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from proteus_cli.domain.device import Device
from proteus_cli.domain.request import Outcome
from proteus_cli.serving.adaptation.control_loop import SEEN_WINDOWS_S, ControlLoop, hosts
from proteus_cli.serving.adaptation.plan_journal import PlanJournal
from proteus_cli.serving.adaptation.recalibration import Recalibration
from proteus_cli.serving.adaptation.solver_process import SolverState
from proteus_cli.serving.fleet.deploy import Fleet
from proteus_cli.serving.requests.dataplane import DataPlane
from proteus_cli.serving.telemetry.sampler import MetricsSampler

DEMAND_WINDOW_S = 1.0
LAST_FAILURES = 10


@dataclass(frozen=True, slots=True)
class StatusSources:
    """What the status is of. ``replan`` is as asked for. What is None isn't there, or isn't wanted."""

    plane: DataPlane
    fleet: Fleet
    adaptation: ControlLoop
    devices: Mapping[str, Device]
    samples: MetricsSampler
    replan: str
    solver: SolverState | None = None
    history: PlanJournal | None = None
    reprofiling: Recalibration | None = None


def status(server: StatusSources) -> dict[str, Any]:
    """A JSON document for people, for the page at ``/`` and for `proteus replay`."""
    plane, controller = server.plane, server.plane.controller
    adaptation = server.adaptation
    families = _families(server)
    return {
        "state": plane.lifecycle.state.value,
        "policy": controller.policy.name,
        "replan": server.replan,
        "emulated": plane.is_emulated,
        "inside": plane.inside,
        "demand_qps": {family: of["demand_qps"] for family, of in families.items()},
        "planned_qps": controller.plan.demand_qps,
        "slo_s": plane.slo_s,
        "best_accuracy": plane.best_accuracy,
        "placements": controller.placements,
        "pace": {device: controller.slowdown_of(device) for device in controller.plan.devices},
        "outcomes": {family: of["outcomes"] for family, of in families.items()},
        "changes": [asdict(change) for change in adaptation.changes],
        "plan": _plan(server),
        "failures": {
            "total": dict(adaptation.totals.failed),
            "last": [asdict(failure) for failure in list(adaptation.failures)[-LAST_FAILURES:]],
            "pause_s": max(0.0, adaptation.backoff.until_s - plane.clock()),
        },
        "solver": asdict(server.solver) if server.solver is not None else None,
        "history": _history(server.history),
        "drift": _drift(server.reprofiling),
        "families": families,
        "devices": _devices(server),
        "broken": [
            {"device": device, "family": family, "variant": variant, "reason": breaker.reason}
            for (device, (family, variant)), breaker in server.fleet.broken.items()
            if not breaker.is_closed
        ],
    }


def _plan(server: StatusSources) -> dict[str, Any]:
    """The plan in force; ``held_s``: so long it is left alone, as a person asked for it."""
    adaptation, plan = server.adaptation, server.plane.controller.plan
    return {
        "id": server.history.current if server.history is not None else None,
        "since_unix_s": adaptation.totals.unix_s,
        "origin": adaptation.origin,
        "reason": adaptation.reason,
        "held_s": max(0.0, adaptation.held_until_s - server.plane.clock()),
        "objective": plan.objective,
        "headroom": plan.headroom,
        "effective_accuracy": plan.effective_accuracy,
        "relative_accuracy": plan.relative_accuracy,
        "unserved_qps": plan.unserved_qps,
    }


def _families(server: StatusSources) -> dict[str, dict[str, Any]]:
    plane, now_s, lately = server.plane, server.plane.clock(), server.samples.now.families
    controller = plane.controller
    found = {}
    for family, counts in plane.counts.items():
        rates = controller.demand.rates_qps(family, SEEN_WINDOWS_S, now_s)
        windows = {f"{window_s:g}s": qps for window_s, qps in zip(SEEN_WINDOWS_S, rates, strict=True)}
        found[family] = {
            "demand_qps": windows[f"{DEMAND_WINDOW_S:g}s"],
            "demand_windows_qps": windows,
            "planned_qps": controller.plan.demand_qps.get(family, 0.0),
            "capacity_qps": controller.plan.capacity_qps(family),
            "throughput_qps": lately[family].throughput_qps,
            "outcomes": {outcome.value: counts.of_outcome(outcome) for outcome in Outcome},
            "violations": lately[family].violations,
            "effective_accuracy": counts.effective_accuracy(now_s),
            "best_accuracy": plane.best_accuracy.get(family),
            "slo_s": plane.slo_s[family],
            "p99_s": lately[family].p99_s,
            "waiting": controller.waiting_of(family),
            "loaded": family not in plane.unloaded,
        }
    return found


def _devices(server: StatusSources) -> dict[str, dict[str, Any]]:
    """Each device that may be planned on; ``breaker_s``: how long its breaker has been as it is."""
    controller, now_s, breakers = server.plane.controller, server.plane.clock(), server.fleet.breakers
    hosted = hosts(controller.plan)
    return {
        device: {
            "type": server.devices[device].type,
            "kind": server.devices[device].kind,
            "variants": hosted.get(device, []),
            "pace": controller.slowdown_of(device),
            "busy_s": lane.busy_s,
            "breaker": breakers[device].state,
            "breaker_s": now_s - breakers[device].since_s,
            "reason": breakers[device].reason,
            "losses": breakers[device].opened,
            "pid": lane.executor.pid,
        }
        for device, lane in server.fleet.workers.items()
    }


def _history(history: PlanJournal | None) -> dict[str, Any] | None:
    if history is None:
        return None
    return {
        "directory": str(history.directory),
        "written": history.written,
        "failed": history.failed,
        "problem": history.problem,
    }


def _drift(reprofiling: Recalibration | None) -> dict[str, Any] | None:
    """``points`` are off now; ``last`` were corrected."""
    if reprofiling is None:
        return None
    return {
        "after_s": reprofiling.drift.after_s,
        "recording": reprofiling.is_recording,
        "problem": reprofiling.problem,
        "points": [
            {"device": device, "family": family, "variant": variant, **asdict(estimate)}
            for (device, family, variant), estimates in reprofiling.drift.off().items()
            for estimate in estimates
        ],
        "corrections": reprofiling.corrections,
        "last": [{"unix_s": made.unix_s, **asdict(made.correction)} for made in reprofiling.made],
    }
