"""What the rows of a batch take of its energy, stage by stage, and how far that may go.

Rows share a stage evenly: each takes the power of the device times the time of the stage, divided by the rows that are
in it. So a row that goes on takes more, the fewer go on with it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from proteus_cli.arrays import Bools, Floats, Ints


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
