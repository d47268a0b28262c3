"""HiGHS, and nothing else knows it: its statuses become points with bounds, or an error of ours.

The model is compiled by CVXPY once; for each demand its arrays are handed to HiGHS directly. That saves what CVXPY does
around each solve, and gives what it hides: bounds of single columns, starting points, limits by effort, proven bounds.
"""

import ctypes
import math
import os
import sys
import time
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import cvxpy as cp
import highspy
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from proteus_cli.planning.milp import Model, Objective

if TYPE_CHECKING:
    from collections.abc import Callable

Floats = npt.NDArray[np.float64]

FIRST_GAP = 1e-6  # of the aim's own value: where little accuracy is lost, the last bit of it is found
FIRST_ABSOLUTE_GAP = 1e-6  # … but not beyond this part of all that is at stake
LAST_GAP = 1e-4  # of all that is at stake: enough after so much effort …
EFFORT = 100  # … counted in the solver's own checks, not in time: the same input must give the same plan
WHOLE = 0.999  # two whole numbers that are closer are the same
TOLERANCE = 1e-6  # what a later aim may take from an earlier one; above the solver's own tolerance
ROUNDING = 1e-5  # what no sound answer is off by
MANY_COLUMNS = 1500  # from here on, first solve the part that matters
MANY_GAP = 2.5e-4  # and take this gap: the last bit would cost ten times the time
PART = 4  # a part is left for a wider one when at most a PARTth of what may be won in all is still to be won in it
WIDER = (1.5, 2.0, 4.0, np.inf)  # how many times the columns of the relaxation that part has

_OPTIONS = {
    "output_flag": False,
    "parallel": "off",
    "threads": 1,
    "random_seed": 0,
    "mip_rel_gap": FIRST_GAP,
    "mip_feasibility_tolerance": TOLERANCE / 10,  # else what an aim leaves to the next is as thin as rounding
    # Measured on the paper's cluster: without both, the hardest of 300 demands takes 76 instead of 176 ms.
    "mip_allow_restart": False,
    "mip_heuristic_run_feasibility_jump": False,
}
_NO_POINT = {highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible}
_ENDED = {highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kInterrupt, highspy.HighsModelStatus.kTimeLimit}


class OutOfTime(Exception):
    """The deadline passed before there was a point, or a proof that there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class SolverPoint:
    """A feasible point: all columns, the value of the aim, and a bound below which no other point is.

    ``is_proven``: the gap between both is as small as was asked for. ``reduced_costs`` are of a relaxation.
    """

    columns: Floats
    value: float
    bound: float
    is_proven: bool
    reduced_costs: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A model with its parameters set: bounds of the columns, and of the rows ``matrix @ columns``."""

    model: Model
    matrix: sp.csc_array
    row_lower: Floats
    row_upper: Floats
    lower: Floats
    upper: Floats
    is_whole: npt.NDArray[np.bool_]
    first_column: dict[int, int]

    def columns(self, variable: "cp.Variable") -> slice:
        """Where a variable of the model is among the columns."""
        first = self.first_column[variable.id]
        return slice(first, first + variable.size)

    def aim(self, aim: Objective, place: int = 0) -> int:
        """The column of an aim."""
        return int(self.columns(self.model.aims).start + self.model.aim_index[aim][place])

    def whole(self, point: SolverPoint, variable: "cp.Variable") -> npt.NDArray[np.int64]:
        """The value of a variable of whole numbers at a point."""
        return np.rint(point.columns[self.columns(variable)]).astype(np.int64)

    def holds(self, point: SolverPoint, column: int) -> bool:
        """Whether a point is what it says: within all bounds, and of that value in the column."""
        rows, columns = self.matrix @ point.columns, point.columns
        outside = (self.row_lower - rows, rows - self.row_upper, self.lower - columns, columns - self.upper)
        is_feasible = all(np.max(by, initial=0.0) <= ROUNDING for by in outside)
        return is_feasible and abs(float(columns[column]) - point.value) <= ROUNDING * max(1.0, abs(point.value))

    def at_most(self, columns: "npt.NDArray[np.int64] | int", most: float) -> "Program":
        """The same, where those columns are ``most`` at most."""
        upper = self.upper.copy()
        upper[columns] = np.maximum(np.minimum(upper[columns], most), self.lower[columns])
        return replace(self, upper=upper)

    def limit(self, aim: Objective, most: float, place: int = 0) -> "Program":
        """The same, where that aim is ``most`` at most."""
        return self.at_most(self.aim(aim, place), most)


def prepare(model: Model) -> None:
    """Let CVXPY do now what it does once per model, so that it isn't part of the first solve's time."""
    for parameter in (*model.problem.parameters(), model.most):
        parameter.value = np.zeros(parameter.shape)
    compile_program(model)


