"""Samples are aligned in time, bounded, and say no more than the system does."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from proteus_cli.backends.nvml import NvmlDevice
from proteus_cli.errors import EngineError
from proteus_cli.studies import telemetry
from proteus_cli.studies.telemetry import (
    EVERY_S,
    MAX_SAMPLES,
    Reading,
    Watch,
    measures,
    read_gpus,
    read_machine,
    read_own_processes,
    telemetry_of,
    watching,
)


def test_totals_become_rates_and_levels_stay() -> None:
    before = Reading(10.0, {"cpu_cores": 5.0, "minor_faults": 100.0}, {"mhz": 1.0})
    after = Reading(12.0, {"cpu_cores": 8.0, "minor_faults": 40.0, "throttles": 3.0}, {"mhz": 2.0})
    assert measures(before, after) == {"cpu_cores": 1.5, "minor_faults": 0.0, "mhz": 2.0}


def test_samples_are_bounded_and_their_means_stay() -> None:
    samples = [(EVERY_S * number, {"mhz": EVERY_S * number}) for number in range(1, 4001)]
    found = telemetry_of(samples, 100.0)
    values = [value for value in found.measures["mhz"] if value is not None]
    assert 100 < len(values) <= MAX_SAMPLES
    assert found.times_unix_s[-1] == pytest.approx(2100.0, abs=found.every_s)
    assert [100.0 + value for value in values] == pytest.approx(found.times_unix_s, abs=found.every_s)


def test_a_late_sample_stands_for_those_that_were_missed_and_an_unknown_measure_is_none() -> None:
    found = telemetry_of([(0.5, {"mhz": 1.0}), (2.1, {"mhz": 2.0, "memory_bytes": 1.0})], 0.0)
    assert found.measures == {"mhz": (1.0, 2.0, 2.0, 2.0, 2.0), "memory_bytes": (None, 1.0, 1.0, 1.0, 1.0)}
    assert telemetry_of([], 0.0).measures == {}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system has no /proc")
def test_work_of_a_child_counts_while_it_runs_and_after_it_ended() -> None:
    """Seconds of cores are compared with those that the system charges the child with."""
    busy = "import hashlib\nfor _ in range(300): hashlib.sha256(bytes(2**20))\nprint(1, flush=True)\ninput()"
    before = read_own_processes().totals
    with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        during = read_own_processes()
        child.communicate(b"\n")
    after = read_own_processes().totals
    assert during.totals["cpu_cores"] - before["cpu_cores"] > 0.03
    assert after["cpu_cores"] >= during.totals["cpu_cores"]
    assert after["minor_faults"] > before["minor_faults"]
    assert during.levels["memory_bytes"] > 1e6


def test_cores_slowed_by_heat_are_counted_where_the_system_does(tmp_path: Path) -> None:
    assert "throttles" not in read_machine(tmp_path).totals
    for core, count in enumerate((3, 4)):
        (tmp_path / f"cpu{core}" / "thermal_throttle").mkdir(parents=True)
        (tmp_path / f"cpu{core}" / "thermal_throttle" / "core_throttle_count").write_text(f"{count}\n")
    assert read_machine(tmp_path).totals["throttles"] == 7.0


def test_a_watch_tells_the_load_of_a_span() -> None:
    readings = iter(
        [Reading(0.0, {"cpu_cores": 0.0}, {}), *(Reading(t, {"cpu_cores": 3 * t}, {"mhz": t}) for t in (2.0, 4.0))]
    )
    watch = Watch(lambda: next(readings))
    with watch.load() as load:
        assert load == {}
    assert load == {"cpu_cores": 3.0, "mhz": 4.0}


def test_what_ends_the_sampling_is_told() -> None:
    readings = iter([Reading(time.monotonic())])
    watch = Watch(lambda: next(readings), every_s=0.001)
    watch.thread.start()
    watch.thread.join()
    assert isinstance(watch.stop(), StopIteration)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EngineError("no memory")], ids=["Ctrl-C", "an error"])
def test_what_ends_a_study_is_not_hidden_by_what_ended_the_sampling(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """So the exit code of Ctrl-C stays that of Ctrl-C."""

    def breaking(_devices: object) -> Callable[[], Reading]:
        readings = iter([Reading(time.monotonic())])

        def read() -> Reading:
            for reading in readings:
                return reading
            raise OSError("no file is left")

        return read

    monkeypatch.setattr(telemetry, "reader", breaking)
    monkeypatch.setattr(telemetry.Watch.__init__, "__defaults__", (0.0,))

    def study() -> None:
        with watching(()) as watch:
            watch.thread.join()
            raise error

    with pytest.raises(type(error)) as raised:
        study()
    assert raised.value is error
    assert error.__notes__ == ["telemetry had ended before that: OSError('no file is left')"]
    with pytest.raises(OSError, match="no file is left"), watching(()) as watch:
        watch.thread.join()


class Nvml:
    """What this GPU's driver says: how busy it is and its power, and no more."""

    NVMLError = RuntimeError
    NVML_CLOCK_SM = NVML_CLOCK_MEM = 0

    def nvmlDeviceGetUtilizationRates(self, _handle: object) -> SimpleNamespace:  # noqa: N802 - NVML's name
        return SimpleNamespace(gpu=40)

    def nvmlDeviceGetPowerUsage(self, _handle: object) -> int:  # noqa: N802
        return 70_500

    def __getattr__(self, name: str) -> object:
        def fails(*_arguments: object) -> object:
            raise self.NVMLError(name)

        return fails


def test_of_a_gpu_only_what_its_driver_says_is_told() -> None:
    found = read_gpus({"gpu0": NvmlDevice(Nvml(), None)})
    assert found == {"gpu_busy_frac@gpu0": 0.4, "gpu_power_w@gpu0": 70.5}
