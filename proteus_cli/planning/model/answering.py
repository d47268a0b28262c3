"""The part of the model that families with cascades add: how much of the demand each way answers, and its cost.

``answered`` is the part of its family's demand that each way answers. The executions that the ways need of a variant
within a part of the SLO are at most the executions that its replicas for that part and for shorter ones can give. The
parts are nested, so this condition is enough for an assignment to exist. Cascades therefore add continuous columns, and
integer ones only for parts of the SLO.

Without a forecast, what a family loses is the sum over its ways. With one, each step of accuracy has the rows of the
family's curve, as in `milp`: for what goes ways of at least that accuracy, in multiples of the demand.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from proteus_cli.planning.model.instance import Instance
from proteus_cli.planning.model.modelling import cp, sp

if TYPE_CHECKING:
    from proteus_cli.planning.model.milp import Parameters, Variables


def ways_within_limits(instance: Instance, p: "Parameters", v: "Variables") -> list[Any]:
    """Constraints: ways use no variant beyond its capacity and, with a forecast, lose at least what the curves say.

    The first has a row for each pool and part of the SLO: executions that the ways need, and those that choices can
    give, both in parts of the family's demand. With a forecast, each upper step of a family also has a row for each
    line of its loss curve: the shortfall of the step is at least the line at what the ways of the step answer.
    """
    ways = instance.ways
    assert ways is not None  # noqa: S101 - asked for ways only
    rows, pairs = len(ways.max_needed), np.arange(len(ways.row_of))
    given = v.replicas[ways.choice_of] if v.served is None else v.served[ways.choice_of]
    if v.served is None:
        given = cp.multiply(p.usable_frac, given)
    constraints = [
        ways.needed @ v.answered
        <= sp.csr_array((np.ones(len(pairs)), (ways.row_of, pairs)), (rows, len(pairs))) @ given
    ]
    if p.has_forecast:
        steps = ways.upper_steps
        constraints.append(steps.rise @ v.reached == steps.at_step @ v.answered)
        constraints += [
            v.upper_shortfall + cp.multiply(saved[steps.family], v.reached) >= lost[steps.family]
            for lost, saved in zip(p.lost_at_0, p.saved_by_all, strict=True)
        ]
    return constraints


def lost_by_ways(instance: Instance, v: "Variables", *, has_forecast: bool) -> Any:
    """The expression of the accuracy that each family with cascades loses [F], without the loss of its last step."""
    ways = instance.ways
    assert ways is not None  # noqa: S101 - asked for ways only
    if has_forecast:
        return ways.upper_steps.loss @ v.upper_shortfall
    return ways.loss @ v.answered + cp.multiply(ways.top - ways.least, v.unserved)