def compile_program(model: Model) -> Program:
    """The program of a model for the parameters it has now."""
    _swallow_banner()
    data = model.problem.get_problem_data(cp.HIGHS)[0]
    size = len(data["c"])
    row_upper = np.asarray(data["b"], dtype=np.float64)
    is_equality = np.arange(len(row_upper)) < data["dims"].zero
    lower = _or_default(data["lower_bounds"], -np.inf, size)
    upper = _or_default(data["upper_bounds"], np.inf, size)
    is_bool, is_whole = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    is_bool[data["bool_vars_idx"]] = True
    is_whole[[*data["int_vars_idx"], *data["bool_vars_idx"]]] = True
    program = Program(
        model=model,
        matrix=sp.csc_array(data["A"]),
        row_lower=np.where(is_equality, row_upper, -np.inf),
        row_upper=row_upper,
        lower=np.where(is_bool, 0.0, lower),
        upper=np.where(is_bool, 1.0, upper),
        is_whole=is_whole,
        first_column=dict(data["param_prob"].var_id_to_col),
    )
    program.lower[program.columns(model.hosts)] = 0.0
    program.upper[program.columns(model.hosts)] = model.most.value
    program.upper[program.columns(model.loads)] = np.maximum(model.most.value - model.current.value, 0.0)
    return program


def minimise(
    program: Program,
    column: int,
    *,
    deadline_s: float,
    point_by_s: float | None = None,
    at_stake: float | None = 1.0,
    start: SolverPoint | None = None,
) -> SolverPoint | None:
    """The least value of a column, or None where nothing is feasible.

    The gap is measured by ``at_stake``; None says that the value is a whole number. ``deadline_s`` is by
    `time.perf_counter`; past it the best point found is returned, which is not proven. Raises `OutOfTime` where it, or
    ``point_by_s``, passes before there is any.
    """
    ask = _Ask(column, WHOLE if at_stake is None else LAST_GAP * at_stake, deadline_s, point_by_s or deadline_s)
    if program.is_whole.sum() > MANY_COLUMNS:
        return _widening(program, replace(ask, gap=max(ask.gap, MANY_GAP * (at_stake or 0.0))), start)
    return _run(program, ask, start)


@dataclass(frozen=True, slots=True)
class _Ask:
    """Which column to minimise, to which absolute gap, until when, and when to give up if there is no point yet.

    ``whole_bound``: where this is a part of a model, a bound of the whole.
    """

    column: int
    gap: float
    deadline_s: float
    point_by_s: float
    whole_bound: float = -np.inf

    def is_good(self, value: float, bound: float, checks: int) -> bool:
        """Enough for the effort that was made; or, in a part, there is more to win elsewhere."""
        if np.isinf(value):
            return False
        gap = value - bound
        return (checks > EFFORT and gap <= self.gap) or PART * gap <= value - self.whole_bound < np.inf


def _widening(program: Program, ask: _Ask, start: SolverPoint | None) -> SolverPoint | None:
    """Of very many choices few matter: those that the relaxation uses, then those that it likes next best.

    The part of the model that has only these is solved, with ever more of them. A choice that is left out costs at
    least its reduced cost above the relaxation, so each part proves a bound of the whole.
    """
    relaxed = _run(replace(program, is_whole=np.zeros_like(program.is_whole)), ask, None)
    if relaxed is None:
        return None
    hosts = program.columns(program.model.hosts)
    is_used = relaxed.columns[hosts] > TOLERANCE
    costs = np.where(is_used, -np.inf, relaxed.reduced_costs[hosts])
    preference = np.argsort(np.where(program.upper[hosts] > 0, costs, np.inf), kind="stable")
    count = int(np.count_nonzero(program.upper[hosts] > 0))
    best, bound = _valued(program, ask.column, start), relaxed.bound
    for wider in WIDER:
        size = int(min(wider * is_used.sum(), count))
        try:
            part = program.at_most(hosts.start + preference[size:], 0.0)
            found = _run(part, replace(ask, whole_bound=bound if size < count else -np.inf), best)
        except OutOfTime:
            break
        if found is not None and (best is None or found.value <= best.value):
            best = found
        of_others = relaxed.bound + max(float(costs[preference[size]]), 0.0) if size < count else math.inf
        bound = max(bound, min(of_others, math.inf if found is None else found.bound))
        if best is not None and best.value - bound <= ask.gap:
            return replace(best, bound=min(bound, best.value), is_proven=True)
        if size == count:
            if best is None:
                return None
            break
    if best is None:
        raise OutOfTime
    return replace(best, bound=bound, is_proven=False)


def _valued(program: Program, column: int, start: SolverPoint | None) -> SolverPoint | None:
    """A starting point with its value in this column, unless it is not feasible: it was found for another program."""
    if start is None:
        return None
    valued = replace(start, value=float(start.columns[column]))
    return valued if program.holds(valued, column) else None


def _run(program: Program, ask: _Ask, start: SolverPoint | None) -> SolverPoint | None:
    """Solve; where HiGHS contradicts itself or gives up, again without the starting point, then without presolve.

    It does so on tiny models: seen were a start that came back with the value of a better point, and "Solve error".
    """
    free = _Free.of(program)
    if not free.is_feasible:
        return None
    ended, starts = "", (start, None) if start is not None else (None,)
    for given, presolve in (*((given, "choose") for given in starts), (None, "off")):
        highs = _solved(free, ask, given, presolve)
        if highs.getModelStatus() in _NO_POINT:
            return None
        if highs.getModelStatus() in _ENDED:
            point = _point(highs, free, ask)
            if program.holds(point, ask.column):
                return point
        ended = highs.modelStatusToString(highs.getModelStatus())
    raise RuntimeError(f"HiGHS ended with no sound answer, but {ended}")


