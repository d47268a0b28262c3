"""Slowness of devices, drift of profiles, and devices that servers share."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from builders import hosted, make_measured, make_placement, make_plan, make_profile, make_request, near

from proteus_cli.control.batching import Delay, ProactiveBatcher, Start
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import HostedVariant
from proteus_cli.control.devices.slowness import (
    LIMITS,
    Correction,
    Drift,
    Estimate,
    Slowness,
    corrected_profile,
    counted_s,
    rerated,
    shared_profile,
    with_shares,
)
from proteus_cli.control.policies import policy_named
from proteus_cli.control.topology.hosting import hosted_by
from proteus_cli.control.topology.standbys import DeviceMemory, Loadable
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import Profile, Recorded

WEIGHT = 0.010 / LIMITS.learned_s  # of a batch of 10 ms


def paced(ratio: float, batches: int) -> float:
    return paced_by([ratio] * batches).factor


def paced_by(ratios: list[float]) -> Slowness:
    """After batches of 10 ms in the mean, each of which took so many times as long."""
    slowdown = Slowness()
    for ratio in ratios:
        slowdown.record_run(took_s=0.010 * ratio, mean_s=0.010)
    return slowdown


def test_a_device_as_fast_as_profiled_or_faster_has_a_slowdown_of_one() -> None:
    assert paced(1.0, 100) == pytest.approx(1.0)
    assert paced(0.5, 100) == 1.0


def test_the_slowdown_approaches_what_batches_take() -> None:
    """After n batches at twice the profile it is 2 − (1 − f)ⁿ."""
    assert paced(2.0, 1) == pytest.approx(1 + WEIGHT)
    assert paced(2.0, 50) == pytest.approx(2 - (1 - WEIGHT) ** 50)
    assert paced(2.0, 500) == pytest.approx(2.0, abs=0.001)


@pytest.mark.parametrize(
    ("profiled_s", "weight"),
    [(0.0001, LIMITS.min_weight), (0.003, 0.01), (0.030, LIMITS.max_weight), (1.0, LIMITS.max_weight)],
)
def test_batches_count_by_the_time_that_they_should_take_within_bounds(profiled_s: float, weight: float) -> None:
    slowdown = Slowness()
    slowdown.record_run(took_s=2 * profiled_s, mean_s=profiled_s, is_busy=True)
    assert slowdown.factor == pytest.approx(1 + weight)


def test_it_is_the_time_of_all_batches_over_what_they_should_have_taken() -> None:
    """As many of 2 ms that take twice as long as of 20 ms that don't: 24 ms for 22, and not 1.5 times."""
    slowdown = Slowness()
    for _ in range(500):
        slowdown.record_run(took_s=0.004, mean_s=0.002)
        slowdown.record_run(took_s=0.020, mean_s=0.020)
    assert slowdown.factor == pytest.approx(24 / 22, rel=0.05)


def test_one_hiccup_hardly_moves_it() -> None:
    slowdown = Slowness()
    slowdown.record_run(took_s=0.050, mean_s=0.010)
    assert slowdown.factor == pytest.approx(1 + 4 * WEIGHT)


def test_batches_too_short_to_tell_are_not_learned_from() -> None:
    slowdown = Slowness()
    slowdown.record_run(took_s=1.0, mean_s=LIMITS.meaningful_s / 2)
    assert slowdown.factor == 1.0


def test_a_slowdown_starts_batches_earlier_and_smaller() -> None:
    """Two rows take 20 ms, at a slowdown of 2 40 ms: the lone request waits until 60 ms instead of 80 ms.

    At 30 ms before its end a batch of two (40 ms) is too long, one row (20 ms) fits.
    """
    batcher, head = ProactiveBatcher(margin_frac=0.0), make_request()
    host = hosted(latency_s={1: 0.010, 2: 0.020}, max_batch=2)
    assert batcher.decide(head, 1, host, 0.0) == Delay(until_s=near(0.080))
    assert batcher.decide(head, 1, host, 0.0, slowdown=2.0) == Delay(until_s=near(0.060))
    assert batcher.decide(head, 2, host, 0.070) == Start(rows=2)
    assert batcher.decide(head, 2, host, 0.070, slowdown=2.0) == Start(rows=1)


def test_short_batches_tell_when_a_device_is_fast_again() -> None:
    """After a slow neighbour has gone, a variant of short batches must not keep the slowdown that it left behind."""
    slowdown = Slowness()
    for _ in range(200):
        slowdown.record_run(took_s=0.030, mean_s=0.010)
    assert slowdown.factor > 2.9
    for _ in range(2000):
        slowdown.record_run(took_s=LIMITS.meaningful_s / 4, mean_s=LIMITS.meaningful_s / 4)
    assert slowdown.factor == pytest.approx(1.0, abs=0.001)


def test_batches_that_follow_another_at_once_tell_however_short_they_are() -> None:
    slowdown = Slowness()
    half_s = LIMITS.meaningful_s / 2
    assert slowdown.record_run(took_s=2 * half_s, mean_s=half_s, is_busy=True)
    assert slowdown.factor == pytest.approx(1 + LIMITS.min_weight)


def test_what_batches_take_longer_beside_a_load_is_forgotten_as_it_ends() -> None:
    slowdown = paced_by([1.2, 1.1, 1.3] * 20)
    factor = slowdown.factor
    slowdown.load_began()
    for _ in range(50):
        slowdown.record_run(took_s=0.025, mean_s=0.010)
    assert slowdown.factor > 2.0, "while it goes on, it counts"
    slowdown.load_began()  # another one, beside it
    slowdown.load_ended()
    assert slowdown.factor == near(factor)


