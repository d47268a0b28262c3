"""Which rows of a batch have enough behind a stage: by the condition of the chain, or by a live one."""

from collections.abc import Callable

import numpy as np

from proteus_cli.arrays import Bools, Ints, Singles
from proteus_cli.domain.conditions import STOP_METRICS, Condition, Metric, Values
from proteus_cli.domain.stages.progress import Progress
from proteus_cli.domain.stages.stage_forecast import ExitBounds


class StopRule:
    """Decides which rows of a batch have enough, and stop at an exit.

    The batch began at ``start_s``, and goes through a chain with a number of ``stages`` and its ``own`` condition.
    """

    def __init__(self, own: Condition, stages: int, bounds: ExitBounds | None, start_s: float) -> None:
        self._own, self._stages = own, stages
        self._live: Condition | None = None
        self._progress: Progress | None = None
        self._by_own: Bools | None = None
        if bounds is not None and bounds.stop_when is not None:
            self._live = bounds.stop_when
            is_of_answers = self._live.metrics <= STOP_METRICS
            self._progress = None if is_of_answers else Progress(bounds, own, start_s)
            self._by_own = bounds.by_own_row()

    def behind(
        self, stage: int, rows: Ints, confidence: Singles, clock: Callable[[], float]
    ) -> tuple[Bools, float | None]:
        """Which of the ``rows`` that have just passed a ``stage`` have enough; at the last stage, all.

        Also when the stage ended, where the ``clock`` had to be asked for that.
        """
        if stage == self._stages:
            return np.ones(len(rows), np.bool_), None
        answers: Values = {Metric.CONFIDENCE: confidence, Metric.EXIT: stage}
        if self._live is None:
            return self._own.holds(answers, len(rows)), None
        if self._progress is None:
            ended_s, values = None, answers
        else:
            ended_s = clock()
            values = self._progress.behind(stage, rows, confidence, ended_s)
        is_enough = self._live.holds(values, len(rows))
        if self._by_own is not None:
            is_enough = np.where(self._by_own[rows], self._own.holds(answers, len(rows)), is_enough)
        return is_enough, ended_s
