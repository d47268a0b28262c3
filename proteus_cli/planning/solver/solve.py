"""HiGHS, which only this module knows: its statuses become points with proven bounds, or an error of ours."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import highspy
import numpy as np

from proteus_cli.arrays import Bools, Ints
from proteus_cli.interruption import INTERRUPTION
from proteus_cli.planning.model.program import Program, SolverPoint

FIRST_GAP = 1e-6  # of the objective's own value: where little accuracy is lost, the last bit of it is found …
FIRST_ABSOLUTE_GAP = 1e-6  # … but not beyond this part of its scale
LAST_GAP = 1e-4  # of its scale: enough after much effort …
WAYS_GAP = 5e-4  # the same with cascades, whose accuracies are known to half a point at best
EFFORT = 100  # … counted in the solver's own checks, not in time: the same input must give the same plan
INTEGER_GAP = 0.999  # two whole numbers that are closer are the same
TOLERANCE = 1e-6  # what a later objective may take from an earlier one; above the solver's own tolerance
MANY_COLUMNS = 1500  # integer columns from which on a part of the model is solved first
MANY_GAP = 2.5e-4  # … to this part of the objective's scale: the last bit would cost ten times the time
REMAINING_PART = 4  # leave a part for a larger one once at most 1/4 of the gap of the full model can be closed in it
MANY_SETS = 60  # sets of variants from which on a part of them is tried first
SET_PART_SIZES = (4.0, 12.0, np.inf)
PART_SIZES = (1.5, 2.0, 4.0, np.inf)  # of the parts: multiples of the number of columns that the relaxation uses

_OPTIONS = {
    "parallel": "off",
    "threads": 1,
    "random_seed": 0,
    "mip_feasibility_tolerance": TOLERANCE / 10,  # else what an objective leaves to the next is as thin as rounding
    # Measured on the paper's cluster: with any of these three, the hardest of 300 demands takes a quarter longer.
    "mip_allow_restart": False,
    "mip_heuristic_run_root_reduced_cost": False,
    "mip_heuristic_run_feasibility_jump": False,
    # In most solves of a new demand all can be answered by the best variants: this heuristic finds how before any cut.
    "mip_heuristic_run_zi_round": True,
    # With cascades, and in parts of large models, the relaxation is often as good as a plan. This heuristic finds such
    # a plan early: 10,000 devices at a load of 0.1 take 0.6 instead of 1.7 s of CPU, and the median demand of the
    # paper's cluster with cascades a quarter of the time.
    "mip_heuristic_run_shifting": True,
}
_OPTIONS_BY_HOST = {"mip_heuristic_run_feasibility_jump": True}
"""Where hosts are alike, many points are equal, and branching finds the first one late. With 20 hosts of 8 devices it
takes more than 15 s, and less than 1 s with these heuristics."""
_NO_POINT = {highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible}
_ENDED = {highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kInterrupt, highspy.HighsModelStatus.kTimeLimit}


class OutOfTime(Exception):
    """The deadline passed before there was a point, or a proof that there is none."""


def minimise(
    program: Program,
    column: int,
    *,
    deadline_s: float,
    first_point_by_s: float | None = None,
    gap_scale: float | None = 1.0,
    relative_gap: float = FIRST_GAP,
    start: SolverPoint | None = None,
    least: float = -math.inf,
) -> SolverPoint | None:
    """The point with the least value in a column; None where no point is feasible.

    ``least`` is a known lower bound of that value, which counts like one that the solver proves.

    ``gap_scale``: what the gap is relative to; None where the value is a whole number. A gap of ``relative_gap`` of the
    value itself is enough. Past ``deadline_s`` (by `time.perf_counter`), or after an `Interruption`, the result is the
    best point found, which is not proven. Raises `OutOfTime` where there is none by then, or by ``first_point_by_s``.
    """
    is_accuracy = gap_scale == 1.0  # what is served, costs or draws is proven as closely with cascades as without
    last_gap = WAYS_GAP if is_accuracy and program.instance.ways is not None else LAST_GAP
    gap = INTEGER_GAP if gap_scale is None else last_gap * gap_scale
    goal = _Goal(column, gap, relative_gap, deadline_s, first_point_by_s or deadline_s, least)
    sets = program.variables.sets
    if program.is_integer.sum() > MANY_COLUMNS or (sets is not None and sets.size > MANY_SETS):
        return _minimise_in_parts(program, replace(goal, gap=max(gap, MANY_GAP * (gap_scale or 0.0))), start)
    return _solve(program, goal, start)


@dataclass(frozen=True, slots=True)
class _Goal:
    """The column to minimise, the gaps that are enough, and times by `time.perf_counter`.

    ``least``: a known bound. ``full_bound``: a bound of the full model, where the program is a part of it.
    """

    column: int
    gap: float
    relative_gap: float
    deadline_s: float
    first_point_by_s: float
    least: float = -math.inf
    full_bound: float = -math.inf

    def is_reached(self, value: float, bound: float, checks: int) -> bool:
        """The gap is small enough for the effort made; or, in a part, most that can be won is outside of it."""
        if math.isinf(value):
            return False
        gap = value - max(bound, self.least)
        is_closed = gap <= max(self.relative_gap * abs(value), FIRST_ABSOLUTE_GAP)
        is_enough = is_closed or (checks > EFFORT and gap <= self.gap)
        return is_enough or REMAINING_PART * (value - bound) <= value - self.full_bound < math.inf


def _minimise_in_parts(program: Program, goal: _Goal, start: SolverPoint | None) -> SolverPoint | None:
    """Minimise a model with very many choices or sets, if few of them matter.

    Parts of the model are solved, each with more columns. The columns that the relaxation uses come first, then the
    least reduced costs. A plan with one that is outside of a part costs at least its reduced cost more than the
    relaxation, so each part proves a bound of the full model.
    """
    relaxed = _solve(replace(program, is_integer=np.zeros_like(program.is_integer)), goal, None)
    if relaxed is None:
        return None
    deciding = _deciding(program)
    is_used = relaxed.columns[deciding] > TOLERANCE
    costs = np.where(is_used, -np.inf, relaxed.reduced_costs[deciding])
    preference = np.argsort(np.where(program.upper[deciding] > 0, costs, np.inf), kind="stable")
    count = int(np.count_nonzero(program.upper[deciding] > 0))
    best, bound = _in_objective(program, goal.column, start), relaxed.bound
    for part_size in SET_PART_SIZES if _has_sets(program) else PART_SIZES:
        size = int(min(part_size * is_used.sum(), count))
        is_full = size == count
        try:
            part = program.limit(deciding[preference[size:]], 0.0)
            found = _solve(part, replace(goal, full_bound=-math.inf if is_full else bound), best)
        except OutOfTime:
            break
        if found is not None and (best is None or found.value <= best.value):
            best = found
        outside = math.inf if is_full else relaxed.bound + max(float(costs[preference[size]]), 0.0)
        bound = max(bound, min(outside, math.inf if found is None else found.bound))
        if best is not None and best.value - bound <= goal.gap:
            return replace(best, bound=min(bound, best.value), is_proven=True)
        if is_full:
            if best is None:
                return None
            break
    if best is None:
        raise OutOfTime
    return replace(best, bound=bound, is_proven=False)


def _has_sets(program: Program) -> bool:
    return program.variables.sets is not None


def _deciding(program: Program) -> Ints:
    """The columns that say what devices host: sets of variants, where these cost each other time, else replicas."""
    variables = program.variables
    columns: Ints = (variables.replicas if variables.sets is None else variables.sets).column
    return columns


def _in_objective(program: Program, column: int, start: SolverPoint | None) -> SolverPoint | None:
    """A starting point with its value in this column; None where it is infeasible in this program."""
    if start is None:
        return None
    valued = replace(start, value=float(start.columns[column]))
    return valued if program.is_feasible_at(valued, column) else None


def _solve(program: Program, goal: _Goal, start: SolverPoint | None) -> SolverPoint | None:
    """Solve; where HiGHS contradicts itself or gives up, again without the starting point, then without presolve.

    It does so on tiny models: seen were a start that came back with the value of a better point, and "Solve error".
    """
    is_free = program.lower < program.upper
    status, starts = "", (start, None) if start is not None else (None,)
    for given, presolve in (*((given, "choose") for given in starts), (None, "off")):
        highs = _run_highs(program, is_free, goal, given, presolve)
        if highs.getModelStatus() in _NO_POINT:
            return None
        if highs.getModelStatus() in _ENDED:
            point = _point(highs, program, is_free, goal)
            if program.is_feasible_at(point, goal.column):
                return point
        status = highs.modelStatusToString(highs.getModelStatus())
    raise RuntimeError(f"HiGHS gave no sound answer; it ended with {status}")


def _run_highs(
    program: Program, is_free: Bools, goal: _Goal, start: SolverPoint | None, presolve: str
) -> highspy.Highs:
    left_s = min(goal.deadline_s, INTERRUPTION.ends_s) - time.perf_counter()
    if left_s <= 0:
        raise OutOfTime
    highs = _SilentHighs()
    absolute_gap = min(goal.gap, FIRST_ABSOLUTE_GAP) if goal.gap < INTEGER_GAP else INTEGER_GAP
    options = {**_OPTIONS, "presolve": presolve, "time_limit": left_s, "mip_abs_gap": absolute_gap}
    options["mip_rel_gap"] = goal.relative_gap
    options |= _OPTIONS_BY_HOST if any(group.host is not None for group in program.instance.groups) else {}
    for name, value in options.items():
        _require_ok(highs.setOptionValue(name, value))
    _require_ok(highs.passModel(_lp(program.among(is_free), int(np.count_nonzero(is_free[: goal.column])))))
    if start is not None:
        solution = highspy.HighsSolution()
        solution.col_value = start.columns[is_free].tolist()
        _require_ok(highs.setSolution(solution))
    if program.is_mip:
        highs.cbMipInterrupt.subscribe(_interrupt_when_reached(goal))
    highs.run()
    return highs


def _point(highs: highspy.Highs, program: Program, is_free: Bools, goal: _Goal) -> SolverPoint:
    info = highs.getInfo()
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        raise OutOfTime
    solution, value = highs.getSolution(), float(info.objective_function_value)
    bound = float(info.mip_dual_bound) if program.is_mip else value
    columns, reduced_costs = program.lower.copy(), np.zeros(len(is_free))
    columns[is_free], reduced_costs[is_free] = solution.col_value, solution.col_dual
    return SolverPoint(
        columns=columns,
        value=value,
        bound=bound,
        is_proven=highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
        or value - max(bound, goal.least) <= goal.gap,
        reduced_costs=reduced_costs,
    )


def _lp(program: Program, column: int) -> highspy.HighsLp:
    cost = np.zeros(len(program.lower))
    cost[column] = 1.0
    lp, matrix = highspy.HighsLp(), program.matrix
    lp.num_row_, lp.num_col_ = matrix.shape
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, program.lower, program.upper
    lp.row_lower_, lp.row_upper_ = program.row_lower, program.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
    if program.is_mip:
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[is_integer] for is_integer in program.is_integer.tolist()]
    return lp


def _interrupt_when_reached(goal: _Goal) -> Callable[[highspy.highs.HighsCallbackEvent], None]:
    """Interrupt HiGHS once the goal is reached, something else is urgent, or the first point should be there."""
    checks = 0

    def check(event: highspy.highs.HighsCallbackEvent) -> None:
        nonlocal checks
        checks += 1
        value, bound = event.data_out.mip_primal_bound, event.data_out.mip_dual_bound
        if math.isinf(value):
            is_over = time.perf_counter() > min(goal.first_point_by_s, INTERRUPTION.ends_s)
        else:
            is_over = INTERRUPTION.is_asked or goal.is_reached(value, bound, checks)
        if is_over:
            event.interrupt()

    return check


def _require_ok(status: highspy.HighsStatus) -> None:
    if status == highspy.HighsStatus.kError:
        raise RuntimeError("HiGHS refused the model or one of our options")


class _SilentHighs(highspy.Highs):  # type: ignore[misc]  # the library has no types
    """HiGHS without its banner on stdout, which carries our data.

    Any call but `setOptionValue` prints the banner if output is on. The constructor makes one such call: this method.
    """

    def enableCallbacks(self) -> None:  # noqa: N802 - the name is theirs
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()
