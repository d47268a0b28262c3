"""What the server counts on its way; `metrics` shows it."""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proteus_cli.domain.request import Outcome

ACCURACY_WINDOW_S = 10
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128)
_BOUNDS_OF_SLO = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.5, 2.0, 5.0)


@dataclass(slots=True)
class Histogram:
    """Counts by upper bound, as Prometheus wants them; the last bucket has no bound."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def add_all(self, values: Sequence[float]) -> None:
        bounds, counts = self.bounds, self.counts
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self.total += sum(values)


@dataclass(slots=True)
class Executions:
    """Batches that ran, and how long."""

    batches: int = 0
    compute_s: float = 0.0


@dataclass(slots=True)
class FamilyCounts:
    """One family's numbers since the start; times in seconds.

    ``executions`` are by the rows of the batch, the last of them ended at ``last_s`` (None: none yet); ``failed_s`` is
    what requests took that came in and ended otherwise than served.
    """

    latency: Histogram
    batch: Histogram = field(default_factory=lambda: Histogram(BATCH_BOUNDS))
    outcomes: Counter[tuple[str, str, Outcome]] = field(default_factory=Counter)  # by (variant, device, outcome)
    rows: int = 0
    batches: float = 0.0  # each answer adds its part of the batch that it was in
    request_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    executions: dict[int, Executions] = field(default_factory=dict)
    last_s: float | None = None
    failed_s: float = 0.0
    recent_accuracy: deque[tuple[int, int, float]] = field(default_factory=deque)  # (second, answers, sum)

    def ended(self, outcome: Outcome, variant: str = "", device: str = "", requests: int = 1) -> None:
        if requests:
            self.outcomes[variant, device, outcome] += requests

    def ran(
        self,
        latencies_s: Sequence[float],
        queued_s: float,
        *,
        rows: int,
        batch_rows: int,
        compute_s: float,
        accuracy: float,
        now_s: float,
    ) -> None:
        """A batch of ``batch_rows`` has answered requests of so many ``rows``, which waited ``queued_s`` in all."""
        requests = len(latencies_s)
        if not requests:
            return
        self.latency.add_all(latencies_s)
        self.batch.add(batch_rows, requests)
        self.rows += rows
        self.batches += rows / batch_rows
        self.request_s += sum(latencies_s)
        self.queue_s += queued_s
        self.compute_s += compute_s * requests
        self._remember(accuracy, requests, now_s)

    def executed(self, rows: int, compute_s: float, now_s: float) -> None:
        """A batch of so many rows has run."""
        found = self.executions.get(rows)
        if found is None:
            found = self.executions[rows] = Executions()
        found.batches += 1
        found.compute_s += compute_s
        self.last_s = now_s

    def _remember(self, accuracy: float, answers: int, now_s: float) -> None:
        """Count into the effective accuracy of the last `ACCURACY_WINDOW_S`."""
        second, recent = int(now_s), self.recent_accuracy
        if recent and recent[-1][0] == second:
            _, before, total = recent[-1]
            recent[-1] = (second, before + answers, total + accuracy * answers)
        else:
            recent.append((second, answers, accuracy * answers))
        while recent[0][0] <= second - ACCURACY_WINDOW_S:
            recent.popleft()

    def effective_accuracy(self, now_s: float) -> float | None:
        """Mean accuracy of what was answered lately; None where nothing was."""
        recent = [entry for entry in self.recent_accuracy if entry[0] > now_s - ACCURACY_WINDOW_S]
        answers = sum(entry[1] for entry in recent)
        return sum(entry[2] for entry in recent) / answers if answers else None

    def of_outcome(self, outcome: Outcome) -> int:
        return sum(count for (_, _, ended), count in self.outcomes.items() if ended is outcome)


def family_counts(slo_s: Mapping[str, float]) -> dict[str, FamilyCounts]:
    """Empty counts by family, with latency buckets around each SLO."""
    return {
        family: FamilyCounts(Histogram(tuple(round(slo * part, 6) for part in _BOUNDS_OF_SLO)))
        for family, slo in slo_s.items()
    }
