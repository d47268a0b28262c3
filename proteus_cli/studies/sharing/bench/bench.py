"""What a study measures on: devices that run slices."""

from collections.abc import Sequence
from typing import Protocol

from proteus_cli.studies.sharing.bench.slices import Ran, Workload


class Bench(Protocol):
    """Some devices that are alike. ``slots``: how many batches each runs at once."""

    @property
    def slots(self) -> int: ...

    def run(self, workloads: Sequence[Workload], length_s: float) -> list[list[Ran]]:
        """Run a workload on each of the first devices, all from the same moment; the batches by device.

        Raises `EngineError`.
        """
        ...
