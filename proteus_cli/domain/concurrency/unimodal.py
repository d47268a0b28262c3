"""The curve next to measured values that rises, then falls: what noise does to a plateau is no peak."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class _Block:
    """Neighbours that share a value."""

    value: float
    weight: float
    count: int


def rise_and_fall(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The weighted least-squares fit to ``values`` that rises up to some place and falls from there on.

    In O(n²) steps at most, by pooling neighbours that are out of order, from both ends (`isotonic regression`).
    """
    count = len(values)
    rising = _errors(values, weights)
    falling = _errors(values[::-1], weights[::-1])
    split = min(range(1, count + 1), key=lambda place: rising[place] + falling[count - place])
    fall = _rise(values[split:][::-1], weights[split:][::-1])[::-1]
    return _rise(values[:split], weights[:split]) + fall


def _rise(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    blocks: list[_Block] = []
    for value, weight in zip(values, weights, strict=True):
        _append(blocks, value, weight)
    return [block.value for block in blocks for _ in range(block.count)]


def _errors(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The squared error of the rising fit to the first 0, 1, 2, … values."""
    blocks: list[_Block] = []
    errors = [0.0]
    for value, weight in zip(values, weights, strict=True):
        errors.append(errors[-1] + _append(blocks, value, weight))
    return errors


def _append(blocks: list[_Block], value: float, weight: float) -> float:
    """One more value at the end; returns by how much the squared error grows."""
    last, error = _Block(value, weight, 1), 0.0
    while blocks and blocks[-1].value > last.value:
        before = blocks.pop()
        together = before.weight + last.weight
        error += before.weight * last.weight / together * (before.value - last.value) ** 2
        mean = (before.weight * before.value + last.weight * last.value) / together
        last = _Block(mean, together, before.count + last.count)
    blocks.append(last)
    return error
