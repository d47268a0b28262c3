"""What `proteus study share` found: by cell, what the batches of some variants take alone and together."""

from proteus_cli.domain.base import Value, is_amount, is_count, require
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.profile.interference import CostPoint, Slowdown, Where

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
