"""The documents of ``/v2/proteus/status``, as they are sent; REST makes its OpenAPI schemas from them."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from proteus_cli.control.devices.breaker import BreakerState
from proteus_cli.control.devices.slowness import Estimate
from proteus_cli.domain.attainment import Attainment
from proteus_cli.domain.base import Count, Fraction
from proteus_cli.domain.catalog import Preference
from proteus_cli.domain.plan import Placement
from proteus_cli.domain.plan_record import Origin
from proteus_cli.serving.adaptation.control_loop import FailedChange
from proteus_cli.serving.adaptation.plan_journal import PlanChange
from proteus_cli.serving.adaptation.solver import SolverState
from proteus_cli.serving.lifecycle import ServerState, TaskErrors
from proteus_cli.serving.telemetry.hosts import HostStatus
from proteus_cli.serving.telemetry.slots import SlotsStatus
from proteus_cli.serving.telemetry.stages import CascadeStatus, ExitsStatus


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


class ExpectedQueries(Struct, frozen=True):
    """The queries that plans were made for, in the time in which each was in force; of those that expect anything."""

    queries: Annotated[float, Meta(ge=0)]
    in_time: Annotated[float, Meta(ge=0, description="How many of these were expected to be in time.")]


class FamilyStatus(Struct, frozen=True):
    """A family. Violations, effective accuracy and p99 are of the last 10 s, and null where nothing ended in them."""

    demand_qps: Annotated[float, Meta(description="Over the last second.")]
    demand_windows_qps: Annotated[Mapping[str, float], Meta(description="By length of the window.")]
    planned_qps: Annotated[float, Meta(description="The demand that the plan in force is made for.")]
    capacity_qps: Annotated[float, Meta(description="The most that the plan carries.")]
    throughput_qps: Annotated[float, Meta(description="Rows that batches answered per second, over the last 5 s.")]
    outcomes: Annotated[Mapping[str, Count], Meta(description="Requests by outcome, since the start.")]
    violations: Annotated[Fraction | None, Meta(description="SLO violations among the requests that ended.")]
    effective_accuracy: Fraction | None
    best_accuracy: Fraction | None
    slo_s: float
    prefers: Annotated[Preference, Meta(description="What plans aim for once all demand is served.")]
    p99_s: float | None
    attainment: Annotated[Attainment, Meta(description="Since the start.")]
    recent_attainment: Annotated[Attainment, Meta(description="Over the last 15 minutes.")]
    expected_attainment: Annotated[
        Fraction | None,
        Meta(description="With what the plan hosts, if arrivals stay as they were. Null: it expects nothing."),
    ]
    expected: Annotated[ExpectedQueries, Meta(description="Since the start.")]
    waiting: Annotated[Count, Meta(description="Requests in the queues.")]
    loaded: Annotated[bool, Meta(description="False: it was unloaded, or leaves, and takes no requests.")]
    cascades: Annotated[Sequence[CascadeStatus], Meta(description="Of the plan in force.")]
    exits: Annotated[Sequence[ExitsStatus], Meta(description="Of the multi-exit models that the plan in force hosts.")]
    stop_when: Annotated[str | None, Meta(description="The live condition of its multi-exit variants; null: none.")]
    shifts: FamilyShifts


class DeviceStatus(Struct, frozen=True):
    """A device that may be planned on."""

    host: Annotated[str, Meta(description="The host of the cluster that has it; empty: this machine.")]
    type: str
    kind: str
    variants: Annotated[Sequence[str], Meta(description="Active: what the plan has it host.")]
    warm: Annotated[Sequence[str], Meta(description="Standbys: loaded, so that plans can activate them at once.")]
    cold: Annotated[Sequence[str], Meta(description="Neither active nor warm: to activate them takes a load.")]
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
    background_errors: Annotated[
        Mapping[str, TaskErrors],
        Meta(description="Unexpected errors of background tasks, which were started again, by task."),
    ]
