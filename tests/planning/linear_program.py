"""Small linear programs by the thousand: around each, `scipy.optimize.linprog` does ten times the work of its solve."""

from collections.abc import Sequence
from functools import cache

import highspy
import numpy as np

from proteus_cli.arrays import Floats

OPTIONS = {
    "output_flag": False,
    "threads": 1,
    "presolve": "off",  # it takes longer than the few steps that it saves
    "primal_feasibility_tolerance": 1e-10,
    "dual_feasibility_tolerance": 1e-10,
}


def least(cost: Floats, rows: Floats, most: Floats | Sequence[float]) -> float | None:
    """The least of ``cost · x`` where ``x >= 0`` and ``rows · x <= most``; None where there is no such ``x``."""
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = rows.shape
    lp.col_cost_ = cost
    lp.col_lower_, lp.col_upper_ = np.zeros(len(cost)), np.full(len(cost), highspy.kHighsInf)
    lp.row_lower_, lp.row_upper_ = np.full(len(rows), -highspy.kHighsInf), np.asarray(most)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.arange(0, rows.size + 1, len(cost))
    lp.a_matrix_.index_ = np.tile(np.arange(len(cost)), len(rows))
    lp.a_matrix_.value_ = rows.ravel()
    solver = _solver()
    solver.passModel(lp)
    solver.run()
    status = solver.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return None
    assert status == highspy.HighsModelStatus.kOptimal, status
    return float(solver.getInfo().objective_function_value)


@cache
def _solver() -> highspy.Highs:
    """One for all: each program that is passed on takes the place of the one before, and of what was known of that."""
    solver = highspy.Highs()
    for option, value in OPTIONS.items():
        solver.setOptionValue(option, value)
    return solver
