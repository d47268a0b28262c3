"""Decides how far the rows of a batch may go, before a bound on their time or energy is passed.

**Time.** Before each next stage, its time is predicted: its profiled mean for the rows that would go on, times the
present pace of stages (`pace.StagePace`). Before enough stages were measured, it is the profile's percentile of the
family's attainment, times the slowdown of the device. A row goes on if the stage ends before it is due. With fewer rows
the stage ends sooner. The rows with the most time go on, as many as end in time. Parts of the batch that are due before
that end *leave*: their answers, from the exits reached so far, are sent at once. All others wait for the end of the
batch, so most batches are sent as a whole. Parts that are late already leave with the last.

**Energy.** Rows share a stage evenly: each takes the power of the device times the time of the stage, divided by its
rows. A row takes more if fewer rows go on with it. A row without enough energy for the next stage stops
(`EnergyLimits`).
"""

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from proteus_cli.arrays import Bools, Floats, Ints
from proteus_cli.domain.conditions import Condition
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.pace import StagePace


class RowEnergy:
    """The ``joules`` that each row of a batch has taken so far; NaN if the power is unknown."""

    def __init__(self, rows: int, power_w: float | None) -> None:
        self.joules = np.zeros(rows)
        self._power_w = np.nan if power_w is None else power_w

    def ran(self, rows: Ints, stage_s: float) -> None:
        """A stage with these ``rows`` took ``stage_s``."""
        self.joules[rows] += self._power_w * stage_s / len(rows)


class EnergyLimits:
    """Decides which rows have the energy for a stage before it begins, by the power and stage times of the profile.

    ``rows`` and ``max_energy_j`` are the size and the limit of each part of the batch. The rows of a part share its
    limit. ``stages_s`` are the mean times of stages.
    """

    def __init__(
        self,
        rows: Sequence[int],
        max_energy_j: Sequence[float],
        power_w: float | None,
        stages_s: Sequence[LatencyTable],
    ) -> None:
        self._max_j, self._stages_s = np.asarray(max_energy_j, np.float64), stages_s
        self._power_w = np.nan if power_w is None else power_w
        self._parts = np.repeat(np.arange(len(rows)), rows)
        self._taken = RowEnergy(len(self._parts), power_w)

    @property
    def joules(self) -> Floats:
        """The energy of each row; NaN if its part has no limit."""
        return np.where(np.isfinite(self._max_j)[self._parts], self._taken.joules, np.nan)

    def behind(self, stage: int, rows: Ints, stops: Bools) -> Bools:
        """`stopping` before the next stage, once these ``rows`` have passed a ``stage``."""
        self._taken.ran(rows, self._stages_s[stage - 1](len(rows)))
        return self.stopping(stage + 1, rows, stops)

    def stopping(self, stage: int, rows: Ints, stops: Bools) -> Bools:
        """Which of ``rows`` do not enter a ``stage``: they stop anyway, or lack the energy for it.

        The largest number of rows goes on, the first of each part. Example: a stage of 2 J for any number of rows, and
        two parts of two rows with 1 J and 5 J left. One row alone would take 2 J, four rows 0.5 J each. Each row of the
        first part has 0.5 J, so all four go on.
        """
        going = np.flatnonzero(~stops)
        if not len(going):
            return stops
        parts = self._parts[rows[going]]
        left_j = self._max_j - np.bincount(self._parts, self._taken.joules)
        of_part = np.arange(len(going)) - np.searchsorted(parts, parts) + 1  # rows of its part that share the rest
        each_j = left_j[parts] / of_part
        most_left_first = np.argsort(-each_j, kind="stable")
        takes_j = self._power_w * self._stages_s[stage - 1].up_to(len(going)) / np.arange(1, len(going) + 1)
        have_enough = np.flatnonzero(takes_j <= each_j[most_left_first])
        most = int(have_enough[-1]) + 1 if len(have_enough) else 0
        found = stops.copy()
        found[going[most_left_first[most:]]] = True
        return found


