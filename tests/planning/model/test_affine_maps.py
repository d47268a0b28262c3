"""The arrays of a model for the values of its parameters: those that CVXPY makes of them."""

import numpy as np
import pytest

from proteus_cli.planning.model.affine_map import AffineMap
from proteus_cli.planning.model.modelling import cp


def test_arrays_are_those_that_cvxpy_makes_of_the_same_values() -> None:
    """Of parameters in the matrix, on the right side, in both, and in neither."""
    x, n = cp.Variable(3, nonneg=True), cp.Variable(2, integer=True)
    in_matrix, on_right, in_both, unused = (cp.Parameter(size, nonneg=True) for size in (3, 2, 1, 2))
    rows = [
        n <= cp.multiply(on_right, [2.0, 3.0]),
        cp.multiply(in_matrix, x) >= 1,
        cp.sum(n) + in_both @ x[:1] == in_both,
    ]
    problem = cp.Problem(cp.Minimize(x[0]), rows)
    arrays = AffineMap.of(problem)
    values = [(in_matrix, [0.5, 0.0, 2.0]), (on_right, [4.0, 0.0]), (in_both, [7.0]), (unused, [1.0, 1.0])]
    for parameter, value in values:
        parameter.value = np.array(value)
    expected = problem.get_problem_data(cp.HIGHS)[0]
    matrix, right = arrays.at((parameter, np.array(value)) for parameter, value in values)
    assert (matrix.toarray() == expected["A"].toarray()).all()
    assert right.tolist() == expected["b"].tolist()
    assert arrays.is_equality.sum() == expected["dims"].zero == 1
    assert arrays.is_integer.tolist() == [False] * 3 + [True] * 2
    assert arrays.lower.tolist() == [0.0] * 3 + [-np.inf] * 2


def test_a_value_may_be_below_0_by_what_rounding_leaves() -> None:
    x, p = cp.Variable(1), cp.Parameter(1, nonneg=True)
    _, right = AffineMap.of(cp.Problem(cp.Minimize(x[0]), [x <= p])).at([(p, np.array([0.3 - (0.1 + 0.2)]))])
    assert right == pytest.approx([0.0], abs=1e-15)


@pytest.mark.parametrize("value", [-1.0, np.nan])
def test_values_that_no_parameter_has_are_refused(value: float) -> None:
    x, p = cp.Variable(1), cp.Parameter(1, nonneg=True)
    with pytest.raises(ValueError, match="negative, or not a number"):
        AffineMap.of(cp.Problem(cp.Minimize(x[0]), [x >= p])).at([(p, np.array([value]))])
