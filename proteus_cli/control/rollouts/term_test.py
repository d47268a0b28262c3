"""One term of a guard, tested: does the new version keep it, or has it to go?

All metrics are a *loss* that a query has, from 0 to 1: it was answered wrongly (1 less its score), not as by the old
version, later than the bound, or not at all. A term bounds the mean loss of the new version, by a number, or by that of
the old version and something more. Two hypotheses are bet against, each for itself (`betting.py`):

* *The term holds.* Once there is enough evidence against it, the term fails.
* *The new version is notably worse*: its loss is by one of `TOLERANCES` greater than the term allows, or by more. Once
  there is enough evidence against that, the term passes.

Whatever the truth is, one of the two is wrong, and in between both are. So each test ends.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from proteus_cli.control.rollouts.betting import BettingEvidence, Parts, Spread
from proteus_cli.control.rollouts.comparison import Arms
from proteus_cli.domain.rollouts.guard_terms import HIGHER_IS_BETTER, QUANTILES, GuardMetric, Term
from proteus_cli.domain.rollouts.status import TermStatus, Verdict
from proteus_cli.intervals import wilson

TOLERANCES: Mapping[GuardMetric, float] = {
    GuardMetric.ACCURACY: 0.015,  # with `old - 0.005`, a version that is 2 points worse is notably worse
    GuardMetric.AGREEMENT: 0.015,
    GuardMetric.ERRORS: 0.01,
    GuardMetric.P50: 0.1,  # of the answers: 60 % are late
    GuardMetric.P95: 0.05,  # 10 % are late
    GuardMetric.P99: 0.01,  # 2 % are late
}
"""By how much more than a term allows a loss is greater that is notably worse."""
PARTS_OF_ERROR: Mapping[GuardMetric, float] = dict.fromkeys(GuardMetric, 1.0) | {GuardMetric.ACCURACY: 3.0}
"""In which ratio the error of a guard is divided. Labels are scarce, and each answer tells of latency and errors."""
FARTHER, PART_FARTHER = 4.0, 0.25
"""A part of the wealth bets on a loss that is so many times as far from its bound: large ones are found sooner."""
PART_BY_AGREEMENT = 0.1
"""Of the evidence that a version is not notably less accurate: what bets on few disagreements, which need no labels."""
PART_BY_DISAGREEMENT = 0.02
"""Of the evidence that a version is less accurate than its term allows: what bets on many disagreements, which need no
labels. Labels have 2 % less wealth for it, and so take a hundredth longer at most."""
DISAGREEMENT_GAP = 0.1
"""It is bet on disagreements that are more than a term allows by so much, and by `FARTHER` times that."""
DOUBT = 0.02
"""By so much more than measured the old version may err: 2.8 standard deviations of 0.92 on 1,500 rows."""
ASSUMED_VARIANCE = 0.25
"""Of differences, at first: the largest that a difference to a mean can have."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The evidence at which a term fails, and at which it passes."""

    fails_at: float
    passes_at: float

    @classmethod
    def of(cls, confidence: float, term: Term, guard: Sequence[Term]) -> "Thresholds":
        """The thresholds for one term of a guard.

        Where all hold, *one* is to fail with a probability of 1 - confidence at most: that is divided among them by
        `PARTS_OF_ERROR`. A guard passes where *all* pass, so each may be wrong with that probability.
        """
        part = PARTS_OF_ERROR[term.metric] / sum(PARTS_OF_ERROR[each.metric] for each in guard)
        return cls(1 / (1 - confidence) / part, 1 / (1 - confidence))


