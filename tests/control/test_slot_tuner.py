"""A device in virtual time whose knee moves: how many of its slots are used."""

import functools
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from moving_knee import AimdSlots, Curve, FixedSlots, Ran, curve, poisson, run

from proteus_cli.control.slot_tuner import KEPT_WINDOWS, SlotBins, SlotTuner, SlotWindow, throughputs

WORK_S = 0.01


class Tuned:
    """A `SlotTuner` that is told the mean work of batches, as a profile has it."""

    def __init__(self, most: int = 4) -> None:
        self.tuner = SlotTuner(most, 0.0)

    @property
    def slots(self) -> int:
        return self.tuner.slots

    def began(self, now_s: float) -> object:
        return self.tuner.began(now_s)

    def ended(self, exposure: object, work_s: float, now_s: float) -> None:
        del work_s
        assert isinstance(exposure, tuple)
        self.tuner.ended(exposure, WORK_S, now_s)

    def look(self, now_s: float) -> int:
        slots = self.tuner.look(now_s)
        assert 1 <= slots <= self.tuner.max_slots
        return slots


def always(of: Curve) -> Callable[[float], Curve]:
    return lambda _now_s: of


def bursty(of: Callable[[float], float], load: float) -> Callable[[float], float]:
    """A rate that is a part of what the device carries in the mean, and more than it carries in bursts."""
    return lambda now_s: load * of(now_s) / WORK_S * (1.5 if now_s % 6 < 1.5 else 0.8)


@functools.cache
def stationary(knee: int, fall: float, seed: int, load: float = 0.75, until_s: float = 60.0) -> tuple[Tuned, Ran]:
    tuned = Tuned()
    rng = np.random.default_rng(seed)
    ran = run(tuned, lambda _: curve(knee, 4, fall), poisson(rng, bursty(lambda _: knee, load), WORK_S), until_s)
    return tuned, ran


@pytest.mark.parametrize(("knee", "fall"), [(1, 0.0), (1, 0.2), (2, 0.0), (2, 0.2), (3, 0.2), (4, 0.0)])
def test_it_settles_on_the_knee_and_stays(knee: int, fall: float) -> None:
    tuned, _ = stationary(knee, fall, seed=7)
    assert tuned.tuner.settled == tuned.tuner.knee == knee
    assert [change.slots for change in tuned.tuner.changes] == sorted(
        (change.slots for change in tuned.tuner.changes), reverse=True
    )  # no way back up
    assert tuned.tuner.begun_anew == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_device_that_stays_as_it_is_is_left_alone(seed: int) -> None:
    """A plateau and a slope that is just what a slot must gain: the hardest curves to decide on."""
    for of in ([1.0, 1.03, 1.06, 1.06], [1.0, 1.9, 1.95, 1.97]):
        tuned, rate = Tuned(), bursty(lambda _: 1.2, 0.8)
        run(tuned, always(of), poisson(np.random.default_rng(seed), rate, WORK_S), 60.0)
        slots = [4, *(change.slots for change in tuned.tuner.changes)]
        steps = [other - one for one, other in pairwise(slots)]
        assert sum(one * other < 0 for one, other in pairwise(steps)) <= 1  # there, and back at most
        assert tuned.tuner.changed <= 4


def test_without_load_nothing_is_tried() -> None:
    tuned = Tuned()
    run(tuned, lambda _: curve(2, 4), poisson(np.random.default_rng(0), lambda _: 20.0, WORK_S), 60.0)
    assert (tuned.tuner.trials, tuned.tuner.changed, tuned.tuner.slots) == (0, 0, 4)


def test_trials_take_a_small_part_of_the_time_even_where_all_slots_are_always_busy() -> None:
    tuned, ran = stationary(2, 0.2, seed=1, load=1.5)
    later = ran.slots[200:]
    assert tuned.tuner.settled == 2
    assert sum(slots != 2 for slots in later) <= 0.12 * len(later)