class ExitBounds(msgspec.Struct, frozen=True, array_like=True):
    """The deadline of each part of a batch (``due_s``, by the driver's clock), and its number of ``rows``.

    The clock of a live server is `time.monotonic`. The deadline of a part that may not be cut short is infinite.

    - ``exits``: the exits of the variant's profile on the device, which is slowed by the factor ``slowdown``;
    - ``stop_when``: a condition that replaces the variant's own; ``arrival_s`` is given with it;
    - ``by_own``: parts that stop by the variant's own condition all the same; empty: none;
    - ``min_confidence``: the least confidence at which each part may stop; empty: no part asks for one;
    - ``attainment``: the fraction of the rows that go on that must be in time;
    - ``may_leave``: parts may leave the batch early. Otherwise it ends before its first part is due;
    - ``power_w``: the power of the device while the batch runs; None if unknown;
    - ``max_energy_j``: the limit of energy of each part; empty: no limits.
    """

    due_s: Sequence[float]
    rows: Sequence[int]
    exits: Sequence[ExitProfile]
    slowdown: float = 1.0
    stop_when: Condition | None = None
    min_confidence: Sequence[float] = ()
    attainment: float = 1.0
    may_leave: bool = True
    arrival_s: Sequence[float] = ()
    power_w: float | None = None
    by_own: Sequence[bool] = ()
    max_energy_j: Sequence[float] = ()

    def by_clock(self, ahead_s: float, there_s: float = 0.0) -> "ExitBounds":
        """The same by a clock that is ``ahead_s`` ahead of this one; negative: behind it.

        ``there_s`` is the time of the batch on its way to the device with that clock, which counts for its parts.
        """
        due_s = [each + ahead_s for each in self.due_s]
        return replace(self, due_s=due_s, arrival_s=[each + ahead_s - there_s for each in self.arrival_s])

    def by_row(self) -> Floats:
        """The time by which each row of the batch is due, in seconds; shape (rows,)."""
        return np.repeat(np.asarray(self.due_s, np.float64), self.rows)

    def min_by_row(self) -> Floats | None:
        """The least confidence of each row; None if no row has one."""
        return np.repeat(np.asarray(self.min_confidence, np.float64), self.rows) if self.min_confidence else None

    def by_own_row(self) -> Bools | None:
        """Whether each row goes by the variant's own condition; None if no row does."""
        return np.repeat(np.asarray(self.by_own, np.bool_), self.rows) if self.by_own else None


@lru_cache(256)  # bounds come with each batch, and have the same points
def _within(points: tuple[StagePoint, ...], share: float) -> LatencyTable:
    return LatencyTable(points, lambda point: point.within_s(share))


@lru_cache(256)
def _mean(points: tuple[StagePoint, ...]) -> LatencyTable:
    return LatencyTable(points, lambda point: point.mean_s)


def stage_means(exits: Sequence[ExitProfile]) -> list[LatencyTable]:
    """The mean time of each stage by its rows."""
    return [_mean(tuple(each.points)) for each in exits]


def profiled_s(profiled: Sequence[ExitProfile], exits: Ints) -> float:
    """The mean seconds of all stages for rows that were answered by these ``exits``.

    The time of the whole chain would make batches of early answers seem fast, and batches of hard rows slow.
    """
    reached = [int(np.count_nonzero(exits >= place)) for place in range(1, len(profiled) + 1)]
    return sum(stage_s(rows) for stage_s, rows in zip(stage_means(profiled), reached, strict=True) if rows)


def computed_fracs(profiled: Sequence[ExitProfile]) -> list[float]:
    """The mean time of one row up to each exit, as a fraction of its time in the whole chain."""
    taken_s = [*accumulate(stage_s(1) for stage_s in stage_means(profiled))]
    return [min(each_s / taken_s[-1], 1.0) for each_s in taken_s]


def first_stage_s(profiled: Sequence[ExitProfile], rows: int) -> float:
    """The mean seconds of the first stage with ``rows`` rows."""
    return _mean(profiled[0].points)(rows)


class Leaving(NamedTuple):
    """Parts of a batch, by place, whose answers are sent while the rest goes on; ``rows`` are all of their rows."""

    parts: tuple[int, ...]
    rows: Ints


