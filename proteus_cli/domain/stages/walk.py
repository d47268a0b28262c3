"""How a batch goes through the stages of a multi-exit model where none is computed: in simulations and emulations.

Each stage takes its time for as many rows as get there. A row stops by itself at the exit that its *rank* says, or
before that, where the rule of the live server cuts it short: `forecast.StageForecast`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from proteus_cli.arrays import Bools, Floats, Ints
from proteus_cli.domain.stages.exits import ExitProfile
from proteus_cli.domain.stages.pace import StagePace
from proteus_cli.domain.stages.stage_forecast import ExitBounds, Leaving, StageForecast, StageTimes


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """A batch ``took_s``; by row the exit that answered it, and whether it was cut short there.

    ``left`` before its end: which parts, and after how many seconds. ``energy_j`` by row is what it took by the
    profile; NaN where it has no limit, and None where none has.
    """

    took_s: float
    exits: Ints
    cut: Bools
    left: Sequence[tuple[float, Leaving]] = ()
    energy_j: Floats | None = None

    def accuracies(self, known: Sequence[ExitProfile], otherwise: float) -> list[float]:
        """What is to be expected of the answer to each row; ``otherwise`` where ``known`` does not say it."""
        rows = zip(self.exits.tolist(), self.cut.tolist(), strict=True)
        return [known[place - 1].answers_worth(is_cut=is_cut, otherwise=otherwise) for place, is_cut in rows]


def stage_means(exits: Sequence[ExitProfile]) -> list[Callable[[int], float]]:
    """Seconds of each stage by rows, in the mean."""
    return [StageTimes(each.points, lambda point: point.mean_s).of for each in exits]


class ProfiledChain:
    """The stages of a variant as its profile has them, each of which takes ``stages_s`` by rows.

    The rank of a row is the part of all rows of which the model is less sure (0 to 1): the first exit answers the rows
    of the highest ranks, as many as its share is, and so on. Where shares are unknown, all go on to the last exit.
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
        """A batch that starts at ``start_s``; all takes ``slowdown`` times as long. ``pace`` is that of the device.

        Its answers need ``out_s`` out of the chain, which is no part of the time that the `Walk` took.
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
