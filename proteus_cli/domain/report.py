"""The result of a replay (report JSON): rates in queries per second, accuracies as fractions, latencies in seconds."""

from typing import Literal

from msgspec import field

from proteus_cli.domain.attainment import Attainment
from proteus_cli.domain.base import FORMAT, MadeBy, Value, require

Mode = Literal["live", "emulated", "simulated"]
"""A server's run, on devices or on emulated ones, or one in virtual time."""

QUANTILES = 201
"""How many quantiles of the latency a report has: every half percent, both ends included."""


class LatencySummary(Value, frozen=True):
    """Percentiles over answered queries, in seconds, from the scheduled arrival."""

    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class Summary(Value, frozen=True):
    """The measures of DESIGN §3 over some requests; None without answers."""

    requests: int
    served: int
    late: int
    dropped: int
    rejected: int
    failed: int
    slo_violation_ratio: float
    effective_accuracy: float | None
    relative_accuracy: float | None
    max_accuracy_drop: float | None
    throughput_qps: float
    goodput_qps: float
    mean_batch: float | None
    latency_s: LatencySummary | None


class FamilySummary(Summary, frozen=True):
    """The measures of one family, with its attainment.

    ``variants`` lists the variants that answered, the most accurate first. The value is the accuracy, with cascades the
    mean over its answers; None if unknown. Their order is by ``profiled_accuracy`` if known: the accuracy of a variant
    alone over all queries. It is given only if cascades deferred a query, as their stages answer easy or hard queries
    only. ``deferred`` counts answered queries that first stages of cascades deferred, and ``fallbacks`` those among
    them with the first answer. ``judged`` counts answers that were compared with labels of an eval split.
    ``measured_accuracy`` is the fraction of correct ones; ``effective_accuracy`` is the promise of profiles. ``cut``
    answers were cut short by multi-exit models. ``expected_attainment`` is the mean fraction in time that the plans in
    force expected; None without an expectation.
    """

    attainment: Attainment
    variants: dict[str, float | None] = field(default_factory=dict)
    deferred: int = 0
    fallbacks: int = 0
    profiled_accuracy: dict[str, float] = field(default_factory=dict)
    judged: int = 0
    measured_accuracy: float | None = None
    cut: int = 0
    expected_attainment: float | None = None


class Window(Value, frozen=True):
    """One stretch of the run: offered and answered rates, relative accuracy, SLO violations, all families.

    ``answers_by_variant`` counts answers, in time or late, by family and variant.
    """

    start_s: float
    length_s: float
    demand_qps: float
    throughput_qps: float
    relative_accuracy: float | None
    violations: int
    answers_by_variant: dict[str, dict[str, int]] = field(default_factory=dict)


class DeviceSummary(Value, frozen=True):
    """The answers of one device; None if unknown.

    ``answers_by_variant`` counts by family and variant. ``batches`` and the mean batch are recovered from the answers.
    """

    answers: int
    batches: int | None
    mean_batch: float | None
    relative_accuracy: float | None
    answers_by_variant: dict[str, dict[str, int]]


class Replan(Value, frozen=True):
    """A change of plan: when in the run, why, how long the solver took, how many variants were loaded.

    ``activated`` counts standbys, which needed no load. ``what`` says what changed on which devices (`hosting_text`);
    servers of older versions do not.
    """

    at_s: float
    reason: str
    solve_s: float
    swaps: int
    activated: int = 0
    what: str = ""


class SwapsPerReplan(Value, frozen=True):
    """How many variants a change of plan loaded: in the mean, and at most."""

    mean: float
    most: int


class Loss(Value, frozen=True):
    """A device, or a host with all its devices, that was lost in a simulated run: ``what``, ``v100-3`` or ``host a``.

    ``at_s``: when in the run the server gave it up; ``back_s``: when the last of its devices served again, None where
    that never came.
    """

    what: str
    devices: int
    at_s: float
    back_s: float | None = None

    @property
    def away_s(self) -> float | None:
        """How long the device was away, in seconds; None where it never served again."""
        return None if self.back_s is None else self.back_s - self.at_s


class Report(Summary, frozen=True):
    """One policy on one trace. ``windows`` are 10 s long, ``seconds`` 1 s.

    ``latency_quantiles_s`` are the 0, 0.5, 1, … 100 % quantiles of the latency of answered queries, in seconds; empty
    without answers. ``generator_lag_s`` is the p99 by which the load generator itself was late; None where nothing
    generated load. ``interrupted``: the run was ended by hand, after ``duration_s`` of the trace. ``estimated`` are the
    families with accuracies that are estimates, without labels. ``noisy_cells``: how many cells of the profiles that it
    goes by are marked as noisy; None where these are not known. ``losses`` are given for a simulated run.
    ``swaps_per_replan`` is None where the plan never changed, and in reports of older versions.
    """

    format: int
    made_by: MadeBy
    policy: str
    mode: Mode
    trace: str
    duration_s: float
    slo_s: dict[str, float]
    latency_quantiles_s: tuple[float, ...]
    families: dict[str, FamilySummary]
    devices: dict[str, DeviceSummary]
    windows: tuple[Window, ...]
    seconds: tuple[Window, ...]
    replans: tuple[Replan, ...]
    generator_lag_s: float | None = None
    interrupted: bool = False
    estimated: tuple[str, ...] = ()
    noisy_cells: int | None = None
    losses: tuple[Loss, ...] = ()
    swaps_per_replan: SwapsPerReplan | None = None

    def __post_init__(self) -> None:
        require(self.format == FORMAT, f"`format` is {self.format}; this version reads {FORMAT}")
        quantiles = self.latency_quantiles_s
        require(len(quantiles) in {0, QUANTILES}, f"latency_quantiles_s must have {QUANTILES} numbers, or none")
        require(list(quantiles) == sorted(quantiles), "latency_quantiles_s must rise")