@dataclass(frozen=True, slots=True, eq=False)
class _Free:
    """The columns of a program that aren't fixed, and the rows that have any of them: most have none."""

    program: Program
    columns: npt.NDArray[np.bool_]
    matrix: sp.csc_array
    row_lower: Floats
    row_upper: Floats
    is_feasible: bool

    @classmethod
    def of(cls, program: Program) -> "_Free":
        columns = program.lower < program.upper
        fixed = program.matrix @ np.where(columns, 0.0, program.lower)
        matrix = program.matrix[:, columns]
        rows = np.bincount(matrix.indices, minlength=len(fixed)) > 0
        row_lower, row_upper = program.row_lower - fixed, program.row_upper - fixed
        is_feasible = bool(np.all((rows | (row_lower <= ROUNDING)) & (rows | (row_upper >= -ROUNDING))))
        return cls(program, columns, sp.csc_array(matrix[rows]), row_lower[rows], row_upper[rows], is_feasible)

    @property
    def is_mip(self) -> bool:
        return bool(self.program.is_whole[self.columns].any())

    def whole(self, values: Floats) -> Floats:
        """All columns, from those that are free."""
        everything = self.program.lower.copy()
        everything[self.columns] = values
        return everything


def _solved(free: _Free, ask: _Ask, start: SolverPoint | None, presolve: str) -> "highspy.Highs":
    left_s = ask.deadline_s - time.perf_counter()
    if left_s <= 0:
        raise OutOfTime
    highs = highspy.Highs()
    for name, value in _OPTIONS.items():
        _ok(highs.setOptionValue(name, value))
    _ok(highs.setOptionValue("presolve", presolve))
    _ok(highs.setOptionValue("time_limit", left_s))
    _ok(highs.setOptionValue("mip_abs_gap", min(ask.gap, FIRST_ABSOLUTE_GAP) if ask.gap < WHOLE else WHOLE))
    _ok(highs.passModel(_lp(free, ask.column)))
    if start is not None:
        solution = highspy.HighsSolution()
        solution.col_value = start.columns[free.columns].tolist()
        _ok(highs.setSolution(solution))
    if free.is_mip:
        highs.cbMipInterrupt.subscribe(_enough(ask))
    highs.run()
    return highs


def _point(highs: "highspy.Highs", free: _Free, ask: _Ask) -> SolverPoint:
    info = highs.getInfo()
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        raise OutOfTime
    solution, value = highs.getSolution(), float(info.objective_function_value)
    bound = float(info.mip_dual_bound) if free.is_mip else value
    reduced_costs = np.zeros(len(free.columns))
    if not free.is_mip:
        reduced_costs[free.columns] = solution.col_dual
    return SolverPoint(
        columns=free.whole(np.array(solution.col_value)),
        value=value,
        bound=bound,
        is_proven=highs.getModelStatus() == highspy.HighsModelStatus.kOptimal or value - bound <= ask.gap,
        reduced_costs=reduced_costs,
    )


def _lp(free: _Free, column: int) -> "highspy.HighsLp":
    program, lower, upper = free.program, free.program.lower[free.columns], free.program.upper[free.columns]
    cost = np.zeros(len(program.lower))
    cost[column] = 1.0
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(lower), len(free.row_lower)
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost[free.columns], lower, upper
    lp.row_lower_, lp.row_upper_ = free.row_lower, free.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = free.matrix.indptr, free.matrix.indices
    lp.a_matrix_.value_ = free.matrix.data
    if free.is_mip:
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[whole] for whole in program.is_whole[free.columns].tolist()]
    return lp


def _enough(ask: _Ask) -> "Callable[[highspy.highs.HighsCallbackEvent], None]":
    """Stop where the gap is small enough for the effort that was made, or where there should be a point by now."""
    checks = 0

    def check(event: "highspy.highs.HighsCallbackEvent") -> None:
        nonlocal checks
        checks += 1
        value, bound = event.data_out.mip_primal_bound, event.data_out.mip_dual_bound
        if ask.is_good(value, bound, checks) or (np.isinf(value) and time.perf_counter() > ask.point_by_s):
            event.interrupt()

    return check


def _ok(status: "highspy.HighsStatus") -> None:
    if status == highspy.HighsStatus.kError:
        raise RuntimeError("HiGHS refused the model or an option of ours")


def _or_default(bounds: Floats | None, default: float, size: int) -> Floats:
    return np.full(size, default) if bounds is None else np.asarray(bounds, dtype=np.float64)


@cache
def _swallow_banner() -> None:
    """HiGHS 1.16 prints a banner on stdout, once per process, when its first instance is made: let it go nowhere.

    Our stdout carries data. Done on the file descriptor, as the banner comes from C.
    """
    sys.stdout.flush()
    stdout, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        highspy.Highs()
        ctypes.CDLL(None).fflush(None)
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(nowhere)
