"""The state of the server as Structs. The status, the page's history and the terminal show it.

REST makes its OpenAPI schemas from these Structs. Null is a number that is not known.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from msgspec import Struct

from proteus_cli.control.devices.breaker import BreakerState
from proteus_cli.control.devices.slowness import Estimate
from proteus_cli.domain.attainment import Attainment
from proteus_cli.domain.base import Amount, Count, Fraction
from proteus_cli.domain.catalog import Preference
from proteus_cli.domain.plan import Placement
from proteus_cli.domain.plan_record import Origin
from proteus_cli.domain.rollouts import RolloutStatus
from proteus_cli.serving.adaptation.control_loop import FailedChange
from proteus_cli.serving.adaptation.plan_journal import PlanChange
from proteus_cli.serving.adaptation.solver import SolverState
from proteus_cli.serving.lifecycle import ServerState as LifecycleState
from proteus_cli.serving.lifecycle import TaskErrors


class CascadeStatus(Struct, frozen=True):
    """A cascade of the plan in force, at one threshold.

    The plan sends it ``rate_qps``, and counts on the fraction ``planned`` to be deferred, which is ``deferred_qps``.
    The fraction ``observed`` is below the threshold, of the ``rows`` since the first stage has its thresholds.
    """

    first: str
    second: str
    threshold: float
    rate_qps: float
    planned: Fraction
    deferred_qps: float
    observed: Fraction | None
    rows: Count


class ExitsStatus(Struct, frozen=True):
    """A multi-exit model that the plan in force hosts.

    ``shares`` are the fractions of rows that each exit answered when it was profiled. Where the model ``cuts``, answers
    are cut short for want of time.
    """

    variant: str
    shares: Sequence[Fraction | None]
    cuts: bool


class ShiftStatus(Struct, frozen=True):
    """Rows of requests or answers, compared with the eval split.

    ``rows`` were compared so far, with ``reference_rows`` of the eval split. ``ratio`` is the distance of the last rows
    over the distance that raises the alarm, and ``value`` the number of a row that differs most. ``shifted``: they are
    no longer distributed alike, by more than chance.
    """

    rows: Count
    reference_rows: Count
    ratio: Amount
    value: str
    shifted: bool


class FamilyShifts(Struct, frozen=True):
    """Comparisons of a family with its eval split, which change no plan.

    ``inputs`` is null where they are not watched, or not yet. ``confidence`` is by variant, over its plain answers.
    """

    inputs: ShiftStatus | None
    confidence: Mapping[str, ShiftStatus]


class ExpectedQueries(Struct, frozen=True):
    """The ``queries`` that plans with an expectation were made for, and those expected ``in_time``, since the start."""

    queries: Amount
    in_time: Amount


class FamilyState(Struct, frozen=True):
    """A family. Rates are means over the last 5 s, ``violations``, ``accuracy`` and fractions of answers as well.

    ``demand_qps``, ``throughput_qps`` and ``goodput_qps`` count rows: rows that arrived, rows that batches answered
    (deferred ones once), and rows of requests answered in time. ``demand_windows_qps`` is the demand by length of the
    window. The plan in force is made for ``planned_qps``, and carries ``capacity_qps`` at most.

    ``violations`` is the fraction of ended requests that violated the SLO; ``outcomes`` counts all since the start.
    ``accuracy`` is the mean over answered requests, ``effective_accuracy`` the mean over 10 s, and
    ``relative_accuracy`` is relative to ``best_accuracy``. ``estimated``: some accuracies are estimates, without
    labels. ``variants`` has the accuracies, the most accurate variant first. ``p99_s`` is over 10 s, estimated from a
    histogram of answered requests.

    First stages of cascades deferred the fraction ``deferred`` of the answered requests, and multi-exit models cut the
    fraction ``cut`` short. ``fallbacks`` is the fraction of deferred requests that got the first answer.

    ``attainment`` is since the start, ``recent_attainment`` over the last 15 minutes, and ``expected_attainment`` what
    the plan in force expects if arrivals stay as they were. ``prefers`` is the aim of plans once all demand is served.
    A family that is not ``loaded`` takes no requests. ``waiting`` requests are in the queues. ``stop_when`` is the live
    condition of its multi-exit variants. ``shifted``: one of its ``shifts`` is.
    """

    slo_s: float
    prefers: Preference
    loaded: bool
    estimated: bool
    variants: Mapping[str, Fraction]
    best_accuracy: Fraction | None
    demand_qps: float
    demand_windows_qps: Mapping[str, float]
    planned_qps: float
    capacity_qps: float
    throughput_qps: float
    goodput_qps: float
    outcomes: Mapping[str, Count]
    violations: Fraction | None
    accuracy: Fraction | None
    effective_accuracy: Fraction | None
    relative_accuracy: float | None
    p99_s: float | None
    waiting: Count
    deferred: Fraction | None
    fallbacks: Fraction | None
    cut: Fraction | None
    attainment: Attainment
    recent_attainment: Attainment
    expected_attainment: Fraction | None
    expected: ExpectedQueries
    cascades: Sequence[CascadeStatus]
    exits: Sequence[ExitsStatus]
    stop_when: str | None
    shifts: FamilyShifts
    shifted: bool


class SlotLevel(Struct, frozen=True):
    """The ``throughput`` with ``running`` batches, relative to the profile, and its standard ``error``."""

    running: Count
    throughput: float
    error: float


class SlotScatter(Struct, frozen=True):
    """The last windows of batches, a column each: slots used, and means of batches running, throughput and time."""

    slots: Sequence[int]
    running: Sequence[float]
    throughput: Sequence[float]
    service_s: Sequence[float]


class SlotChangeStatus(Struct, frozen=True):
    """A change of the number of slots in use."""

    ago_s: float
    slots: Count
    reason: str


class SlotsStatus(Struct, frozen=True):
    """The slots of a device that has several: how many batches it runs at once.

    The device was ``opened`` with the slots of its profile, and no more are ever used. It may run ``used`` batches now,
    ``settled`` apart from a trial, and runs ``busy``. ``knee`` is the least number with the most throughput of the
    known ``levels``. ``changes`` of the settled number and ``trials`` of another count since the start, ``last`` are
    the last changes. The estimate began anew ``begun_anew`` times, because plan, host or neighbour changed, or because
    it did not hold.
    """

    opened: Count
    used: Count
    settled: Count
    busy: Count
    knee: Count | None
    levels: Sequence[SlotLevel]
    scatter: SlotScatter
    changes: Count
    last: Sequence[SlotChangeStatus]
    trials: Count
    begun_anew: Count


class DeviceState(Struct, frozen=True):
    """A device that may be planned on. Variants have their `variant_labels`.

    ``host`` is its host in the cluster, empty for this machine. The plan has it host ``variants``. Variants
    that are ``warm`` are loaded as standbys; ``cold`` is the number of others that it could load. Plans do without
    ``broken`` variants, each listed with its reason.

    ``load`` is the fraction of the last 5 s in which batches ran; a batch counts when it ends. ``mean_batch`` is their
    mean number of rows, ``busy_s`` the total since the start, and ``pace`` batch times relative to the profile.

    The ``breaker`` has its state for ``breaker_s``, for a ``reason`` if it is not closed. A lost device is opened again
    in ``retry_s``, and was lost ``losses`` times. It is shared by ``servers`` servers, this one included. ``pid`` is
    its own process. ``slots`` is null where all are always used, and, in the history, for all but six devices.
    """

    host: str
    type: str
    kind: str
    variants: tuple[str, ...]
    warm: Sequence[str]
    cold: Count
    broken: Mapping[str, str]
    load: float
    mean_batch: float | None
    busy_s: float
    pace: float
    breaker: BreakerState
    breaker_s: float
    reason: str
    retry_s: float | None
    losses: Count
    servers: Count
    pid: int | None
    slots: SlotsStatus | None


class HostState(StrEnum):
    """Whether a host can be used."""

    CONNECTED = "connected"
    LOST = "lost"


class HostStatus(Struct, frozen=True):
    """A host of the cluster. An emulated host has no agent, and is lost with its last device.

    It has its ``state`` for ``state_s``, for a ``reason`` if it is lost. ``address`` is the address of its agent,
    ``round_trip_s`` the shortest round trip of the last seconds. ``working`` counts the ``devices`` with a closed
    breaker. At most ``servers`` servers share one, this one included. ``losses`` and bytes count since the start. A
    host that is not ``listed`` was taken out of the list of hosts.
    """

    state: HostState
    state_s: float | None
    reason: str
    address: str | None
    devices: Count
    working: Count
    servers: Count
    losses: Count | None
    round_trip_s: float | None
    bytes_sent: Count | None
    bytes_received: Count | None
    listed: bool = True


class Flows(Struct, frozen=True):
    """The plan in force in columns: the rate that each placement is planned to answer, and that it answers in time.

    A query that a first stage of a cascade defers is planned for the second stage, and in ``deferred_qps`` there.
    """

    device: Sequence[str]
    family: Sequence[str]
    variant: Sequence[str]
    accuracy: Sequence[Fraction]
    planned_qps: Sequence[float]
    deferred_qps: Sequence[float]
    answered_qps: Sequence[float]


class ServerEventKind(StrEnum):
    """The subject of an event."""

    PLAN = "plan"
    DEVICE = "device"


class ServerEvent(Struct, frozen=True):
    """A change of plan or of a device, ``at_s`` seconds after the server was ready, told for people."""

    at_s: float
    kind: ServerEventKind
    text: str
    reason: str = ""


class ServerState(Struct, frozen=True):
    """The server now.

    ``emulated``: the devices are emulated, and no time here is a measurement. ``inside`` requests wait or run.
    ``unix_s`` is the time of day, and ``uptime_s`` the time since the server was ready. ``rollouts`` has the last
    version roll-out of each family that had one. Without a cluster there are no ``hosts``.
    """

    version: str
    state: LifecycleState
    policy: str
    emulated: bool
    inside: Count
    unix_s: float
    uptime_s: float
    families: Mapping[str, FamilyState]
    devices: Mapping[str, DeviceState]
    hosts: Mapping[str, HostStatus]
    rollouts: Sequence[RolloutStatus]
    flows: Flows
    events: Sequence[ServerEvent]


Column = Sequence[float | None]


class Samples(Struct, frozen=True):
    """Samples of the last 15 minutes, oldest first, taken at ``at_s`` seconds of uptime: a value each in each column.

    ``families`` and ``devices`` have columns by name: ``demand_qps``, ``throughput_qps``, ``goodput_qps``,
    ``late_qps``, ``dropped_qps``, ``rejected_qps``, ``failed_qps``, ``accuracy``, ``p99_s`` and ``waiting``; ``load``
    and ``mean_batch``. ``variants`` has by family and variant the requests answered in time, per second.
    """

    at_s: Sequence[float]
    families: Mapping[str, Mapping[str, Column]]
    devices: Mapping[str, Mapping[str, Column]]
    variants: Mapping[str, Mapping[str, Column]]


class History(ServerState, frozen=True, kw_only=True):
    """The state now, and the samples and events after the cursor of the request.

    ``server`` names this run of the server: after a restart samples begin anew. ``cursor`` is for `since`. An answer
    that is not ``complete`` has as many samples as fit: ask for the rest at once.
    """

    server: str
    cursor: str
    complete: bool
    every_s: float
    keeps_s: float
    samples: Samples


class PlanStatus(Struct, frozen=True):
    """The plan in force: its ``id`` in plans/history/, and for ``held_s`` it is not replaced: a person asked for it."""

    id: str | None
    since_unix_s: float
    origin: Origin
    reason: str
    held_s: float
    objective: str
    headroom: float
    effective_accuracy: float | None
    relative_accuracy: float | None
    unserved_qps: Mapping[str, float]


class FailureStatus(Struct, frozen=True):
    """Changes of plan that failed, by cause since the start; the same change is tried again after ``pause_s``."""

    total: Mapping[str, Count]
    last: Sequence[FailedChange]
    pause_s: float


class JournalStatus(Struct, frozen=True):
    """The directory of recorded plans, writes that succeeded and failed, and the problem while there is one."""

    directory: str
    written: Count
    failed: Count
    problem: str | None


class DriftPoint(Struct, frozen=True):
    """A batch size whose times differ from the profile by ``ratio``, over a number of ``batches``."""

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
    """Differences between measured and profiled times, and corrections.

    A difference counts as lasting ``after_s``. ``recording``: corrections are written to the workspace.
    """

    after_s: float
    recording: bool
    problem: str | None
    points: Sequence[DriftPoint]
    corrections: Count
    last: Sequence[AppliedCorrectionStatus]


class ServerStatus(ServerState, frozen=True, kw_only=True):
    """The server now, how its plan changed, and what went wrong. Columns up to ``pace`` repeat families and devices.

    ``replan`` is `off`, `auto`, or `period=10s`. ``solver`` is null where nothing re-plans, ``history`` where plans are
    not recorded, and ``drift`` where profiles are not compared with measured times. ``background_errors`` are
    unexpected errors of background tasks, which were started again.
    """

    planned_qps: Mapping[str, float]
    slo_s: Mapping[str, float]
    attainment_target: Mapping[str, Fraction]
    best_accuracy: Mapping[str, Fraction]
    estimated: Sequence[str]
    outcomes: Mapping[str, Mapping[str, Count]]
    pace: Mapping[str, float]
    replan: str
    placements: Sequence[Placement]
    changes: Sequence[PlanChange]
    plan: PlanStatus
    failures: FailureStatus
    solver: SolverState | None
    history: JournalStatus | None
    drift: DriftStatus | None
    background_errors: Mapping[str, TaskErrors]
