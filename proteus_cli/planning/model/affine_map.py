"""What CVXPY compiles a model to: the arrays of a solver as an affine function of the values of its parameters.

CVXPY has this function as a sparse matrix, but checks the values of each parameter, and builds several matrices, each
time that it is asked for the arrays. Here it is taken once, and each demand is one product.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from proteus_cli.arrays import Bools, Floats, Ints
from proteus_cli.planning.model.modelling import cp, sp

CONSTANT_ID = -1  # CVXPY's id for the parameter that is one

ROUNDING = 1e-10  # a difference that is 0 may be less by so much; CVXPY allows the same


@dataclass(frozen=True, slots=True, eq=False)
class AffineMap:
    """Rows ``matrix @ columns <= right side`` as functions of the parameters, and what does not depend on them.

    ``entries`` [K, P + 1] gives those of the matrix, by column, and then those of the right side, from the P values of
    the parameters and a one: at ``first_value``, by parameter id, and ``one_at``. ``rows`` [K] is the row of each
    entry, ``starts`` where those of each column begin.
    """

    entries: sp.csr_array
    rows: Ints
    starts: Ints
    row_count: int
    is_equality: Bools
    lower: Floats
    upper: Floats
    is_integer: Bools
    first_column: dict[int, int]
    first_value: dict[int, int]
    one_at: int

    @classmethod
    def of(cls, problem: Any) -> "AffineMap":
        """Compile a problem of CVXPY; the values that its parameters have do not matter."""
        for parameter in problem.parameters():
            parameter.value = np.zeros(parameter.shape)
        data = problem.get_problem_data(cp.HIGHS)[0]
        compiled = data["param_prob"]
        rows, starts, (row_count, _) = compiled.reduced_A.problem_data_index
        size, first_value = len(data["c"]), dict(compiled.param_id_to_col)
        is_bool, is_integer = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
        is_bool[data["bool_vars_idx"]] = True
        is_integer[[*data["int_vars_idx"], *data["bool_vars_idx"]]] = True
        return cls(
            entries=sp.csr_array(compiled.reduced_A.reduced_mat),
            rows=rows,
            starts=starts,
            row_count=int(row_count),
            is_equality=np.arange(row_count) < data["dims"].zero,
            lower=np.where(is_bool, 0.0, _or_default(data["lower_bounds"], -np.inf, size)),
            upper=np.where(is_bool, 1.0, _or_default(data["upper_bounds"], np.inf, size)),
            is_integer=is_integer,
            first_column=dict(compiled.var_id_to_col),
            one_at=first_value.pop(CONSTANT_ID),
            first_value=first_value,
        )

    def at(self, values: Iterable[tuple[Any, Floats]]) -> tuple[sp.csc_array, Floats]:
        """The matrix [R, N] and the right side [R] for the values of parameters; of others, the map knows nothing.

        Raises `ValueError` where a value is negative, or not a number.
        """
        vector = np.zeros(self.entries.shape[1])
        vector[self.one_at] = 1.0
        for parameter, value in values:
            first = self.first_value.get(parameter.id)
            if first is not None:
                vector[first : first + len(value)] = value
        if not np.all(vector >= -ROUNDING):
            raise ValueError(f"a parameter of the model is negative, or not a number: {vector[~(vector >= -ROUNDING)]}")
        found = self.entries @ vector
        ends = int(self.starts[-2])
        matrix = sp.csc_array((-found[:ends], self.rows[:ends], self.starts[:-1]), (self.row_count, len(self.lower)))
        right: Floats = np.zeros(self.row_count)
        right[self.rows[ends:]] = found[ends:]
        return matrix, right


def _or_default(bounds: Floats | None, default: float, size: int) -> Floats:
    return np.full(size, default) if bounds is None else np.asarray(bounds, dtype=np.float64)
