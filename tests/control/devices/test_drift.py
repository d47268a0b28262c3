"""Profiles that are no longer true are found, however noisy the batches are, and those that are true are left alone."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from builders import make_measured, make_placement, make_plan, make_profile, near

from proteus_cli.control.devices.drift import BOUNDS, Correction, Drift, Estimate, corrected_profile, rerated
from proteus_cli.control.devices.slowdown import SlowdownEstimator
from proteus_cli.domain.profile import Profile, Recorded

LATENCY_S = {1: 0.010, 2: 0.016, 4: 0.028, 8: 0.052}
RECORDED = Recorded("2026-01-02T03:04:05+00:00", "0" * 64)
AFTER_S = 60.0


def profile() -> Profile:
    return make_profile("cpu0", make_measured("a", "a-s", 0.7, LATENCY_S), make_measured("a", "a-l", 0.9, LATENCY_S))


class World:
    """A device whose batches take what ``times`` says, ten a second."""

    def __init__(self, times: Callable[[float, int], float]) -> None:
        self.profiles = {"cpu0": profile()}
        self.drift = Drift(self.profiles, after_s=AFTER_S)
        self.drift.due(1000.0)
        self.found: list[tuple[float, Correction]] = []
        self._times, self._batch = times, 0

    def serve(self, lasts_s: float, rows: tuple[int, ...] = (1, 8)) -> "World":
        for _ in range(round(lasts_s * 10)):
            self._batch += 1
            at_s, size = self._batch / 10, rows[self._batch % len(rows)]
            self.drift.ran("cpu0", "a", "a-s", rows=size, took_s=self._times(at_s, size))
            for correction in self.drift.due(1000.0 + at_s):
                self.found.append((at_s, correction))
                self.profiles["cpu0"] = corrected_profile(self.profiles["cpu0"], [correction], RECORDED)
                self.drift.corrected(correction, self.profiles["cpu0"])
        return self

    def means_s(self, variant: str = "a-s") -> dict[int, float]:
        measured = self.profiles["cpu0"].of("a", variant)
        assert measured is not None
        return {point.batch: point.mean_s for point in measured.points}


def scaled(factor: float) -> Callable[[float, int], float]:
    return lambda at_s, rows: factor * LATENCY_S[rows]


@pytest.mark.parametrize("factor", [1.0, 1.15, 0.85])
def test_up_to_a_fifth_is_no_drift(factor: float) -> None:
    assert World(scaled(factor)).serve(300.0).found == []


def test_what_is_off_for_a_minute_is_estimated_anew_and_sizes_that_were_not_seen_with_it() -> None:
    world = World(scaled(1.5)).serve(120.0)
    ((at_s, correction),) = world.found
    assert AFTER_S <= at_s <= AFTER_S + 11.0
    assert correction.ratio == pytest.approx(1.5)
    assert [each.batch for each in correction.estimates if not each.batches] == [2, 4]
    assert world.means_s() == pytest.approx({batch: 1.5 * s for batch, s in LATENCY_S.items()})
    assert world.means_s("a-l") == pytest.approx(LATENCY_S), "that didn't run"


def test_a_size_that_is_as_profiled_stays() -> None:
    """Large batches are slow, single rows are not."""
    world = World(lambda at_s, rows: LATENCY_S[rows] * (2.0 if rows == 8 else 1.0)).serve(90.0)
    means_s = world.means_s()
    assert means_s[1] == LATENCY_S[1]
    assert means_s[8] == pytest.approx(2 * LATENCY_S[8])
    assert means_s[4] == pytest.approx(2 * LATENCY_S[4]), "not seen: as those of its variant that drifted"


def test_half_a_minute_and_back_is_no_drift() -> None:
    assert World(lambda at_s, rows: LATENCY_S[rows] * (2.0 if at_s % 60 < 40 else 1.0)).serve(300.0).found == []


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_no_drift_and_does_not_hide_one(seed: int) -> None:
    """A third of the batches take twice as long or more, but the mean is that of the profile."""
    rng = np.random.default_rng(seed)

    def noisy(factor: float) -> Callable[[float, int], float]:
        return lambda at_s, rows: factor * LATENCY_S[rows] * float(rng.gamma(2.0, 0.5))

    assert World(noisy(1.0)).serve(300.0).found == []
    (found,) = World(noisy(1.8)).serve(100.0).found
    assert found[1].ratio == pytest.approx(1.8, rel=0.12)


@pytest.mark.parametrize(("factor", "bound"), [(10.0, BOUNDS[1]), (0.1, BOUNDS[0])])
def test_estimates_stay_within_bounds_of_what_was_profiled_however_often_they_are_made(
    factor: float, bound: float
) -> None:
    world = World(scaled(factor)).serve(600.0)
    assert len(world.found) == 1, "at the bound there is nothing more to say"
    assert world.means_s() == pytest.approx({batch: bound * s for batch, s in LATENCY_S.items()})


def test_a_few_batches_prove_nothing() -> None:
    world = World(scaled(3.0))
    for second in range(19):
        world.drift.ran("cpu0", "a", "a-s", rows=1, took_s=0.03)
        assert world.drift.due(1000.0 + 10 * (second + 1)) == ()


def test_a_device_that_recovers_is_corrected_back() -> None:
    world = World(lambda at_s, rows: LATENCY_S[rows] * (2.0 if at_s < 100 else 1.0)).serve(300.0)
    assert [round(correction.ratio, 2) for _, correction in world.found] == [2.0, 0.5]
    assert world.means_s() == pytest.approx(LATENCY_S)


def test_what_is_off_can_be_seen_before_it_is_corrected() -> None:
    world = World(scaled(1.5)).serve(30.0)
    (estimates,) = world.drift.off().values()
    assert {each.batch: round(each.ratio, 3) for each in estimates} == {1: 1.5, 8: 1.5}
    assert world.drift.ratios() == {("cpu0", "a", "a-s"): near(1.5)}


def test_rows_between_profiled_sizes_count_with_the_next_and_beyond_the_last_with_that() -> None:
    world = World(scaled(1.0))
    for _ in range(300):
        world.drift.ran("cpu0", "a", "a-s", rows=3, took_s=0.022)  # as the table has it between 2 and 4
        world.drift.ran("cpu0", "a", "a-s", rows=16, took_s=0.104)
    assert world.drift.due(1011.0) == ()
    assert world.drift.off() == {("cpu0", "a", "a-s"): []}


def test_a_recorded_profile_says_by_how_much_it_differs_from_what_was_measured() -> None:
    first = Correction("cpu0", "a", "a-s", (Estimate(1, 1.5, 100), Estimate(2, 1.5, 0)))
    second = Correction("cpu0", "a", "a-s", (Estimate(1, 2.0, 50),))
    found = corrected_profile(corrected_profile(profile(), [first], RECORDED), [second], RECORDED).of("a", "a-s")
    assert found is not None
    assert isinstance(found.recorded, Recorded)
    assert [(each.batch, each.factor, each.batches) for each in found.recorded.points] == [(1, 3.0, 50), (2, 1.5, 0)]
    one, two, four, _ = found.points
    assert (one.mean_s, one.p95_s, one.runs) == (near(0.03), near(0.03), 50)
    assert (two.mean_s, two.runs) == (near(0.024), 10)
    assert four.mean_s == LATENCY_S[4]


def test_a_profile_that_was_not_recorded_does_not_mention_it() -> None:
    assert b"recorded" not in msgspec.json.encode(profile())


def test_a_plan_is_rated_by_what_its_hosts_can_take_now() -> None:
    plan = make_plan(
        make_placement("cpu0", "a", "a-s", capacity_qps=100.0, max_batch=8),
        make_placement("cpu1", "a", "a-s", capacity_qps=100.0, max_batch=8),
        devices=("cpu0", "cpu1"),
    )
    slower = Correction("cpu0", "a", "a-s", (Estimate(1, 9.0, 30), Estimate(8, 2.0, 30)))
    assert [placement.capacity_qps for placement in rerated(plan, [slower]).placements] == [50.0, 100.0]


def test_slowdown_counts_from_the_corrected_profile_on() -> None:
    """What moves into the profile leaves the slowdown, so that it isn't counted twice."""
    slowdown = SlowdownEstimator()
    for _ in range(500):
        slowdown.ran(took_s=0.03, mean_s=0.02, p95_s=0.02)
    assert slowdown.factor == pytest.approx(1.5, rel=1e-3)
    slowdown.rebase(1.5)
    assert slowdown.factor == pytest.approx(1.0, rel=1e-3)
    slowdown.ran(took_s=0.03, mean_s=0.03, p95_s=0.03)
    assert slowdown.factor == pytest.approx(1.0, rel=1e-3)


def test_a_variant_that_is_gone_or_was_measured_anew_is_watched_no_longer() -> None:
    world = World(scaled(1.5)).serve(50.0)
    small, large = world.profiles["cpu0"].variants
    world.profiles["cpu0"] = msgspec.structs.replace(world.profiles["cpu0"], variants=(large,))
    assert world.drift.due(1100.0) == ()
    assert world.drift.ratios() == {}
    world.profiles["cpu0"] = msgspec.structs.replace(world.profiles["cpu0"], variants=(small, large))
    world.serve(50.0)
    slower = make_measured("a", "a-s", 0.7, {batch: 1.5 * latency_s for batch, latency_s in LATENCY_S.items()})
    world.profiles["cpu0"] = msgspec.structs.replace(world.profiles["cpu0"], variants=(slower, large))
    assert world.serve(200.0).found == []


def test_a_batch_of_a_variant_that_is_gone_teaches_nothing() -> None:
    world = World(scaled(1.0))
    world.drift.ran("cpu0", "a", "a-gone", rows=1, took_s=1.0)
    assert world.drift.ratios() == {}
