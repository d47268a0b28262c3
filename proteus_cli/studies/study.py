"""A study: its cells, each one measurement, with machine, inputs and telemetry (``studies/NAME.json``)."""

from typing import Any, Literal, TypeVar

import msgspec
from msgspec import field

from proteus_cli.domain.base import Amount, Count, MadeBy, PositiveCount, Text, Value, require, require_format
from proteus_cli.errors import ArtefactError

MEASURES = {
    "cpu_cores": "cores in use by the study",
    "machine_cores": "cores in use by all programs",
    "memory_bytes": "resident memory of the study",
    "minor_faults": "page faults without reading, per second",
    "major_faults": "page faults with reading, per second",
    "voluntary_switches": "context switches as a thread waited, per second",
    "involuntary_switches": "context switches as a core was taken, per second",
    "steal_cores": "cores that the host of a virtual machine took",
    "mhz": "mean clock of the cores in MHz",
    "throttles": "times that a core was slowed by heat, per second",
    "gpu_busy_frac": "part of the time in which the GPU computed",
    "gpu_memory_bytes": "memory in use on the GPU",
    "gpu_power_w": "power of the GPU in watts",
    "gpu_mhz": "clock of the GPU in MHz",
}
"""Names and meanings of measures. For a GPU, ``@`` and the id of the device follow: ``gpu_power_w@gpu0``."""


def meaning(measure: str) -> str:
    """The meaning of a measure by its name."""
    name, _, device = measure.partition("@")
    return MEASURES[name] + (f" ({device})" if device else "")


class Telemetry(Value, frozen=True):
    """Samples of one run of a study, ``every_s`` apart, the first of them that long after ``begun_unix_s``.

    A sample of a rate is the mean since the previous sample; None where the system did not report it.
    """

    begun_unix_s: Amount
    every_s: Amount
    measures: dict[str, tuple[float | None, ...]]

    def __post_init__(self) -> None:
        require(len({len(samples) for samples in self.measures.values()}) <= 1, "measures must be equally long")
        unknown = [name for name in self.measures if name.partition("@")[0] not in MEASURES]
        require(not unknown, f"there is no measure `{', '.join(unknown)}`")

    @property
    def times_unix_s(self) -> tuple[float, ...]:
        """The time of each sample."""
        count = len(next(iter(self.measures.values()), ()))
        return tuple(self.begun_unix_s + self.every_s * (place + 1) for place in range(count))


CellMode = Literal["simulated", "emulated", "measured"]
"""The source of figures: virtual time, devices that wait as long as a profile says, or devices that compute."""

Scalar = str | float | int | bool | None
ResultT = TypeVar("ResultT", bound=Value)


class Machine(Value, frozen=True):
    """The machine of a study: the ``cores`` that the program may use, its ``gpus`` by name, the kernel as ``os``."""

    host: str
    processor: str
    cores: PositiveCount
    memory_bytes: Count
    gpus: tuple[str, ...]
    os: str
    python: str


class Cell(Value, frozen=True):
    """One finished measurement; ``key`` names it within the study.

    ``result`` holds a value of the study's kind, see `read`. It is empty if the cell failed; ``failed`` is the reason.
    ``load`` has the mean of each of `MEASURES` during the cell.
    """

    key: Text
    mode: CellMode
    begun_unix_s: Amount
    took_s: Amount
    result: dict[str, Any]
    failed: str = ""
    load: dict[str, float] = field(default_factory=dict)

    def read(self, kind: type[ResultT]) -> ResultT:
        """The result as a value of its kind. Raises `ArtefactError` if it does not fit."""
        try:
            return msgspec.convert(self.result, kind)
        except msgspec.ValidationError as error:
            raise ArtefactError(
                f"The study has a result of `{self.key}` that is none: {error}.",
                hint="the same study with `--force` measures it anew",
            ) from error


class Study(Value, frozen=True):
    """A study as far as it got. ``missing`` are the keys of cells that are still to be measured.

    ``subject`` describes the subject in words, by name. ``options`` and ``inputs`` (digests) decide which cells of an
    earlier run are kept. ``conclusion`` aggregates all cells. ``telemetry`` is of each run, the latest last.
    """

    format: int
    made_by: MadeBy
    kind: str
    name: str
    machine: Machine
    subject: dict[str, str]
    options: dict[str, Scalar]
    inputs: dict[str, str]
    cells: tuple[Cell, ...]
    missing: tuple[str, ...] = ()
    conclusion: dict[str, Any] = field(default_factory=dict)
    telemetry: tuple[Telemetry, ...] = ()

    def __post_init__(self) -> None:
        require_format(self.format)
        keys = [cell.key for cell in self.cells] + list(self.missing)
        require(len(keys) == len(set(keys)), "a cell is listed twice")

    @property
    def by_key(self) -> dict[str, Cell]:
        """The finished cells."""
        return {cell.key: cell for cell in self.cells}

    @property
    def good(self) -> tuple[Cell, ...]:
        """The cells that have a result."""
        return tuple(cell for cell in self.cells if not cell.failed)
