"""Linear expressions: their coefficients at a point are what the same calculation gives with arrays."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from proteus_cli.planning.model import linear as lp

SIZE = 4
RNG = np.random.default_rng(0)
MATRIX = csr_array(np.where(RNG.random((3, SIZE)) < 0.6, RNG.random((3, SIZE)), 0.0))
VECTOR, INDEX = RNG.random(SIZE), np.array([3, 0, 0, 2])

Calculation = Callable[[Any, Any, Any, Callable[[Any, Any], Any], Callable[[Any], Any]], Any]

CALCULATIONS: dict[str, Calculation] = {
    "sums": lambda x, y, p, times, total: x + y - 2.0 + VECTOR,
    "differences": lambda x, y, p, times, total: 1 - (VECTOR - x) - (p - y),
    "products": lambda x, y, p, times, total: 2 * times(p, times(VECTOR, x)) / VECTOR,
    "a matrix": lambda x, y, p, times, total: MATRIX @ x + MATRIX @ (times(p, x) + y),
    "a matrix of a matrix": lambda x, y, p, times, total: csr_array(np.ones((2, 3))) @ (MATRIX @ times(p, x)),
    "a matrix of constants": lambda x, y, p, times, total: MATRIX @ (p + 1.0),
    "scalars": lambda x, y, p, times, total: p @ x + VECTOR @ (x + y) + total(y),
    "a scalar and a vector": lambda x, y, p, times, total: times(VECTOR, x[np.array([1])] + 1.0) - y,
    "entries": lambda x, y, p, times, total: x[INDEX] + p[INDEX] + (x + y)[INDEX] + (MATRIX @ x)[INDEX % 3],
    "no entries": lambda x, y, p, times, total: (x + y)[np.array([], dtype=np.int64)],
}


def at(expression: lp.Expression, x: lp.Variable, values: Any) -> Any:
    rows = expression.coefficients({x.id: 0})
    found = rows.constant.copy()
    np.add.at(found, rows.row, rows.value * values[rows.column])
    return found


@pytest.mark.parametrize("name", CALCULATIONS)
def test_an_expression_is_worth_what_it_says(name: str) -> None:
    both, p = lp.Variable(2 * SIZE), lp.Parameter(SIZE)
    x, y = both[np.arange(SIZE)], both[SIZE + np.arange(SIZE)]
    expression = CALCULATIONS[name](x, y, p, lp.multiply, lp.total)
    for _ in range(2):  # the second time with other values of the parameter
        values, p.value = RNG.random(2 * SIZE), RNG.random(SIZE)
        wanted = CALCULATIONS[name](values[:SIZE], values[SIZE:], p.value, np.multiply, np.sum)
        np.testing.assert_allclose(at(expression, both, values), np.atleast_1d(wanted), rtol=1e-12)


def test_a_problem_has_equalities_first_and_columns_in_the_order_of_its_variables() -> None:
    first, x, y, z = lp.Variable(), lp.Variable(2, nonneg=True), lp.Variable(2, integer=True), lp.Variable(boolean=True)
    p = lp.Parameter(2)
    problem = lp.Problem(first, [y <= p, 2 * x >= y, lp.stacked([z, first]) == x + 1.0])
    p.value = np.array([5.0, 6.0])
    arrays = problem.arrays()
    assert problem.first_column == {first.id: 0, y.id: 1, x.id: 3, z.id: 5}
    assert arrays.is_equality.tolist() == [True, True, False, False, False, False]
    assert arrays.upper.tolist() == [1.0, 1.0, 5.0, 6.0, 0.0, 0.0]
    assert arrays.matrix.toarray().tolist() == [
        [0, 0, 0, -1, 0, 1],
        [1, 0, 0, 0, -1, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 1, 0, -2, 0, 0],
        [0, 0, 1, 0, -2, 0],
    ]
    assert problem.lower.tolist() == [-np.inf, -np.inf, -np.inf, 0, 0, 0]
    assert problem.upper.tolist() == [np.inf] * 5 + [1]
    assert problem.is_integer.tolist() == [False, True, True, False, False, True]