class StageForecast:
    """Decides which rows of a batch, begun at ``start_s``, enter each next stage. ``pace`` learns from its stages.

    ``leaving`` are the parts to send behind the last stage, before the next begins; None if there are none. A batch in
    which no row may be cut short teaches nothing, as its stages may have no profile.
    """

    def __init__(self, bounds: ExitBounds, pace: StagePace, start_s: float) -> None:
        self._bounds, self._pace, self._since_s = bounds, pace, start_s
        self._first_due_s, self._last_due_s = min(bounds.due_s), max(bounds.due_s)
        self._may_cut = self._first_due_s < math.inf
        self.leaving: Leaving | None = None
        self._means = stage_means(bounds.exits) if self._may_cut else []
        self._limits = (
            EnergyLimits(bounds.rows, bounds.max_energy_j, bounds.power_w, self._means)
            if bounds.max_energy_j and self._may_cut
            else None
        )

    @property
    def energy_j(self) -> Floats | None:
        """The energy of each row by the profile; NaN for a row without a limit, None if no row has one."""
        return None if self._limits is None else self._limits.joules

    def stopping(self, stage: int, rows: Ints, is_enough: Bools, now_s: float) -> Bools:
        """Which of ``rows`` stop behind a ``stage`` that has ended now.

        They have enough, or the next stage would end too late for them, or take too much energy. Decisions take time
        from the rows. If all rows that would go on may do so, and none has to leave, no single row is looked at.
        """
        if not self._may_cut:
            return is_enough
        self._pace.ran(now_s - self._since_s, self._means[stage - 1](len(rows)))
        self._since_s, self.leaving = now_s, None
        stops = is_enough if self._limits is None else self._limits.behind(stage, rows, is_enough)
        left = len(rows) - int(np.count_nonzero(stops))
        if left:
            factor, times_s, out_s = self._predicted(stage + 1)
            if self._first_due_s - now_s < factor * times_s(left) + out_s:
                # A row whose time is short waits for this decision: to look at arrays takes half as long as a stage.
                is_any_in_time = self._last_due_s - now_s >= factor * times_s(1) + out_s
                stops = self._cut_short(stage, rows, stops, now_s) if is_any_in_time else np.ones(len(rows), np.bool_)
        return stops

    def _cut_short(self, stage: int, rows: Ints, stops: Bools, now_s: float) -> Bools:
        """Which of ``rows`` stop behind a ``stage``, if not all go on that would."""
        stops, going = stops.copy(), ~stops
        in_time, end_s = self.in_time(stage + 1, rows[going], now_s)
        stops[going] = ~in_time
        if self._limits is not None:  # with fewer rows, each takes more
            stops = self._limits.stopping(stage + 1, rows, stops)
        self._let_leave(now_s, end_s)
        return stops

    def left(self, now_s: float) -> None:
        """The parts in ``leaving`` are sent."""
        self._pace.parted(now_s - self._since_s)
        self._since_s = now_s

    def ended(self, now_s: float) -> None:
        """The answers are out of the chain."""
        if self._may_cut:
            self._pace.came_out(now_s - self._since_s)

    def in_time(self, stage: int, rows: Ints, now_s: float) -> tuple[Bools, float]:
        """Which of ``rows`` may enter a stage now, counted from 1, and its end, before any of them is due.

        The end is minus infinity if none may. Before the stage begins, some rows may have to leave, which takes time.
        """
        factor, times_s, out_s = self._predicted(stage)
        due_s = self._due_s
        if not self._bounds.may_leave:
            are_kept = due_s >= now_s + self._pace.out_s
            due_s = np.where(are_kept, due_s.min(initial=math.inf, where=are_kept), -math.inf)
        due_s = due_s[rows]
        last_due_first = np.argsort(-due_s, kind="stable")
        ends_s = now_s + self._pace.parting_s + factor * times_s.up_to(len(rows)) + out_s
        most = int(np.count_nonzero(ends_s <= due_s[last_due_first]))
        allowed = np.zeros(len(rows), np.bool_)
        allowed[last_due_first[:most]] = True
        return allowed, float(ends_s[most - 1]) if most else -math.inf

    def _let_leave(self, now_s: float, end_s: float) -> None:
        """Parts that are due before the next stage ends, and not late yet, leave. They delay no other part then."""
        due_s = self._due_s
        leaves = (due_s >= now_s + self._pace.out_s) & (due_s < end_s)
        if leaves.any():
            parts = np.repeat(np.arange(len(self._bounds.rows)), self._bounds.rows)
            self.leaving = Leaving(tuple(np.unique(parts[leaves]).tolist()), np.flatnonzero(leaves))
            due_s[leaves] = math.inf
            self._first_due_s = float(due_s.min())

    def _predicted(self, stage: int) -> tuple[float, LatencyTable, float]:
        """A factor, times by rows, and the time of answers out of the chain unless the times include it."""
        if self._pace.is_known:
            return self._pace.factor, self._means[stage - 1], self._pace.max_out_s
        points = tuple(self._bounds.exits[stage - 1].points)
        return self._bounds.slowdown, _within(points, self._bounds.attainment), 0.0

    @cached_property
    def _due_s(self) -> Floats:
        """The deadline of each row; infinite for rows that have left."""
        return self._bounds.by_row()
