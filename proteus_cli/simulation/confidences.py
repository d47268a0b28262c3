"""How sure variants are of the queries of a trace."""

import numpy as np

from proteus_cli.domain.trace import Trace


class Confidences:
    """The confidence of each query: the part of all queries (0 to 1) of which first stages were less sure as profiled.

    It is that of the trace where the trace knows it, else drawn by ``rng``. So a cascade defers the queries below the
    rank of its point, and exits of a multi-exit model answer their shares, the surest queries first. Nothing is drawn
    before the first is asked for.
    """

    def __init__(self, trace: Trace, rng: np.random.Generator) -> None:
        self._trace, self._rng = trace, rng
        self._values: list[float] = []

    def __getitem__(self, number: int) -> float:
        """Of the query of that number in the trace."""
        if not self._values:
            known = self._trace.confidence
            self._values = np.where(np.isnan(known), self._rng.random(len(known)), known).tolist()
        return self._values[number]
