"""``/v2/proteus/status``: what runs, what is asked for, how the plan changed, and what went wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from proteus_cli.control.alarms import ShiftWatch
from proteus_cli.domain.device import host_of
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import printable
from proteus_cli.serving.adaptation.control_loop import SEEN_WINDOWS_S, ControlLoop, hosts
from proteus_cli.serving.adaptation.feedback import Feedback
from proteus_cli.serving.adaptation.plan_journal import PlanJournal
from proteus_cli.serving.adaptation.recalibration import Recalibration
from proteus_cli.serving.adaptation.rollouts import VersionRollouts
from proteus_cli.serving.adaptation.shifts import Shifts
from proteus_cli.serving.adaptation.solver import SolverState
from proteus_cli.serving.devices.remote.links.link_state import LinkState
from proteus_cli.serving.lifecycle import task_errors
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.telemetry.cold_variants import cold_on
from proteus_cli.serving.telemetry.history.sampler import MetricsSampler
from proteus_cli.serving.telemetry.hosts import HostStatus, host_statuses
from proteus_cli.serving.telemetry.slots import slots_status
from proteus_cli.serving.telemetry.stages import cascades_of, exits_of
from proteus_cli.serving.telemetry.status_documents import (
    AppliedCorrectionStatus,
    BrokenEngine,
    DeviceStatus,
    DriftPoint,
    DriftStatus,
    ExpectedQueries,
    FailureStatus,
    FamilyShifts,
    FamilyStatus,
    JournalStatus,
    PlanStatus,
    ServerStatus,
    ShiftStatus,
)

DEMAND_WINDOW_S = 1.0
LAST_FAILURES = 10


@dataclass(frozen=True, slots=True)
class StatusSources:
    """What the status and the metrics are read from. ``replan`` is the option. None: the server has no such part.

    ``links`` says how the hosts of a cluster are reached.
    """

    plane: DataPlane
    control_loop: ControlLoop
    profiles: Mapping[str, Profile]
    sampler: MetricsSampler
    replan: str
    solver: SolverState | None = None
    journal: PlanJournal | None = None
    recalibration: Recalibration | None = None
    links: Callable[[], Mapping[str, LinkState]] = dict
    feedback: Feedback | None = None
    shifts: Shifts | None = None
    rollouts: VersionRollouts | None = None

    def hosts(self) -> dict[str, HostStatus]:
        return host_statuses(self.plane.fleet, self.links(), self.plane.clock())


def status(sources: StatusSources) -> ServerStatus:
    """The status now; for people, and for `proteus replay`."""
    plane, controller, control_loop = sources.plane, sources.plane.controller, sources.control_loop
    families = _families(sources)
    return ServerStatus(
        state=plane.lifecycle.state,
        policy=controller.policy.name,
        replan=sources.replan,
        emulated=plane.is_emulated,
        inside=plane.results.in_flight_count,
        demand_qps={name: family.demand_qps for name, family in families.items()},
        planned_qps=controller.plan.demand_qps,
        slo_s={name: family.slo_s for name, family in plane.families.by_name.items()},
        attainment_target={name: family.attainment.target for name, family in families.items()},
        best_accuracy={
            name: family.best_accuracy
            for name, family in plane.families.by_name.items()
            if family.best_accuracy is not None
        },
        estimated=[name for name, family in plane.families.by_name.items() if family.estimated],
        placements=controller.placements,
        pace={device: controller.slowdown_of(device) for device in controller.plan.devices},
        outcomes={name: family.outcomes for name, family in families.items()},
        changes=list(control_loop.changes),
        plan=_plan(sources),
        failures=FailureStatus(
            total=dict(control_loop.totals.failed),
            last=list(control_loop.failures)[-LAST_FAILURES:],
            pause_s=max(0.0, controller.replanning.backoff.until_s - plane.clock()),
        ),
        solver=sources.solver,
        history=_journal(sources.journal),
        drift=_drift(sources.recalibration),
        families=families,
        devices=_devices(sources),
        hosts=sources.hosts(),
        broken=[
            BrokenEngine(device, family, variant, breaker.reason)
            for (device, (family, variant)), breaker in sources.plane.fleet.broken_engines.breakers.items()
            if not breaker.is_closed
        ],
        background_errors=task_errors,
    )


def _plan(sources: StatusSources) -> PlanStatus:
    control_loop, plan = sources.control_loop, sources.plane.controller.plan
    return PlanStatus(
        id=sources.journal.current if sources.journal is not None else None,
        since_unix_s=control_loop.latest.unix_s,
        origin=control_loop.latest.origin,
        reason=control_loop.latest.reason,
        held_s=max(0.0, sources.plane.controller.replanning.held_until_s - sources.plane.clock()),
        objective=plan.objective,
        headroom=plan.headroom,
        effective_accuracy=plan.effective_accuracy,
        relative_accuracy=plan.relative_accuracy,
        unserved_qps=plan.unserved_qps,
    )


def _families(sources: StatusSources) -> dict[str, FamilyStatus]:
    plane, now_s, lately = sources.plane, sources.plane.clock(), sources.sampler.now.families
    controller = plane.controller
    found = {}
    for family, counts in plane.counts.by_family.items():
        served = plane.families.by_name[family]
        rates = controller.demand.rates_qps(family, SEEN_WINDOWS_S, now_s)
        windows = {f"{window_s:g}s": qps for window_s, qps in zip(SEEN_WINDOWS_S, rates, strict=True)}
        found[family] = FamilyStatus(
            demand_qps=windows[f"{DEMAND_WINDOW_S:g}s"],
            demand_windows_qps=windows,
            planned_qps=controller.plan.demand_qps.get(family, 0.0),
            capacity_qps=controller.plan.capacity_qps(family),
            throughput_qps=lately[family].throughput_qps,
            outcomes={outcome.value: counts.of_outcome(outcome) for outcome in Outcome},
            violations=lately[family].violations,
            effective_accuracy=counts.effective_accuracy(now_s),
            best_accuracy=served.best_accuracy,
            slo_s=served.slo_s,
            prefers=controller.plan.rules.prefers(family),
            p99_s=lately[family].p99_s,
            attainment=counts.attainment(plane.families.attainment_target(family)),
            recent_attainment=lately[family].recent_attainment,
            expected_attainment=controller.plan.expected_attainment.get(family),
            expected=ExpectedQueries(*controller.expected.counts(family, now_s)),
            waiting=controller.families[family].waiting,
            loaded=served.is_loaded,
            cascades=cascades_of(controller, family),
            exits=exits_of(controller, family),
            stop_when=str(live) if (live := controller.dispatch.stop_when.get(family)) else None,
            shifts=_shifts(sources.shifts, family),
        )
    return found


def _shifts(shifts: Shifts | None, family: str) -> FamilyShifts:
    if shifts is None:
        return FamilyShifts(None, {})
    inputs = shifts.inputs.get(family)
    return FamilyShifts(
        _shift(inputs) if inputs is not None else None,
        {
            key.variant: _shift(watch)
            for key, watch in shifts.confidence.items()
            if key.family == family and watch is not None
        },
    )


def _shift(watch: ShiftWatch) -> ShiftStatus:
    return ShiftStatus(watch.rows, watch.reference_rows, watch.ratio, watch.largest, watch.is_shifted)


def _devices(sources: StatusSources) -> dict[str, DeviceStatus]:
    controller, now_s, breakers = sources.plane.controller, sources.plane.clock(), sources.plane.fleet.breakers
    tuners = sources.plane.fleet.tuners
    hosted = hosts(controller.plan)
    return {
        device: DeviceStatus(
            host=host_of(device),
            type=sources.profiles[device].device.type,
            kind=sources.profiles[device].device.kind,
            variants=hosted.get(device, []),
            warm=sorted(key.variant for key in controller.change.standbys.get(device, ())),
            cold=sorted(key.variant for key in cold_on(device, sources.plane.fleet.loader, controller)),
            pace=controller.slowdown_of(device),
            busy_s=worker.busy_s,
            breaker=breakers[device].state,
            breaker_s=now_s - breakers[device].since_s,
            reason=breakers[device].reason,
            losses=breakers[device].opened,
            servers=worker.servers,
            pid=worker.executor.pid,
            slots=slots_status(tuners[device], now_s) if device in tuners else None,
        )
        for device, worker in sources.plane.fleet.workers.items()
    }


def _journal(journal: PlanJournal | None) -> JournalStatus | None:
    if journal is None:
        return None
    return JournalStatus(printable(str(journal.directory)), journal.written, journal.failed, journal.problem)


def _drift(recalibration: Recalibration | None) -> DriftStatus | None:
    if recalibration is None:
        return None
    return DriftStatus(
        after_s=recalibration.drift.after_s,
        recording=recalibration.is_recording,
        problem=recalibration.problem,
        points=[
            DriftPoint(device, family, variant, estimate.batch, estimate.ratio, estimate.batches)
            for (device, family, variant), estimates in recalibration.drift.off().items()
            for estimate in estimates
        ],
        corrections=recalibration.corrections,
        last=[
            AppliedCorrectionStatus(
                made.unix_s, made.correction.device, made.correction.family, made.correction.variant,
                made.correction.estimates,
            )
            for made in recalibration.made
        ],
    )  # fmt: skip
