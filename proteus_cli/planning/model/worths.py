"""The worth of an answer of each choice for its family's aim.

All families' aims are one objective, the mean over queries of what they lose; so one scale has to do. An answer of a
family that prefers accuracy is worth its accuracy, as without preferences. One that prefers something else,

    worth = (1 - ACCURACY_PART) · (1 - amount / most / 2) + ACCURACY_PART · accuracy

where ``most`` is the SLO for latency, else the most that an answer of the family takes of any choice. An answer is
worth at least a half, and a late one 0. Being late, or leaving a query unserved, therefore never pays. Among
choices with nearly equal amounts, the most accurate is worth most.

A worth is of the choice alone, so the most valuable are filled first, as the most accurate are, and steps of worth take
the place of steps of accuracy. There are more of them, as an answer takes something else on each type of devices.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from proteus_cli.arrays import Floats
from proteus_cli.domain.capacity import cost_of, energy_of
from proteus_cli.domain.catalog import Catalog, Preference
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.model.choices import Choice, DeviceGroup
from proteus_cli.planning.model.ways import Ways

ACCURACY_PART = 0.01  # of a worth that is about something else


def worths_of(catalog: Catalog, groups: Sequence[DeviceGroup], choices: Sequence[Choice], rules: Rules) -> Floats:
    """The worth of each choice [C]."""
    worths = np.array([choice.accuracy for choice in choices])
    for name in rules.others_preferred:
        mine = [c for c, choice in enumerate(choices) if catalog.names[choice.family] == name]
        amounts = np.array([_amount(groups[choices[c].group], choices[c], rules.prefers(name)) for c in mine])
        most = catalog.family(name).slo_s if rules.prefers(name) == "latency" else amounts.max(initial=0.0)
        parts = np.minimum(amounts / most, 1.0) if most > 0 else amounts
        worths[mine] = (1 - ACCURACY_PART) * (1 - parts / 2) + ACCURACY_PART * worths[mine]
    return worths


def _amount(group: DeviceGroup, choice: Choice, of: Preference) -> float:
    """The time, energy or money that an answer takes, in the batches for the fewest hosts."""
    least = choice.capacity_steps[0].capacity
    match of:
        case "latency":
            return group.profile.points_of(choice.measured)[0].p95_s  # of a query that finds its device free
        case "energy":
            return energy_of(group.profile, choice.measured, least)
        case "cost":
            return cost_of(group.price_per_hour or 0.0, least.qps)
        case "accuracy":
            return 0.0


@dataclass(frozen=True, slots=True)
class WorthStep:
    """One of the distinct worths of a family's choices: the choices worth as much or more, and the loss to the next."""

    family: int
    choices: list[int]
    loss: float
    is_last: bool


def steps_of(
    catalog: Catalog, choices: Sequence[Choice], worths: Sequence[float], ways: Ways | None
) -> Iterator[WorthStep]:
    """The steps of each family, falling; one of 0 without choices, and one of the least way where there are ways."""
    by_family: list[list[int]] = [[] for _ in catalog.families]
    for c, choice in enumerate(choices):
        by_family[choice.family].append(c)
    for f, mine in enumerate(by_family):
        if ways is not None and ways.has_ways[f]:
            yield WorthStep(f, [], float(ways.least[f]), is_last=True)
            continue
        distinct = sorted({worths[c] for c in mine}, reverse=True) or [0.0]
        for worth, worse in zip(distinct, [*distinct[1:], None], strict=True):
            at_least = [c for c in mine if worths[c] >= worth]
            yield WorthStep(f, at_least, worth - (worse or 0.0), worse is None)
