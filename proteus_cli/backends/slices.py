"""Batches in slices of a few rows, where a model is faster so.

The intermediate tensors of a few rows may fit into the caches of a core.
"""

import math
import sys
from collections.abc import Callable, Hashable
from time import thread_time

import numpy as np

from proteus_cli.backends.base import NamedArrays, Signature
from proteus_cli.errors import EngineError

Infer = Callable[[NamedArrays], NamedArrays]
Find = Callable[[Infer, Signature], int]
"""The rows of the slices in which a large batch is the fastest."""

TRIED_ROWS = 32  # of the batch that is tried; smaller batches gain less
SLICES = (2, 4)  # rows
WHOLE = sys.maxsize
TRIES = 5
MAX_ONE_ROW_S = 0.001  # a slower model is not tried: 16 batches would delay its first one by 0.5 s
MAX_TRIED_BYTES = 64 * 2**20  # of the inputs of a whole batch
MAX_KNOWN_BYTES = 64 * 2**20  # of a model; to digest a larger one takes longer than its tries
MAX_KNOWN = 256  # models whose sizes a device keeps
WORTHWHILE = 0.95  # of the time of the whole batch; closer times change places from one load to the next


class SlicedInference:
    """Runs batches with ``infer``, in slices if these are faster. That is found before the first batch.

    Profiling and serving run a model through it alike, so what is measured is what serves; and whoever loads a model
    only for its signature does not wait.
    """

    def __init__(self, infer: Infer, signature: Signature, find: Find) -> None:
        self._infer, self._signature, self._find = infer, signature, find
        self._slice_rows: int | None = None

    def __call__(self, inputs: NamedArrays) -> NamedArrays:
        if self._slice_rows is None:
            self._slice_rows = self._find(self._infer, self._signature)
        return in_slices(self._infer, inputs, self._slice_rows)


class KnownSlices:
    """The slice sizes of models on one device. Another load of a model needs no tries, which are most of a quick load.

    Any thread may ask.
    """

    def __init__(self) -> None:
        self._rows: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, model: Hashable, infer: Infer, signature: Signature) -> int:
        """As `fastest_slice`, for a model that ``infer`` runs. The sizes that were used last are kept the longest."""
        rows = self._rows.pop(model, None) or fastest_slice(infer, signature)
        if len(self._rows) >= MAX_KNOWN:
            self._rows.pop(next(iter(self._rows)), None)
        self._rows[model] = rows
        return rows


def in_slices(infer: Infer, inputs: NamedArrays, slice_rows: int) -> NamedArrays:
    """Run one batch in slices of at most ``rows``."""
    rows = len(next(iter(inputs.values())))
    if rows <= slice_rows:
        return infer(inputs)
    slices = [
        infer({name: values[first : first + slice_rows] for name, values in inputs.items()})
        for first in range(0, rows, slice_rows)
    ]
    return {name: np.concatenate([outputs[name] for outputs in slices]) for name in slices[0]}


def fastest_slice(infer: Infer, signature: Signature) -> int:
    """The rows of the slices in which a large batch is clearly the fastest; `WHOLE` if that is none.

    Runs a few batches of a quick model. Outputs whose sizes vary are not put together from slices.
    """
    rng, row_bytes = np.random.default_rng(0), sum(spec.row_bytes for spec in signature.inputs)
    if any(None in spec.shape for spec in signature.outputs) or TRIED_ROWS * row_bytes > MAX_TRIED_BYTES:
        return WHOLE
    inputs = signature.sample(TRIED_ROWS, rng)
    try:
        if _shortest_s(infer, signature.sample(1, rng), WHOLE) > MAX_ONE_ROW_S:
            return WHOLE
        infer(inputs)  # the first of a size allocates memory
        whole_s = _shortest_s(infer, inputs, WHOLE)
        best_s, rows = min((_shortest_s(infer, inputs, rows), rows) for rows in SLICES)
    except EngineError:  # it takes no such batch, which whoever asks for one is told
        return WHOLE
    return rows if best_s < WORTHWHILE * whole_s else WHOLE


def _shortest_s(infer: Infer, inputs: NamedArrays, slice_rows: int) -> float:
    """The shortest time of `TRIES` runs in this thread, which has a part of all work; other programs lengthen none."""
    shortest_s = math.inf
    for _ in range(TRIES):
        start_s = thread_time()
        in_slices(infer, inputs, slice_rows)
        shortest_s = min(shortest_s, thread_time() - start_s)
    return shortest_s
