"""The answer of the solver: what to host, and how the demand is shared."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.planning.model.choices import Pool
from proteus_cli.planning.model.instance import Instance
from proteus_cli.planning.model.program import SolverPoint
from proteus_cli.planning.model.ways import Ways
from proteus_cli.planning.solver.target_demand import NEGLIGIBLE


@dataclass(frozen=True, slots=True, eq=False)
class RatesByWay:
    """Queries per second, with headroom: ``way_qps`` [W] by way, ``deferred_qps`` [C] deferred to each choice."""

    way_qps: Floats
    deferred_qps: Floats


def rates_by_way(
    instance: Instance,
    ways: Ways,
    rate_qps: Floats,
    available: Floats,
    point: Floats,
    limit: Floats,
    demand_qps: Floats,
) -> tuple[Floats, RatesByWay]:
    """The rates by choice [C], in queries per second, and `RatesByWay`.

    Families without ways keep ``rate_qps`` [C]. ``available`` [C] is the part of its family's demand that a choice can
    answer. ``point`` [W] is the part of its family's demand that each way answers in the solution. Of ``point``, each
    family keeps ``limit`` [F] in all; the least accurate ways are cut first. ``demand_qps`` [F].
    """
    answered = _trimmed(ways, point, limit)
    newcomers, deferred = np.zeros(len(available)), np.zeros(len(available))
    choices_of = _choices_by_pool(instance)
    for pool, needs in _needs_by_pool(ways, answered):
        _share_out(instance, choices_of[pool], needs, available, newcomers, deferred)
    qps = demand_qps[instance.choice_family]
    rates = np.where(ways.has_ways[instance.choice_family], newcomers * qps, rate_qps)
    return rates, RatesByWay(way_qps=answered * demand_qps[ways.family], deferred_qps=deferred * qps)


def _choices_by_pool(instance: Instance) -> dict[Pool, list[int]]:
    found: dict[Pool, list[int]] = {}
    for c, choice in enumerate(instance.choices):
        found.setdefault(choice.pool, []).append(c)
    return found


def _trimmed(ways: Ways, point: Floats, limit: Floats) -> Floats:
    answered, left = np.zeros(len(point)), limit.copy()
    for w in np.argsort(-ways.accuracy, kind="stable").tolist():
        part = min(left[ways.family[w]], point[w])
        if part > NEGLIGIBLE:
            left[ways.family[w]] -= part
            answered[w] = part
    return answered


def _needs_by_pool(ways: Ways, answered: Floats) -> Iterator[tuple[Pool, list[tuple[float, bool, float]]]]:
    """By pool, short parts of the SLO first: the part, whether it is for a second stage, and how much of the demand."""
    found: dict[Pool, list[tuple[float, bool, float]]] = {}
    for w in np.flatnonzero(answered).tolist():
        for number, stage in enumerate(ways.ways[w].stages):
            need = stage.part, number > 0, float(answered[w]) * stage.executions
            found.setdefault(stage.pool, []).append(need)
    return ((pool, sorted(needs)) for pool, needs in found.items())


def _share_out(
    instance: Instance,
    mine: list[int],
    needs: list[tuple[float, bool, float]],
    available: Floats,
    newcomers: Floats,
    deferred: Floats,
) -> None:
    """Fill the choices of a pool: short parts of the SLO first, each on choices for the longest part that may do.

    The remainder of the solver's rounding goes to the last choice that had room.
    """
    left = {c: float(available[c]) for c in mine}
    for part, is_deferred, needed in needs:
        able = [c for c in left if instance.choices[c].slo_part <= part and available[c] > 0]
        if not able:
            continue
        into, last, rest = deferred if is_deferred else newcomers, able[-1], needed
        for c in sorted(able, key=lambda c: -instance.choices[c].slo_part):
            given = min(rest, left[c])
            into[c] += given
            left[c] -= given
            rest -= given
            last = c if given > 0 else last
        into[last] += rest


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """The replicas to host, and the rates that share the demand among them.

    ``replicas`` int [C]. ``rate_qps`` [C] includes the headroom, and counts the queries that the choice is the first to
    get. With cascades, ``by_way`` has the deferred queries. ``room_qps`` [C] is what its devices have time for: with a
    forecast and shared devices, more than it answers. ``devices_used`` int [G] and ``power_w`` [G] where devices are
    shared: `pack` may use no more. ``sets`` [S] and ``served_in_set`` [N], in parts of the demand, where sharing costs
    time. ``gap``, ``unserved_gap``: as in a plan's `Solver`. ``is_limited``: the deadline passed before all was proven.
    ``least_loss``: a lower bound of the loss of any solution that serves all. ``point``: the solver's columns.
    ``merits``: in the order of the objectives, down to the mean accuracy; the more the better.
    """

    replicas: Ints
    rate_qps: Floats
    room_qps: Floats
    devices_used: Ints | None
    power_w: Floats | None
    gap: float
    unserved_gap: float
    is_limited: bool
    is_forecast: bool
    merits: tuple[float, ...]
    point: SolverPoint
    least_loss: float = 0.0
    by_way: RatesByWay | None = None
    sets: Ints | None = None
    served_in_set: Floats | None = None

    @property
    def executed_qps(self) -> Floats:
        """The queries per second that each choice answers [C]."""
        return self.rate_qps if self.by_way is None else self.rate_qps + self.by_way.deferred_qps

    @property
    def newcomers_of_room(self) -> Floats:
        """The part of its room that each choice answers as the first [C]."""
        return _part(self.rate_qps, self.room_qps)

    @property
    def deferred_of_room(self) -> Floats:
        """The part of its room for what others defer to each choice [C]."""
        return _part(np.zeros(len(self.rate_qps)) if self.by_way is None else self.by_way.deferred_qps, self.room_qps)


def _part(qps: Floats, room_qps: Floats) -> Floats:
    return np.divide(qps, room_qps, out=np.zeros(len(qps)), where=room_qps > 0)
