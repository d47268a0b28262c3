"""A few numbers of the inputs of a row, which are compared in its place: some moments, and random projections."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from proteus_cli.arrays import Floats, Ints
from proteus_cli.backends.base import TensorSpec

MAX_INPUTS = 4
"""Of a model; more are not looked at."""
MAX_VALUES = 4096
"""Of an input; of a larger one, places that are drawn once."""
PROJECTIONS = 8
"""Of all inputs together: sums with weights that are drawn once."""


class RowSummary:
    """Makes the same ``names`` numbers of rows, those of the eval split and those of requests."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        looked_at = specs[:MAX_INPUTS]
        self._inputs = [_InputSummary(spec, PROJECTIONS // len(looked_at)) for spec in looked_at]
        self.names = tuple(
            f"{name} of {spec.name}" for spec, each in zip(looked_at, self._inputs, strict=True) for name in each.names
        )

    def of(self, rows: Sequence[npt.NDArray[np.generic]]) -> Floats:
        """Rows × numbers, of rows of each input in the order of the signature."""
        used = zip(self._inputs, rows, strict=False)
        return np.concatenate([each.of(values) for each, values in used], axis=1)


class _InputSummary:
    def __init__(self, spec: TensorSpec, projections: int) -> None:
        size = math.prod(spec.sizes)
        rng = np.random.default_rng(0)
        self._places = _pairs(size, rng) if size > MAX_VALUES else None
        count = min(size, MAX_VALUES)
        self._weights = rng.standard_normal((count, projections)) / math.sqrt(count) if count > 1 else None
        moments = ("mean", "deviation", "lowest", "highest", "roughness")
        self.names = (
            (*moments, *(f"projection {number}" for number in range(1, projections + 1))) if count > 1 else ("value",)
        )

    def of(self, rows: npt.NDArray[np.generic]) -> Floats:
        flat = rows.reshape(len(rows), -1)
        values: Floats = (flat if self._places is None else flat[:, self._places]).astype(np.float64)
        if self._weights is None:
            return values
        with np.errstate(all="ignore"):  # of values that are no numbers, or overflow
            rough = np.abs(values[:, 1::2] - values[:, : values.shape[1] - 1 : 2]).mean(axis=1)
            moments = values.mean(axis=1), values.std(axis=1), values.min(axis=1), values.max(axis=1), rough
            found: Floats = np.concatenate([np.stack(moments, axis=1), values @ self._weights], axis=1)
        return found


def _pairs(size: int, rng: np.random.Generator) -> Ints:
    """Places of `MAX_VALUES` values of so many: pairs of neighbours, whose differences tell noise and blur."""
    first = 2 * np.sort(rng.choice(size // 2, MAX_VALUES // 2, replace=False))
    places: Ints = np.stack((first, first + 1), axis=1).reshape(-1)
    return places
