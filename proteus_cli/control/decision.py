"""The answers of a controller to its driver: to offered requests, decisions for single workers, effects of changes."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import msgspec

from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.request import Request
from proteus_cli.domain.stages.cascade import CascadeProfile, PlannedCascade
from proteus_cli.domain.stages.exits import ExitProfile
from proteus_cli.domain.stages.stage_forecast import first_stage_s
from proteus_cli.errors import EngineError


@dataclass(frozen=True, slots=True, eq=False)
class HostedVariant:
    """A placement as the workers see it: a variant on a device; requests are queued for hosts.

    A batch takes ``mean_latency`` in the mean, and ``latency`` at its p95: seconds by rows. Rates and slowdowns go by
    the mean, deadlines by the p95. ``weight`` is the rate of newcomers that the plan sends it, ``deferred_qps`` the
    rate of deferred queries; ``capacity_qps`` is the highest rate it can serve. The second stage of its cascades needs
    ``second_s`` after it; 0 where it is the first stage of none. ``cascades`` are the profiled cascades that begin
    here, where the plan uses any. While a batch runs, the device draws ``power_w`` for it; None where that is unknown.

    A multi-exit model has ``exits``. Where its rows may be cut short, ``first_exit`` is what its first stage takes at
    the percentile of the family's ``attainment``. ``least_latency`` is the time until each row of a batch has an
    answer: of the first stage there, else of the whole batch. Requests that are due before the end of the whole may be
    admitted and batched by it; waiting, throughput and capacity go by the whole.

    The hosts of a family are ordered by ``rank``, the highest first: by accuracy, or by ``preference_rank`` where the
    family prefers something else (`topology.hosting.ranked`).

    ``others`` are active on the device, too, where that costs its batches anything: all times here are with that cost,
    but ``alone_latency``, the mean without.

    A host ``is_standby`` if it answers only requests that active hosts cannot. The plan sends it nothing.

    ``network`` leads to its device, where that is of another machine: its latencies include the way there and back,
    the stages of its ``exits`` do not.
    """

    device: str
    family: str
    variant: str
    accuracy: float
    max_batch: int
    weight: float
    capacity_qps: float
    latency: LatencyTable
    mean_latency: LatencyTable
    deferred_qps: float = 0.0
    second_s: float = 0.0
    cascades: tuple[CascadeProfile, ...] = ()
    power_w: float | None = None
    exits: tuple[ExitProfile, ...] = ()
    first_exit: LatencyTable | None = None
    attainment: float = DEFAULT_ATTAINMENT
    preference_rank: float | None = None
    others: frozenset[VariantKey] = frozenset()
    alone_latency: LatencyTable | None = None
    is_standby: bool = False
    network: Network | None = None
    key: VariantKey = field(init=False)
    least_latency: LatencyTable = field(init=False)
    rank: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", VariantKey(self.family, self.variant))
        object.__setattr__(self, "rank", self.accuracy if self.preference_rank is None else self.preference_rank)
        object.__setattr__(self, "least_latency", self.latency if self.first_exit is None else self.first_exit)

    @property
    def mean_row_s(self) -> float:
        """Mean seconds for a row of a full batch."""
        return self.mean_latency(self.max_batch) / self.max_batch

    @property
    def cuts(self) -> bool:
        """Rows whose time is short are answered by an exit before their own."""
        return self.first_exit is not None

    def whole(self) -> "HostedVariant":
        """The same host for requests whose rows may not be cut short."""
        return replace(self, first_exit=None)

    def way_s(self, rows: int) -> float:
        """Seconds of a batch on its way to the device and back, as profiled; 0 on this machine."""
        return 0.0 if self.network is None else self.network.transfer_s(self.family, rows)

    def unshared_s(self, rows: int, took_s: float) -> float:
        """The seconds that a batch of ``took_s`` would have taken alone.

        Where others are active, any time between its time alone and its time among them is as profiled. Only time
        beyond that counts.
        """
        if self.alone_latency is None:
            return took_s
        alone_s, among_s = self.alone_latency(rows), self.mean_latency(rows)
        return min(took_s, alone_s) if took_s <= among_s else took_s * alone_s / among_s

    def energy_j(self, rows: int, batch_rows: int) -> float:
        """The mean energy of ``rows`` of a batch on the device; infinite where it is unknown."""
        power_w = math.inf if self.power_w is None else self.power_w
        return power_w * (self.mean_latency(batch_rows) - self.way_s(batch_rows)) * rows / batch_rows

    def least_energy_j(self, rows: int, batch_rows: int) -> float:
        """The energy until each of these rows has an answer: of the first stage alone, where rows may be cut short."""
        if not self.cuts:
            return self.energy_j(rows, batch_rows)
        power_w = math.inf if self.power_w is None else self.power_w
        return power_w * first_stage_s(self.exits, batch_rows) * rows / batch_rows


def keys(hosted: Iterable[HostedVariant]) -> frozenset[VariantKey]:
    """The variants of hosts."""
    return frozenset([host.key for host in hosted])


@dataclass(frozen=True, slots=True)
class FirstStage:
    """The first variant of cascades, with all ``thresholds`` that are known of its confidence, which rise.

    ``ranks``: for each threshold, the fraction of queries with a lower confidence, when it was profiled. The *level* of
    a confidence is how many of the thresholds it reaches.
    """

    key: VariantKey
    thresholds: tuple[float, ...]
    ranks: tuple[float, ...]

    def level_of_rank(self, rank: float) -> int:
        """The level of a query, by the fraction of queries with a lower confidence."""
        return bisect_right(self.ranks, rank)


@dataclass(frozen=True, slots=True)
class CascadeRoute:
    """The way of a request by a cascade: to defer rows of a level up to ``cut``, to a variant of ``min_accuracy``.

    By level, the first variant answers with ``first_accuracy``, and the second with ``second_accuracy``.
    """

    cascade: PlannedCascade
    min_accuracy: float
    stage: FirstStage
    cut: int
    first_accuracy: tuple[float, ...]
    second_accuracy: tuple[float, ...]


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """The request waits; ask the workers of ``devices`` for decisions."""

    devices: tuple[str, ...]


class Refused(msgspec.Struct, frozen=True, gc=False):
    """The plan cannot carry the request in time; another try after ``retry_after_s`` may succeed.

    ``is_lost``: all devices that host the family are lost, or the plan does without the family for that reason.
    """

    retry_after_s: float
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class Unfit:
    """No hosted variant answers as asked; ``available`` has the accuracy of each variant, highest first.

    ``expected`` and ``energy_j`` are empty unless the request has bounds. ``expected`` has the expected accuracy of
    each hosted cascade, as "first → second". ``energy_j`` has the least limit, in joules, with which each variant
    answers the request, on the device where that is least. Variants of unknown power are left out.
    """

    available: Mapping[str, float]
    expected: Mapping[str, float] = field(default_factory=dict)
    energy_j: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TooManyRows:
    """A request has more rows than any variant that a plan could place answers in its time, even alone.

    Hosted variants answer ``max_rows``. For all rows, ``least_timeout_s`` would do.
    """

    max_rows: int
    least_timeout_s: float


@dataclass(frozen=True, slots=True)
class NeverInTime:
    """No variant that a plan could place answers a request in its time, even alone: ``least_timeout_s`` would do."""

    least_timeout_s: float


@dataclass(frozen=True, slots=True)
class OtherPlanNeeded:
    """No hosted variant can answer a request in its time, even alone; another plan could. ``least_timeout_s`` would do.

    Another try after ``retry_after_s`` may succeed, where plans are made.
    """

    least_timeout_s: float
    retry_after_s: float


BeyondHosts = TooManyRows | NeverInTime | OtherPlanNeeded


class Launch(msgspec.Struct, frozen=True, gc=False):
    """Run these requests, ``rows`` together, as one batch; the batch starts at ``at_s``.

    Requests are ordered by priority, then by deadline. A batch that ``is_ahead`` is submitted while another runs, and
    starts when that ends. A worker that is full leaves work to the devices of ``wake``, which have free slots: they are
    asked next. Then the worker asks again.
    """

    hosted: HostedVariant
    requests: tuple[Request, ...]
    rows: int
    at_s: float
    is_ahead: bool = False
    wake: tuple[str, ...] = ()


class WaitUntil(msgspec.Struct, frozen=True, gc=False):
    """Ask again at that time, or when something changes."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Drop:
    """Give these requests up: no loaded variant can answer them in time. Then ask again."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing to do until something changes."""


