"""What is found of a row, as values, and what was to be reached."""

from benchmarks.paper.results import Figures
from benchmarks.tables import Aim
from proteus_cli.domain.base import MadeBy, Value


class Runs(Value, frozen=True):
    """One policy on the traces of a row: violations and accuracies of all queries, the largest drop of any run.

    Loads, re-plans and CPU are means over the runs.
    """

    policy: str
    runs: tuple[Figures, ...]

    @property
    def violations(self) -> float:
        """As a fraction of all queries."""
        return sum(run.slo_violation_ratio * run.requests for run in self.runs) / self._requests

    @property
    def worst_window(self) -> float:
        """Of all queries, those that missed their SLO in the one window of each run with the most of them."""
        return sum(run.worst_window_violations for run in self.runs) / self._requests

    @property
    def relative_accuracy(self) -> float:
        """Over the queries that were answered."""
        answered = [run.requests - run.dropped - run.rejected for run in self.runs]
        accurate = sum((run.relative_accuracy or 0.0) * count for run, count in zip(self.runs, answered, strict=True))
        return accurate / max(sum(answered), 1)

    @property
    def accuracy_on_time(self) -> float:
        """Per query, where one that missed its SLO counts as 0."""
        return sum(run.accuracy_on_time * run.requests for run in self.runs) / self._requests

    @property
    def max_drop(self) -> float:
        """In points."""
        return max(run.max_accuracy_drop or 0.0 for run in self.runs)

    @property
    def loads(self) -> float:
        return sum(run.swaps for run in self.runs) / len(self.runs)

    @property
    def replans(self) -> float:
        return sum(run.replans for run in self.runs) / len(self.runs)

    @property
    def changes_per_minute(self) -> float:
        """Changes of plan that are told."""
        return 60 * sum(run.replans for run in self.runs) / max(sum(run.duration_s for run in self.runs), 1.0)

    @property
    def cpu_s(self) -> float:
        return sum(run.cpu_s for run in self.runs) / len(self.runs)

    @property
    def _requests(self) -> int:
        return sum(run.requests for run in self.runs)


class Limits(Value, frozen=True):
    """What `proteus` is to reach on a row: percent, percent, points, variants loaded, changes of plan per minute."""

    violations: float
    accuracy: float | None = None
    drop: float | None = None
    loads: float | None = None
    changes: float | None = None

    @property
    def accuracy_on_time(self) -> float | None:
        """The accuracy on time, as a fraction, of who just keeps both limits, of violations and of accuracy."""
        return None if self.accuracy is None else self.accuracy / 100 * (1 - self.violations / 100)

    def aims(self, name: str, ours: Runs) -> tuple[Aim, ...]:
        """One for each limit that is set."""
        return (
            Aim(f"{name}: violations", 100 * ours.violations, self.violations, "%", is_most=True),
            *(_aim(f"{name}: relative accuracy", 100 * ours.relative_accuracy, self.accuracy, "%", is_most=False)),
            *(_aim(f"{name}: largest drop", ours.max_drop, self.drop, "points", is_most=True)),
            *(_aim(f"{name}: loads", ours.loads, self.loads, "variants", is_most=True)),
            *(_aim(f"{name}: plan changes", ours.changes_per_minute, self.changes, "per minute", is_most=True)),
        )


def _aim(what: str, measured: float, limit: float | None, unit: str, *, is_most: bool) -> tuple[Aim, ...]:
    return () if limit is None else (Aim(what, measured, limit, unit, is_most),)


class Found(Value, frozen=True):
    """A row: our policy first, then what it is compared with; ``needed`` is `Limits.accuracy_on_time`."""

    name: str
    title: str
    policies: tuple[Runs, ...]
    aims: tuple[Aim, ...] = ()
    needed: float | None = None
    remarks: tuple[str, ...] = ()


class Benchmark(Value, frozen=True):
    """All that was found, and where (``--json``)."""

    made_by: MadeBy
    command: str
    machine: str
    seeds: str
    seconds: float
    rows: tuple[Found, ...]
    skipped: tuple[str, ...]

    @property
    def accuracy_on_time(self) -> float | None:
        """Of our policy, the mean over all rows; None where all were skipped."""
        found = [row.policies[0].accuracy_on_time for row in self.rows]
        return sum(found) / len(found) if found else None
