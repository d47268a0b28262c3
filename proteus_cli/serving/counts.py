"""What the server counts on its way; `metrics` shows it."""

from collections import Counter, deque
from collections.abc import Mapping
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

    def add(self, value: float) -> None:
        index = 0
        while index < len(self.bounds) and value > self.bounds[index]:
            index += 1
        self.counts[index] += 1
        self.total += value


@dataclass(slots=True)
class FamilyCounts:
    """One family's numbers since the start; times in seconds."""

    latency: Histogram
    batch: Histogram = field(default_factory=lambda: Histogram(BATCH_BOUNDS))
    outcomes: Counter[tuple[str, str, Outcome]] = field(default_factory=Counter)  # by (variant, device, outcome)
    rows: int = 0
    batches: float = 0.0  # each answer adds its part of the batch that it was in
    request_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    recent_accuracy: deque[tuple[int, int, float]] = field(default_factory=deque)  # (second, answers, sum)

    def ended(self, outcome: Outcome, variant: str = "", device: str = "") -> None:
        self.outcomes[variant, device, outcome] += 1

    def answered(self, accuracy: float, now_s: float) -> None:
        """Count into the effective accuracy of the last `ACCURACY_WINDOW_S`."""
        second, recent = int(now_s), self.recent_accuracy
        if recent and recent[-1][0] == second:
            _, answers, total = recent[-1]
            recent[-1] = (second, answers + 1, total + accuracy)
        else:
            recent.append((second, 1, accuracy))
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
