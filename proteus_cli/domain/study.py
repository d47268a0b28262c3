"""A study: what was measured cell by cell, on which machine, of which inputs (``studies/NAME.json``).

What a machine did during a study: samples at even distances, and the load of each cell.
"""

from typing import Any, Literal, TypeVar

import msgspec

from proteus_cli.domain.base import FORMAT, MadeBy, Value, is_amount, is_count, require
from proteus_cli.errors import ArtefactError

Samples = tuple[float | None, ...]
"""One measure at each time; None where the system did not say it."""

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
"""The names of measures, and what they are. Of a GPU, ``@`` and the id of the device follow: ``gpu_power_w@gpu0``."""


def meaning(measure: str) -> str:
    """What a measure of that name is."""
    name, _, device = measure.partition("@")
    return MEASURES[name] + (f" ({device})" if device else "")


class Telemetry(Value, frozen=True):
    """Samples of one run of a study, ``every_s`` apart, the first of them that long after ``begun_unix_s``.

    A sample of a rate is the mean since the one before. ``measures`` has all that the system says, by name.
    """

    begun_unix_s: float
    every_s: float
    measures: dict[str, Samples]

    def __post_init__(self) -> None:
        require(is_amount(self.begun_unix_s) and is_amount(self.every_s), "times of telemetry must not be negative")
        require(len({len(samples) for samples in self.measures.values()}) <= 1, "measures must be equally long")
        unknown = [name for name in self.measures if name.partition("@")[0] not in MEASURES]
        require(not unknown, f"there is no measure `{', '.join(unknown)}`")

    @property
    def times_unix_s(self) -> tuple[float, ...]:
        """The time of each sample."""
        count = len(next(iter(self.measures.values()), ()))
        return tuple(self.begun_unix_s + self.every_s * (place + 1) for place in range(count))


CellMode = Literal["simulated", "emulated", "measured"]
"""Where figures come from: virtual time, devices that wait for as long as a profile says, or devices that compute."""

Scalar = str | float | int | bool | None
ResultT = TypeVar("ResultT", bound=Value)


class Machine(Value, frozen=True):
    """The machine of a study: the ``cores`` that the program may use, its ``gpus`` by name, the kernel as ``os``."""

    host: str
    processor: str
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...]
    os: str
    python: str

    def __post_init__(self) -> None:
        require(is_count(self.cores, 1) and is_count(self.memory_bytes), "cores and memory_bytes must be counts")


class Cell(Value, frozen=True):
    """One finished measurement: ``key`` names it within the study.

    ``result`` is a value of the kind of the study, as `read` gives it; where ``failed`` says why there is none, it is
    empty. ``load`` has the mean of each measure of `telemetry.MEASURES` during the cell.
    """

    key: str
    mode: CellMode
    begun_unix_s: float
    took_s: float
    result: dict[str, Any]
    failed: str = ""
    load: dict[str, float] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        require(bool(self.key), "a cell needs a key")
        require(is_amount(self.begun_unix_s) and is_amount(self.took_s), f"times of `{self.key}` must not be negative")

    def read(self, kind: type[ResultT]) -> ResultT:
        """The result as a value of its kind. Raises `ArtefactError` where it is none."""
        try:
            return msgspec.convert(self.result, kind)
        except msgspec.ValidationError as error:
            raise ArtefactError(
                f"The study has a result of `{self.key}` that is none: {error}.",
                hint="the same study with `--force` measures it anew",
            ) from error


class Study(Value, frozen=True):
    """A study as far as it got. ``missing`` are the keys of cells that are still to be measured.

    ``subject`` is what is studied, in words, by name; ``options`` decide what is measured, and how. ``inputs`` are
    digests of what it is made of. Cells of an earlier run are kept where kind, options and inputs are the same.
    ``conclusion`` is what all cells say together. ``telemetry`` is of each run, the latest last.
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
    conclusion: dict[str, Any] = msgspec.field(default_factory=dict)
    telemetry: tuple[Telemetry, ...] = ()

    def __post_init__(self) -> None:
        require(self.format == FORMAT, f"`format` is {self.format}; this version reads {FORMAT}")
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

    def is_same_as(self, kind: str, options: dict[str, Scalar], inputs: dict[str, str]) -> bool:
        """Whether its cells answer what is asked with these."""
        return (self.kind, self.options, self.inputs) == (kind, options, inputs)
