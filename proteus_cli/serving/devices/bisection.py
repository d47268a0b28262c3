"""Find the requests of a failed batch that fail by themselves, so that the others are answered."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate

import numpy as np
from msgspec.structs import replace

from proteus_cli.backends.base import NamedArrays, OutputArrays, Part
from proteus_cli.backends.exits.runner import Leave
from proteus_cli.domain.stages.stage_forecast import ExitBounds, Leaving
from proteus_cli.errors import DeviceLost, EngineBroken, EngineError

Left = Callable[[Sequence[int], OutputArrays], object]
"""Called with the places of parts, and what the engine gave of their rows, before the end of the batch."""

Run = Callable[[Sequence[Part], ExitBounds | None, Left | None], OutputArrays]
"""Runs parts as one batch, a multi-exit model within their bounds. Raises `EngineError`."""


def run_with_bisection(
    parts: Sequence[Part], run: Run, known_good: Part, bounds: ExitBounds | None = None, left: Left | None = None
) -> tuple[OutputArrays, Mapping[int, EngineError]]:
    """Run parts as one batch; where it fails, run halves of it, until the parts that fail alone are found.

    Halves are run within the ``bounds`` of their own parts. With bounds, the parts of a half that succeeds have
    ``left`` when it ends, where that is given: what is run after it does not make them late.

    Returns the outputs of all rows, and the errors of failed parts, by place. Outputs of failed parts are undefined. A
    part that fails costs at most twice as many runs as it takes halvings to find it; all parts together cost at most
    2n.

    Raises `EngineError` where all parts fail; `EngineBroken`, after one run more, where the engine also fails on
    ``known_good``, which it did when it was loaded.
    """
    try:
        return run(parts, bounds, left), {}
    except DeviceLost:
        raise
    except EngineError as error:
        _require_working(run, known_good, error)
        if len(parts) == 1:
            raise
        results = _run_halves(parts, run, bounds, left)
        failures = {place: each for place, each in enumerate(results) if isinstance(each, EngineError)}
        if len(failures) == len(parts):
            raise
    return _joined(parts, results), failures


def _require_working(run: Run, known_good: Part, error: EngineError) -> None:
    try:
        run([known_good], None, None)
    except DeviceLost:
        raise
    except EngineError:
        raise EngineBroken(f"it fails on what it could do when it was loaded: {error.message}") from error


def _run_halves(
    parts: Sequence[Part], run: Run, bounds: ExitBounds | None, left: Left | None
) -> list[OutputArrays | EngineError]:
    """The outputs of each part of a batch that failed, or why it fails alone."""
    middle = len(parts) // 2
    results: list[OutputArrays | EngineError] = []
    for half in (slice(0, middle), slice(middle, len(parts))):
        own_bounds = None if bounds is None else _bounds_of(bounds, half)
        results += _run_half(parts[half], run, own_bounds, left and partial(_left_half, left, half.start))
    return results


def _run_half(
    parts: Sequence[Part], run: Run, bounds: ExitBounds | None, left: Left | None
) -> list[OutputArrays | EngineError]:
    try:
        outputs = run(parts, bounds, left)
    except EngineError as error:
        return [error] if len(parts) == 1 else _run_halves(parts, run, bounds, left)
    if bounds is not None and left is not None:
        left([*range(len(parts))], outputs)
    ends = accumulate(rows for rows, _ in parts)
    return [tuple(v[end - part[0] : end] for v in outputs) for part, end in zip(parts, ends, strict=True)]


def _bounds_of(bounds: ExitBounds, places: slice) -> ExitBounds:
    """The bounds of some parts of a batch."""
    return replace(
        bounds,
        due_s=bounds.due_s[places],
        rows=bounds.rows[places],
        min_confidence=bounds.min_confidence[places],
        arrival_s=bounds.arrival_s[places],
        by_own=bounds.by_own[places],
        max_energy_j=bounds.max_energy_j[places],
    )


def _left_half(left: Left, first: int, places: Sequence[int], given: OutputArrays) -> None:
    """Parts of a half have left, which begins with the ``first`` part of the whole."""
    left([first + place for place in places], given)


def _joined(parts: Sequence[Part], results: Sequence[OutputArrays | EngineError]) -> OutputArrays:
    """The outputs of parts as one batch; zeros for the rows of failed parts."""
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


def leave_by(left: Left | None) -> Leave | None:
    """The callback of a chain for parts that leave it."""
    return left and partial(_leave, left)


def _leave(left: Left, leaving: Leaving, given: NamedArrays) -> None:
    left(leaving.parts, tuple(given.values()))
