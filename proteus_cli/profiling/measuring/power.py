"""The power that a device draws while something is measured on it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from proteus_cli.backends.base import PowerMeter
from proteus_cli.domain.profile import Point

MIN_S = 0.5
"""Seconds: meters lag, so shorter measurements say nothing of what ran."""

SAMPLE_EVERY_S = 0.05


class PowerReading:
    """The mean power in watts, None where it is unknown. ``is_energy``: it comes from a counter of energy."""

    def __init__(self) -> None:
        self.mean_w: float | None = None
        self.is_energy = False

    def of(self, point: Point) -> Point:
        """The point with this power; the point was measured meanwhile and kept the device busy all the time."""
        if self.mean_w is None:
            return point
        energy_j = self.mean_w / point.qps if self.is_energy else None
        return msgspec.structs.replace(point, power_w=self.mean_w, energy_j=energy_j)


@contextmanager
def measuring_power(meter: PowerMeter | None) -> Iterator[PowerReading]:
    """A reading that is filled in at the end of the block, if there is a meter and the block took `MIN_S`."""
    reading = PowerReading()
    if meter is None:
        yield reading
        return
    samples_w: list[float] = []
    stop = threading.Event()
    before_j, start_s = meter.energy_j(), time.perf_counter()
    sampler = threading.Thread(target=_sample, args=(meter, samples_w, stop), name="power", daemon=True)
    if before_j is None:
        sampler.start()
    try:
        yield reading
    finally:
        stop.set()
        if before_j is None:
            sampler.join()
    after_j, took_s = meter.energy_j(), time.perf_counter() - start_s
    if took_s < MIN_S:
        return
    if before_j is not None and after_j is not None and after_j > before_j:
        reading.mean_w, reading.is_energy = (after_j - before_j) / took_s, True
    elif samples_w:
        reading.mean_w = sum(samples_w) / len(samples_w)


def _sample(meter: PowerMeter, samples_w: list[float], stop: threading.Event) -> None:
    while not stop.wait(SAMPLE_EVERY_S):
        power_w = meter.power_w()
        if power_w is not None:
            samples_w.append(power_w)
