"""The coefficients of linear expressions as arrays, and what can be done with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.planning.model.sparse import sp


@dataclass(frozen=True, slots=True, eq=False)
class Coefficients:
    """Of ``N`` rows: ``constant`` [N], and ``value`` in ``row`` and ``column``, where several may be added up."""

    constant: Floats
    row: Ints
    column: Ints
    value: Floats

    @property
    def size(self) -> int:
        """``N``."""
        return len(self.constant)

    def times(self, factor: Floats) -> "Coefficients":
        """Each row times its factor; where there is one row or one factor, it is for all."""
        one_each = self.stretched(max(self.size, len(factor)))
        factor = np.broadcast_to(factor, one_each.size)
        value = one_each.value * factor[one_each.row]
        return Coefficients(one_each.constant * factor, one_each.row, one_each.column, value)

    def plus(self, other: "Coefficients") -> "Coefficients":
        """The sums of the rows; where one has a single row, it is added to all."""
        size = max(self.size, other.size)
        left, right = self.stretched(size), other.stretched(size)
        return Coefficients(
            left.constant + right.constant,
            np.concatenate((left.row, right.row)),
            np.concatenate((left.column, right.column)),
            np.concatenate((left.value, right.value)),
        )

    def stretched(self, size: int) -> "Coefficients":
        """A single row so many times; others as they are."""
        if self.size == size:
            return self
        return Coefficients(
            np.repeat(self.constant, size),
            np.repeat(np.arange(size), len(self.row)),
            np.tile(self.column, size),
            np.tile(self.value, size),
        )

    def at(self, index: Ints) -> "Coefficients":
        """The rows with these numbers."""
        constant = self.constant[index]
        if self._is_one_each:
            return Coefficients(constant, np.arange(len(index)), self.column[index], self.value[index])
        return self._from_sparse(constant, self._sparse[index])

    def mapped(self, matrix: sp.csr_array) -> "Coefficients":
        """A matrix times this."""
        constant = matrix @ self.constant
        if self._is_one_each:
            row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
            value = matrix.data * self.value[matrix.indices]
            return Coefficients(constant, row, self.column[matrix.indices], value)
        return self._from_sparse(constant, matrix @ self._sparse)

    def weighed(self, weights: Floats) -> "Coefficients":
        """One row: the sum of all, each times its weight, or times one for all."""
        weights = np.broadcast_to(weights, self.size)
        row = np.zeros(len(self.row), dtype=np.int64)
        return Coefficients(np.array([weights @ self.constant]), row, self.column, self.value * weights[self.row])

    @property
    def _is_one_each(self) -> bool:
        """Each row has one coefficient, and they are in order."""
        return len(self.row) == self.size and bool(np.array_equal(self.row, np.arange(self.size)))

    @property
    def _sparse(self) -> sp.csr_array:
        columns = int(self.column.max(initial=-1)) + 1
        return sp.csr_array((self.value, (self.row, self.column)), (self.size, columns))

    @staticmethod
    def _from_sparse(constant: Floats, matrix: sp.csr_array) -> "Coefficients":
        found = matrix.tocoo()
        return Coefficients(constant, found.row.astype(np.int64), found.col.astype(np.int64), found.data)


def joined(parts: Sequence[Coefficients]) -> Coefficients:
    """The rows of all, one after the other."""
    starts = np.cumsum([0, *(part.size for part in parts)])
    return Coefficients(
        np.concatenate([part.constant for part in parts]),
        np.concatenate([part.row + start for part, start in zip(parts, starts[:-1], strict=True)]),
        np.concatenate([part.column for part in parts]),
        np.concatenate([part.value for part in parts]),
    )
