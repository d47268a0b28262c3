"""Cells of trace files, read strictly: each function raises `ValueError` that says which cell is wrong, and why."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from proteus_cli.domain.base import require

Ints = npt.NDArray[np.int64]


def number(column: str, cell: str) -> float:
    """A finite number from 0 up."""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf or "_" in cell:
        raise ValueError(f"{column} `{cell}` is not a finite number from 0 up")
    return value


def whole(column: str, cell: str) -> int:
    """A whole number from 0 up."""
    if not (cell.isascii() and cell.isdigit()):
        raise ValueError(f"{column} `{cell}` is not a whole number from 0 up")
    return int(cell)


def slo(cell: str, column: str = "slo_s") -> float:
    """A latency target above zero; NaN where the cell is empty."""
    if not cell:
        return math.nan
    value = number(column, cell)
    require(value > 0, f"{column} must be above zero")
    return value


def fraction(column: str, cell: str) -> float:
    """A fraction from 0 to 1; 0 where the cell is empty."""
    value = number(column, cell) if cell else 0.0
    require(value <= 1, f"{column} must be a fraction from 0 to 1")
    return value


def require_width(cells: Sequence[str], header: Sequence[str]) -> None:
    """A row must have as many cells as the header."""
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells where the header has {len(header)}")


class FamilyIndex(dict[str, int]):
    """Family name → index in order of first appearance; checks a name once, when it is new."""

    def __missing__(self, name: str) -> int:
        require(bool(name), "family is empty")
        require(name == name.strip(), f"family `{name}` has blanks around it")
        self[name] = len(self)
        return self[name]

    def sorted(self, family: Sequence[int]) -> tuple[tuple[str, ...], Ints]:
        """The names in alphabetical order, and ``family`` as indexes into them."""
        names = tuple(sorted(self))
        rank = np.empty(len(names), dtype=np.int64)
        rank[[self[name] for name in names]] = np.arange(len(names))
        return names, rank[np.array(family)]
