"""Linear programs in blocks of columns: expressions of columns, constraints on them, and points.

A block is an expression like any other, so formulas read as they do on paper::

    columns = Columns()
    hosts, unserved = columns.add(2, is_integer=True), columns.add(1)
    serves_all_demand = capacity @ hosts + unserved >= demand

Expressions hold numbers, not parameters: a model is formulated anew for each demand, which takes about a millisecond.
CVXPY takes longer to set the parameters of a compiled model, and 100 ms to compile it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from proteus_cli.arrays import Bools, Floats, Ints

if TYPE_CHECKING:
    from proteus_cli.planning.model.instance import Instance
    from proteus_cli.planning.model.milp import Objective, Parameters, Variables

MAX_VIOLATION = 1e-5  # of a bound, by a sound answer of the solver


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """Affine expressions, ``size`` of them: entries (``row``, ``column``, ``value``), and a ``constant`` each.

    Operands are expressions, arrays of the same size, and numbers; ``@`` takes an array, or a sparse matrix, on its
    left.
    """

    row: Ints
    column: Ints
    value: Floats
    constant: Floats

    __array_ufunc__ = None  # so that NumPy leaves operations with arrays to this class

    @property
    def size(self) -> int:
        """The number of expressions."""
        return len(self.constant)

    def at(self, index: Ints) -> "Linear":
        """The expressions with these numbers, each as often as it is there."""
        order = np.argsort(self.row, kind="stable")
        counts = np.bincount(self.row, minlength=self.size)
        entries = order[_ranges((np.cumsum(counts) - counts)[index], counts[index])]
        rows = np.repeat(np.arange(len(index)), counts[index])
        return Linear(rows, self.column[entries], self.value[entries], self.constant[index])

    def sum(self) -> "Linear":
        """The sum of all, as one expression."""
        return self.__rmatmul__(np.ones(self.size))

    def values_at(self, columns: Floats) -> Floats:
        """The value of each expression for these values of all columns."""
        return self.constant + np.bincount(self.row, self.value * columns[self.column], self.size)

    def __rmatmul__(self, matrix: Any) -> "Linear":
        if isinstance(matrix, np.ndarray):
            total = np.atleast_1d(self.constant @ matrix)
            return Linear(np.zeros_like(self.row), self.column, self.value * matrix[self.row], total)
        matrix = matrix.tocsc()
        counts = np.diff(matrix.indptr)[self.row]
        entries = _ranges(matrix.indptr[self.row], counts)
        return Linear(
            row=matrix.indices[entries].astype(np.int64),
            column=np.repeat(self.column, counts),
            value=np.repeat(self.value, counts) * matrix.data[entries],
            constant=matrix @ self.constant,
        )

    def __mul__(self, factors: "Floats | float") -> "Linear":
        each = np.broadcast_to(factors, self.size)
        return Linear(self.row, self.column, self.value * each[self.row], self.constant * each)

    __rmul__ = __mul__

    def __neg__(self) -> "Linear":
        return self * -1.0

    def __add__(self, other: "Linear | Floats | float") -> "Linear":
        if not isinstance(other, Linear):
            return replace(self, constant=self.constant + other)
        return Linear(
            np.concatenate((self.row, other.row)),
            np.concatenate((self.column, other.column)),
            np.concatenate((self.value, other.value)),
            self.constant + other.constant,
        )

    __radd__ = __add__

    def __sub__(self, other: "Linear | Floats | float") -> "Linear":
        return self + -other

    def __rsub__(self, other: "Floats | float") -> "Linear":
        return -self + other

    def __le__(self, other: "Linear | Floats | float") -> "Constraint":
        return Constraint(self - other, is_equality=False)

    def __ge__(self, other: "Linear | Floats | float") -> "Constraint":
        return Constraint(-(self - other), is_equality=False)

    def equals(self, other: "Linear | Floats | float") -> "Constraint":
        """The constraint that both are equal."""
        return Constraint(self - other, is_equality=True)


def _ranges(starts: Ints, counts: Ints) -> Ints:
    """The numbers of several ranges, one range after another."""
    ranges: Ints = np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
    return ranges


@dataclass(frozen=True, slots=True, eq=False)
class Constraint:
    """Expressions that are at most 0, or 0 if ``is_equality``."""

    linear: Linear
    is_equality: bool


class Columns:
    """The columns of a program, in blocks, with their bounds."""

    def __init__(self) -> None:
        self.count = 0
        self._bounds: list[tuple[Floats, Floats, Bools]] = []

    def add(
        self, size: int, *, lower: Floats | float = 0.0, upper: Floats | float = np.inf, is_integer: bool = False
    ) -> Linear:
        """Add a block."""
        places = np.arange(size)
        block = Linear(places, self.count + places, np.ones(size), np.zeros(size))
        self.count += size
        self._bounds.append((np.full(size, lower), np.full(size, upper), np.full(size, is_integer)))
        return block

    def bounds(self) -> tuple[Floats, Floats, Bools]:
        """Lower bounds, upper bounds, and which columns are integer."""
        lower, upper, is_integer = (np.concatenate(each) for each in zip(*self._bounds, strict=True))
        return lower, upper, is_integer


@dataclass(frozen=True, slots=True, eq=False)
class SolverPoint:
    """A feasible point: all columns, the value of the objective, and a lower bound of the value of any point.

    ``is_proven``: the gap between both is as small as was asked for. ``reduced_costs`` are of a relaxation.
    """

    columns: Floats
    value: float
    bound: float
    is_proven: bool
    reduced_costs: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Bounds of the columns, and of the rows ``matrix @ columns``: what the solver is given.

    ``objectives`` are the columns of each objective ("worst served" has one for each number of families).
    """

    instance: "Instance"
    values: "Parameters"
    variables: "Variables"
    objectives: "dict[Objective, list[int]]"
    matrix: sp.csc_array
    row_lower: Floats
    row_upper: Floats
    lower: Floats
    upper: Floats
    is_integer: Bools

    @property
    def is_mip(self) -> bool:
        """Whether any column is integer."""
        return bool(self.is_integer.any())

    def is_feasible_at(self, point: SolverPoint, column: int) -> bool:
        """Whether a point is within all bounds, and has its value in the column."""
        rows, columns = self.matrix @ point.columns, point.columns
        outside = (self.row_lower - rows, rows - self.row_upper, self.lower - columns, columns - self.upper)
        is_within = all(np.max(by, initial=0.0) <= MAX_VIOLATION for by in outside)
        return is_within and abs(float(columns[column]) - point.value) <= MAX_VIOLATION * max(1.0, abs(point.value))

    def among(self, is_free: Bools) -> "Program":
        """The program of some columns; the others have their lower bounds."""
        fixed = self.matrix @ np.where(is_free, 0.0, self.lower)
        return replace(
            self,
            matrix=self.matrix[:, is_free],
            row_lower=self.row_lower - fixed,
            row_upper=self.row_upper - fixed,
            lower=self.lower[is_free],
            upper=self.upper[is_free],
            is_integer=self.is_integer[is_free],
        )

    def limit(self, columns: Ints | int, maximum: float) -> "Program":
        """The same program where those columns are ``maximum`` at most."""
        upper = self.upper.copy()
        upper[columns] = np.maximum(np.minimum(upper[columns], maximum), self.lower[columns])
        return replace(self, upper=upper)


def rows_of(constraints: Sequence[Constraint], columns: int) -> tuple[sp.csc_array, Floats, Floats]:
    """The matrix of some constraints, and the lower and upper bounds of its rows."""
    sizes = [each.linear.size for each in constraints]
    first = np.cumsum([0, *sizes])
    rows = np.concatenate([each.linear.row + start for each, start in zip(constraints, first, strict=False)])
    column = np.concatenate([each.linear.column for each in constraints])
    values = np.concatenate([each.linear.value for each in constraints])
    upper = -np.concatenate([each.linear.constant for each in constraints])
    is_equality = np.repeat([each.is_equality for each in constraints], sizes)
    is_entry = values != 0
    entries = (values[is_entry], (rows[is_entry], column[is_entry]))
    return sp.csc_array(entries, (len(upper), columns)), np.where(is_equality, upper, -np.inf), upper
