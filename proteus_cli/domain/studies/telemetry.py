"""What a machine did during a study: samples at even distances, and the load of each cell."""

from proteus_cli.domain.base import Value, is_amount, require

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
