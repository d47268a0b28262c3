"""Find the requests of a failed batch that fail by themselves, so that the others are answered."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import numpy as np

from proteus_cli.backends.base import OutputArrays, Part
from proteus_cli.errors import DeviceLost, EngineBroken, EngineError

Run = Callable[[Sequence[Part]], OutputArrays]
"""Runs parts as one batch. Raises `EngineError`."""


def run_with_bisection(
    parts: Sequence[Part], run: Run, known_good: Part
) -> tuple[OutputArrays, Mapping[int, EngineError]]:
    """Run parts as one batch; where it fails, run halves of it, until the parts that fail alone are found.

    Returns the outputs of all rows, and the errors of the parts that failed, by place; the outputs of such a part mean
    nothing. A part that fails costs at most twice as many runs as it takes halvings to find it; all parts together cost
    at most 2n.

    Raises `EngineError` where all parts fail; `EngineBroken`, after one run more, where the engine also fails on
    ``known_good``, which it did when it was loaded.
    """
    try:
        return run(parts), {}
    except DeviceLost:
        raise
    except EngineError as error:
        _require_working(run, known_good, error)
        if len(parts) == 1:
            raise
        results = _run_halves(parts, run)
        failures = {place: each for place, each in enumerate(results) if isinstance(each, EngineError)}
        if len(failures) == len(parts):
            raise
    return _joined(parts, results), failures


def _require_working(run: Run, known_good: Part, error: EngineError) -> None:
    try:
        run([known_good])
    except DeviceLost:
        raise
    except EngineError:
        raise EngineBroken(f"it fails on what it could do when it was loaded: {error.message}") from error


def _run_halves(parts: Sequence[Part], run: Run) -> list[OutputArrays | EngineError]:
    """The outputs of each part of a batch that failed, or why it fails alone."""
    middle = len(parts) // 2
    results: list[OutputArrays | EngineError] = []
    for half in (parts[:middle], parts[middle:]):
        try:
            outputs = run(half)
        except EngineError as error:
            results += [error] if len(half) == 1 else _run_halves(half, run)
        else:
            ends = accumulate(rows for rows, _ in half)
            results += [tuple(v[end - part[0] : end] for v in outputs) for part, end in zip(half, ends, strict=True)]
    return results


def _joined(parts: Sequence[Part], results: Sequence[OutputArrays | EngineError]) -> OutputArrays:
    """The outputs of parts as those of one batch; zeros for the rows of parts that failed."""
    like = next(each for each in results if not isinstance(each, EngineError))
    outputs = [
        tuple(np.zeros((rows, *values.shape[1:]), values.dtype) for values in like)
        if isinstance(each, EngineError)
        else each
        for (rows, _), each in zip(parts, results, strict=True)
    ]
    try:
        return tuple(np.concatenate(values) for values in zip(*outputs, strict=True))
    except ValueError as error:
        raise EngineError(f"the sizes of an output depend on the batch: {error}") from error
