"""The guard of a version roll-out: terms that must hold, as values and as a text."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from proteus_cli.domain.conditions.metrics import SCALES, Metric, Scale
from proteus_cli.domain.conditions.reading import Token, TokenReader
from proteus_cli.errors import UsageError

DEFAULT_GUARD = "accuracy >= old - 0.005 and p99 <= slo"


class GuardMetric(StrEnum):
    """What is seen of the new version."""

    ACCURACY = "accuracy"  # of its answers, by labels
    AGREEMENT = "agreement"  # the part of shadowed queries that both versions answer alike
    P50 = "p50"  # of the latency of its answers; those that never came count as late
    P95 = "p95"
    P99 = "p99"
    ERRORS = "errors"  # the part of its answers that failed


QUANTILES: Mapping[GuardMetric, float] = {GuardMetric.P50: 0.5, GuardMetric.P95: 0.95, GuardMetric.P99: 0.99}
HIGHER_IS_BETTER = frozenset({GuardMetric.ACCURACY, GuardMetric.AGREEMENT})
COMPARABLE = frozenset({GuardMetric.ACCURACY, GuardMetric.ERRORS})
"""With `old`: both versions have one."""

Reference = Literal["number", "slo", "old"]


@dataclass(frozen=True, slots=True)
class Term:
    """``metric operator side``. ``value`` is the number, or what is added to that of the old version; 0 for the SLO.

    Fractions and seconds.
    """

    metric: GuardMetric
    reference: Reference
    value: float = 0.0

    @property
    def operator(self) -> Literal[">=", "<="]:
        """Which way the metric is to be compared: more is better, or less."""
        return ">=" if self.metric in HIGHER_IS_BETTER else "<="

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {self._side()}"

    def _side(self) -> str:
        if self.reference == "slo":
            return "slo"
        written = _scale(self.metric).write(abs(self.value))
        if self.reference == "number":
            return written
        return f"old {'-' if self.value < 0 else '+'} {written}" if self.value else "old"


def parse_guard(text: str) -> tuple[Term, ...]:
    """The terms, one at most of each metric. Raises `ConditionError`. Their canonical text is that of `guard_text`."""
    return _GuardParser(text, "guard").whole()


def guard_text(terms: tuple[Term, ...]) -> str:
    """``parse_guard(guard_text(terms)) == terms``."""
    return " and ".join(map(str, terms))


def _scale(metric: GuardMetric) -> Scale:
    return SCALES[Metric.LATENCY if metric in QUANTILES else Metric.ACCURACY]


class _GuardParser(TokenReader):
    def whole(self) -> tuple[Term, ...]:
        terms: dict[GuardMetric, Term] = {}
        while not terms or self.took("and"):
            at = self.next
            term = self._term()
            if term.metric in terms:
                self.fail(f"another term of `{term.metric}`", hint="write one term of each metric", at=at)
            terms[term.metric] = term
        if self.next.kind != "end":
            self.fail(f"{self.next.named} where the guard should go on", hint="join terms by `and`")
        return tuple(terms.values())

    def _term(self) -> Term:
        metric = self._metric()
        self._operator(">=" if metric in HIGHER_IS_BETTER else "<=", metric)
        at = self.next
        if self.took("slo"):
            if metric not in QUANTILES:
                self.fail(f"`{metric}` has no SLO", hint=f"compare it with {_sides(metric)}", at=at)
            return Term(metric, "slo")
        if not self.took("old"):
            return Term(metric, "number", self._number(metric))
        if metric not in COMPARABLE:
            self.fail(f"`{metric}` of the old version", hint=f"compare `{metric}` with {_sides(metric)}", at=at)
        return Term(metric, "old", self._added(metric))

    def _metric(self) -> GuardMetric:
        word = self.next
        metric = next((each for each in GuardMetric if each.value == word.text), None) if word.kind == "word" else None
        if metric is None:
            problem = f"no metric {word.named}" if word.kind == "word" else f"{word.named} where a metric should be"
            self.fail(problem, hint=f"metrics: {', '.join(GuardMetric)}")
        self.take()
        return metric

    def _operator(self, wanted: str, metric: GuardMetric) -> None:
        if self.next.kind != "operator" or self.next.text != wanted:
            self.fail(f"{self.next.named} where `{metric}` is bounded", hint=f"write `{metric} {wanted} …`")
        self.take()

    def _number(self, metric: GuardMetric) -> float:
        at = self.next
        value = self._quantity(metric)
        if metric in HIGHER_IS_BETTER and not value:
            self.fail(f"any version has an {metric} of 0", hint="write what it must have at least", at=at)
        if metric in QUANTILES and not value:
            self.fail("no version answers in no time", hint="write a duration: `30ms`", at=at)
        if metric is GuardMetric.ERRORS and value >= 1:
            self.fail("no version has more errors than that", hint="write a part of all answers: `1%`", at=at)
        return value

    def _added(self, metric: GuardMetric) -> float:
        """``+ x`` or ``- x``, with or without a space between; 0 where there is neither."""
        at, sign = self.next, 1.0
        if at.kind == "unknown" and at.text in {"+", "-"}:
            sign = -1.0 if self.take().text == "-" else 1.0
        elif at.kind == "number" and at.text[0] in "+-":
            sign = -1.0 if at.text[0] == "-" else 1.0
            self.next = Token("number", at.text[1:], at.column + 1)
        else:
            return 0.0
        number = self.next
        value = self._quantity(metric)
        if value >= 1:
            self.fail("all versions are as near to each other as that", hint="write `old - 0.005`", at=number)
        return sign * value

    def _quantity(self, metric: GuardMetric) -> float:
        quantity = self.next
        if quantity.kind != "number":
            self.fail(
                f"{quantity.named} where a quantity should be", hint=f"`{metric}` is compared with {_sides(metric)}"
            )
        try:
            value = _scale(metric).read(quantity.text)
        except UsageError as error:
            self.fail(error.message.rstrip("."), hint=error.hint)
        self.take()
        return value


def _sides(metric: GuardMetric) -> str:
    """What it may be compared with, as a hint says it."""
    if metric in QUANTILES:
        return "a duration or the SLO: `30ms`, `slo`"
    example = {GuardMetric.ACCURACY: "0.97", GuardMetric.ERRORS: "1%"}.get(metric, "97%")
    return f"a part of all: `{example}`" + (", or with that of the old version: `old`" if metric in COMPARABLE else "")