def moved(now_s: float) -> Curve:
    """All four slots are worth it, then one, as neighbours need the rest; then three."""
    return curve(4, 4, 0.3) if now_s < 25 else curve(1, 4, 0.3) if now_s < 60 else curve(3, 4, 0.3)


def knee_at(now_s: float) -> int:
    return 4 if now_s < 25 else 1 if now_s < 60 else 3


@pytest.mark.parametrize("seed", [11])
def test_it_follows_a_knee_that_moves_and_beats_every_fixed_number(seed: int) -> None:
    def ran(chooser: Tuned | FixedSlots | AimdSlots) -> Ran:
        return run(chooser, moved, poisson(np.random.default_rng(seed), bursty(knee_at, 0.7), WORK_S), 100.0)

    tuned, aimd = Tuned(), AimdSlots(4)
    followed, by_aimd = ran(tuned), ran(aimd)
    assert tuned.tuner.settled == 3
    assert 1 in [change.slots for change in tuned.tuner.changes if 25 < change.at_s < 35]
    assert followed.p99_s() < 0.5 * min(ran(FixedSlots(slots)).p99_s() for slots in (1, 2, 3, 4))
    assert followed.changes < by_aimd.changes / 3


def test_aimd_hunts_where_the_tuner_has_settled() -> None:
    """On a device that stays as it is: fewer changes, and no more time for the slowest batches."""
    aimd = AimdSlots(4)
    by_aimd = run(aimd, lambda _: curve(2, 4, 0.2), poisson(np.random.default_rng(7), bursty(lambda _: 2, 0.75)), 60.0)
    tuned, ran = stationary(2, 0.2, seed=7)
    assert ran.changes < by_aimd.changes / 5
    assert ran.work_s >= 0.99 * by_aimd.work_s
    assert tuned.tuner.settled == 2


def test_a_change_outside_has_it_look_again_at_once() -> None:
    """Told that neighbours have gone, it does not wait for its long pause between trials."""

    def slots_after(*, told: bool) -> list[int]:
        tuned = Tuned()

        def of(now_s: float) -> Curve:
            if told and now_s > 30 and tuned.tuner.begun_anew == 0:
                tuned.tuner.begin_anew(now_s)
            return curve(1 if now_s < 30 else 4, 4, 0.2)

        def rate(now_s: float) -> float:
            return (0.85 if now_s < 30 else 2.5) / WORK_S

        ran = run(tuned, of, poisson(np.random.default_rng(5), rate, WORK_S), 40.0)
        return ran.slots

    told, silent = slots_after(told=True), slots_after(told=False)
    assert told[-1] == 4
    assert sum(told[300:]) >= sum(silent[300:])


def test_a_miss_that_was_forgotten_does_not_hide_later_ones() -> None:
    """One batch runs a third of the time, so no trial begins. More windows than are kept pass between the misses."""
    tuner, now_s = SlotTuner(2, 0.0), 0.0

    def windows(number: int, slots: int, work_s: float) -> None:
        nonlocal now_s
        tuner.settled = slots
        for _ in range(number):
            for _ in range(11):
                exposure = tuner.began(now_s)
                tuner.ended(exposure, work_s, now_s + WORK_S)
                now_s += 3 * WORK_S
            tuner.look(now_s)

    windows(10, 1, WORK_S)
    windows(1, 2, 1.3 * WORK_S)
    windows(2 * KEPT_WINDOWS, 1, WORK_S)
    assert tuner.begun_anew == 0
    windows(2, 2, 1.3 * WORK_S)
    assert tuner.begun_anew == 1


def test_a_device_that_is_lost_begins_anew_with_the_slots_it_had() -> None:
    tuned, _ = stationary(1, 0.0, seed=7)
    tuner = SlotTuner(4, 0.0)
    tuner.settled = tuned.tuner.settled
    tuner.began(0.0)
    tuner.lost(1.0)
    assert (tuner.bins.running, tuner.slots, tuner.estimate) == (0, 1, None)


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
            hits += found.bounds(running, 2)[0] - 1e-9 <= truth <= found.bounds(running, 2)[1] + 1e-9
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
