"""Telemetry: counters of the system, read by a thread during a study.

`reader` reads this process with all that it started, the machine, and its GPUs. A reading has only what the system
reports: a container may hide clocks, and only Linux counts page faults of other processes. `Watch` samples twice a
second. `telemetry_of` merges neighbours, so that a study keeps a bounded number of samples.
"""

import contextlib
import math
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from proteus_cli.backends.nvml import NvmlDevice, nvml_device
from proteus_cli.domain.device import Device
from proteus_cli.studies.study import Telemetry

EVERY_S = 0.5
MAX_SAMPLES = 480
"""Maximum number of samples of a measure in a study."""

CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters at a time. ``totals`` only grow, such as seconds of a core; ``levels`` are current values.

    Names are keys of `studies.study.MEASURES`. The measure of a total is its growth per second.
    """

    at_s: float
    totals: Mapping[str, float] = field(default_factory=dict)
    levels: Mapping[str, float] = field(default_factory=dict)


Read = Callable[[], Reading]


def measures(before: Reading, after: Reading) -> dict[str, float]:
    """The measures between two readings. The rate of a total that fell is 0: a process ended unseen."""
    passed_s = after.at_s - before.at_s
    rates = {
        name: max(0.0, total - before.totals[name]) / passed_s
        for name, total in after.totals.items()
        if name in before.totals and passed_s > 0
    }
    return {**rates, **after.levels}


def reader(devices: Sequence[Device]) -> Read:
    """A function that reads all counters of this machine, with the GPUs among ``devices``."""
    watched = watched_gpus(devices)

    def read() -> Reading:
        own, machine = read_own_processes(), read_machine()
        levels = {**own.levels, **machine.levels, **read_gpus(watched)}
        return Reading(own.at_s, {**own.totals, **machine.totals}, levels)

    return read


def read_own_processes() -> Reading:
    """The totals and levels of this process and its descendants.

    An ended process is counted by its parent. Pages that processes share count in each of them. A running child
    has the switches of its main thread.
    """
    at_s, cpu_s, memory_bytes, me = time.monotonic(), 0.0, 0, psutil.Process()
    counts = np.zeros(4)  # minor and major faults, voluntary and involuntary switches
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        counts += (usage.ru_minflt, usage.ru_majflt, usage.ru_nvcsw, usage.ru_nivcsw)
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error, OSError), process.oneshot():  # it has ended
            cpu_s += sum(process.cpu_times()[:4])  # user and system, own and of ended children
            memory_bytes += process.memory_info().rss
            if process.pid != me.pid:
                counts += (*_faults(process.pid), *process.num_ctx_switches())
    names = ("minor_faults", "major_faults", "voluntary_switches", "involuntary_switches")
    totals = {"cpu_cores": cpu_s, **dict(zip(names, counts.tolist(), strict=True))}
    return Reading(at_s, totals, {"memory_bytes": float(memory_bytes)})


def _faults(pid: int) -> tuple[int, int]:
    """Minor and major page faults of a process and its ended children; psutil does not have them."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    minor, of_children, major, of_children_too = map(int, stat.rpartition(")")[2].split()[7:11])
    return minor + of_children, major + of_children_too


