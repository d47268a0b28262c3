"""The present time of multi-exit models on a worker, for deadlines that only their first exits can keep."""

from proteus_cli.domain.stages.pace import StagePace

FRESH = 8
"""Number of requests given up in a row, without a batch between them, before measurements are doubted."""


class StageSlowdown:
    """The expected time of stages over their profiled percentile of the family's attainment.

    It follows the pace of whole batches (`StagePace`), by the stages that their rows reached. It may be below 1, as a
    profile may have been measured on a busy core. Before enough batches ran, it is at least 1.
    """

    def __init__(self) -> None:
        self._pace = StagePace()
        self._tail, self._given_up, self.factor = 1.0, 0, 1.0
        self._before_load: tuple[float, float] | None = None

    @property
    def least(self) -> float:
        """The least factor after doubts: the fastest pace so far."""
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
        """The load is over: slowness since its begin is forgotten."""
        if self._before_load is not None:
            self._pace.forget_beyond(self._before_load)
            self._before_load = None
            self._settle()

    def doubt(self) -> bool:
        """A request was given up that may have been in time. Returns whether less is expected now."""
        self._given_up += 1
        if self._given_up <= FRESH:
            return False
        self._pace.doubt()
        self._settle()
        return True

    def _settle(self) -> None:
        factor = self._pace.factor / self._tail
        self.factor = factor if self._pace.is_known else max(1.0, factor)
