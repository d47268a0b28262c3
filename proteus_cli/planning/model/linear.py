"""Linear models as they read on paper: variables, parameters, and expressions and constraints of them.

An expression is a vector; one of size 1 goes with vectors of any size. A parameter stands for numbers that differ
between solves: coefficients are by the values that parameters have when they are asked for. So a model is written once,
and for each demand its arrays are made anew, which takes a millisecond.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from proteus_cli.arrays import Bools, Floats
from proteus_cli.planning.model.coefficients import Coefficients, joined
from proteus_cli.planning.model.sparse import sp

_ids = count()


class Expression:
    """A vector that is linear in variables; they are in the order in which they stand in it."""

    __array_ufunc__ = None  # so that NumPy leaves `array @ expression` to us

    def __init__(self, *operands: "Expression") -> None:
        self.operands = operands

    def coefficients(self, first_column: Mapping[int, int]) -> Coefficients:
        """By the values that parameters have now. ``first_column``: of each variable, by id."""
        raise NotImplementedError

    def variables(self) -> Iterator["Variable"]:
        """All that stand in it, in their order."""
        for operand in self.operands:
            yield from operand.variables()

    def __add__(self, other: Any) -> "Expression":
        return _Sum(self, _expression(other))

    def __radd__(self, other: Any) -> "Expression":
        return _Sum(_expression(other), self)

    def __sub__(self, other: Any) -> "Expression":
        return _Sum(self, -_expression(other))

    def __rsub__(self, other: Any) -> "Expression":
        return _Sum(_expression(other), -self)

    def __neg__(self) -> "Expression":
        return multiply(-1.0, self)

    def __rmul__(self, factor: float) -> "Expression":
        return multiply(factor, self)

    def __truediv__(self, divisor: Any) -> "Expression":
        return multiply(1.0 / divisor, self)

    def __rmatmul__(self, matrix: Any) -> "Expression":
        return _Mapped(matrix, self) if matrix.ndim > 1 else _Weighed(_expression(matrix), self)

    def __matmul__(self, other: "Expression") -> "Expression":
        return _Weighed(self, other)

    def __getitem__(self, index: Any) -> "Expression":
        return _At(index, self)

    def __le__(self, other: Any) -> "Constraint":
        return Constraint(self - other)

    def __ge__(self, other: Any) -> "Constraint":
        return Constraint(other - self)

    def __eq__(self, other: object) -> "Constraint":  # type: ignore[override]
        return Constraint(self - other, is_equality=True)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, eq=False)
class Constraint:
    """An expression must be 0, or 0 at most."""

    expression: Expression
    is_equality: bool = False


class Constant(Expression):
    """Numbers."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value: Floats = np.atleast_1d(np.asarray(value, dtype=np.float64))

    def coefficients(self, first_column: Mapping[int, int]) -> Coefficients:  # noqa: ARG002 - it has no columns
        nothing = np.zeros(0, dtype=np.int64)
        return Coefficients(self.value, nothing, nothing, np.zeros(0))


class Parameter(Constant):
    """Numbers whose ``value`` is set before coefficients are asked for."""

    def __init__(self, size: int) -> None:
        super().__init__(np.zeros(size))


class Variable(Expression):
    """What is decided: any numbers, or none below 0, whole ones, or only 0 and 1."""

    def __init__(self, size: int = 1, *, nonneg: bool = False, integer: bool = False, boolean: bool = False) -> None:
        super().__init__()
        self.id, self.size = next(_ids), size
        self.lower, self.upper = 0.0 if nonneg or boolean else -np.inf, 1.0 if boolean else np.inf
        self.is_integer = integer or boolean

    def coefficients(self, first_column: Mapping[int, int]) -> Coefficients:
        entries = np.arange(self.size)
        return Coefficients(np.zeros(self.size), entries, entries + first_column[self.id], np.ones(self.size))

    def variables(self) -> Iterator["Variable"]:
        yield self


def multiply(factor: Any, expression: Expression) -> Expression:
    """Entry by entry; the factor has no variables."""
    return _Product(_expression(factor), expression)


def total(expression: Expression) -> Expression:
    """The sum of all entries."""
    return _Weighed(Constant(1.0), expression)


def stacked(parts: Sequence[Expression]) -> Expression:
    """The entries of all, one after the other."""
    return _Stacked(*parts)


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """What a model is at some values of its parameters: ``matrix @ columns`` is ``upper`` at most, or just that."""

    matrix: sp.csc_array
    upper: Floats
    is_equality: Bools


class Problem:
    """Constraints, of which equalities are the first rows; columns are those of variables in their order.

    ``first``: a variable that comes before all others. By column: bounds of its own, ``lower`` and ``upper``.
    """

    def __init__(self, first: Variable, constraints: Sequence[Constraint]) -> None:
        self._constraints = sorted(constraints, key=lambda each: not each.is_equality)
        found = {first.id: first}
        found |= {variable.id: variable for each in constraints for variable in each.expression.variables()}
        variables, sizes = tuple(found.values()), [variable.size for variable in found.values()]
        self.first_column = dict(zip(found, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
        self.lower: Floats = np.repeat([variable.lower for variable in variables], sizes)
        self.upper: Floats = np.repeat([variable.upper for variable in variables], sizes)
        self.is_integer: Bools = np.repeat([variable.is_integer for variable in variables], sizes)

    def arrays(self) -> Arrays:
        """By the values that parameters have now."""
        parts = [each.expression.coefficients(self.first_column) for each in self._constraints]
        rows, is_equality = joined(parts), [each.is_equality for each in self._constraints]
        return Arrays(
            matrix=sp.csc_array((rows.value, (rows.row, rows.column)), (rows.size, len(self.lower))),
            upper=-rows.constant,
            is_equality=np.repeat(is_equality, [part.size for part in parts]),
        )


class _Sum(Expression):
    def coefficients(self, first_column: Mapping[int, int]) -> Coefficients:
        left, right = self.operands
        return left.coefficients(first_column).plus(right.coefficients(first_column))


class _Product(Expression):
    def coefficients(self, first_column: Mapping[int, int]) -> Coefficients:
        factor, expression = self.operands
        return expression.coefficients(first_column).times(factor.coefficients(first_column).constant)


class _Weighed(Expression):
    """The sum of all entries, each times its weight: a scalar."""

    def coefficients(self, first_column: Mapping[int, int]) -> Coefficients:
        weights, expression = self.operands
        return expression.coefficients(first_column).weighed(weights.coefficients(first_column).constant)


class _Mapped(Expression):
    """A matrix times an expression."""

    def __init__(self, matrix: sp.csr_array, expression: Expression) -> None:
        super().__init__(expression)
        self._matrix = matrix

    def coefficients(self, first_column: Mapping[int, int]) -> Coefficients:
        return self.operands[0].coefficients(first_column).mapped(self._matrix)


class _At(Expression):
    """Some entries of an expression."""

    def __init__(self, index: Any, expression: Expression) -> None:
        super().__init__(expression)
        self._index = np.atleast_1d(np.asarray(index, dtype=np.int64))

    def coefficients(self, first_column: Mapping[int, int]) -> Coefficients:
        return self.operands[0].coefficients(first_column).at(self._index)


class _Stacked(Expression):
    def coefficients(self, first_column: Mapping[int, int]) -> Coefficients:
        return joined([operand.coefficients(first_column) for operand in self.operands])


def _expression(value: Any) -> Expression:
    return value if isinstance(value, Expression) else Constant(value)
