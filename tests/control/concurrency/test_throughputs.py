"""Throughput by running batches, from sums over batches that saw several numbers of them."""

import numpy as np
import pytest
from moving_knee import Curve, curve, poisson, run

from proteus_cli.control.concurrency.slot_bins import SlotBins, SlotWindow
from proteus_cli.control.concurrency.throughputs import throughputs


class Recorded:
    """Runs with a number of slots, and takes a window at each look; it is told the work of each batch."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.bins = SlotBins(slots, 0.0)
        self.windows: list[SlotWindow] = []

    def began(self, now_s: float) -> object:
        return self.bins.began(now_s)

    def ended(self, exposure: object, work_s: float, now_s: float) -> None:
        assert isinstance(exposure, tuple)
        self.bins.ended(exposure, work_s, now_s)

    def look(self, now_s: float) -> int:
        self.windows.append(self.bins.window(self.slots, now_s))
        return self.slots


def recorded(of: Curve, load: float, slots: int = 4, until_s: float = 30.0) -> Recorded:
    chooser = Recorded(slots)
    run(chooser, lambda _: of, poisson(np.random.default_rng(1), lambda _: load / 0.01, scatter=0.5), until_s)
    return chooser


@pytest.mark.parametrize("of", [curve(4, 4), curve(2, 4), curve(2, 4, 0.2), [1.0, 1.7, 2.1, 2.2]])
@pytest.mark.parametrize("load", [0.7, 1.2])
def test_the_curve_of_a_device_is_found_whatever_batches_run_beside_one_another(of: Curve, load: float) -> None:
    """Each batch is an exact equation for the speeds, so noise in what arrives when is none in what is estimated."""
    found = throughputs(recorded(of, load * of[1] * 0.7).windows)
    assert found is not None
    assert len(found.levels) >= 3
    for running in found.levels:
        assert found.of(running) == pytest.approx(of[running - 1], rel=1e-6)
        assert found.error(running) < 1e-6


def test_scatter_that_the_profile_does_not_know_is_told_as_an_error() -> None:
    """Told the mean work of batches that scatter, nineteen of twenty intervals have the truth."""
    of, hits, total = curve(3, 4, 0.1), 0, 0
    for seed in range(10):
        chooser = Recorded(4)
        arrivals = poisson(np.random.default_rng(seed), lambda _: 250.0, scatter=0.5)
        known = chooser.ended
        chooser.ended = lambda exposure, _, now_s, known=known: known(exposure, 0.01, now_s)  # type: ignore[method-assign, misc]
        run(chooser, lambda _: of, arrivals, 10.0)
        found = throughputs(chooser.windows[:60])
        assert found is not None
        for running in found.levels:
            truth, total = of[running - 1] / of[1], total + 1
            hits += found.at_least(running, 2) - 1e-9 <= truth <= found.at_most(running, 2) + 1e-9
    assert total >= 30
    assert hits >= 0.9 * total


def test_a_number_that_was_hardly_seen_is_not_known() -> None:
    found = throughputs(recorded(curve(4, 4), 0.15).windows)
    assert found is not None
    assert 1 in found.levels
    assert 4 not in found.levels


def test_a_window_takes_the_same_memory_whatever_runs() -> None:
    one, other = recorded(curve(4, 4), 0.5, until_s=1.0), recorded(curve(4, 4), 3.0, until_s=1.0)
    shapes = [
        (window.products.shape, window.work.shape, window.seconds.shape) for window in one.windows + other.windows
    ]
    assert set(shapes) == {((4, 4), (4,), (5,))}


def test_time_is_counted_once_and_a_lost_device_runs_nothing() -> None:
    bins = SlotBins(2, 0.0)
    first, second = bins.began(1.0), bins.began(2.0)
    bins.ended(first, 1.0, 3.0)
    assert bins.seconds(4.0) == [1.0, 2.0, 1.0]
    bins.lost(4.0)
    assert (bins.running, bins.seconds(5.0)) == (0, [2.0, 2.0, 1.0])
    assert second == (1.0, 1.0, 0.0)


def test_a_batch_that_failed_tells_nothing() -> None:
    bins = SlotBins(2, 0.0)
    bins.ended(bins.began(0.0), None, 1.0)
    window = bins.window(2, 1.0)
    assert window.batches == 0
    assert window.work_s == 0
    assert throughputs([window] * 5) is None
