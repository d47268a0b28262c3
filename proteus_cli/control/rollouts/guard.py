"""The guard of a version roll-out: sequential tests of its terms, by what is known of both versions' queries.

A metric is a *loss* of a query, from 0 to 1: wrong (1 less its score), unlike the old version's answer, later than the
bound, or failed. A term bounds the mean loss of the new version, by a number or by the old version's loss and a
margin. Two hypotheses are tested per term, each by `Evidence`:

* *The term holds.* Enough evidence against it fails the term.
* *The new version is notably worse*: its loss is above the allowed loss by `TOLERANCES` or more. Enough evidence
  against it passes the term.

At least one of them is false, so each test ends.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from proteus_cli.control.evidence import Arms, Evidence, Spread
from proteus_cli.domain.rollouts import (
    HIGHER_IS_BETTER,
    QUANTILES,
    GuardMetric,
    RolloutSpecification,
    StepCounts,
    Term,
    TermStatus,
    Verdict,
)
from proteus_cli.intervals import wilson
from proteus_cli.units import counted, format_percent

TOLERANCES: Mapping[GuardMetric, float] = {
    GuardMetric.ACCURACY: 0.015,  # with `old - 0.005`, a version that is 2 points worse is notably worse
    GuardMetric.AGREEMENT: 0.015,
    GuardMetric.ERRORS: 0.01,
    GuardMetric.P50: 0.1,  # 60 % of the answers are late
    GuardMetric.P95: 0.05,  # 10 % are late
    GuardMetric.P99: 0.01,  # 2 % are late
}
"""The excess of a loss over its bound that is notably worse."""
ERROR_PARTS: Mapping[GuardMetric, float] = dict.fromkeys(GuardMetric, 1.0) | {GuardMetric.ACCURACY: 3.0}
"""The ratio that divides the error of a guard among its terms: labels are scarce, so accuracy has more."""
FARTHER, PART_FARTHER = 4.0, 0.25
"""A gap that is this many times larger has this part of the wealth: large losses are detected sooner."""
PART_BY_AGREEMENT = 0.1
"""The part of the evidence for equal accuracy that unlabelled agreement provides."""
PART_BY_DISAGREEMENT = 0.02
"""The part of the evidence for lower accuracy that unlabelled disagreement provides."""
DISAGREEMENT_GAP = 0.1
"""The tested excess of disagreement."""
DOUBT = 0.02
"""The assumed excess of the old version's error over its eval split: 2.8 standard deviations of 0.92 on 1,500 rows."""
ASSUMED_VARIANCE = 0.25
"""The variance of differences at first: the largest possible one of a difference to a mean."""
_BY_SHADOW = frozenset({GuardMetric.ACCURACY, GuardMetric.AGREEMENT})
"""The metrics that shadowed queries can decide. The others need queries that wait for the new version's answer."""


class Arm(StrEnum):
    """The version that answered a query."""

    OLD = "old"
    NEW = "new"


