"""The metrics that live conditions compare: what each row of a batch has used, and its expected accuracy."""

from collections.abc import Sequence

import numpy as np

from proteus_cli.arrays import Floats, Ints, Singles
from proteus_cli.domain.conditions import Condition, Metric, Values
from proteus_cli.domain.stages.exits import ExitProfile
from proteus_cli.domain.stages.stage_forecast import ExitBounds, RowEnergy, computed_fracs


class Progress:
    """How far each row of a batch is in a chain. The batch began at ``start_s``; ``own`` is the catalog's condition."""

    def __init__(self, bounds: ExitBounds, own: Condition, start_s: float) -> None:
        self._own, self._since_s = own, start_s
        self._arrival_s = np.repeat(np.asarray(bounds.arrival_s, np.float64), bounds.rows)
        self._computed_fracs = computed_fracs(bounds.exits)
        self._accuracy, self._cut_accuracy = _accuracies(bounds.exits)
        rows = len(self._arrival_s)
        self._energy, self._held = RowEnergy(rows, bounds.power_w), np.zeros(rows, np.int64)

    def behind(self, stage: int, rows: Ints, confidence: Singles, now_s: float) -> Values:
        """The metrics of ``rows`` that have passed a ``stage``, which has ended now, with answers of a ``confidence``.

        Call it once behind each stage, in their order.
        """
        self._energy.ran(rows, now_s - self._since_s)
        self._since_s = now_s
        return {
            Metric.LATENCY: now_s - self._arrival_s[rows],
            Metric.CONFIDENCE: confidence,
            Metric.ACCURACY: self._worth(stage, rows, confidence),
            Metric.ENERGY: self._energy.joules[rows],
            Metric.COMPUTATION: self._computed_fracs[stage - 1],
            Metric.EXIT: stage,
        }

    def _worth(self, stage: int, rows: Ints, confidence: Singles) -> Floats:
        """The exit's accuracy for rows whose own condition holds there or before; else its cut accuracy."""
        is_own = self._own.holds({Metric.CONFIDENCE: confidence, Metric.EXIT: stage}, len(rows))
        held = np.where((self._held[rows] == 0) & is_own, stage, self._held[rows])
        self._held[rows] = held
        worth: Floats = np.where(held > 0, self._accuracy[held - 1], self._cut_accuracy[stage - 1])
        return worth


def _accuracies(exits: Sequence[ExitProfile]) -> tuple[Floats, Floats]:
    """By exit, the accuracy of its answers, and of answers before a row's own exit; NaN if unknown."""
    known = [(each.accuracy, each.cut_accuracy) for each in exits]
    accuracy, cut_accuracy = np.array(known, np.float64).T
    return accuracy, cut_accuracy
