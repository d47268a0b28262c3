"""How the values of a row lie: whether it is a picture or a signal, which convolutions fit."""

from dataclasses import dataclass
from typing import Literal

SHORTEST_SIGNAL = 16
SMALLEST_SIDE = 8
MAX_CHANNELS = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """A picture (``dims`` 2) or a signal (1) of so many ``channels``.

    These come first, or ``channels_last``; or there is no axis of channels, and one channel (``has_channels`` false).
    """

    dims: Literal[1, 2]
    channels: int
    has_channels: bool
    channels_last: bool = False


def layout_of(shape: tuple[int, ...]) -> Layout | None:
    """What rows of that shape are most likely; None where they are neither.

    ``[L]``, ``[C, L]`` and ``[L, C]`` are signals, ``[H, W]``, ``[C, H, W]`` and ``[H, W, C]`` pictures. Two axes are
    those of a picture where both are long enough for that.
    """
    if len(shape) in (1, 2) and _is_extent(shape):
        return Layout(2 if len(shape) == 2 else 1, 1, has_channels=False)  # noqa: PLR2004 - axes
    if len(shape) not in (2, 3):
        return None
    dims: Literal[1, 2] = 1 if len(shape) == 2 else 2  # noqa: PLR2004 - axes
    if shape[0] <= MAX_CHANNELS and _is_extent(shape[1:]) and shape[0] <= shape[-1]:
        return Layout(dims, shape[0], has_channels=True)
    if shape[-1] <= MAX_CHANNELS and _is_extent(shape[:-1]):
        return Layout(dims, shape[-1], has_channels=True, channels_last=True)
    return None


def _is_extent(shape: tuple[int, ...]) -> bool:
    """These axes are those of a picture, or of a signal."""
    return shape[0] >= SHORTEST_SIGNAL if len(shape) == 1 else min(shape) >= SMALLEST_SIDE
