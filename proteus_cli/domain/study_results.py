"""The time from nothing to the first answer (`proteus study startup`).

The peak of a device, a plan or a server: the highest rate that it carries within the SLO (`proteus study peak`).

What `proteus study share` found: by cell, what the batches of some variants take alone and together.

What a study of concurrency finds: the scatter of a variant on a device, by what is done at once, and its knee.

What a study of costs finds of one fleet.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import field

from proteus_cli.domain.base import Value, is_amount, is_count, is_rate, require
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.interference import CostPoint, Slowdown, Where
from proteus_cli.domain.knee import Knee, ScatterSample

Limit = Literal["slo", "generator", "late_generator", "none"]
"""What ends the rise: the SLO; the load generator, which can't offer more, or which is late itself (the peak may be
higher); nothing, as single requests are late."""

NARROW = 1.25
"""An interval whose ends are farther apart than this ratio is no result."""


class PeakRules(Value, frozen=True):
    """What counts as carried: at most ``allowed_frac`` of the requests, in the long run, miss their SLO.

    The peak is to be known to ±``precision_frac`` with 95 % confidence; rates up to ``most_qps`` are offered, with
    ``most_requests`` in all at most. Each request asks for a variant of at least ``min_accuracy``; 0: any.
    """

    allowed_frac: float
    precision_frac: float = 0.02
    most_qps: float = 1e6
    most_requests: int = 2_000_000
    min_accuracy: float = 0.0

    def __post_init__(self) -> None:
        require(0 < self.allowed_frac < 1, "allowed_frac must be a fraction between 0 and 1")
        require(0 < self.precision_frac < 1, "precision_frac must be a fraction between 0 and 1")
        require(0 <= self.min_accuracy <= 1, "min_accuracy must be a fraction")
        require(is_rate(self.most_qps) and is_count(self.most_requests, 1), "limits of a peak must be amounts")


class Stretch(Value, frozen=True):
    """Requests that were offered at one rate, without those of the warm-up: how many, and how many missed their SLO.

    Violations come in clumps: ``scatter`` is how much their number varied between ``windows`` windows of time, in sums
    of squares that would be one per window if each request missed by itself (Pearson's chi-squared).
    ``lag_s``: how late the p99 of them was sent. ``accuracy``: the mean of the answers, None where it is unknown.
    """

    rate_qps: float
    requests: int
    violations: int
    scatter: float
    windows: int
    lag_s: float = 0.0
    accuracy: float | None = None

    def __post_init__(self) -> None:
        require(is_rate(self.rate_qps) and is_amount(self.scatter), "rates and scatter must be amounts")
        require(is_count(self.violations, 0, self.requests), "violations must be a part of the requests")
        require(is_count(self.windows), "windows must be a count")


class Probe(Value, frozen=True):
    """All stretches of one rate; from ``low_frac`` to ``high_frac`` is the 95 % interval of the violations."""

    rate_qps: float
    requests: int
    violations: int
    low_frac: float
    high_frac: float


class Peak(Value, frozen=True):
    """The peak, with its 95 % confidence interval, and the probes that it was found by, lowest rate first.

    ``high_qps`` is None where nothing says how high it may be.
    ``steepness``: by how many percent the odds of a violation rise with one percent of rate, near the peak; None where
    nothing was measured near it. ``is_precise``: the interval is as narrow as was asked for. ``clump``: violations
    that come together, about. ``lag_s``: the worst p99 by which the generator was late. ``accuracy``: the effective
    accuracy near the peak, the mean of the answers; None where the server does not tell it.
    """

    rate_qps: float
    low_qps: float
    high_qps: float | None
    limit: Limit
    is_precise: bool
    requests: int
    steepness: float | None
    clump: float
    lag_s: float
    probes: tuple[Probe, ...]
    slo_s: float = 0.0
    family: str = ""
    variant: str = ""
    batching: str = ""
    accuracy: float | None = None

    @property
    def is_found(self) -> bool:
        """Whether the interval is a result."""
        return self.is_precise or self.spread <= NARROW

    @property
    def spread(self) -> float:
        """The ratio of both ends of the interval, infinite where one is unknown."""
        return self.high_qps / self.low_qps if self.high_qps and self.low_qps else math.inf


FULL_LOAD = 1.0


def format_load(load: float) -> str:
    """0.5 → ``"50 %"``."""
    return f"{100 * load:g} %"


class Served(Value, frozen=True):
    """The batches of a variant over all rounds: their number, rows per second, and the latency of a batch.

    At full load, a batch begins as soon as there is a turn, and its latency is what it takes. Below that, batches
    arrive at random, and the latency counts from then.
    """

    batches: int
    qps: float
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float

    def __post_init__(self) -> None:
        require(is_count(self.batches, 1), "batches must be at least 1")
        amounts = (self.qps, self.mean_s, self.p50_s, self.p95_s, self.p99_s)
        require(all(map(is_amount, amounts)), "rates and latencies must not be negative")


class SharingMember(Value, frozen=True):
    """One variant of a cell, with so many rows a batch: on which ``device``, and how it did alone and together.

    ``ratio`` compares the times of its batches, together over alone, without any waiting: the centre of the ratios of
    all rounds, and its 95 % interval. ``batch_s`` is what a batch takes alone.
    """

    family: str
    variant: str
    device: str
    batch: int
    batch_s: float
    alone: Served
    together: Served
    ratio: float
    low: float
    high: float

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family, self.variant)

    def cost(self, rounds: int) -> CostPoint:
        """What it says of this batch size."""
        return CostPoint(self.batch, rounds, self.batch_s, self.ratio, self.low, self.high)


class SharingResult(Value, frozen=True):
    """A cell: variants together, on one device or on neighbours, at a ``load`` (a part of what they can do alone).

    ``with_stream``: a stream of memory was beside the one variant.
    """

    where: Where
    load: float
    rounds: int
    with_stream: bool
    members: tuple[SharingMember, ...]

    def __post_init__(self) -> None:
        require(0 < self.load <= FULL_LOAD, "a load is a part, above 0 and at most 1")
        require(bool(self.members), "a cell has variants")

    def beside(self, place: int) -> tuple[VariantKey, ...]:
        """The variants beside that member; none beside a stream."""
        return tuple(each.key for other, each in enumerate(self.members) if other != place)

    def slowdown(self, place: int) -> Slowdown:
        """What counts of that member's ratio."""
        return self.members[place].cost(self.rounds).slowdown


class SetCheck(Value, frozen=True):
    """What the pairs say of a larger set that was measured, too: rows per second of all its variants together."""

    cell: str
    predicted_qps: float
    measured_qps: float

    @property
    def error_frac(self) -> float:
        """How far the prediction is off, as a part of what was measured."""
        return abs(self.predicted_qps / self.measured_qps - 1) if self.measured_qps else 0.0


class SharingConclusion(Value, frozen=True):
    """What all cells say together: how well pairs predict larger sets, and where the costs went.

    ``sharing_file`` is empty where no cell was measured at full load, or devices were emulated. ``mps`` says whether
    CUDA's Multi-Process Service was there; it is empty without a GPU.
    """

    checks: tuple[SetCheck, ...]
    sharing_file: str
    mps: str = ""


StudiedWay = Literal["thread", "process", "emulated", "threads", "split"]
"""What the number is that varies: batches in flight on the device, as served in a thread of the server, in a process of
its own, or emulated; threads of the device's runtime; or devices that the cores are split into."""

IN_FLIGHT: frozenset[StudiedWay] = frozenset({"thread", "process", "emulated"})


class ConcurrencyResult(Value, frozen=True):
    """The ``samples`` of a variant with a batch size, by the number that varies (``in_flight``); rows per second.

    The device has so many ``cores`` (0: a GPU), and runs so many batches at once (``slots``).
    """

    family: str
    variant: str
    batch: int
    way: StudiedWay
    cores: int
    slots: int
    knee: Knee
    samples: tuple[ScatterSample, ...]

    @property
    def best(self) -> int:
        """The number to use."""
        return self.knee.in_flight

    def gain(self, number: int, over: int) -> float:
        """How much more throughput a number has than another one, as a part of that one's."""
        by_number = {level.in_flight: level.throughput for level in self.knee.levels}
        return by_number[number] / by_number[over] - 1 if by_number.get(over) else 0.0


class ConcurrencyConclusion(Value, frozen=True):
    """What to use, so that no variant loses: slots, threads, and devices to split the cores into; 0: not studied."""

    slots: int
    threads: int
    devices: int


def concluded(results: Iterable[ConcurrencyResult]) -> ConcurrencyConclusion:
    """The largest number that a variant needs; of devices, the smallest, as each takes a copy of the model."""
    of_way: dict[StudiedWay, list[ConcurrencyResult]] = {}
    for result in results:
        of_way.setdefault(result.way, []).append(result)
    in_slots = [min(each.best, each.slots) for way in IN_FLIGHT for each in of_way.get(way, ())]
    return ConcurrencyConclusion(
        slots=max(in_slots, default=0),
        threads=max((each.best for each in of_way.get("threads", ())), default=0),
        devices=min((each.best for each in of_way.get("split", ())), default=0),
    )


Usage = Literal["dedicated", "shared"]
"""A device serves one variant, or several."""


class FleetCost(Value, frozen=True):
    """The cheapest fleet that was found for a trace, and what a million of its queries cost, in the prices' currency.

    ``fleet`` counts devices by type, and ``held`` by what they hold (``a + b``). Of ``queries``, ``missed`` were late,
    dropped, rejected or failed: of the family that missed the most, the part ``missed_frac``, ``low_frac`` to
    ``high_frac`` at 95 %. ``percentile_s`` is by family the latency at the percentile that was asked for, None where
    that query was not answered. Plans were made for ``multiple`` times the demand of the trace's busiest seconds;
    ``tried`` of them were simulated. All of this is on devices that take the study's headroom times as long as
    profiled. ``assumed`` says what of sharing was not measured, with the command that does so.
    """

    usage: Usage
    fleet: dict[str, int]
    held: dict[str, int]
    price_per_hour: float
    cost_per_million: float
    queries: int
    missed: int
    missed_frac: float
    low_frac: float
    high_frac: float
    effective_accuracy: float | None
    multiple: float
    tried: int
    percentile_s: dict[str, float | None] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(is_amount(self.price_per_hour) and is_amount(self.cost_per_million), "costs must not be negative")
        require(is_count(self.queries, 1) and is_count(self.missed, 0, self.queries), "missed must be of the queries")
        require(0 <= self.low_frac <= self.missed_frac <= self.high_frac <= 1, "missed_frac must be in its interval")

    @property
    def devices(self) -> int:
        return sum(self.fleet.values())


class Saving(Value, frozen=True):
    """What sharing saves on one fleet: the part of what a million queries cost with dedicated devices."""

    scope: str
    dedicated: float
    shared: float
    saved_frac: float


class CostConclusion(Value, frozen=True):
    """``savings`` by scope, and the cell that costs the least."""

    savings: tuple[Saving, ...]
    cheapest: str


SURE = 0.95
"""Of intervals of the median."""


class ProcessStart(Value, frozen=True):
    """One start of a process, in seconds since it was asked for.

    Python runs, the backend is imported, the model is loaded, the first row is answered. ``read_bytes``: what it read
    from disks; None where the system does not say.
    """

    python_s: float
    backend_s: float
    loaded_s: float
    answered_s: float
    read_bytes: int | None = None

    def __post_init__(self) -> None:
        times = (0.0, self.python_s, self.backend_s, self.loaded_s, self.answered_s)
        require(all(map(is_amount, times)) and list(times) == sorted(times), "times of a start must rise")


class Starts(Value, frozen=True):
    """Starts under one condition, in the order in which they were made, with the median and its 95 % interval.

    The interval is between two of the starts, whatever their distribution; of fewer than six, it is that of all of them
    and less sure.
    """

    runs: int
    p50_s: float
    low_s: float
    high_s: float
    most_s: float
    starts: tuple[ProcessStart, ...]

    def __post_init__(self) -> None:
        require(is_count(self.runs, 1) and self.runs == len(self.starts), "runs must be the number of starts")


class Startup(Value, frozen=True):
    """A variant on a device. ``cold``: its files were not in the file cache; None where the system can't evict them."""

    family: str
    variant: str
    device: str
    backend: str
    warm: Starts
    cold: Starts | None


def starts_of(starts: Sequence[ProcessStart]) -> Starts:
    """Summarise starts, at least one."""
    times = sorted(start.answered_s for start in starts)
    low, high = median_ranks(len(times))
    middle = (times[(len(times) - 1) // 2] + times[len(times) // 2]) / 2
    return Starts(len(times), middle, times[low], times[high], times[-1], tuple(starts))


def median_ranks(count: int) -> tuple[int, int]:
    """The places, of so many sorted values, between which the median of what they are drawn from is with 95 %.

    The number of values below the median is binomial (H. A. David, H. N. Nagaraja, Order Statistics, 2003, 7.1). The
    first and the last where there are too few values for that.
    """
    outside, rank = 0.0, 0
    while rank < (count - 1) // 2:
        outside += math.comb(count, rank) / 2**count
        if 2 * outside > 1 - SURE:
            break
        rank += 1
    rank = max(rank - 1, 0)
    return rank, count - 1 - rank
