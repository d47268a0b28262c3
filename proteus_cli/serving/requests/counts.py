"""Counts of requests and batches. Little is done per request, most per batch."""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import lt, sub

from proteus_cli.domain.attainment import Attainment
from proteus_cli.domain.request import Outcome
from proteus_cli.serving.requests.families import ServedFamily

ACCURACY_WINDOW_S = 10
_PARTS_OF_SLO = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.5, 2.0, 5.0)
LATENCY_BUCKETS = len(_PARTS_OF_SLO) + 1
_NO_OUTCOMES = {("", "", outcome): 0 for outcome in Outcome}  # each has a series from the start


@dataclass(slots=True)
class Histogram:
    """Counts by upper bound, and the sum of all values; the last bucket has no bound."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count a value in the first bucket whose upper bound it does not exceed."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add_all(self, values: Sequence[float]) -> None:
        """Add at least one value. Times of one batch are mostly of one bucket."""
        first, last = bisect_left(self.bounds, min(values)), bisect_left(self.bounds, max(values))
        if first == last:
            self.counts[first] += len(values)
        else:
            for value in values:
                self.counts[bisect_left(self.bounds, value, first, last)] += 1
        self.total += sum(values)


@dataclass(frozen=True, slots=True)
class Tally:
    """Requests by outcome, in the order of `Outcome`, and the sum of the accuracies of the served."""

    outcomes: tuple[int, ...]
    accuracy: float

    def since(self, before: "Tally | None") -> "Tally":
        """The part after ``before``; all, where the family was not there yet, or has gone and come back."""
        if before is None or any(map(lt, self.outcomes, before.outcomes)):
            return self
        return Tally(tuple(map(sub, self.outcomes, before.outcomes)), self.accuracy - before.accuracy)


def quantile(bounds: Sequence[float], counts: Sequence[float], fraction: float) -> float | None:
    """The value that this ``fraction`` of all counted values does not exceed, as Prometheus' ``histogram_quantile``.

    Values are taken as spread evenly within a bucket; beyond the last bound, the result is that bound. None: no value
    was counted.
    """
    total = sum(counts)
    if not total:
        return None
    rank, before, lower = fraction * total, 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=False):  # the last count has no bound
        if count and before + count >= rank:
            return lower + (bound - lower) * (rank - before) / count
        before, lower = before + count, bound
    return lower


@dataclass(slots=True)
class Executions:
    """Batches that ran, and their time."""

    batches: int = 0
    compute_s: float = 0.0


@dataclass(slots=True)
class FamilyCounts:
    """One family's numbers since the start; times in seconds.

    ``latency`` and ``queue`` are of requests that a batch answered, in time or not. ``compute`` and ``batch`` (rows)
    are of batches. ``answered_rows`` leaves out batches of second stages, whose rows were counted before. ``outcomes``
    are by (variant, device, outcome). ``cancelled`` requests, whose clients have gone, are among the dropped.
    ``retried`` ones ran on a device that was lost, and were queued again. First stages ``deferred`` some of the
    answered requests, and ``fallbacks`` of them got the first answer all the same. Among served requests, ``cut``
    counts answers cut short, by variant and the last exit of their rows, and ``overflow`` answers of standbys. Time in
    the queue begins once a request is admitted; ``decoding_s`` is the time before that, from its arrival on. The sums
    from ``rows`` to ``accuracy`` are of served requests; ``failed_s`` is the time of admitted ones that were not
    served. ``executions`` are by rows of the batch; the last batch ended at ``last_s`` (None: none yet).
    """

    latency: Histogram
    queue: Histogram
    compute: Histogram
    batch: Histogram
    outcomes: Counter[tuple[str, str, Outcome]] = field(default_factory=lambda: Counter(_NO_OUTCOMES))
    cancelled: int = 0
    retried: int = 0
    deferred: int = 0
    fallbacks: int = 0
    cut: Counter[tuple[str, int]] = field(default_factory=Counter)
    overflow: int = 0
    answered_rows: int = 0
    rows: int = 0
    request_s: float = 0.0
    decoding_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    accuracy: float = 0.0
    executions: dict[int, Executions] = field(default_factory=dict)
    last_s: float | None = None
    failed_s: float = 0.0
    recent_accuracy: deque[tuple[int, int, float]] = field(default_factory=deque)  # (second, answers, sum)

    def with_buckets_of(self, other: "FamilyCounts") -> "FamilyCounts":
        """The same counts; histograms of other buckets, as of another SLO, begin anew."""
        for name in ("latency", "queue", "compute", "batch"):
            if getattr(self, name).bounds != getattr(other, name).bounds:
                setattr(self, name, getattr(other, name))
        return self

    def ended(self, outcome: Outcome, variant: str = "", device: str = "", requests: int = 1) -> None:
        """Count requests with that outcome; variant and device are empty where none answered."""
        if requests:
            self.outcomes[variant, device, outcome] += requests

    def ran(self, *, rows: int, compute_s: float, now_s: float, is_second: bool = False) -> None:
        """A batch of ``rows``, of a second stage or not, has ended."""
        self.batch.add(rows)
        self.answered_rows += 0 if is_second else rows
        self.compute.add(compute_s)
        found = self.executions.get(rows)
        if found is None:
            found = self.executions[rows] = Executions()
        found.batches += 1
        found.compute_s += compute_s
        self.last_s = now_s

    def waited(self, waited_s: Sequence[float], latency_s: Sequence[float]) -> None:
        """Requests of a batch waited in the queue and have answers, each after these seconds."""
        if waited_s:
            self.queue.add_all(waited_s)
            self.latency.add_all(latency_s)

    def served(
        self,
        requests: int,
        *,
        rows: int,
        decoding_s: float,
        waited_s: float,
        took_s: float,
        compute_s: float,
        accuracy: float,
        now_s: float,
    ) -> None:
        """A batch has answered ``requests`` in time.

        In total they were decoded for ``decoding_s``, and then waited ``waited_s``.
        """
        self.rows += rows
        self.request_s += decoding_s + waited_s + took_s * requests
        self.decoding_s += decoding_s
        self.queue_s += waited_s
        self.compute_s += compute_s * requests
        self.accuracy += accuracy * requests
        self._remember(accuracy, requests, now_s)

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
        """Mean accuracy of the requests served in the last `ACCURACY_WINDOW_S`; None: there were none."""
        recent = [entry for entry in self.recent_accuracy if entry[0] > now_s - ACCURACY_WINDOW_S]
        answers = sum(entry[1] for entry in recent)
        return sum(entry[2] for entry in recent) / answers if answers else None

    def tally(self) -> Tally:
        """How requests have ended so far."""
        ended = dict.fromkeys(Outcome, 0)
        for (_, _, outcome), count in self.outcomes.items():
            ended[outcome] += count
        return Tally(tuple(ended.values()), self.accuracy)

    def attainment(self, target: float) -> Attainment:
        """The attainment of the requests that have ended so far."""
        requests = sum(self.outcomes.values())
        return Attainment.of(requests, requests - self.of_outcome(Outcome.SERVED), target)

    def of_outcome(self, outcome: Outcome) -> int:
        """Requests with that outcome, of all variants and devices."""
        return sum(count for (_, _, ended), count in self.outcomes.items() if ended is outcome)


class RequestCounts:
    """The counts of all families, and the requests that were refused before they counted for one, by error."""

    def __init__(self, families: Iterable[ServedFamily]) -> None:
        self.by_family = {family.name: _empty(family.slo_s, family.max_rows) for family in families}
        self.refusals: Counter[str] = Counter()
        self._of_gone: Counter[Outcome] = Counter()

    def use_families(self, families: Iterable[ServedFamily]) -> None:
        """From now on these are all families. Those that are gone count in the sums over all outcomes alone."""
        before = dict(self.by_family)
        self.by_family.clear()
        for family in families:
            counts, new = before.pop(family.name, None), _empty(family.slo_s, family.max_rows)
            self.by_family[family.name] = new if counts is None else counts.with_buckets_of(new)
        for counts in before.values():
            self._of_gone.update({outcome: counts.of_outcome(outcome) for outcome in Outcome})

    def tallies(self) -> dict[str, Tally]:
        """How requests have ended so far, by family."""
        return {family: counts.tally() for family, counts in self.by_family.items()}

    def of_outcome(self, outcome: Outcome) -> int:
        """Requests with that outcome of all families, also gone ones."""
        return self._of_gone[outcome] + sum(counts.of_outcome(outcome) for counts in self.by_family.values())


def _empty(slo_s: float, max_rows: int) -> FamilyCounts:
    """Histograms with buckets around the SLO, and for batches of up to ``max_rows``."""
    times_s = tuple(float(f"{slo_s * part:.6g}") for part in _PARTS_OF_SLO)
    sizes = tuple(float(2**power) for power in range((max_rows - 1).bit_length() + 1))
    return FamilyCounts(Histogram(times_s), Histogram(times_s), Histogram(times_s), Histogram(sizes))