Decision = Launch | WaitUntil | Drop | Idle
IDLE = Idle()


@dataclass(frozen=True, slots=True)
class Keep:
    """Free all engines of a device but these."""

    device: str
    keys: frozenset[VariantKey]


@dataclass(frozen=True, slots=True)
class FailedLoad:
    """An engine that could not be loaded on a device."""

    device: str
    key: VariantKey
    error: EngineError


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """A step of a plan change: once its batches end, ``device`` frees what it does not keep, and loads ``hosts``.

    It ``keeps`` standbys. The device serves nothing until the driver reports the end of this load.
    """

    device: str
    hosts: tuple[HostedVariant, ...]
    keeps: frozenset[VariantKey] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class StandbyLoad:
    """Load a variant beside what ``device`` keeps.

    The device serves meanwhile. The driver reports the end of the load, which began at ``start_s``.
    """

    device: str
    key: VariantKey
    start_s: float


class ChangeState(StrEnum):
    """The state of a plan change."""

    DONE = "done"
    FAILED = "failed"  # devices keep what they have
    LOADING_BESIDE = "loading beside"  # standbys stay as they are meanwhile
    SWITCHING = "switching"  # all that loads beside has loaded
    LOADING_IN_PLACE = "loading in place"
    GOING_BACK = "going back"


class StandbyEnd(StrEnum):
    """How the load of a standby ended. One that was ``given up`` made way for a plan."""

    LOADED = "loaded"
    FAILED = "failed"
    NO_MEMORY = "no memory"
    GIVEN_UP = "given up"


@dataclass(frozen=True, slots=True)
class Effects:
    """The tasks that a change of the controller's state gives its driver.

    ``dropped``: requests that are given up, because no host may answer them. ``failed``: requests that were running on
    `MAX_RUNS` devices as these were lost, and background requests that ran. ``requeued``: requests that were running on
    a lost device, and wait again. ``keep``: engines that devices keep; all others are to be freed. ``load``: loads in
    place to start. ``beside``: hosts to load beside what serves; where one of them is being loaded as a standby, the
    driver waits for that. ``cancel``: loads of standbys to cancel, before anything else is done. ``standby``: a standby
    to load. ``ask``: workers to ask for a decision, after the rest is done.
    """

    ask: tuple[str, ...] = ()
    dropped: tuple[Request, ...] = ()
    failed: tuple[Request, ...] = ()
    requeued: tuple[Request, ...] = ()
    keep: tuple[Keep, ...] = ()
    load: tuple[Load, ...] = ()
    beside: tuple[HostedVariant, ...] = ()
    cancel: tuple[StandbyLoad, ...] = ()
    standby: StandbyLoad | None = None


NO_EFFECTS = Effects()
