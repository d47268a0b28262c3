"""The answer of the solver: what to host, and how the demand is shared."""

from dataclasses import dataclass

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.planning.solver.rates_by_way import RatesByWay


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What to host, and how the demand is shared.

    ``replicas`` int [C]; ``rate_qps`` [C] includes the headroom, and counts the queries that the choice is the first to
    get; with cascades, ``by_way`` has those that others defer to it. ``room_qps`` [C] is what its devices have time
    for: with a forecast and shared devices, more than it answers. ``devices_used`` int [G] and ``power_w`` [G] where
    devices are shared: `pack` may use no more. ``sets`` [S] and ``served_in_set`` [N] where sharing costs time, the
    latter in parts of the demand. ``gap``, ``unserved_gap``: as in a plan's `Solver`. ``is_limited``: the
    deadline passed before all was proven. ``merits``: in the order of the objectives, down to the mean accuracy, what
    they are about; the more the better.
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
