"""What a study measures on: devices that run slices."""

from collections.abc import Sequence
from typing import Protocol

from proteus_cli.studies.sharing.bench.slices import Lane, Ran


class Bench(Protocol):
    """Some devices that are alike. ``slots``: how many batches each runs at once."""

    @property
    def slots(self) -> int: ...

    def run(self, lanes: Sequence[Lane], length_s: float) -> list[list[Ran]]:
        """Run a lane on each of the first devices, all from the same moment; the batches by device.

        Raises `EngineError`.
        """
        ...
