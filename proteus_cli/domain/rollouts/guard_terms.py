"""The guard of a version roll-out as data: terms that must hold of the new version.

::

    [{"metric": "accuracy", "reference": "old", "value": -0.005}, {"metric": "p99", "reference": "slo"},
     {"metric": "errors", "value": 0.01}]

Request bodies have this form. A command line takes a short form, `parse_guard`:
``accuracy >= old - 0.005 and p99 <= slo and errors <= 1%``.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from proteus_cli.domain.base import Value, require
from proteus_cli.errors import UsageError
from proteus_cli.units import MAX_DURATION_S, parse_duration


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
        """The short form."""
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

_TERM = re.compile(r"\s*(\w+)\s*([<>]=)\s*(?:(slo)|(old)\s*(?:([+-])\s*(\S+))?|(\S+))\s*")
_HINT = (
    f"metrics: {', '.join(GuardMetric)}; write `accuracy >= old - 0.005 and p99 <= slo`, with one term of each metric"
)


def parse_guard(text: str) -> tuple[Term, ...]:
    """The terms of a short form, joined by ``and``. Raises `UsageError`."""
    return tuple(map(_term, re.split(r"\band\b", text)))


def _term(text: str) -> Term:
    found = _TERM.fullmatch(text)
    try:
        metric, operator, slo, old, sign, difference, number = found.groups() if found else ("", *[None] * 6)
        value = _quantity(difference or number, is_latency=metric in QUANTILES and not slo)
        fields = {"metric": metric, "reference": slo or old or "number", "value": -value if sign == "-" else value}
        term = msgspec.convert(fields, Term)
        require(operator == term.operator, f"`{metric}` takes `{term.operator}`")
    except ValueError as error:
        raise UsageError(f"`{text.strip()}` is no term of a guard: {error}.", hint=_HINT) from None
    return term


def _quantity(text: str | None, *, is_latency: bool) -> float:
    if text is None:
        return 0.0
    if is_latency:
        return parse_duration(text)
    return float(f"{text[:-1]}e-2" if text.endswith("%") else text)
