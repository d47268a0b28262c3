"""Queries that are rows of eval splits: what each variant answered to them when it was profiled."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from proteus_cli.arrays import Bools, Singles
from proteus_cli.control.decision import Host
from proteus_cli.domain.trace import Trace


@dataclass(frozen=True, slots=True, eq=False)
class RowAnswers:
    """What a variant answered to every ``step``-th row of an eval split.

    How confident it was, NaN where the model told nothing, and whether it was right.
    """

    confidences: Singles
    correct: Bools
    step: int = 1


RowAnswersOf = Mapping[tuple[str, str, str], RowAnswers]
"""By device, family and variant."""


@dataclass(frozen=True, slots=True, eq=False)
class EvalRows:
    """The rows of eval splits that the queries of a trace are, and what is known of the answers to them.

    Of queries that are no row of a split, nothing is known.
    """

    trace: Trace
    answers: RowAnswersOf

    def is_correct(self, number: int, host: Host) -> bool | None:
        """Whether the host's answer to the query of that number is right; None where that is not known."""
        found = self._of(number, host)
        return bool(found[0].correct[found[1]]) if found is not None else None

    def confidence(self, number: int, host: Host) -> float | None:
        """How confident the host is of its answer to the query of that number; None where that is not known."""
        found = self._of(number, host)
        return float(found[0].confidences[found[1]]) if found is not None else None

    def _of(self, number: int, host: Host) -> tuple[RowAnswers, int] | None:
        row, answers = float(self.trace.eval_row[number]), self.answers.get((host.device, host.family, host.variant))
        if math.isnan(row) or answers is None:
            return None
        place, rest = divmod(int(row), answers.step)
        return (answers, place) if rest == 0 and place < len(answers.correct) else None
