"""What first stages of cascades defer, measured: when a plan should count on that, and no longer on the profile.

A first stage counts its rows by the level of their confidence, in windows. A threshold of the plan is *off* in a window
whose count contradicts what is counted on so far, by the 95 % interval. Where it is off in the same direction in each
of the last `WINDOWS`, and by `NOTABLE` over all of them, the fractions of these windows count from now on, of all
thresholds. Where they do not differ so much from the profile, the profile counts again.

**False alarms.** Chance leaves the interval on one side with a probability of 0.025, and on the same side in three
windows with 0.025³. So a threshold whose fraction is right is corrected after a window with 2 · 0.025³, once in 32,000
windows. A window takes `WINDOW_S` at least: that is once in 3.7 days. Of small fractions, the binomial distribution has
longer tails: with 2 % of `WINDOW_ROWS`, once in 10,000. Why windows of seconds, one after another: queries that follow
each other are often alike, and what lasts for less than half a minute is no reason for another plan.
"""

import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from proteus_cli.control.decision import FirstStage
from proteus_cli.domain.profile.deferral import MeasuredDeferral
from proteus_cli.units import format_percent

WINDOW_ROWS = 1000
WINDOW_S = 10.0
"""A window ends once it has so many rows and has lasted so long: as long as a forecast counts on."""
WINDOWS = 3
SIGMAS = 1.96
NOTABLE = 0.1
"""Of what is counted on: as much more for the second stage as half of the usual headroom carries."""
KEEP_S = 600.0
"""Where the plan has no use for a first stage, what was measured of it counts for so long: then it is tried again."""


@dataclass(frozen=True, slots=True)
class _Window:
    """Of so many ``rows``, how many were ``below`` each threshold."""

    rows: int
    below: tuple[int, ...]


class DeferralWatch:
    """Counts what one first stage defers. ``used``: the places of the thresholds that the plan in force uses."""

    def __init__(self, stage: FirstStage, used: Collection[int]) -> None:
        self.stage, self.used = stage, frozenset(used)
        self.measured: MeasuredDeferral | None = None
        self.news: str | None = None
        self.last_s = -math.inf
        self._windows: deque[_Window] = deque(maxlen=WINDOWS)
        self._start(0.0)

    def saw(self, level: int, rows: int, now_s: float) -> None:
        """Count rows of a level, in O(1)."""
        if not self._rows:
            self._start(now_s)
        self._counts[level] += rows
        self._rows += rows
        if self._rows >= WINDOW_ROWS and now_s - self._since_s >= WINDOW_S:
            self._end(now_s)

    @property
    def rows(self) -> int:
        """Rows of the last windows and of the running one, which `observed` is of."""
        return self._rows + sum(window.rows for window in self._windows)

    def observed(self, place: int) -> float | None:
        """The part of these rows that are below a threshold; None where there are none."""
        below = sum(self._counts[: place + 1]) + sum(window.below[place] for window in self._windows)
        return below / self.rows if self.rows else None

    def counted_on(self, place: int) -> float:
        """What plans count on: what was measured, or else the profile."""
        return self.stage.ranks[place] if self.measured is None else self.measured.deferred_frac[place]

    def _start(self, now_s: float) -> None:
        self._counts, self._rows, self._since_s = [0] * (len(self.stage.thresholds) + 1), 0, now_s

    def _end(self, now_s: float) -> None:
        below, so_far = [], 0
        for count in self._counts[:-1]:
            so_far += count
            below.append(so_far)
        self._windows.append(_Window(self._rows, tuple(below)))
        self.last_s = now_s
        self._start(now_s)
        changed = [place for place in sorted(self.used) if self._has_changed(place)]
        if changed:
            self._correct(changed[0])
            self._windows.clear()

    def _has_changed(self, place: int) -> bool:
        expected = self.counted_on(place)
        sides = {_side(window.below[place], window.rows, expected) for window in self._windows}
        if len(self._windows) < WINDOWS or len(sides) != 1 or 0 in sides:
            return False
        return _is_notable(self._fractions()[place], expected)

    def _correct(self, place: int) -> None:
        """Count on what was measured in the last windows, or again on the profile."""
        before, fractions = self.counted_on(place), self._fractions()
        is_profiled = not any(_is_notable(fractions[each], self.stage.ranks[each]) for each in self.used)
        rows = sum(window.rows for window in self._windows)
        self.measured = (
            None if is_profiled else MeasuredDeferral(*self.stage.key, rows, self.stage.thresholds, tuple(fractions))
        )
        now, then = format_percent(fractions[place]), format_percent(before)
        self.news = f"{self.stage.key.variant} defers {now} where {then} was counted on"

    def _fractions(self) -> Sequence[float]:
        """Over the last windows; half a row more on either side, so that none is 0 or 1."""
        rows = sum(window.rows for window in self._windows)
        below = [sum(counts) for counts in zip(*(window.below for window in self._windows), strict=True)]
        return [(count + 0.5) / (rows + 1) for count in below]


def _side(below: int, rows: int, expected: float) -> int:
    """Whether more (1) or fewer (-1) rows are below than chance makes of the expected part; 0: neither."""
    off, deviation = below - rows * expected, math.sqrt(rows * expected * (1 - expected))
    return 0 if abs(off) <= SIGMAS * deviation else int(math.copysign(1, off))


def _is_notable(fraction: float, expected: float) -> bool:
    return abs(fraction - expected) > NOTABLE * expected
