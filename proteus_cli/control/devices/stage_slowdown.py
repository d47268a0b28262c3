"""How long multi-exit models take on a worker now, for deadlines that only their first exits can keep."""

from proteus_cli.domain.stages.pace import FIRST_EXIT_MULTIPLE, StagePace

FRESH = 8
"""Requests in a row that are given up before what was measured is doubted: batches between them show how it is."""


class StageSlowdown:
    """What stages take now, at most, over what the profile has at the percentile of the family's attainment.

    It goes by the pace of the batches that ran (`StagePace`), so it may also be below 1: a profile that was measured
    while others had the core expects too much. Whole batches count, by the stages of the rows that got there. The
    margin stays the same, however many first answers were late: a request that is refused is not in time either. Until
    enough batches ran, no less is expected than was profiled.
    """

    def __init__(self) -> None:
        self._pace = StagePace(FIRST_EXIT_MULTIPLE)
        self._tail, self._given_up, self.factor = 1.0, 0, 1.0
        self._before_load: tuple[float, float, float] | None = None

    @property
    def least(self) -> float:
        """What it may come down to where it is doubted: the fastest that was ever seen."""
        return self._pace.fastest / self._tail

    def ran(self, *, took_s: float, mean_s: float, tail: float) -> None:
        """Learn from one batch, by the mean of its stages; the percentile is ``tail`` times the mean of the first."""
        self._given_up, self._tail = 0, tail
        self._pace.ran(took_s, mean_s)
        self._settle()

    def load_began(self) -> None:
        """As `SlowdownEstimator` has it."""
        self._before_load = self._before_load or self._pace.learned

    def load_ended(self) -> None:
        """The load is over: what stages took longer because of it is forgotten."""
        if self._before_load is not None:
            self._pace.forget_beyond(self._before_load)
            self._before_load = None
            self._settle()

    def doubt(self) -> bool:
        """A request was given up that may have been in time. True where less is expected by that."""
        self._given_up += 1
        if self._given_up <= FRESH:
            return False
        self._pace.doubt()
        self._settle()
        return True

    def _settle(self) -> None:
        factor = self._pace.factor / self._tail
        self.factor = factor if self._pace.is_known else max(1.0, factor)
