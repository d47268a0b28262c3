"""Conditions as values: comparisons of metrics, joined by `and` and `or`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from proteus_cli.arrays import Bools
from proteus_cli.domain.conditions.metrics import SCALES, Metric

Operator = Literal["<", "<=", "==", ">", ">="]

OPERATORS: Mapping[Operator, Callable[[Any, float], Any]] = {
    "<": np.less, "<=": np.less_equal, "==": np.equal, ">": np.greater, ">=": np.greater_equal,
}  # fmt: skip

Values: TypeAlias = Mapping[Metric, npt.ArrayLike]
"""By metric, one value for all rows, or one for each row; in base units, NaN where there is none."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """``metric operator value``, with the value in base units: seconds, joules, fractions."""

    metric: Metric
    operator: Operator
    value: float

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {SCALES[self.metric].write(self.value)}"

    @property
    def comparisons(self) -> "tuple[Comparison, ...]":
        return (self,)

    def truth(self, values: Values) -> Any:
        """Whether it holds, for each row, or for all where the value is one for all; never where that is NaN."""
        return OPERATORS[self.operator](np.asarray(values[self.metric], np.float64), self.value)


@dataclass(frozen=True, slots=True)
class AllOf:
    """A condition that holds where each of its two or more parts does; none of them is an `AllOf` itself."""

    parts: "tuple[Comparison | AnyOf, ...]"

    def __str__(self) -> str:
        return " and ".join(f"({part})" if isinstance(part, AnyOf) else str(part) for part in self.parts)

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        return tuple(each for part in self.parts for each in part.comparisons)

    def truth(self, values: Values) -> Any:
        """Whether it holds, as `Comparison.truth`."""
        return reduce(np.logical_and, (part.truth(values) for part in self.parts))


@dataclass(frozen=True, slots=True)
class AnyOf:
    """A condition that holds where one of its two or more parts does; none of them is an `AnyOf` itself."""

    parts: "tuple[Comparison | AllOf, ...]"

    def __str__(self) -> str:
        return " or ".join(map(str, self.parts))

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        return tuple(each for part in self.parts for each in part.comparisons)

    def truth(self, values: Values) -> Any:
        """Whether it holds, as `Comparison.truth`."""
        return reduce(np.logical_or, (part.truth(values) for part in self.parts))


Condition: TypeAlias = Comparison | AllOf | AnyOf
"""``str()`` of it is its canonical text. ``comparisons`` are all that it has, in the order of the text."""


def all_of(parts: Sequence[Condition]) -> Condition:
    """The condition that holds where each of the one or more parts does."""
    flat: list[Comparison | AnyOf] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, AllOf) else [part])
    return flat[0] if len(flat) == 1 else AllOf(tuple(flat))


def any_of(parts: Sequence[Condition]) -> Condition:
    """The condition that holds where one of the one or more parts does."""
    flat: list[Comparison | AllOf] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, AnyOf) else [part])
    return flat[0] if len(flat) == 1 else AnyOf(tuple(flat))


def metrics(condition: Condition) -> frozenset[Metric]:
    """The metrics that a condition compares, which must be known to evaluate it."""
    return frozenset(each.metric for each in condition.comparisons)


def holds(condition: Condition, values: Values, rows: int) -> Bools:
    """Whether a condition holds for each row [rows]. ``values`` has each of its `metrics`, and may have others."""
    truth: Bools = condition.truth(values)
    return truth if np.shape(truth) == (rows,) else np.broadcast_to(truth, (rows,))
