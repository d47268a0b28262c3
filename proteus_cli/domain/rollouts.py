"""Version roll-outs: their specification, the terms of their guard, and their status.

A *version roll-out* brings a new version of a variant into service by steps, in which it answers a growing share of the
queries. Its guard is a list of terms that must hold of the new version::

    [{"metric": "accuracy", "reference": "old", "value": -0.005}, {"metric": "p99", "reference": "slo"},
     {"metric": "errors", "value": 0.01}]

Request bodies and options have this form. The test of a guard is in `control/rollouts/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Literal

from msgspec import Meta

from proteus_cli.domain.base import Count, Fraction, Value, is_count, require
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.units import MAX_DURATION_S


@dataclass(frozen=True, slots=True)
class VersionPair:
    """Variants ``old`` and ``new`` of a family; the new one is to get ``share`` of the rates of both."""

    family: str
    old: str
    new: str
    share: float = 0.0

    @property
    def old_key(self) -> VariantKey:
        return VariantKey(self.family, self.old)

    @property
    def new_key(self) -> VariantKey:
        return VariantKey(self.family, self.new)


class GuardMetric(StrEnum):
    """A quantity of the new version."""

    ACCURACY = "accuracy"  # of its answers, by labels
    AGREEMENT = "agreement"  # fraction of shadowed queries that both versions answer alike
    P50 = "p50"  # latency of its answers; a missing answer counts as late
    P95 = "p95"
    P99 = "p99"
    ERRORS = "errors"  # fraction of its answers that failed


QUANTILES: Mapping[GuardMetric, float] = {GuardMetric.P50: 0.5, GuardMetric.P95: 0.95, GuardMetric.P99: 0.99}
HIGHER_IS_BETTER = frozenset({GuardMetric.ACCURACY, GuardMetric.AGREEMENT})
COMPARABLE = frozenset({GuardMetric.ACCURACY, GuardMetric.ERRORS})
"""The metrics that both versions have, and that a test can compare soundly."""


class Term(Value, frozen=True, omit_defaults=True):
    """A lower bound of accuracy or agreement, or an upper bound of another metric.

    The bound is ``value`` with the reference ``number``, the SLO, or ``value`` plus the metric of the old version.
    """

    metric: GuardMetric
    reference: Annotated[
        Literal["number", "slo", "old"],
        Meta(description="`slo`: of `p50`, `p95` and `p99`. `old`: of `accuracy` and `errors`."),
    ] = "number"
    value: Annotated[
        float, Meta(description="A fraction, or seconds; with `old`, the difference to the old version.")
    ] = 0.0

    def __post_init__(self) -> None:
        metric, value, is_latency = self.metric, self.value, self.metric in QUANTILES
        match self.reference:
            case "slo":
                require(is_latency and not value, f"`{metric}` has no SLO, and an SLO has no value")
            case "old":
                require(metric in COMPARABLE, f"`{metric}` can't be compared with the old version")
                require(-1 < value < 1, f"the difference of `{metric}` must be between -1 and 1")
            case "number" if metric is GuardMetric.ERRORS:
                require(0 <= value < 1, "`errors` must be at least 0 and less than 1")
            case "number":
                largest = MAX_DURATION_S if is_latency else 1.0
                require(0 < value <= largest, f"`{metric}` must be more than 0 and at most {largest:g}")

    @property
    def operator(self) -> Literal[">=", "<="]:
        """The direction of the bound."""
        return ">=" if self.metric in HIGHER_IS_BETTER else "<="

    def __str__(self) -> str:
        """The term for people: ``accuracy >= old - 0.005``."""
        if self.reference == "slo":
            side = "slo"
        elif self.metric in QUANTILES:
            side = f"{self.value * 1000:.15g}ms"
        elif self.reference == "number":
            side = f"{self.value:.15g}"
        else:
            side = f"old {'-' if self.value < 0 else '+'} {abs(self.value):.15g}" if self.value else "old"
        return f"{self.metric} {self.operator} {side}"


DEFAULT_GUARD = (Term(GuardMetric.ACCURACY, "old", -0.005), Term(GuardMetric.P99, "slo"))

DEFAULT_CANARY = (0.01, 0.1, 0.5)
DEFAULT_CONFIDENCE = 0.95
DEFAULT_ROLLBACK_WINDOW_S = 600.0
DEFAULT_MOST_QUERIES = 25_000
"""An equal version has passed by then in 95 of 100 cases, also in the hardest one: an accuracy of 50 %, half of all
queries (`control/rollouts/`, "Duration")."""
MAX_STEPS = 10
MAX_ROLLBACK_WINDOW_S = 30 * 86_400.0
MIN_CONFIDENCE, MAX_CONFIDENCE = 0.5, 0.9999


class RolloutSpecification(Value, frozen=True):
    """The specification of a version roll-out.

    ``old`` and ``new`` are names of versions of a variant, as the server calls them: ``digits-l``, ``digits-l@2``. The
    new version is also asked ``shadow_frac`` of the queries of the old one. ``canary_fracs`` are the shares of the
    queries that the new version answers, step by step. With ``is_auto``, a step ends once the guard passes; a step
    that does not pass within ``most_queries`` answers of the new version ends the roll-out.
    """

    family: str
    old: str
    new: str
    shadow_frac: float = 0.0
    canary_fracs: tuple[float, ...] = DEFAULT_CANARY
    guard: tuple[Term, ...] = DEFAULT_GUARD
    confidence: float = DEFAULT_CONFIDENCE
    is_auto: bool = False
    rollback_window_s: float = DEFAULT_ROLLBACK_WINDOW_S
    most_queries: int = DEFAULT_MOST_QUERIES

    def __post_init__(self) -> None:
        require(self.old != self.new, f"`{self.new}` serves already")
        require(0 <= self.shadow_frac <= 1, "shadow_frac must be a part of all answers, from 0 to 1")
        steps = self.canary_fracs
        require(1 <= len(steps) <= MAX_STEPS, f"there are 1 to {MAX_STEPS} canary steps")
        require(all(0 < each < 1 for each in steps), "a canary step must be more than none and less than all queries")
        require(all(a < b for a, b in pairwise(steps)), "each canary step must be larger than the last")
        within = MIN_CONFIDENCE <= self.confidence <= MAX_CONFIDENCE
        require(within, f"the confidence must be from {MIN_CONFIDENCE} to {MAX_CONFIDENCE}")
        within = 0 <= self.rollback_window_s <= MAX_ROLLBACK_WINDOW_S
        require(within, f"rollback_window_s must be from 0 to {MAX_ROLLBACK_WINDOW_S:.0f} (30 days)")
        require(is_count(self.most_queries, 1), "most_queries must be a whole number from 1 to 2^53")
        metrics = {term.metric for term in self.guard}
        require(0 < len(metrics) == len(self.guard), "a guard has one or more terms, at most one of each metric")


Interval = tuple[float, float]


class Verdict(StrEnum):
    """The verdict on a guard, or on one of its terms."""

    HOLD = "hold"  # undecided
    PASS = "pass"  # noqa: S105 - the new version is not notably worse than the guard allows
    FAIL = "fail"  # the new version is worse than the guard allows


class RolloutStage(StrEnum):
    """The stage of a version roll-out."""

    MEASURING = "measuring"  # the new version is profiled and loaded; it gets no queries
    SHADOW = "shadow"  # it also answers queries of the old version; its answers are not sent
    CANARY = "canary"  # it answers a share of the queries
    PROMOTING = "promoting"  # the catalog is to name it
    FULL = "full"  # it serves in place of the old one, which is kept warm
    ENDED = "ended"


class Ending(StrEnum):
    """The end of a version roll-out. The old version serves after all but the first."""

    DONE = "done"
    ABORTED = "aborted"  # by a person
    ROLLED_BACK = "rolled back"  # the guard failed, or could not tell
    FAILED = "failed"  # it could not go on


class TermStatus(Value, frozen=True):
    """One term of the guard."""

    term: str
    verdict: Verdict
    observations: Annotated[Count, Meta(description="Number of values that judged it.")]
    new: Annotated[float | None, Meta(description="Mean of the new version; for a quantile, the late part.")]
    old: Annotated[float | None, Meta(description="Mean of the old version meanwhile, if it is compared.")]
    new_interval: Annotated[Interval | None, Meta(description="95 % confidence interval of `new`, valid for one look.")]
    old_interval: Annotated[Interval | None, Meta(description="95 % confidence interval of `old`.")]
    against: Annotated[Fraction, Meta(description="Evidence that the term does not hold; at 1 it fails.")]
    in_favour: Annotated[Fraction, Meta(description="Evidence that it holds, or nearly does; at 1 it passes.")]


class StepCounts(Value, frozen=True):
    """Queries of the present step."""

    canary: Annotated[Count, Meta(description="Answered by the new version.")] = 0
    labelled: Annotated[Count, Meta(description="Canaries with feedback.")] = 0
    shadowed: Annotated[Count, Meta(description="Answered by both versions.")] = 0


class RolloutStatus(Value, frozen=True):
    """The state of a version roll-out, under way or ended."""

    specification: RolloutSpecification
    stage: RolloutStage
    step: Annotated[Count, Meta(description="The number of the canary step, from 1; 0 in other stages.")]
    share: Annotated[Fraction, Meta(description="Part of the queries that the new version answers.")]
    shadow_share: Annotated[Fraction, Meta(description="Part of the old version's answers that are compared.")]
    stage_s: Annotated[float, Meta(description="Seconds since the step began, or since the end.")]
    verdict: Verdict
    waits_for_promote: Annotated[bool, Meta(description="A person must promote it.")]
    counts: StepCounts
    terms: tuple[TermStatus, ...]
    ending: Ending | None = None
    reason: str = ""
    note: Annotated[
        str,
        Meta(
            description="The reason why it waits, or could not decide. After the end: that the old version is being "
            "put back, until it serves alone."
        ),
    ] = ""

    @property
    def is_over(self) -> bool:
        """Whether the roll-out has ended, and the old version is back where it must be."""
        return self.ending is not None and not self.note