def test_a_device_that_is_fast_again_by_the_end_of_a_load_stays_fast() -> None:
    slowdown = paced_by([2.0] * 200)
    slowdown.load_began()
    for _ in range(200):
        slowdown.record_run(took_s=0.010, mean_s=0.010)
    factor = slowdown.factor
    slowdown.load_ended()
    assert slowdown.factor == factor < 1.01


def test_a_profile_that_changes_during_a_load_counts_afterwards() -> None:
    slowdown = paced_by([2.0] * 500)
    slowdown.load_began()
    slowdown.rebase(2.0)
    slowdown.load_ended()
    assert slowdown.factor == near(1.0)


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
            self.drift.record_run("cpu0", "a", "a-s", rows=size, took_s=self._times(at_s, size))
            for correction in self.drift.due(1000.0 + at_s):
                self.found.append((at_s, correction))
                self.profiles["cpu0"] = corrected_profile(self.profiles["cpu0"], [correction], RECORDED)
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


@pytest.mark.parametrize(("factor", "bound"), [(10.0, LIMITS.corrections[1]), (0.1, LIMITS.corrections[0])])
def test_estimates_stay_within_bounds_of_what_was_profiled_however_often_they_are_made(
    factor: float, bound: float
) -> None:
    world = World(scaled(factor)).serve(600.0)
    assert len(world.found) == 1, "at the bound there is nothing more to say"
    assert world.means_s() == pytest.approx({batch: bound * s for batch, s in LATENCY_S.items()})


def test_a_few_batches_prove_nothing() -> None:
    world = World(scaled(3.0))
    for second in range(19):
        world.drift.record_run("cpu0", "a", "a-s", rows=1, took_s=0.03)
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
        world.drift.record_run("cpu0", "a", "a-s", rows=3, took_s=0.022)  # as the table has it between 2 and 4
        world.drift.record_run("cpu0", "a", "a-s", rows=16, took_s=0.104)
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
    slowdown = Slowness()
    for _ in range(500):
        slowdown.record_run(took_s=0.03, mean_s=0.02)
    assert slowdown.factor == pytest.approx(1.5, rel=1e-3)
    slowdown.rebase(1.5)
    assert slowdown.factor == pytest.approx(1.0, rel=1e-3)
    slowdown.record_run(took_s=0.03, mean_s=0.03)
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
    world.drift.record_run("cpu0", "a", "a-gone", rows=1, took_s=1.0)
    assert world.drift.ratios() == {}


PROFILE = make_profile("a/cpu0", make_measured("f", "v", 0.9, {1: 0.01, 4: 0.02}), memory_bytes=3000)


def test_a_shared_device_is_so_many_times_slower_and_has_so_much_less_memory() -> None:
    shared = shared_profile(PROFILE, 3)
    (points,) = (measured.points for measured in shared.variants)
    assert [(point.mean_s, point.p95_s, point.qps) for point in points] == [
        (near(0.03), near(0.03), near(100 / 3)), (near(0.06), near(0.06), near(200 / 3)),
    ]  # fmt: skip
    assert shared.device.memory_bytes == 1000
    assert shared.variants[0].load_s == PROFILE.variants[0].load_s
    assert shared_profile(PROFILE, 1) == PROFILE


def test_the_hosts_of_a_shared_device_are_slower() -> None:
    plan = make_plan(make_placement("a/cpu0", "f", "v", capacity_qps=100.0, max_batch=4), devices=("a/cpu0",))
    (host,) = hosted_by(plan, {"a/cpu0": shared_profile(PROFILE, 2)})
    assert isinstance(host, HostedVariant)
    assert host.latency(4) == near(0.04)


def test_the_capacities_of_a_plan_follow_the_number_of_servers() -> None:
    plan = make_plan(
        make_placement("a/cpu0", "f", "v", capacity_qps=100.0),
        make_placement("b/cpu0", "f", "v", capacity_qps=100.0),
        devices=("a/cpu0", "b/cpu0"),
    )
    shared = with_shares(plan, {"a/cpu0": 1}, {"a/cpu0": 4})
    assert [placement.capacity_qps for placement in shared.placements] == [25.0, 100.0]
    assert with_shares(shared, {"a/cpu0": 4}, {"a/cpu0": 1}) == plan


def test_a_wait_that_the_share_accounts_for_is_no_slowdown() -> None:
    assert counted_s(0.01, 0.0, 2) == near(0.02), "the other server had nothing to run"
    assert counted_s(0.01, 0.01, 2) == near(0.02)
    assert counted_s(0.01, 0.05, 2) == near(0.06), "the batches of the other server are longer"
    assert counted_s(0.01, 0.0, 1) == near(0.01)


def test_standbys_take_this_servers_part_of_the_memory() -> None:
    keys = [VariantKey("f", name) for name in ("v", "w", "x")]
    memory = DeviceMemory(2500, {key: Loadable(1000, 1.0, 10.0) for key in keys})
    controller = Controller({"f": 1.0}, {"a/cpu0": 1, "cpu0": 1}, policy_named("proteus"), memory={"a/cpu0": memory})
    topology = controller.topology

    def kept() -> int:
        return len(topology.change.memory["a/cpu0"].kept(frozenset(keys), frozenset(keys[:1])))

    assert kept() == 1
    topology.share("a/cpu0", 2)
    assert kept() == 0
    topology.share("a/cpu0", 1)
    assert kept() == 1
    topology.share("cpu0", 2)  # it has no standbys
