"""Which rows of a batch have enough behind a stage: by the condition of the chain, or by a live one."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from proteus_cli.arrays import Bools, Ints, Singles
from proteus_cli.domain.conditions.condition import Condition, Values, holds, metrics
from proteus_cli.domain.conditions.metrics import Metric
from proteus_cli.domain.conditions.parser import parse
from proteus_cli.domain.conditions.stopping import STOP_METRICS
from proteus_cli.domain.stages.progress import Progress
from proteus_cli.domain.stages.stage_forecast import ExitBounds


class StopRule:
    """Decides which rows of a batch have enough, and stop at an exit.

    The batch began at ``start_s``, and goes through a chain of so many ``stages`` with a condition of its own.
    """

    def __init__(self, own: Condition, stages: int, bounds: ExitBounds | None, start_s: float) -> None:
        self._own, self._stages = own, stages
        self._live: Condition | None = None
        self._progress: Progress | None = None
        self._by_own: Bools | None = None
        if bounds is not None and bounds.stop_when is not None:
            self._live, is_of_answers = _live(bounds.stop_when)
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
            return holds(self._own, answers, len(rows)), None
        if self._progress is None:
            ended_s, values = None, answers
        else:
            ended_s = clock()
            values = self._progress.behind(stage, rows, confidence, ended_s)
        is_enough = holds(self._live, values, len(rows))
        if self._by_own is not None:
            is_enough = np.where(self._by_own[rows], holds(self._own, answers, len(rows)), is_enough)
        return is_enough, ended_s


@lru_cache(64)
def _live(text: str) -> tuple[Condition, bool]:
    """A condition that was changed live, which comes as a text with each batch; whether answers alone decide it."""
    condition = parse(text)
    return condition, metrics(condition) <= STOP_METRICS
