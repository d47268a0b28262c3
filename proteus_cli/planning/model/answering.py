"""The part of the model that families with cascades add: how much goes each way, and what is lost by that.

``answered`` is the part of its family's demand that goes each way. What the ways need of a variant, in batches for a
part of the SLO, is within what its replicas for that part and for shorter ones can give: with such nested parts, this
is enough for an assignment. So cascades add continuous columns, and integer ones only for parts of the SLO.

Without a forecast, what a family loses is the sum over its ways. With one, each step of accuracy has the rows of the
family's curve, as in `milp`: for what goes ways of at least that accuracy, in multiples of the demand.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from proteus_cli.arrays import Floats
from proteus_cli.planning.model.instance import Instance
from proteus_cli.planning.model.modelling import cp, sp

if TYPE_CHECKING:
    from proteus_cli.planning.model.milp import Parameters, Variables


def ways_within_limits(instance: Instance, p: "Parameters", v: "Variables") -> list[Any]:
    """What the ways need of variants is within what those can give, and makes up for what would be unserved or lost."""
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
    """The accuracy that each family with cascades loses, beside that of its last step [F]: an expression."""
    ways = instance.ways
    assert ways is not None  # noqa: S101 - asked for ways only
    if has_forecast:
        return ways.upper_steps.loss @ v.upper_shortfall
    return ways.loss @ v.answered + cp.multiply(ways.top - ways.least, v.unserved)


def value_lost_by_ways(
    instance: Instance, answered: Floats, unserved: Floats, upper_shortfall: Floats | None
) -> Floats:
    """The same, of a point."""
    ways = instance.ways
    assert ways is not None  # noqa: S101 - asked for ways only
    if upper_shortfall is not None:
        return np.asarray(ways.upper_steps.loss @ upper_shortfall)
    return np.asarray(ways.loss @ answered + (ways.top - ways.least) * unserved)
