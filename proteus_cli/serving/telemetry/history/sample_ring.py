"""The last samples of a table, in memory that is allocated once, and again when the table gets rows or loses some."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

from proteus_cli.arrays import Floats

SAMPLES = 900


Name = TypeVar("Name", bound=Hashable)


class SampleRing(Generic[Name]):
    """The last `SAMPLES` tables with a row for each of ``names``; numbers that are not known are NaN.

    ``digits`` are the columns, each with the digits behind the point that it is read with.
    """

    def __init__(self, names: Sequence[Name], digits: Mapping[str, int]) -> None:
        self.names, self.columns = tuple[Name, ...](), tuple(digits)
        self._scale = 10.0 ** np.array(list(digits.values()))
        self._tables = np.full((SAMPLES, 0, len(digits)), np.nan, np.float32)
        self.use(names)

    def use(self, names: Iterable[Name]) -> None:
        """Have a row for each of ``names``, and no others, from now on; earlier numbers of new ones are not known."""
        wanted = tuple(names)
        if wanted == self.names:
            return
        places = {name: place for place, name in enumerate(self.names)}
        tables = np.full((SAMPLES, len(wanted), len(self.columns)), np.nan, np.float32)
        for row, name in enumerate(wanted):
            if name in places:
                tables[:, row] = self._tables[:, places[name]]
        self.names, self._tables = wanted, tables

    def put(self, number: int, table: Floats) -> None:
        """Keep a table of the sample with that number; it takes the place of the oldest."""
        self._tables[number % SAMPLES] = table

    def read(self, numbers: Sequence[int]) -> dict[Name, dict[str, list[float]]]:
        """The values of the samples with these numbers, by name and column."""
        tables = self._tables[[number % SAMPLES for number in numbers]].astype(np.float64)
        values = (np.round(tables * self._scale) / self._scale).transpose(1, 2, 0).tolist()
        return {name: dict(zip(self.columns, of, strict=True)) for name, of in zip(self.names, values, strict=True)}

    @property
    def width(self) -> int:
        """The numbers of one sample."""
        return len(self.names) * len(self.columns)

    @property
    def nbytes(self) -> int:
        return self._tables.nbytes
