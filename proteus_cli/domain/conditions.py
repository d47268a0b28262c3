"""Conditions on a query behind an exit, as data: comparisons of metrics, joined by ``all`` and ``any``.

::

    {"any": [{"metric": "confidence", "op": ">=", "value": 0.8},
             {"all": [{"metric": "latency", "op": ">=", "value": 0.03}, {"metric": "exit", "op": ">=", "value": 2}]}]}

Files, request bodies and options have this form. Values are 64-bit floats in base units: seconds, joules, fractions.
A comparison with NaN, such as the confidence of a row with one score, is false. The number of comparisons is bounded,
and so is the cost of an evaluation.
"""

import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import reduce
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from proteus_cli.arrays import Bools
from proteus_cli.domain.base import Value, require

MAX_COMPARISONS = 24


class Metric(StrEnum):
    """A quantity of a query that an exit has answered."""

    LATENCY = "latency"  # seconds since its arrival
    CONFIDENCE = "confidence"  # of the answer of this exit, on the scale of the family
    ACCURACY = "accuracy"  # expected of the answer of this exit, a fraction
    ENERGY = "energy"  # joules used until now: power × its share of the batches' time
    COMPUTATION = "computation"  # done until now, as a fraction of the whole chain
    EXIT = "exit"  # the number of this exit, from 1


RANGES: Mapping[Metric, tuple[float, float]] = {
    Metric.LATENCY: (0.0, math.inf),
    Metric.CONFIDENCE: (-math.inf, math.inf),
    Metric.ACCURACY: (0.0, 1.0),
    Metric.ENERGY: (0.0, math.inf),
    Metric.COMPUTATION: (0.0, 1.0),
    Metric.EXIT: (1.0, 1e6),
}
"""The smallest and the largest value of each metric. Only a confidence may also be NaN."""
STOP_METRICS = frozenset({Metric.CONFIDENCE, Metric.EXIT})
"""The metrics that `stop_when` of a catalog may compare: with others, a variant would have no fixed accuracy."""

Operator = Literal["<", "<=", "==", ">", ">="]
_OPERATORS: Mapping[Operator, Callable[[Any, float], Any]] = {
    "<": np.less, "<=": np.less_equal, "==": np.equal, ">": np.greater, ">=": np.greater_equal,
}  # fmt: skip

Values: TypeAlias = Mapping[Metric, npt.ArrayLike]
"""By metric, one value for all rows or one for each row, in base units; NaN where it is unknown."""


class Comparison(NamedTuple):
    """``metric op value``."""

    metric: Metric
    op: Operator
    value: float


class Condition(Value, frozen=True, omit_defaults=True):
    """A comparison (``metric``, ``op``, ``value``), or two or more conditions in ``all`` or ``any``."""

    metric: Metric | None = None
    op: Operator | None = None
    value: Annotated[float | None, Meta(description="Seconds, joules or a fraction, by the metric.")] = None
    all: tuple["Condition", ...] = ()
    any: tuple["Condition", ...] = ()

    def __post_init__(self) -> None:
        fields = sum(each is not None for each in (self.metric, self.op, self.value))
        forms = (fields == 3, len(self.all) > 1, len(self.any) > 1)  # noqa: PLR2004
        others = (fields > 0, bool(self.all), bool(self.any))
        is_one_form = sum(forms) == sum(others) == 1
        require(
            is_one_form, "a condition has `metric`, `op` and `value`, or else two or more conditions in `all` or `any`"
        )
        comparisons = self.comparisons
        require(len(comparisons) <= MAX_COMPARISONS, f"a condition has at most {MAX_COMPARISONS} comparisons")
        if self.metric is not None and self.value is not None:
            minimum, maximum = RANGES[self.metric]
            is_possible = math.isfinite(self.value) and minimum <= self.value <= maximum
            require(is_possible, f"{self.metric} is from {minimum:g} to {maximum:g}; got {self.value:g}")
            is_whole = self.metric is not Metric.EXIT or self.value.is_integer()
            require(is_whole, f"an exit has a whole number; got {self.value:g}")

    def __str__(self) -> str:
        """The condition for people, with parentheses around conditions inside of conditions."""
        if self.metric is not None:
            return f"{self.metric} {self.op} {repr(self.value).removesuffix('.0')}"
        texts = [str(each) if each.metric is not None else f"({each})" for each in self.all or self.any]
        return (" and " if self.all else " or ").join(texts)

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All comparisons, in the order of the data."""
        if self.metric is not None and self.op is not None and self.value is not None:
            return (Comparison(self.metric, self.op, self.value),)
        return tuple(each for part in (*self.all, *self.any) for each in part.comparisons)

    @property
    def metrics(self) -> frozenset[Metric]:
        """The metrics that an evaluation needs."""
        return frozenset(each.metric for each in self.comparisons)

    def holds(self, values: Values, rows: int) -> Bools:
        """Whether the condition holds for each row [rows]. ``values`` has at least its ``metrics``."""
        truth: Bools = self.truth(values)
        return truth if np.shape(truth) == (rows,) else np.broadcast_to(truth, (rows,))

    def truth(self, values: Values) -> Any:
        """Whether it holds: one truth, or one for each row, as the shapes of the values are."""
        if self.metric is not None:
            ((metric, op, value),) = self.comparisons
            return _OPERATORS[op](np.asarray(values[metric], np.float64), value)
        join = np.logical_and if self.all else np.logical_or
        return reduce(join, (part.truth(values) for part in self.all or self.any))


def require_stop_condition(condition: Condition, variant: str) -> None:
    """Raise `ValueError` unless a variant can have this ``stop_when``."""
    others = sorted(condition.metrics - STOP_METRICS)
    require(
        not others,
        f"stop_when of `{variant}` compares `{', '.join(others)}`; that of a variant may compare `confidence` and "
        "`exit`, or its accuracy would vary: change the condition of its family live (PATCH /v2/proteus/families/NAME)",
    )
