"""HiGHS, and nothing else knows it: its statuses become a solution or an error of ours."""

import ctypes
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import cvxpy as cp
import highspy
import numpy as np
import numpy.typing as npt

from proteus_cli.domain.plan import Solver
from proteus_cli.errors import NoFeasiblePlan
from proteus_cli.planning.milp import Model

RELATIVE_GAP = 1e-6  # a gap of 1e-4 let a family of few queries do without the accuracy that an idle device offered
SLACK = 1e-7  # what a level may give up of the one before it, relative: the solver's own tolerance
_FEASIBLE_POINT = 2  # HiGHS's primal_solution_status


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """``hosts`` int [C], ``rate_qps`` [C], and how they were found."""

    hosts: npt.NDArray[np.int64]
    rate_qps: npt.NDArray[np.float64]
    solver: Solver


def solve(model: Model, demand_qps: npt.NDArray[np.float64], time_limit_s: float) -> Solution:
    """Solve both levels for a demand [F] that has its headroom in it.

    Where the time limit comes first, the best point found is returned with its proven gap. Raises `NoFeasiblePlan`
    where not even one point was found.
    """
    _swallow_banner()
    start_s = time.perf_counter()
    model.demand_qps.value = demand_qps
    _optimise(model.serve_most, time_limit_s)
    unserved_qps = max(float(model.serve_most.value), 0.0)
    model.most_unserved_qps.value = unserved_qps + SLACK * max(float(demand_qps.sum()), 1.0)
    status, gap = _optimise(model.then_most_accurate, time_limit_s)
    return Solution(
        hosts=np.rint(model.hosts.value).astype(np.int64),
        rate_qps=np.maximum(model.rate_qps.value, 0.0),
        solver=Solver(name="HiGHS", status=status, gap=gap, solve_s=time.perf_counter() - start_s),
    )


def _optimise(problem: Any, time_limit_s: float) -> tuple[str, float]:
    with warnings.catch_warnings(), _solver_errors_are_ours():
        warnings.simplefilter("ignore", UserWarning)  # "may be inaccurate": a gap remains, and we report it
        problem.solve(
            solver=cp.HIGHS,
            warm_start=False,  # the same demand must give the same plan, whatever was solved before
            time_limit=time_limit_s,
            mip_rel_gap=RELATIVE_GAP,
            parallel="off",
            random_seed=0,
        )
    stats = problem.solver_stats.extra_stats
    if getattr(stats, "primal_solution_status", _FEASIBLE_POINT) != _FEASIBLE_POINT or problem.value is None:
        raise NoFeasiblePlan(
            f"The solver found no plan within {time_limit_s:g} s (status: {problem.status}).",
            hint="give it more time with `--time-limit`",
        )
    gap = max(float(getattr(stats, "mip_gap", 0.0)), 0.0)
    return str(problem.status), gap if np.isfinite(gap) else 0.0


@contextmanager
def _solver_errors_are_ours() -> Iterator[None]:
    try:
        yield
    except cp.error.SolverError as error:
        raise NoFeasiblePlan(f"The solver failed: {error}", hint="try again with another demand or headroom") from error


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