class TermTest:
    """The test of one term of the guard. A ``verdict`` of fail is final.

    Latency and errors depend on the load, so each step tests them anew, and their error is divided among the steps.
    Accuracy and agreement use all values of the roll-out. Disagreement fails no term without ``old_accuracy``.
    """

    def __init__(
        self, term: Term, specification: RolloutSpecification, slo_s: float, old_accuracy: float | None = None
    ) -> None:
        self.term, self.verdict = term, Verdict.HOLD
        self.latest_s = slo_s if term.reference == "slo" else term.value if term.metric in QUANTILES else math.inf
        self._is_relative = term.reference == "old"
        self._depends_on_load = term.metric not in _BY_SHADOW
        self._bound, self._tolerance = _bound(term), TOLERANCES[term.metric]
        self._bad = self._bound + self._tolerance
        steps = len(specification.canary_fracs) + 2 if self._depends_on_load else 1
        parts = sum(ERROR_PARTS[each.metric] for each in specification.guard)
        self._passes_at = 1 / (1 - specification.confidence)
        self._fails_at = self._passes_at * steps * parts / ERROR_PARTS[term.metric]
        self._arms, self._new, self._old, self._disagreement = Arms(), Spread(0.0), Spread(0.0), Spread(0.0)
        self._spreads = {is_paired: Spread(ASSUMED_VARIANCE) for is_paired in (False, True)}
        self._against, self._in_favour = self._new_evidence()
        self._by_agreement = self._new_evidence()[1]
        self._unlike = Evidence(self._bad, _gaps(self._tolerance))
        self._by_disagreement = self._evidence_by_disagreement(old_accuracy)

    def begin_step(self, share: float) -> None:
        """The new version gets this share of the queries from now on."""
        if share:
            self._arms.split(share)
        if self._depends_on_load and self._new.count:
            self._against, self._in_favour = self._new_evidence()
            self._judge()

    def observe(self, arm: Arm, loss: float) -> None:
        """Count the loss of a query that only this arm answered."""
        if arm is Arm.OLD and not self._is_relative:
            return
        (self._new if arm is Arm.NEW else self._old).observe(loss)
        if self._is_relative:
            self._compare(self._arms.observe(loss, is_new=arm is Arm.NEW), is_paired=False)
        else:
            self._bet(loss)

    def observe_both(self, old_loss: float, new_loss: float) -> None:
        """Count both losses of a query that both versions answered."""
        if not self._is_relative:
            self.observe(Arm.NEW, new_loss)
            return
        self._new.observe(new_loss)
        self._old.observe(old_loss)
        self._compare((new_loss - old_loss,), is_paired=True)

    def observe_disagreement(self, disagrees: float) -> None:
        """Count for accuracy whether the versions answer a query differently; no label is needed.

        Accuracies differ by at most the disagreement, and by at least its excess over the old version's errors.
        """
        if self._is_relative:
            self._by_agreement.observe(-disagrees)
            self._unlike.observe(disagrees)
        if self._by_disagreement is not None:
            self._by_disagreement.observe(disagrees)
        self._disagreement.observe(disagrees)
        self._judge()

    @property
    def needs_labels(self) -> bool:
        """Whether accuracy cannot pass without labels: the disagreement is too large, or unknown."""
        is_unknown = not self._is_relative or not self._disagreement.count
        return self.verdict is Verdict.HOLD and (is_unknown or self._unlike.wealth >= self._passes_at)

    def status(self) -> TermStatus:
        """The published state of the term."""
        against, in_favour = self._wealths()
        return TermStatus(
            str(self.term), self.verdict, self._new.count,
            self._seen(self._new), self._seen(self._old), self._interval(self._new), self._interval(self._old),
            _progress(against, self._fails_at), _progress(in_favour, self._passes_at),
        )  # fmt: skip

    def __str__(self) -> str:
        """The term with its numbers; without labels, with the numbers of shadowed queries."""
        status, differ = self.status(), self._disagreement
        if status.new is not None or not differ.count:
            return in_words(status)
        queries = counted(differ.count, "query", "queries")
        return f"{status.term} (no labels; both versions answer {format_percent(differ.mean)} of {queries} differently)"

    def _compare(self, differences: Iterable[float], *, is_paired: bool) -> None:
        spread = self._spreads[is_paired]
        for value in differences:
            self._bet(value, spread.variance)
            spread.observe(value)

    def _bet(self, value: float, variance: float | None = None) -> None:
        self._against.observe(value, variance)
        self._in_favour.observe(-value, variance)
        self._judge()

    def _judge(self) -> None:
        against, in_favour = self._wealths()
        if self.verdict is Verdict.FAIL or against >= self._fails_at:
            self.verdict = Verdict.FAIL
        else:
            self.verdict = Verdict.PASS if in_favour >= self._passes_at else Verdict.HOLD

    def _wealths(self) -> tuple[float, float]:
        """The evidence against the term and in favour of it, with the parts that need no labels."""
        against, in_favour = self._against.wealth, self._in_favour.wealth
        if self._by_disagreement is not None:
            against += PART_BY_DISAGREEMENT * (self._by_disagreement.wealth - against)
        return against, in_favour + PART_BY_AGREEMENT * (self._by_agreement.wealth - in_favour)

    def _new_evidence(self) -> tuple[Evidence, Evidence]:
        """Evidence against the term, and evidence that the new version is as good as the old one or the bound."""
        in_favour_gap = max(self._bad, self._tolerance) if self._is_relative else self._tolerance
        against = Evidence(self._bound, _gaps(self._tolerance), minimum=-1.0 if self._is_relative else 0.0)
        return against, Evidence(-self._bad, _gaps(in_favour_gap), minimum=-1.0)

    def _evidence_by_disagreement(self, old_accuracy: float | None) -> Evidence | None:
        """Evidence for more disagreement than a version can have that keeps the term; None if any is possible."""
        if old_accuracy is None or self.term.metric is not GuardMetric.ACCURACY:
            return None
        errs = 1 - old_accuracy + DOUBT
        bound = self._bound + (2 * errs if self._is_relative else errs)
        return Evidence(bound, _gaps(DISAGREEMENT_GAP)) if bound < 1 else None

    def _seen(self, spread: Spread) -> float | None:
        """The mean in the sense of the metric."""
        if not spread.count:
            return None
        return 1 - spread.mean if self.term.metric in HIGHER_IS_BETTER else spread.mean

    def _interval(self, spread: Spread) -> tuple[float, float] | None:
        """Wilson's interval of the mean; conservative for values between 0 and 1."""
        seen = self._seen(spread)
        return None if seen is None else wilson(seen * spread.count, spread.count)


