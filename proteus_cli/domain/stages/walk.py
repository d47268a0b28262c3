"""The way of a batch through the stages of a multi-exit model in simulations and emulations, without computing any.

Each stage takes its profiled time for the rows that reach it. A row stops by itself at the exit of its *rank*, or
earlier if the rule of the live server cuts it short (`StageForecast`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from proteus_cli.arrays import Bools, Floats, Ints
from proteus_cli.domain.stages.exits import ExitProfile
from proteus_cli.domain.stages.pace import StagePace
from proteus_cli.domain.stages.stage_forecast import ExitBounds, Leaving, StageForecast


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """The time of a batch, ``took_s``; by row the exit that answered it, and whether it was cut short there.

    ``left`` are the parts that left before its end, each with the seconds since the start. ``energy_j`` is the energy
    of each row by the profile; NaN for a row without a limit, None if no row has one.
    """

    took_s: float
    exits: Ints
    cut: Bools
    left: Sequence[tuple[float, Leaving]] = ()
    energy_j: Floats | None = None

    def accuracies(self, known: Sequence[ExitProfile], otherwise: float) -> list[float]:
        """The expected accuracy of the answer to each row; ``otherwise`` if ``known`` lacks it."""
        rows = zip(self.exits.tolist(), self.cut.tolist(), strict=True)
        return [known[place - 1].answers_worth(is_cut=is_cut, otherwise=otherwise) for place, is_cut in rows]


class ProfiledChain:
    """The stages of a variant by its profile; ``stages_s`` are the times of each by rows.

    The rank of a row is the fraction of rows with less confidence. The first exit answers the rows of the highest
    ranks, as many as its share, and so on. If shares are unknown, all rows go on to the last exit.
    """

    def __init__(self, exits: Sequence[ExitProfile], stages_s: Sequence[Callable[[int], float]]) -> None:
        self._stages_s = stages_s
        shares = [each.share or 0.0 for each in exits[:-1]]
        self._least_ranks = 1.0 - np.cumsum(shares)

    def stops_at(self, ranks: Floats) -> Ints:
        """The exit at which each row stops by itself, counted from 1."""
        missed: Ints = np.count_nonzero(ranks[:, np.newaxis] < self._least_ranks, axis=1)
        return missed + 1

    def walk(
        self,
        stops_at: Ints,
        bounds: ExitBounds,
        pace: StagePace,
        start_s: float,
        slowdown: float = 1.0,
        out_s: float = 0.0,
    ) -> Walk:
        """A batch that starts at ``start_s``, slowed by the factor ``slowdown``. ``pace`` is the pace of the device.

        Answers need ``out_s`` out of the chain, which is no part of the time of the `Walk`.
        """
        forecast, rows, took_s = StageForecast(bounds, pace, start_s), len(stops_at), 0.0
        exits, cut, going = np.zeros(rows, np.int64), np.zeros(rows, np.bool_), np.arange(rows)
        left: list[tuple[float, Leaving]] = []
        for place, stage_s in enumerate(self._stages_s, start=1):
            took_s += slowdown * stage_s(len(going))
            is_enough = stops_at[going] <= place
            stops = forecast.stopping(place, going, is_enough, start_s + took_s)
            exits[going[stops]], cut[going[stops]] = place, ~is_enough[stops]
            going = going[~stops]
            if not len(going):
                break
            if forecast.leaving is not None:
                left.append((took_s, forecast.leaving))
        forecast.ended(start_s + took_s + out_s)
        return Walk(took_s, exits, cut, left, forecast.energy_j)
