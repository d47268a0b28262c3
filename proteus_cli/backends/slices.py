"""Batches in slices of a few rows, where a model is faster so.

What the layers of a model hand on for a few rows may stay in the caches of a core. A runner finds this out when it is
loaded, so what is measured for a profile is what serves.
"""

import math
from time import perf_counter

import numpy as np

from proteus_cli.backends.base import NamedArrays, Runner
from proteus_cli.errors import EngineError

TRIED_ROWS = 32  # of the batch that is tried; smaller batches gain less
SLICES = (2, 4)  # rows
TRIES = 3
MAX_ONE_ROW_S = 0.002  # a slower model is not tried, as that would delay its load: nine batches take 0.6 s then
MAX_TRIED_BYTES = 64 * 2**20  # of the inputs of a whole batch
WORTHWHILE = 0.97  # of the time of the whole batch; closer times are the same


class SlicedRunner:
    """Runs batches on another runner in slices of at most ``slice_rows`` rows."""

    def __init__(self, runner: Runner, slice_rows: int) -> None:
        self._runner, self._slice_rows = runner, slice_rows
        self.signature, self.memory_bytes = runner.signature, runner.memory_bytes

    def infer(self, inputs: NamedArrays) -> NamedArrays:
        rows = len(next(iter(inputs.values())))
        if rows <= self._slice_rows:
            return self._runner.infer(inputs)
        slices = [
            self._runner.infer({name: values[first : first + self._slice_rows] for name, values in inputs.items()})
            for first in range(0, rows, self._slice_rows)
        ]
        return {name: np.concatenate([outputs[name] for outputs in slices]) for name in slices[0]}


def fastest(runner: Runner) -> Runner:
    """The runner itself, or one that runs batches in slices on it if that is clearly faster.

    It runs a few batches of a quick model. Outputs whose sizes vary are not put together from slices.
    """
    signature, rng = runner.signature, np.random.default_rng(0)
    row_bytes = sum(spec.row_bytes for spec in signature.inputs)
    if any(None in spec.shape for spec in signature.outputs) or TRIED_ROWS * row_bytes > MAX_TRIED_BYTES:
        return runner
    candidates = [SlicedRunner(runner, rows) for rows in SLICES]
    inputs = signature.sample(TRIED_ROWS, rng)
    try:
        if _shortest_s(runner, signature.sample(1, rng)) > MAX_ONE_ROW_S:
            return runner
        whole_s = _shortest_s(runner, inputs)
        best_s, best = min(((_shortest_s(each, inputs), each) for each in candidates), key=lambda timed: timed[0])
    except EngineError:  # it takes no such batch, which whoever asks for one is told
        return runner
    return best if best_s < WORTHWHILE * whole_s else runner


def _shortest_s(runner: Runner, inputs: NamedArrays) -> float:
    """The shortest time of `TRIES` runs."""
    shortest_s = math.inf
    for _ in range(TRIES):
        start_s = perf_counter()
        runner.infer(inputs)
        shortest_s = min(shortest_s, perf_counter() - start_s)
    return shortest_s
