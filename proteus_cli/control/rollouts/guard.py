"""The guard of a version roll-out: what is seen of both versions goes to the tests of its terms (`term_test.py`)."""

from collections import Counter
from enum import StrEnum

from proteus_cli.control.rollouts.term_test import TermTest, Thresholds
from proteus_cli.domain.rollouts.guard_terms import QUANTILES, GuardMetric
from proteus_cli.domain.rollouts.specification import RolloutSpecification
from proteus_cli.domain.rollouts.status import StepCounts, TermStatus, Verdict
from proteus_cli.units import counted, format_percent


class Arm(StrEnum):
    """Which version answered a query."""

    OLD = "old"
    NEW = "new"


TOLD_BY_SHADOW = frozenset({GuardMetric.ACCURACY, GuardMetric.AGREEMENT})
"""What shadowed queries tell of a version; the others take queries that wait for its answer."""


class Guard:
    """Tell it of each query what is known, each fact once, at any time.

    A request is one query, with the mean over its rows. ``counts`` are those of the step that began last.
    ``old_accuracy`` is that of the old version on an eval split, where it was measured.
    """

    def __init__(self, specification: RolloutSpecification, slo_s: float, old_accuracy: float | None = None) -> None:
        terms = specification.guard
        confidence, steps = specification.confidence, len(specification.canary_fracs) + 2
        self._tests = [
            TermTest(term, slo_s, Thresholds.of(confidence, term, terms), steps, old_accuracy) for term in terms
        ]
        self._by_metric = {test.term.metric: test for test in self._tests}
        self._late = [test for test in self._tests if test.term.metric in QUANTILES]
        self._counted: Counter[str] = Counter()
        self._are_labels_told = False

    def begin_step(self, share: float) -> None:
        """The new version has that share of the queries from now on; 0 where it is only shadowed."""
        self._counted.clear()
        for test in self._tests:
            test.begin_step(share)

    def answered(self, arm: Arm, latency_s: float | None, *, is_failed: bool = False) -> None:
        """A query of that arm has ended; without ``latency_s`` there was no answer. Not for answers that nobody sees.

        ``is_failed``: the version failed, as by an error of its engine. Queries that were refused are of neither arm.
        """
        self._counted["canary"] += arm is Arm.NEW
        if (errors := self._by_metric.get(GuardMetric.ERRORS)) is not None:
            errors.saw(float(is_failed)) if arm is Arm.NEW else errors.saw_old(float(is_failed))
        if arm is Arm.NEW:
            for test in self._late:
                test.saw(float(latency_s is None or latency_s > test.latest_s))

    def label_came(self) -> None:
        """There is feedback of any query of the family, also of one that is in no arm: labels do come."""
        self._are_labels_told = True

    def labelled(self, arm: Arm, score: float) -> None:
        """There is feedback of a query of that arm that was not shadowed: how right its answer was, from 0 to 1.

        The query was answered since the roll-out began.
        """
        self.label_came()
        self._counted["labelled"] += arm is Arm.NEW
        if (accuracy := self._by_metric.get(GuardMetric.ACCURACY)) is not None:
            accuracy.saw(1 - score) if arm is Arm.NEW else accuracy.saw_old(1 - score)

    def labelled_shadow(self, old_score: float, new_score: float) -> None:
        """There is feedback of a query that was shadowed: how right either version's answer was."""
        self.label_came()
        if (accuracy := self._by_metric.get(GuardMetric.ACCURACY)) is not None:
            accuracy.saw_both(1 - old_score, 1 - new_score)

    def shadowed(self, agreement: float | None) -> None:
        """The new version was asked, too, what the old one had answered.

        ``agreement``: the part of its rows that have the same answer, from 0 to 1; None where the new version failed.
        """
        self._counted["shadowed"] += 1
        disagreement = 1.0 if agreement is None else 1 - agreement
        for test in self._tests:
            match test.term.metric:
                case GuardMetric.AGREEMENT:
                    test.saw(disagreement)
                case GuardMetric.ACCURACY:
                    test.saw_agreement(disagreement)
                case GuardMetric.ERRORS:
                    test.saw_both(0.0, float(agreement is None))

    @property
    def counts(self) -> StepCounts:
        """What was counted in the present step."""
        return StepCounts(**self._counted)

    @property
    def verdict(self) -> Verdict:
        """The verdict of all terms together: fail where one fails, pass where all pass, else hold."""
        return _together([test.verdict for test in self._tests])

    @property
    def verdict_of_shadow(self) -> Verdict:
        """The verdict of the terms that shadowed queries can tell of; the failure of another term counts, too."""
        failed = [test.verdict for test in self._tests if test.verdict is Verdict.FAIL]
        told = [test.verdict for test in self._tests if test.term.metric in TOLD_BY_SHADOW]
        return _together(failed + told)

    @property
    def reason(self) -> str:
        """The terms that have the verdict of the guard, and what was seen of them."""
        verdict = self.verdict
        return "; ".join(_told(test) for test in self._tests if test.verdict is verdict)

    @property
    def lacking_labels(self) -> str:
        """The term that cannot pass without labels, as none has come; empty where there is none."""
        if self._are_labels_told:
            return ""
        return "; ".join(_told(test) for test in self._tests if test.needs_labels)

    @property
    def reason_of_shadow(self) -> str:
        """The terms that shadowed queries can tell of, and that do not pass yet."""
        tests = [test for test in self._tests if test.term.metric in TOLD_BY_SHADOW]
        return "; ".join(_told(test) for test in tests if test.verdict is not Verdict.PASS)

    def status(self) -> tuple[TermStatus, ...]:
        """What is known of each term, in the order of the guard."""
        return tuple(test.status() for test in self._tests)


def in_words(status: TermStatus) -> str:
    """``accuracy >= old - 0.005 (90.1 %, old 92.0 %, 1,234 queries)``; of a latency, the part that is late."""
    if status.new is None:
        return f"{status.term} (nothing is known of it)"
    late = " late" if status.term.startswith(tuple(QUANTILES)) else ""
    old = "" if status.old is None else f", old {format_percent(status.old)}"
    return (
        f"{status.term} ({format_percent(status.new)}{late}{old}, {counted(status.observations, 'query', 'queries')})"
    )


def _told(test: TermTest) -> str:
    """A term in words; where it has no label, with what shadowed queries tell of it."""
    status, differ = test.status(), test.disagreement
    if status.new is not None or not differ.count:
        return in_words(status)
    queries = counted(differ.count, "query", "queries")
    return f"{status.term} (no labels; both versions answer {format_percent(differ.mean)} of {queries} differently)"


def _together(verdicts: list[Verdict]) -> Verdict:
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    return Verdict.PASS if all(each is Verdict.PASS for each in verdicts) else Verdict.HOLD
