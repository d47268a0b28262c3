"""What a device draws while it is measured."""

import threading

import pytest
from builders import make_point

from proteus_cli.profiling import cells
from proteus_cli.profiling.cells import MIN_POWER_S, measuring_power


class Meter:
    """Draws 100 W for as long as the clock runs; ``counts`` energy or only tells the power."""

    def __init__(self, *, counts: bool) -> None:
        self._counts, self.now_s = counts, 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def energy_j(self) -> float | None:
        return 5000.0 + 100.0 * self.now_s if self._counts else None

    def power_w(self) -> float | None:
        return 90.0

    def slowed_by(self) -> tuple[str, ...]:
        return ()


POINT = make_point(8, 0.02)  # 400 qps


def test_the_mean_power_is_the_energy_over_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(counts=True)
    monkeypatch.setattr(cells, "time", meter)
    with measuring_power(meter) as with_power:
        meter.now_s = 2.0
    drawn = with_power(POINT)
    assert (drawn.power_w, drawn.energy_j) == pytest.approx((100.0, 0.25))  # of a row


def test_what_was_too_short_to_be_told_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(counts=True)
    monkeypatch.setattr(cells, "time", meter)
    with measuring_power(meter) as with_power:
        meter.now_s = MIN_POWER_S - 0.01
    assert with_power(POINT) == POINT


def test_without_a_counter_of_energy_power_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "SAMPLE_EVERY_S", 0.001)
    monkeypatch.setattr(cells, "MIN_POWER_S", 0.0)
    seen = iter([None, 80.0])
    meter = Meter(counts=False)
    enough = threading.Event()

    def power_w() -> float | None:
        value = next(seen, 120.0)
        if value == 120.0:
            enough.set()
        return value

    monkeypatch.setattr(meter, "power_w", power_w)
    with measuring_power(meter) as with_power:
        assert enough.wait(10.0)
    drawn = with_power(POINT)
    assert drawn.power_w is not None
    assert 80.0 < drawn.power_w < 120.0
    assert drawn.energy_j is None
