"""The classes that answers name, as `proteus profile` counts them."""

import numpy as np

from proteus_cli.backends.base import OutputArrays

_SCORES_NDIM, _FEWEST_CLASSES = 2, 2


def classes_of(outputs: OutputArrays) -> tuple[int | None, ...]:
    """The class of each row, None where a score is NaN. Empty where the first output has no scores by class."""
    scores = outputs[0]
    if scores.ndim != _SCORES_NDIM or scores.shape[1] < _FEWEST_CLASSES or scores.dtype.kind not in "fiu":
        return ()
    found: list[int | None] = scores.argmax(axis=1).tolist()
    if scores.dtype.kind == "f":
        for row in np.flatnonzero(np.isnan(scores).any(axis=1)).tolist():
            found[row] = None
    return tuple(found)


def class_of(outputs: OutputArrays) -> int | None:
    """The class of the first row; None like in `classes_of`, and where there are no classes."""
    return next(iter(classes_of((outputs[0][:1],))), None)