def read_machine(cpus: Path = CPUS) -> Reading:
    """The totals and levels of all cores: time in use and stolen, times slowed by heat; the mean clock."""
    times, mhz = psutil.cpu_times(), getattr(psutil.cpu_freq(), "current", 0.0)  # no clock: None
    totals = {"machine_cores": sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))}
    if hasattr(times, "steal"):
        totals["steal_cores"] = times.steal
    throttles = list(cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    if throttles:
        totals["throttles"] = sum(float(path.read_text(encoding="ascii")) for path in throttles)
    return Reading(time.monotonic(), totals, {"mhz": mhz} if mhz else {})


def watched_gpus(devices: Sequence[Device]) -> dict[str, NvmlDevice]:
    """The GPUs of this machine among devices, by id, whose driver answers."""
    found = {
        device.id: nvml_device(device.gpu.uuid, is_slice=device.gpu.is_slice)
        for device in devices
        if device.gpu is not None and not device.host
    }
    return {name: gpu for name, gpu in found.items() if isinstance(gpu, NvmlDevice)}


def read_gpus(gpus: Mapping[str, NvmlDevice]) -> dict[str, float]:
    """Use, memory, power and clock of each GPU; a value that its driver does not report is left out."""
    found: dict[str, float | None] = {}
    for name, gpu in gpus.items():
        busy, readings = gpu.busy(), gpu.readings()
        found |= {
            f"gpu_busy_frac@{name}": busy.busy_frac,
            f"gpu_memory_bytes@{name}": busy.memory_bytes,
            f"gpu_power_w@{name}": readings.power_w,
            f"gpu_mhz@{name}": readings.sm_mhz,
        }
    return {measure: float(value) for measure, value in found.items() if value is not None}


def telemetry_of(samples: Sequence[tuple[float, Mapping[str, float]]], begun_unix_s: float) -> Telemetry:
    """Samples of measures at even distances, from samples at seconds after the begin; None for an unknown measure.

    The distance is `EVERY_S`, doubled until there are at most `MAX_SAMPLES`. A sample is the mean of its stretch, or
    the next one where a reading was late.
    """
    length_s, every_s = max((at_s for at_s, _ in samples), default=0.0), EVERY_S
    while length_s > MAX_SAMPLES * every_s:
        every_s *= 2
    stretches: dict[int, list[Mapping[str, float]]] = {}
    for at_s, sample in samples:
        stretches.setdefault(max(math.ceil(round(at_s / every_s, 6)) - 1, 0), []).append(sample)
    means: list[dict[str, float]] = []
    for place, stretch in stretches.items():
        means += [_mean(stretch)] * (place + 1 - len(means))
    names = dict.fromkeys(name for sample in means for name in sample)
    return Telemetry(begun_unix_s, every_s, {name: tuple(sample.get(name) for sample in means) for name in names})


def _mean(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each measure, over the samples that have it."""
    names = dict.fromkeys(name for sample in samples for name in sample)
    found = {name: [sample[name] for sample in samples if name in sample] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


class Watch:
    """Samples counters in a thread, and measures the load of a span of time."""

    def __init__(self, read: Read, every_s: float = EVERY_S) -> None:
        self._read, self._stopped = read, threading.Event()
        self._every_s, self._begun_unix_s = every_s, time.time()
        self._samples: list[tuple[float, Mapping[str, float]]] = []
        self._first = self._last = read()
        self._spans: list[list[Mapping[str, float]]] = []
        self._failure: Exception | None = None
        self.thread = threading.Thread(target=self._sample, name="telemetry", daemon=True)

    def stop(self) -> Exception | None:
        """End the thread. Returns the error that had ended it before, if any."""
        self._stopped.set()
        self.thread.join()
        return self._failure

    def telemetry(self) -> Telemetry:
        """The samples up to now."""
        return telemetry_of(tuple(self._samples), self._begun_unix_s)

    @contextmanager
    def load(self) -> Iterator[dict[str, float]]:
        """The mean of each measure during the block, filled in at its end."""
        found: dict[str, float] = {}
        levels: list[Mapping[str, float]] = []
        before = self._read()
        self._spans.append(levels)
        try:
            yield found
        finally:
            self._spans = [each for each in self._spans if each is not levels]
            after = self._read()
            found |= measures(before, Reading(after.at_s, after.totals, _mean([*levels, after.levels])))

    def _sample(self) -> None:
        try:
            due_s = self._first.at_s + self._every_s
            while not self._stopped.wait(max(0.0, due_s - time.monotonic())):
                now = self._read()
                self._samples.append((now.at_s - self._first.at_s, measures(self._last, now)))
                due_s = max(due_s + self._every_s, now.at_s)
                for levels in tuple(self._spans):
                    levels.append(now.levels)
                self._last = now
        except Exception as error:  # noqa: BLE001 - `stop` hands it to the thread that waits for this one
            self._failure = error


@contextmanager
def watching(devices: Sequence[Device]) -> Iterator[Watch]:
    """A watch that samples during the block. Raises what ended the block, else what ended the sampling."""
    watch = Watch(reader(devices))
    watch.thread.start()
    try:
        yield watch
    except BaseException as error:
        if (failure := watch.stop()) is not None:
            error.add_note(f"telemetry had ended before that: {failure!r}")
        raise
    if (failure := watch.stop()) is not None:
        raise failure
