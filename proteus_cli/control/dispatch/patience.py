"""Whether a batch of a multi-exit model may keep its device longer than the first of its rows has time."""

GIVEN_UP = 0.5
"""Of the rows that the attainment allows to fail, those that may be given up. Others are for what nobody predicts."""
MAX_SAVED, MAX_OWED = 1.0, 8.0
"""Rows: what was long ago does not count."""


class Patience:
    """How many more rows may be given up: the attainment allows a part of all to fail.

    Where rows of a batch go on after others have left it, the batch takes longer, and what arrives meanwhile with a
    short bound is given up. That is worth it only as long as the attainment is reached all the same.
    """

    def __init__(self) -> None:
        self._left_rows = 0.0

    @property
    def is_left(self) -> bool:
        """Whether more rows may be given up."""
        return self._left_rows >= 0

    def answered(self, rows: int, attainment: float) -> None:
        """Count so many answered rows: their share of the rows that may fail is added."""
        self._left_rows = min(self._left_rows + GIVEN_UP * (1 - attainment) * rows, MAX_SAVED)

    def gave_up(self, rows: int) -> None:
        """Count rows that get no answer at all, though an idle device would have had the time for one."""
        self._left_rows = max(self._left_rows - rows, -MAX_OWED)
