"""A batch that fails is taken apart, until those of its requests are found that fail alone."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from proteus_cli.backends.base import Part
from proteus_cli.errors import DeviceLost, EngineBroken, EngineError

OutputArrays = tuple[npt.NDArray[Any], ...]
"""The outputs of some rows, in the order of the signature."""


def run_with_bisection(
    parts: Sequence[Part], run: Callable[[Sequence[Part]], OutputArrays], fails_anyway: Callable[[], bool]
) -> tuple[OutputArrays, Mapping[int, EngineError]]:
    """Run parts as one batch; where it fails, halves of it, until those that fail alone are found.

    The outputs of all rows, and by place the parts that failed, whose outputs mean nothing. A part that fails costs at
    most twice as many runs as halvings lead to it, and all of them 2n. Where the model fails on anything, that is found
    out by one run more, and nothing is split. Raises `EngineError` where all fail, and `EngineBroken` where anything
    would.
    """
    try:
        return run(parts), {}
    except DeviceLost:
        raise
    except EngineError as error:
        if fails_anyway():
            raise EngineBroken(f"it fails on what it could do when it was loaded: {error.message}") from error
        if len(parts) == 1:
            raise
        found = _split(parts, run)
        failures = {place: each for place, each in enumerate(found) if isinstance(each, EngineError)}
        if len(failures) == len(parts):
            raise
    return _joined(
        [each if isinstance(each, tuple) else part[0] for part, each in zip(parts, found, strict=True)]
    ), failures


def _split(parts: Sequence[Part], run: Callable[[Sequence[Part]], OutputArrays]) -> list[OutputArrays | EngineError]:
    """The outputs of each part of a batch that failed, or why it fails alone."""
    middle = len(parts) // 2
    found: list[OutputArrays | EngineError] = []
    for half in (parts[:middle], parts[middle:]):
        try:
            outputs = run(half)
        except EngineError as error:
            found += [error] if len(half) == 1 else _split(half, run)
        else:
            lasts = accumulate(rows for rows, _ in half)
            found += [tuple(v[last - part[0] : last] for v in outputs) for part, last in zip(half, lasts, strict=True)]
    return found


def _joined(found: "Sequence[OutputArrays | int]") -> OutputArrays:
    """Outputs of parts as those of one batch; zeros for so many rows where there are none."""
    like = next(each for each in found if not isinstance(each, int))
    blank = [np.zeros_like(values[:1]) for values in like]
    whole = [tuple(np.repeat(v, each, axis=0) for v in blank) if isinstance(each, int) else each for each in found]
    try:
        return tuple(np.concatenate(values) for values in zip(*whole, strict=True))
    except ValueError as error:
        raise EngineError(f"the sizes of an output depend on the batch: {error}") from error