class Guard:
    """The tests of a guard's terms. It is told each fact once, in any order.

    A request is one query, with the mean over its rows. ``counts`` are the queries of the present step.
    ``old_accuracy`` is the old version's accuracy on its eval split, if measured.
    """

    def __init__(self, specification: RolloutSpecification, slo_s: float, old_accuracy: float | None = None) -> None:
        self._tests = [TermTest(term, specification, slo_s, old_accuracy) for term in specification.guard]
        self._by_metric = {test.term.metric: test for test in self._tests}
        self._late = [test for test in self._tests if test.term.metric in QUANTILES]
        self._counted: Counter[str] = Counter()
        self._are_labels_told = False

    def begin_step(self, share: float) -> None:
        """The new version gets this share of the queries from now on; 0 while it is only shadowed."""
        self._counted.clear()
        for test in self._tests:
            test.begin_step(share)

    def answered(self, arm: Arm, latency_s: float | None, *, is_failed: bool = False) -> None:
        """A query of this arm has ended; ``latency_s`` is None without an answer. Shadowed answers do not count.

        ``is_failed``: the version failed, as by an error of its engine. Refused queries belong to neither arm.
        """
        self._counted["canary"] += arm is Arm.NEW
        if (errors := self._by_metric.get(GuardMetric.ERRORS)) is not None:
            errors.observe(arm, float(is_failed))
        if arm is Arm.NEW:
            for test in self._late:
                test.observe(arm, float(latency_s is None or latency_s > test.latest_s))

    def label_came(self) -> None:
        """Feedback of some query of the family has come, also of a query in no arm."""
        self._are_labels_told = True

    def labelled(self, arm: Arm, score: float) -> None:
        """The score, 0 to 1, of this arm's answer to a query of this roll-out that was not shadowed."""
        self.label_came()
        self._counted["labelled"] += arm is Arm.NEW
        if (accuracy := self._by_metric.get(GuardMetric.ACCURACY)) is not None:
            accuracy.observe(arm, 1 - score)

    def labelled_shadow(self, old_score: float, new_score: float) -> None:
        """The scores of both versions' answers to a shadowed query."""
        self.label_came()
        if (accuracy := self._by_metric.get(GuardMetric.ACCURACY)) is not None:
            accuracy.observe_both(1 - old_score, 1 - new_score)

    def shadowed(self, agreement: float | None) -> None:
        """The new version got a query that the old one had answered.

        ``agreement``: the fraction of rows with the same answer; None if the new version failed.
        """
        self._counted["shadowed"] += 1
        disagreement = 1.0 if agreement is None else 1 - agreement
        for test in self._tests:
            match test.term.metric:
                case GuardMetric.AGREEMENT:
                    test.observe(Arm.NEW, disagreement)
                case GuardMetric.ACCURACY:
                    test.observe_disagreement(disagreement)
                case GuardMetric.ERRORS:
                    test.observe_both(0.0, float(agreement is None))

    @property
    def counts(self) -> StepCounts:
        """The queries of the present step."""
        return StepCounts(**self._counted)

    @property
    def verdict(self) -> Verdict:
        """Fail if one term fails, pass if all pass, else hold."""
        return _together(self._tests)

    @property
    def verdict_of_shadow(self) -> Verdict:
        """The verdict of the terms that shadowed queries can decide, and of failed terms."""
        return _together(
            [each for each in self._tests if each.term.metric in _BY_SHADOW or each.verdict is Verdict.FAIL]
        )

    @property
    def reason(self) -> str:
        """The terms with the guard's verdict, with their numbers."""
        verdict = self.verdict
        return "; ".join(str(test) for test in self._tests if test.verdict is verdict)

    @property
    def lacking_labels(self) -> str:
        """The accuracy term that cannot pass without labels while none has come; else empty."""
        accuracy = self._by_metric.get(GuardMetric.ACCURACY)
        is_lacking = accuracy is not None and accuracy.needs_labels and not self._are_labels_told
        return str(accuracy) if is_lacking else ""

    @property
    def reason_of_shadow(self) -> str:
        """The terms that shadowed queries can decide and that do not pass yet."""
        tests = [test for test in self._tests if test.term.metric in _BY_SHADOW]
        return "; ".join(str(test) for test in tests if test.verdict is not Verdict.PASS)

    def status(self) -> tuple[TermStatus, ...]:
        """The state of each term, in the order of the guard."""
        return tuple(test.status() for test in self._tests)


def in_words(status: TermStatus) -> str:
    """``accuracy >= old - 0.005 (90.1 %, old 92.0 %, 1,234 queries)``; for a latency, the late fraction."""
    if status.new is None:
        return f"{status.term} (nothing is known of it)"
    late = " late" if status.term.startswith(tuple(QUANTILES)) else ""
    old = "" if status.old is None else f", old {format_percent(status.old)}"
    return (
        f"{status.term} ({format_percent(status.new)}{late}{old}, {counted(status.observations, 'query', 'queries')})"
    )


def _together(tests: Sequence[TermTest]) -> Verdict:
    verdicts = {test.verdict for test in tests}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    return Verdict.HOLD if Verdict.HOLD in verdicts else Verdict.PASS


def _bound(term: Term) -> float:
    """The bound of the mean loss, or of the mean difference."""
    if term.metric in QUANTILES:
        return 1 - QUANTILES[term.metric]
    if term.metric in HIGHER_IS_BETTER:
        return -term.value if term.reference == "old" else 1 - term.value
    return term.value


def _gaps(gap: float) -> dict[float, float]:
    return {gap: 1 - PART_FARTHER, FARTHER * gap: PART_FARTHER}


def _progress(evidence: float, wanted: float) -> float:
    return max(0.0, min(math.log(max(evidence, 1.0)) / math.log(wanted), 1.0))
