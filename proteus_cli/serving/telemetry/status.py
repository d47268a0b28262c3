"""``/v2/proteus/status``: what runs, what is asked for, how the plan changed, and what went wrong.

The Structs are what is sent; REST makes its OpenAPI schemas from them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Struct

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import CascadeRoute
from proteus_cli.control.devices.breaker import BreakerState
from proteus_cli.control.devices.drift import Estimate
from proteus_cli.control.shift import ShiftWatch
from proteus_cli.domain.attainment import Attainment
from proteus_cli.domain.catalog.family_policy import Preference
from proteus_cli.domain.device import host_of
from proteus_cli.domain.plan.plan import Placement
from proteus_cli.domain.plan_changes.record import Origin
from proteus_cli.domain.profile.profile import Profile
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import printable
from proteus_cli.serving.adaptation.control_loop import SEEN_WINDOWS_S, ControlLoop, FailedChange, PlanChange, hosts
from proteus_cli.serving.adaptation.feedback import Feedback
from proteus_cli.serving.adaptation.plan_journal import PlanJournal
from proteus_cli.serving.adaptation.recalibration import Recalibration
from proteus_cli.serving.adaptation.rollouts.version_rollouts import VersionRollouts
from proteus_cli.serving.adaptation.shifts.shifts import Shifts
from proteus_cli.serving.adaptation.solver.process import SolverState
from proteus_cli.serving.devices.remote.links.link_state import LinkState
from proteus_cli.serving.lifecycle import ServerState
from proteus_cli.serving.oip.documents import Count, Fraction
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.telemetry.history.sampler import MetricsSampler
from proteus_cli.serving.telemetry.hosts import HostStatus, host_statuses
from proteus_cli.serving.telemetry.slots import SlotsStatus, slots_status

DEMAND_WINDOW_S = 1.0
LAST_FAILURES = 10


class CheckStatus(Struct, frozen=True):
    """Sure answers of a first stage, since the start, that one more accurate variant checked."""

    by: Annotated[str, Meta(description="The variant that checks.")]
    checked: Count
    disagreed: Annotated[Count, Meta(description="It gave another class.")]
    expected: Annotated[
        tuple[Fraction, Fraction] | None,
        Meta(description="The part that is expected to disagree, from and to; null: the profile does not tell."),
    ]
    drifts: Annotated[bool, Meta(description="More disagree, by more than chance.")]


class CascadeStatus(Struct, frozen=True):
    """A cascade of the plan in force, at one threshold: what its first stage was to defer, and what it does."""

    first: str
    second: str
    threshold: float
    rate_qps: Annotated[float, Meta(description="Planned for this way.")]
    planned: Annotated[Fraction, Meta(description="The part of it that the plan counts on to be deferred.")]
    observed: Annotated[Fraction | None, Meta(description="The part below the threshold, of the last rows.")]
    rows: Annotated[Count, Meta(description="So many they are.")]
    checks: Annotated[CheckStatus | None, Meta(description="Null: no sure answer was checked yet.")]


class ShiftStatus(Struct, frozen=True):
    """Rows of requests or answers, compared with the eval split."""

    rows: Annotated[Count, Meta(description="Compared so far, some of those that came.")]
    reference_rows: Annotated[Count, Meta(description="Of the eval split.")]
    ratio: Annotated[float, Meta(ge=0, description="Distance of the last rows, over that which raises the alarm.")]
    value: Annotated[str, Meta(description="The number of a row that differs most.")]
    shifted: Annotated[bool, Meta(description="They are no longer distributed alike, by more than chance.")]


class FamilyShifts(Struct, frozen=True):
    """What of a family is compared with its eval split. It changes no plan."""

    inputs: Annotated[ShiftStatus | None, Meta(description="Null: not watched, or not yet.")]
    confidence: Annotated[Mapping[str, ShiftStatus], Meta(description="By variant, of its whole plain answers.")]


class FamilyStatus(Struct, frozen=True):
    """A family. Violations, effective accuracy and p99 are of the last 10 s, and null where nothing ended in them."""

    demand_qps: Annotated[float, Meta(description="Over the last second.")]
    demand_windows_qps: Annotated[Mapping[str, float], Meta(description="By length of the window.")]
    planned_qps: Annotated[float, Meta(description="The demand that the plan in force is made for.")]
    capacity_qps: Annotated[float, Meta(description="The most that the plan carries.")]
    throughput_qps: Annotated[float, Meta(description="Answers per second over the last 5 s.")]
    outcomes: Annotated[Mapping[str, Count], Meta(description="Requests by outcome, since the start.")]
    violations: Annotated[Fraction | None, Meta(description="SLO violations among the requests that ended.")]
    effective_accuracy: Fraction | None
    best_accuracy: Fraction | None
    slo_s: float
    prefers: Annotated[Preference, Meta(description="What plans aim for once all demand is served.")]
    p99_s: float | None
    attainment: Annotated[Attainment, Meta(description="Since the start.")]
    recent_attainment: Annotated[Attainment, Meta(description="Over the last 15 minutes.")]
    waiting: Annotated[Count, Meta(description="Requests in the queues.")]
    loaded: Annotated[bool, Meta(description="False: it was unloaded, or leaves, and takes no requests.")]
    cascades: Annotated[Sequence[CascadeStatus], Meta(description="Of the plan in force.")]
    stop_when: Annotated[str | None, Meta(description="The live condition of its multi-exit variants; null: none.")]
    shifts: FamilyShifts


class DeviceStatus(Struct, frozen=True):
    """A device that may be planned on."""

    host: Annotated[str, Meta(description="The host of the cluster that has it; empty: this machine.")]
    type: str
    kind: str
    variants: Annotated[Sequence[str], Meta(description="Active: what the plan has it host.")]
    warm: Annotated[Sequence[str], Meta(description="Standbys: loaded, so that plans can activate them at once.")]
    pace: Annotated[float, Meta(description="The slowdown: batch times over profiled ones.")]
    busy_s: Annotated[float, Meta(description="Seconds in which batches ran, since the start.")]
    breaker: BreakerState
    breaker_s: Annotated[float, Meta(description="Seconds since the breaker last changed.")]
    reason: Annotated[str | None, Meta(description="Why the breaker is not closed.")]
    losses: Annotated[Count, Meta(description="How often the device was lost.")]
    servers: Annotated[Count, Meta(description="That have the device open, this one included; each has its part.")]
    pid: Annotated[int | None, Meta(description="The device's own process; null: it has none.")]
    slots: Annotated[
        SlotsStatus | None, Meta(description="Null: it has one slot, or always uses all of them (`--fixed-slots`).")
    ]


class PlanStatus(Struct, frozen=True):
    """The plan in force."""

    id: Annotated[str | None, Meta(description="Its name in plans/history/.")]
    since_unix_s: float
    origin: Origin
    reason: str
    held_s: Annotated[float, Meta(description="Seconds for which it is not replaced, as a person asked for it.")]
    objective: str
    headroom: float
    effective_accuracy: float | None
    relative_accuracy: float | None
    unserved_qps: Mapping[str, float]


class FailureStatus(Struct, frozen=True):
    """Changes of plan that failed."""

    total: Annotated[Mapping[str, Count], Meta(description="By cause, since the start.")]
    last: Sequence[FailedChange]
    pause_s: Annotated[float, Meta(description="Seconds until the same change is tried again.")]


class JournalStatus(Struct, frozen=True):
    """Where plans are recorded, how many writes succeeded and failed, and the problem as long as there is one."""

    directory: str
    written: Count
    failed: Count
    problem: str | None


class DriftPoint(Struct, frozen=True):
    """A batch size whose measured times are off now: by which factor, over how many batches."""

    device: str
    family: str
    variant: str
    batch: int
    ratio: float
    batches: int


class AppliedCorrectionStatus(Struct, frozen=True):
    """A correction of a profile."""

    unix_s: float
    device: str
    family: str
    variant: str
    estimates: Sequence[Estimate]


class DriftStatus(Struct, frozen=True):
    """What differs between measured and profiled times, and what was corrected."""

    after_s: Annotated[float, Meta(description="Seconds after which a difference counts as lasting.")]
    recording: Annotated[bool, Meta(description="Corrections are written to the workspace.")]
    problem: str | None
    points: Sequence[DriftPoint]
    corrections: Count
    last: Sequence[AppliedCorrectionStatus]


class BrokenEngine(Struct, frozen=True):
    """A variant that plans do without on a device: it cannot be loaded there, or fails on everything."""

    device: str
    family: str
    variant: str
    reason: str | None


class ServerStatus(Struct, frozen=True):
    """The server: what runs, what is asked for, how the plan changed, and what went wrong.

    `demand_qps` to `outcomes` repeat what `families` and `devices` have, column by column.
    """

    state: ServerState
    policy: str
    replan: Annotated[str, Meta(description="`off`, `auto`, or `period=10s`.")]
    emulated: Annotated[bool, Meta(description="The devices are emulated: no time here is a measurement.")]
    inside: Annotated[Count, Meta(description="Requests that wait or run.")]
    demand_qps: Annotated[Mapping[str, float], Meta(description="Over the last second, by family.")]
    planned_qps: Annotated[Mapping[str, float], Meta(description="What the plan in force is for, by family.")]
    slo_s: Annotated[Mapping[str, float], Meta(description="By family.")]
    attainment_target: Annotated[Mapping[str, Fraction], Meta(description="By family.")]
    best_accuracy: Annotated[Mapping[str, Fraction], Meta(description="Of the best variant, by family.")]
    estimated: Annotated[
        Sequence[str], Meta(description="Families with accuracies that are estimates, without labels.")
    ]
    placements: Annotated[Sequence[Placement], Meta(description="What the plan in force hosts.")]
    pace: Annotated[Mapping[str, float], Meta(description="The slowdown by device.")]
    outcomes: Annotated[Mapping[str, Mapping[str, Count]], Meta(description="Requests by family and outcome.")]
    changes: Annotated[Sequence[PlanChange], Meta(description="Changes of plan so far.")]
    plan: PlanStatus
    failures: FailureStatus
    solver: Annotated[SolverState | None, Meta(description="Null: nothing re-plans.")]
    history: Annotated[JournalStatus | None, Meta(description="Null: plans are not recorded.")]
    drift: Annotated[DriftStatus | None, Meta(description="Null: profiles are not compared with measured times.")]
    families: Mapping[str, FamilyStatus]
    devices: Mapping[str, DeviceStatus]
    hosts: Annotated[Mapping[str, HostStatus], Meta(description="Of the cluster; empty without one.")]
    broken: Sequence[BrokenEngine]


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
            for (device, (family, variant)), breaker in sources.plane.fleet.engines.breakers.items()
            if not breaker.is_closed
        ],
    )


def _plan(sources: StatusSources) -> PlanStatus:
    control_loop, plan = sources.control_loop, sources.plane.controller.plan
    return PlanStatus(
        id=sources.journal.current if sources.journal is not None else None,
        since_unix_s=control_loop.totals.unix_s,
        origin=control_loop.origin,
        reason=control_loop.reason,
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
            waiting=controller.waiting_of(family),
            loaded=served.is_loaded,
            cascades=_cascades(controller, family),
            stop_when=controller.stop_when.get(family),
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


def _cascades(controller: Controller, family: str) -> list[CascadeStatus]:
    watches = controller.cascades.watches
    return [
        CascadeStatus(
            first=route.cascade.first,
            second=route.cascade.second,
            threshold=route.cascade.point.threshold,
            rate_qps=route.cascade.rate_qps,
            planned=route.cascade.point.deferred_frac,
            observed=watches[route.stage.key].observed(route.cut),
            rows=watches[route.stage.key].rows,
            checks=_checks(controller, route),
        )
        for route in controller.cascades.in_use
        if route.cascade.family == family
    ]


def _checks(controller: Controller, route: CascadeRoute) -> CheckStatus | None:
    watch, checker = controller.cascades.disagreement(route), route.checker
    if watch is None or checker is None:
        return None
    return CheckStatus(checker.key.variant, watch.checked, watch.disagreed, checker.expected, watch.drifts)


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
            warm=sorted(key.variant for key in controller.standbys.get(device, ())),
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