class TermTest:
    """``verdict`` is final once the term fails.

    Latency and errors change with the load, so each of ``steps`` steps is judged by what was seen in it to pass; to
    fail, by what was seen since any of them. Accuracy and agreement do not: all that was seen counts.
    ``old_accuracy``: as measured on an eval split; None: unknown, and then disagreements fail no term.
    """

    def __init__(
        self, term: Term, slo_s: float, thresholds: Thresholds, steps: int, old_accuracy: float | None = None
    ) -> None:
        self.term, self._thresholds = term, thresholds
        self.is_relative = term.reference == "old"
        self.depends_on_load = term.metric in QUANTILES or term.metric is GuardMetric.ERRORS
        self.latest_s = slo_s if term.reference == "slo" else term.value if term.metric in QUANTILES else math.inf
        self._bound, self._bad = _bound(term), _bound(term) + TOLERANCES[term.metric]
        self._arms, self._new, self._old = Arms(), Spread(0.0), Spread(0.0)
        self._spreads = {name: Spread(ASSUMED_VARIANCE) for name in ("arms", "pairs", "agreement")}
        minimum, gap = -1.0 if self.is_relative else 0.0, TOLERANCES[term.metric]
        self._against = BettingEvidence(self._bound, minimum, _parts(gap, 1.0), steps if self.depends_on_load else 1)
        self._in_favour = self._new_evidence_in_favour()
        self._by_agreement = self._new_evidence_in_favour()
        self._by_disagreement = self._evidence_by_disagreement(old_accuracy)
        self._differs = BettingEvidence(self._bad, 0.0, _parts(TOLERANCES[term.metric], 1.0))
        self.verdict = Verdict.HOLD

    def begin_step(self, share: float) -> None:
        """The new version has that share of the queries from now on."""
        if share:
            self._arms.split(share)
        if self.depends_on_load and self._new.count:
            self._against.start()
            self._in_favour = self._new_evidence_in_favour()
            self._judge()

    def saw(self, loss: float) -> None:
        """Count the loss of a query that the new version alone has answered."""
        self._new.saw(loss)
        if self.is_relative:
            self._compare(self._arms.saw_new(loss), "arms")
        else:
            self._bet(loss, self._bound * (1 - self._bound), self._bad * (1 - self._bad))

    def saw_old(self, loss: float) -> None:
        """Count the loss of a query that the old version alone has answered."""
        if self.is_relative:
            self._old.saw(loss)
            self._compare(self._arms.saw_old(loss), "arms")

    def saw_both(self, old_loss: float, new_loss: float) -> None:
        """Count both losses of a query that both versions have answered."""
        if self.is_relative:
            self._new.saw(new_loss)
            self._old.saw(old_loss)
            self._compare((new_loss - old_loss,), "pairs")
        else:
            self.saw(new_loss)

    def saw_agreement(self, disagrees: float) -> None:
        """Count whether both versions answer a query differently, with or without a label.

        Accuracies differ by no more than answers do; and by no less than answers do beyond what the old one errs on.
        """
        if self.term.metric is not GuardMetric.ACCURACY:
            return
        spread = self.disagreement
        if self.is_relative:
            self._by_agreement.saw(-disagrees, spread.variance)
            self._differs.saw(disagrees, spread.variance)
        if self._by_disagreement is not None:
            self._by_disagreement.saw(disagrees, spread.variance)
        spread.saw(disagrees)
        self._judge()

    @property
    def disagreement(self) -> Spread:
        """How often both versions answer a shadowed query differently: mean and variance of 1 or 0."""
        return self._spreads["agreement"]

    @property
    def needs_labels(self) -> bool:
        """Without labels it will not pass: too many answers differ, or nothing tells that few do."""
        if self.term.metric is not GuardMetric.ACCURACY or self.verdict is not Verdict.HOLD:
            return False
        is_unknown = not self.is_relative or not self.disagreement.count
        return is_unknown or self._differs.wealth >= self._thresholds.passes_at

    def status(self) -> TermStatus:
        """What is known of the term now."""
        return TermStatus(
            str(self.term),
            self.verdict,
            self._new.count,
            self._seen(self._new),
            self._seen(self._old),
            self._interval(self._new),
            self._interval(self._old),
            _progress(self._wealth_against, self._thresholds.fails_at),
            _progress(self._wealth_in_favour, self._thresholds.passes_at),
        )

    def _compare(self, differences: Iterable[float], kind: str) -> None:
        spread = self._spreads[kind]
        for value in differences:
            self._bet(value, spread.variance, spread.variance)
            spread.saw(value)

    def _bet(self, value: float, variance: float, bad_variance: float) -> None:
        self._against.saw(value, variance)
        self._in_favour.saw(-value, bad_variance)
        self._judge()

    def _judge(self) -> None:
        if self.verdict is Verdict.FAIL or self._wealth_against >= self._thresholds.fails_at:
            self.verdict = Verdict.FAIL
        else:
            passes = self._wealth_in_favour >= self._thresholds.passes_at
            self.verdict = Verdict.PASS if passes else Verdict.HOLD

    @property
    def _wealth_against(self) -> float:
        if self._by_disagreement is None:
            return self._against.wealth
        by_labels = (1 - PART_BY_DISAGREEMENT) * self._against.wealth
        return by_labels + PART_BY_DISAGREEMENT * self._by_disagreement.wealth

    @property
    def _wealth_in_favour(self) -> float:
        return (1 - PART_BY_AGREEMENT) * self._in_favour.wealth + PART_BY_AGREEMENT * self._by_agreement.wealth

    def _new_evidence_in_favour(self) -> BettingEvidence:
        """It bets that the version is as good as the old one, or as the bound, and that it is better still."""
        tolerance = TOLERANCES[self.term.metric]
        gap, most = (max(self._bad, tolerance), 1.0) if self.is_relative else (tolerance, self._bad)
        return BettingEvidence(-self._bad, -1.0, _parts(gap, most))

    def _evidence_by_disagreement(self, old_accuracy: float | None) -> BettingEvidence | None:
        """It bets that more answers differ than a version that keeps the term can have: None where all may."""
        if old_accuracy is None or self.term.metric is not GuardMetric.ACCURACY:
            return None
        errs = 1 - old_accuracy + DOUBT
        bound = self._bound + (2 * errs if self.is_relative else errs)
        return BettingEvidence(bound, 0.0, _parts(DISAGREEMENT_GAP, 1.0)) if bound < 1 else None

    def _seen(self, spread: Spread) -> float | None:
        """As the metric has it."""
        if not spread.count:
            return None
        return 1 - spread.mean if self.term.metric in HIGHER_IS_BETTER else spread.mean

    def _interval(self, spread: Spread) -> tuple[float, float] | None:
        """Of what was seen. Values are from 0 to 1; where they are neither, the interval is wider than need be."""
        seen = self._seen(spread)
        return None if seen is None else wilson(seen * spread.count, spread.count)


def _bound(term: Term) -> float:
    """Of the mean loss, or of the difference of both."""
    if term.metric in QUANTILES:
        return 1 - QUANTILES[term.metric]
    if term.metric in HIGHER_IS_BETTER:
        return -term.value if term.reference == "old" else 1 - term.value
    return term.value


def _parts(gap: float, most: float) -> Parts:
    return (min(gap, most), 1 - PART_FARTHER), (min(FARTHER * gap, most), PART_FARTHER)


def _progress(evidence: float, wanted: float) -> float:
    return max(0.0, min(math.log(max(evidence, 1.0)) / math.log(wanted), 1.0))
