"""How far the rows of a batch may go: a bound is held before it is passed, not noticed after.

Before each next stage, its time is predicted: its profiled mean for as many rows as would go on, times what stages take
of their means at present, with a margin (`pace.StagePace`). The margin is the greater, the less accuracy rows gain by
going on (`extra_deviations`). Until enough were measured, it is the profile's percentile of the family's attainment,
times the slowdown of the device. A row goes on where the stage ends before it is due. The
fewer rows go on, the sooner the stage ends: as many go on as that allows, those with the most time. Parts of the batch
that are due before that end *leave*: their answers, of the exits reached so far, are sent at once. What has more time
waits for the end of the batch, so that most batches are sent as a whole. What is late already leaves with the last.
Rows that would take more energy in the stage than they have left do not go on either (`energy.EnergyLimits`).

What the rows of a batch take of its energy, stage by stage, and how far that may go.

Rows share a stage evenly: each takes the power of the device times the time of the stage, divided by the rows that are
in it. So a row that goes on takes more, the fewer go on with it.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from proteus_cli.arrays import Bools, Floats, Ints
from proteus_cli.domain.conditions import Condition
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.pace import StagePace


class RowEnergy:
    """By row of a batch, the ``joules`` that it has taken so far; NaN where the power is not known."""

    def __init__(self, rows: int, power_w: float | None) -> None:
        self.joules = np.zeros(rows)
        self._power_w = np.nan if power_w is None else power_w

    def ran(self, rows: Ints, stage_s: float) -> None:
        """A stage with these ``rows`` took so long."""
        self.joules[rows] += self._power_w * stage_s / len(rows)


class EnergyLimits:
    """Which rows have the energy for a stage, by the power and the stage times of the profile: before it begins.

    The parts of the batch have so many ``rows``, and may take ``max_energy_j`` each; what a row leaves that has
    stopped, the others of its part may take. ``stages_s`` has the seconds of each stage for one row, two, … and so
    many.
    """

    def __init__(
        self,
        rows: Sequence[int],
        max_energy_j: Sequence[float],
        power_w: float | None,
        stages_s: Sequence[Callable[[int], Floats]],
    ) -> None:
        self._max_j, self._stages_s = np.asarray(max_energy_j, np.float64), stages_s
        self._power_w = np.nan if power_w is None else power_w
        self._parts = np.repeat(np.arange(len(rows)), rows)
        self._taken = RowEnergy(len(self._parts), power_w)

    @property
    def joules(self) -> Floats:
        """By row, what it has taken; NaN where its part has no limit."""
        return np.where(np.isfinite(self._max_j)[self._parts], self._taken.joules, np.nan)

    def behind(self, stage: int, rows: Ints, stops: Bools) -> Bools:
        """`stopping` before the next stage, once these ``rows`` have passed a ``stage``."""
        self._taken.ran(rows, float(self._stages_s[stage - 1](len(rows))[-1]))
        return self.stopping(stage + 1, rows, stops)

    def stopping(self, stage: int, rows: Ints, stops: Bools) -> Bools:
        """Those of ``rows`` that do not enter a ``stage``: they stop anyway, or it would take more than they have left.

        As many go on as that allows, of a part the first. So with a stage of 2 J, however many rows share it, and two
        parts of two rows that have 1 J and 5 J left: alone a row would take 2 J, together 0.5 J each, and 0.5 J is
        what each row of the first part has. All four go on.
        """
        going = np.flatnonzero(~stops)
        if not len(going):
            return stops
        parts = self._parts[rows[going]]
        left_j = self._max_j - np.bincount(self._parts, self._taken.joules)
        of_part = np.arange(len(going)) - np.searchsorted(parts, parts) + 1  # so many of its part share what is left
        each_j = left_j[parts] / of_part
        most_left_first = np.argsort(-each_j, kind="stable")
        takes_j = self._power_w * self._stages_s[stage - 1](len(going)) / np.arange(1, len(going) + 1)
        have_enough = np.flatnonzero(takes_j <= each_j[most_left_first])
        most = int(have_enough[-1]) + 1 if len(have_enough) else 0
        found = stops.copy()
        found[going[most_left_first[most:]]] = True
        return found


class ExitBounds(msgspec.Struct, frozen=True, array_like=True):
    """When each part of a batch must be answered (``due_s``, by the driver's clock), and how many ``rows`` it has.

    The clock of a live server is `time.monotonic`. A part whose rows may not be cut short is due at no time, infinity.

    ``exits`` are those of the variant's profile on the device, which is slowed by the factor ``slowdown``. Where there
    is a ``stop_when``, that condition counts in place of the variant's own. No part stops where it is less
    confident than its ``min_confidence``; empty: none asks for that. Of the rows that go on, the share ``attainment``
    is to be in time. Only where parts ``may_leave`` may the batch take longer than the first of them has time. With
    ``stop_when``, it is known when each part arrived (``arrival_s``). Parts that go ``by_own`` stop by the variant's
    own condition all the same; empty: none does. While the batch runs, the device draws ``power_w`` for it (None where
    that is unknown), of which a part may take ``max_energy_j``; empty: none has a limit.
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
        """The same by a clock that is ``ahead_s`` ahead of this one. A negative number: by one that began so long ago.

        Where the batch takes ``there_s`` to a device of which that is the clock, its parts have had this time, too.
        """
        due_s = [each + ahead_s for each in self.due_s]
        return replace(self, due_s=due_s, arrival_s=[each + ahead_s - there_s for each in self.arrival_s])

    def by_row(self) -> Floats:
        """The time by which each row of the batch is due, in seconds; shape (rows,)."""
        return np.repeat(np.asarray(self.due_s, np.float64), self.rows)

    def min_by_row(self) -> Floats | None:
        """The confidence that each row asks for; None where none does."""
        return np.repeat(np.asarray(self.min_confidence, np.float64), self.rows) if self.min_confidence else None

    def by_own_row(self) -> Bools | None:
        """Whether each row goes by the variant's own condition; None where none does."""
        return np.repeat(np.asarray(self.by_own, np.bool_), self.rows) if self.by_own else None


class StageTimes:
    """What a stage takes, by rows: linear between measured sizes, never falling, and by the row beyond the largest.

    ``statistic`` of each point is meant, such as its mean.
    """

    def __init__(self, points: Sequence[StagePoint], statistic: Callable[[StagePoint], float]) -> None:
        self._batches = [point.batch for point in points]
        self._measured_s = np.maximum.accumulate([statistic(point) for point in points])
        self._known_s = self._up_to(self._batches[-1])

    def __call__(self, rows: int) -> Floats:
        """Seconds of batches of one row, two, … and so many."""
        return self._known_s[:rows] if rows <= len(self._known_s) else self._up_to(rows)

    def of(self, rows: int) -> float:
        """Seconds of a batch of so many rows."""
        return float(self(rows)[-1])

    def _up_to(self, rows: int) -> Floats:
        sizes = np.arange(1, rows + 1)
        times_s: Floats = np.interp(sizes, self._batches, self._measured_s)
        beyond = sizes > self._batches[-1]
        times_s[beyond] = sizes[beyond] * (self._measured_s[-1] / self._batches[-1])
        return times_s


@lru_cache(256)  # bounds come with each batch, and have the same points
def _within(points: tuple[StagePoint, ...], share: float) -> StageTimes:
    return StageTimes(points, lambda point: point.within_s(share))


@lru_cache(256)
def _mean(points: tuple[StagePoint, ...]) -> StageTimes:
    return StageTimes(points, lambda point: point.mean_s)


def profiled_s(profiled: Sequence[ExitProfile], exits: Ints) -> float:
    """What stages take of rows that were answered by these ``exits``, in the mean.

    With what the whole chain takes of as many rows, a batch would seem fast whose rows were cut short, and one of hard
    rows slow.
    """
    reached = [int(np.count_nonzero(exits >= place)) for place in range(1, len(profiled) + 1)]
    return sum([_mean(each.points).of(rows) for each, rows in zip(profiled, reached, strict=True) if rows])


def computed_fracs(profiled: Sequence[ExitProfile]) -> list[float]:
    """What a row has taken until each exit, as a fraction of what the whole chain takes; in the mean, alone."""
    stages_s = [_mean(tuple(each.points)).of(1) for each in profiled]
    whole_s = sum(stages_s)
    return [min(taken_s / whole_s, 1.0) for taken_s in accumulate(stages_s)]


def first_stage_s(profiled: Sequence[ExitProfile], rows: int) -> float:
    """What the first stage takes of so many rows, in the mean."""
    return _mean(profiled[0].points).of(rows)


MIN_GAIN_FRAC = 1 / 20
"""Of the greatest gain: rows that gain less are risked as if they gained this. Profiles of few rows are not that exact.
"""


class _Chain(NamedTuple):
    """What a forecast needs of all exits: by stage its mean times, and by exit `extra_deviations`."""

    means: tuple[StageTimes, ...]
    extra_deviations: tuple[float, ...]


@lru_cache(256)
def _chain(exits: tuple[ExitProfile, ...]) -> _Chain:
    return _Chain(tuple(_mean(tuple(each.points)) for each in exits), extra_deviations(exits))


def extra_deviations(exits: Sequence[ExitProfile]) -> tuple[float, ...]:
    """By exit but the last, how many mean deviations more the margin of the next stage has than where most is gained.

    A row that goes on gains the accuracy of later exits over that of an answer that is cut short here, and risks to be
    late. It should go on where the chance to be late is below its gain, in answers in time. Tails of times are about
    exponential: with one mean deviation more, a row is late e times as rarely. So a gain that is e times smaller needs
    one more. Where gains are unknown, no exit has more than another.
    """
    gains = [_gain(each, exits[place:]) for place, each in enumerate(exits[:-1], start=1)]
    known = [gain for gain in gains if gain is not None]
    most = max(known, default=0.0)
    if len(known) < len(gains) or most <= 0:
        return (0.0,) * len(gains)
    return tuple(math.log(most / max(gain, MIN_GAIN_FRAC * most)) for gain in known)


def _gain(here: ExitProfile, later: Sequence[ExitProfile]) -> float | None:
    """What rows that go on behind an exit gain in accuracy, in the mean, if all reach theirs; None where unknown."""
    answered = [(each.share, each.accuracy) for each in later if each.share and each.accuracy is not None]
    if here.cut_accuracy is None or not answered:
        return None
    shares, accuracies = zip(*answered, strict=True)
    return float(np.average(accuracies, weights=shares)) - here.cut_accuracy


class Leaving(NamedTuple):
    """Parts of a batch, by place, whose answers are sent while the rest goes on; ``rows`` are all of theirs."""

    parts: tuple[int, ...]
    rows: Ints


class StageForecast:
    """Which rows of a batch, begun at ``start_s``, a stage is in time for; ``pace`` learns from its stages.

    ``leaving`` are the parts to send behind the last stage, before the next begins; None where there are none. A batch
    in which no row may be cut short teaches nothing: what is only tried out has no profile.
    """

    def __init__(self, bounds: ExitBounds, pace: StagePace, start_s: float) -> None:
        self._bounds, self._pace, self._since_s = bounds, pace, start_s
        self._first_due_s, self._last_due_s, self._first_end_s = min(bounds.due_s), max(bounds.due_s), start_s
        self._may_cut, self._is_judged = self._first_due_s < math.inf, False
        self._have_left: set[int] = set()
        self.leaving: Leaving | None = None
        self._chain = _chain(tuple(bounds.exits) if self._may_cut else ())
        self._means = self._chain.means
        self._limits = (
            EnergyLimits(bounds.rows, bounds.max_energy_j, bounds.power_w, self._means)
            if bounds.max_energy_j and self._may_cut
            else None
        )

    @property
    def energy_j(self) -> Floats | None:
        """By row, what it has taken by the profile; NaN where it has no limit, and None where none has."""
        return None if self._limits is None else self._limits.joules

    def stopping(self, stage: int, rows: Ints, is_enough: Bools, now_s: float) -> Bools:
        """Which of ``rows`` stop behind a ``stage`` that has ended now.

        They have enough, or the next would end too late for them, or take too much energy. Deciding takes time that the
        rows would have, so most often, where all that would go on may do so and none has to leave, no row is looked at.
        """
        if not self._may_cut:
            return is_enough
        is_usual = self._pace.ran(now_s - self._since_s, self._means[stage - 1].of(len(rows)), stage)
        self._since_s, self.leaving = now_s, None
        stops = is_enough if self._limits is None else self._limits.behind(stage, rows, is_enough)
        left = len(rows) - int(np.count_nonzero(stops))
        if left:
            factor, times_s, out_s = self._predicted(stage + 1)
            if self._first_due_s - now_s < factor * times_s.of(left) + out_s:
                # A row whose time is short waits for this decision: to look at arrays takes half as long as a stage.
                is_any_in_time = self._last_due_s - now_s >= factor * times_s.of(1) + out_s
                stops = self._cut_short(stage, rows, stops, now_s) if is_any_in_time else np.ones(len(rows), np.bool_)
        self._is_judged = stage > 1 and is_usual and bool(stops.all())
        if stage == 1:
            self._first_end_s = now_s
        return stops

    def _cut_short(self, stage: int, rows: Ints, stops: Bools, now_s: float) -> Bools:
        """Which of ``rows`` stop behind a ``stage``, where not all go on that would."""
        stops, going = stops.copy(), ~stops
        in_time, end_s = self.in_time(stage + 1, rows[going], now_s)
        stops[going] = ~in_time
        if self._limits is not None:  # of fewer rows, each takes more
            stops = self._limits.stopping(stage + 1, rows, stops)
        self._let_leave(now_s, end_s)
        return stops

    def left(self, now_s: float) -> None:
        """What was ``leaving`` is sent."""
        self._pace.parted(now_s - self._since_s)
        self._since_s = now_s

    def ended(self, now_s: float) -> None:
        """The answers are out of the chain."""
        if self._may_cut:
            self._pace.came_out(now_s - self._since_s)
            if self._is_judged:
                self._judge(now_s)

    def in_time(self, stage: int, rows: Ints, now_s: float) -> tuple[Bools, float]:
        """Which of ``rows`` may enter a stage now, counted from 1, and when it ends: before any of them is due.

        It ends at no time, minus infinity, where none may. Before it begins, some may have to leave, which takes time.
        """
        factor, times_s, out_s = self._predicted(stage)
        due_s = self._due_s
        if not self._bounds.may_leave:
            are_kept = due_s >= now_s + self._pace.out_s
            due_s = np.where(are_kept, due_s.min(initial=math.inf, where=are_kept), -math.inf)
        due_s = due_s[rows]
        last_due_first = np.argsort(-due_s, kind="stable")
        ends_s = now_s + self._pace.parting_s + factor * times_s(len(rows)) + out_s
        most = int(np.count_nonzero(ends_s <= due_s[last_due_first]))
        allowed = np.zeros(len(rows), np.bool_)
        allowed[last_due_first[:most]] = True
        return allowed, float(ends_s[most - 1]) if most else -math.inf

    def _let_leave(self, now_s: float, end_s: float) -> None:
        """What is due before the next stage ends, and not late yet, leaves: from now on it holds nobody back."""
        due_s = self._due_s
        leaves = (due_s >= now_s + self._pace.out_s) & (due_s < end_s)
        if leaves.any():
            parts = np.repeat(np.arange(len(self._bounds.rows)), self._bounds.rows)
            self.leaving = Leaving(tuple(np.unique(parts[leaves]).tolist()), np.flatnonzero(leaves))
            self._have_left.update(self.leaving.parts)
            due_s[leaves] = math.inf
            self._first_due_s = float(due_s.min())

    def _predicted(self, stage: int) -> tuple[float, StageTimes, float]:
        """A factor, times by rows, and what answers take out of the chain where the times leave that out."""
        if self._pace.is_known:
            factor = self._pace.factor_of(stage, self._chain.extra_deviations[stage - 2])
            return factor, self._means[stage - 1], self._pace.max_out_s
        points = tuple(self._bounds.exits[stage - 1].points)
        return self._bounds.slowdown, _within(points, self._bounds.attainment), 0.0

    def _judge(self, answered_s: float) -> None:
        """All rows have their answers: the pace learns from those that were in time when the first stage had ended."""
        since_s, rows, late = self._first_end_s + self._pace.out_s, 0, 0
        for part, (due_s, count) in enumerate(zip(self._bounds.due_s, self._bounds.rows, strict=True)):
            if since_s <= due_s < math.inf and part not in self._have_left:
                rows += count
                late += count if due_s < answered_s else 0
        if rows:
            self._pace.went_on(rows, late, self._bounds.attainment)

    @cached_property
    def _due_s(self) -> Floats:
        """By row; that of what has left is infinite."""
        return self._bounds.by_row()
