"""A model with values of its parameters, as arrays: what the solver is given, and what its answers are checked against.

CVXPY compiles a model once; for each demand its arrays are handed to the solver directly. That saves what CVXPY does
around each solve, and gives what it hides: bounds of single columns, starting points, limits by effort, proven bounds.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from proteus_cli.arrays import Bools, Floats, Ints
from proteus_cli.planning.model.instance import Instance
from proteus_cli.planning.model.milp import Model, Objective, Parameters
from proteus_cli.planning.model.modelling import sp
from proteus_cli.planning.model.ways import Ways

MAX_VIOLATION = 1e-5  # of a bound, by a sound answer of the solver


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
    """Bounds of the columns, and of the rows ``matrix @ columns``, for these values of the model's parameters."""

    model: Model
    values: Parameters
    matrix: sp.csc_array
    row_lower: Floats
    row_upper: Floats
    lower: Floats
    upper: Floats
    is_integer: Bools

    def columns(self, variable: Any) -> slice:
        """Where a variable of the model is among the columns."""
        first = self.model.arrays.first_column[variable.id]
        return slice(first, first + variable.size)

    def objective(self, objective: Objective, index: int = 0) -> int:
        """The column of an objective."""
        return int(self.columns(self.model.objectives).start + self.model.objective_index[objective][index])

    def integers(self, point: SolverPoint, variable: Any) -> Ints:
        """The value of an integer variable at a point."""
        return np.rint(point.columns[self.columns(variable)]).astype(np.int64)

    def is_feasible_at(self, point: SolverPoint, column: int) -> bool:
        """Whether a point is what it says: within all bounds, and of its value in the column."""
        rows, columns = self.matrix @ point.columns, point.columns
        outside = (self.row_lower - rows, rows - self.row_upper, self.lower - columns, columns - self.upper)
        is_within = all(np.max(by, initial=0.0) <= MAX_VIOLATION for by in outside)
        return is_within and abs(float(columns[column]) - point.value) <= MAX_VIOLATION * max(1.0, abs(point.value))

    def limit_columns(self, columns: Ints | int, maximum: float) -> "Program":
        """The same program where those columns are ``maximum`` at most."""
        upper = self.upper.copy()
        upper[columns] = np.maximum(np.minimum(upper[columns], maximum), self.lower[columns])
        return replace(self, upper=upper)

    def limit_objective(self, objective: Objective, maximum: float, index: int = 0) -> "Program":
        """The same program where that objective is ``maximum`` at most."""
        return self.limit_columns(self.objective(objective, index), maximum)


def compile_program(model: Model, values: Parameters) -> Program:
    """The program of a model for these values of its parameters."""
    arrays, variables = model.arrays, model.variables
    matrix, row_upper = arrays.at(zip(model.parameters.each(), values.each(), strict=True))
    program = Program(
        model=model,
        values=values,
        matrix=matrix,
        row_lower=np.where(arrays.is_equality, row_upper, -np.inf),
        row_upper=row_upper,
        lower=arrays.lower.copy(),
        upper=arrays.upper.copy(),
        is_integer=arrays.is_integer,
    )
    new_replicas = model.instance.hosted(values.max_replicas) - values.current_replicas
    program.lower[program.columns(variables.replicas)] = 0.0
    program.upper[program.columns(variables.replicas)] = values.max_replicas
    program.lower[program.columns(variables.shortfall)] = values.min_shortfall
    if model.instance.ways is not None:
        _bound_ways(program, model.instance, model.instance.ways)
    if variables.sets is not None:
        program.lower[program.columns(variables.sets)] = 0.0
        program.upper[program.columns(variables.sets)] = values.set_limits
    program.upper[program.columns(variables.loads)] = np.maximum(new_replicas, 0.0)
    return program


def _bound_ways(program: Program, instance: Instance, ways: Ways) -> None:
    """Nothing goes the ways of a family without demand; what no capacity saves is lost at all steps."""
    variables, values = program.model.variables, program.values
    is_asked = values.has_demand[ways.family] > 0
    program.upper[program.columns(variables.answered)] = np.where(is_asked, np.inf, 0.0)
    if variables.upper_shortfall is not None:
        least = values.min_shortfall[instance.last_step]
        program.lower[program.columns(variables.upper_shortfall)] = least[ways.upper_steps.family]
