"""Cells, budgets and what is kept, with a backend and a clock that the tests wind themselves."""

import signal

import numpy as np
import pytest
from fake_backend import FakeBackend, fake_time
from msgspec import UNSET
from msgspec.structs import replace
from tiny import Tiny, device

from proteus_cli.domain.profile import BackendInfo, LiveAccuracyRecord, Profile
from proteus_cli.errors import EngineError
from proteus_cli.profiling.closed_loop import CELL_S, FEWEST_RUNS, ROUND_RUNS, WARM_UP_RUNS, measure_point
from proteus_cli.profiling.estimate import estimates, total_s
from proteus_cli.profiling.jobs import measurement_jobs
from proteus_cli.profiling.results import SweepResults
from proteus_cli.profiling.sweep import Sweep, share
from proteus_cli.store import write_json

VARIANTS = 5
EVAL_ROWS = 32
STABLE_RUNS = 60  # three rounds: two moves of the p95, both none at all


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    return FakeBackend(fake_time(monkeypatch))


def swept(
    made: Tiny, backend: FakeBackend, *, budget_s: float | None = None, max_batch: int = 64, name: str = "cpu0"
) -> Sweep:
    on = device(made, name)
    work = measurement_jobs(made.place, made.place.catalog(), on, backend, max_batch)
    done = Sweep(made.place, on, backend, work, budget_s)
    for _ in done.run():
        pass
    return done


def sizes(profile: Profile) -> dict[str, list[int]]:
    return {variant.variant: [point.batch for point in variant.points] for variant in profile.variants}


def runs(profile: Profile) -> list[int]:
    return [point.runs for variant in profile.variants for point in variant.points]


def test_batches_double_up_to_the_last_that_meets_the_slo(bare: Tiny, backend: FakeBackend) -> None:
    backend.row_s = {"shapes-m": 0.030, "shapes-l": 0.201, "tones-l": 0.050}
    swept(bare, backend)
    assert sizes(bare.place.profile("cpu0")) == {
        "shapes-s": [1, 2, 4, 8, 16, 32, 64],
        "shapes-m": [1, 2, 4],  # 8 would take 240 ms
        "shapes-l": [1],
        "tones-s": [1, 2, 4, 8, 16, 32, 64],
        "tones-l": [1, 2, 4],  # a batch of 4 takes 200 ms to the point and is in
    }


def test_what_was_measured_is_what_the_clock_says(bare: Tiny, backend: FakeBackend) -> None:
    backend.row_s = {"shapes-s": 0.002}
    swept(bare, backend, max_batch=2)
    measured = bare.place.profile("cpu0").of("shapes", "shapes-s")
    assert measured is not None
    one, two = measured.points
    assert (one.p50_s, one.p95_s, one.p99_s, one.mean_s) == pytest.approx((0.002, 0.002, 0.002, 0.002))
    assert (one.qps, two.qps) == pytest.approx((500, 500))
    assert two.p95_s == pytest.approx(0.004)
    assert one.runs == STABLE_RUNS


def test_a_cell_counts_as_measured_only_with_its_save(
    bare: Tiny, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes after a cell was measured, and before its file is written."""
    on, save = device(bare, "cpu0"), SweepResults.save
    run = Sweep(bare.place, on, backend, measurement_jobs(bare.place, bare.place.catalog(), on, backend, 4))

    def interrupted(results: SweepResults) -> None:
        if run.measured == 2:
            signal.raise_signal(signal.SIGINT)
        save(results)

    monkeypatch.setattr(SweepResults, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(run.run())
    assert run.measured == 2
    assert sizes(bare.place.profile("cpu0")) == {"shapes-s": [1, 4]}  # the largest after the smallest


def test_a_noisy_cell_ends_after_its_time(bare: Tiny, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The p95 never settles where each run takes longer than the one before."""
    costs_s = iter(np.linspace(0.001, 0.05, 10_000))
    clock = backend.clock

    def run() -> None:
        clock.now_s += float(next(costs_s))

    point = measure_point(run, 1, CELL_S)
    assert point.runs > STABLE_RUNS
    assert clock.now_s < CELL_S + 0.05


def test_a_stable_cell_is_measured_for_the_least_time_and_one_round_more_at_most(backend: FakeBackend) -> None:
    clock = backend.clock

    def run() -> None:
        clock.now_s += 0.001

    point = measure_point(run, 1, CELL_S, min_s=0.3)
    assert 0.3 <= clock.now_s <= 0.3 + 0.001 * ROUND_RUNS
    assert point.runs + WARM_UP_RUNS == pytest.approx(clock.now_s / 0.001)


# --- budgets: how many runs, as time is the fake clock's


def test_without_any_budget_each_variant_is_measured_with_a_batch_of_one(bare: Tiny, backend: FakeBackend) -> None:
    done = swept(bare, backend, budget_s=0.0, max_batch=4)
    assert runs(bare.place.profile("cpu0")) == [FEWEST_RUNS] * VARIANTS
    assert len(backend.runs) == VARIANTS * (WARM_UP_RUNS + FEWEST_RUNS)
    assert [cell.batch for cell in done.missing] == [4, 2] * VARIANTS


def test_what_takes_less_than_another_load_is_measured_whatever_the_budget(bare: Tiny, backend: FakeBackend) -> None:
    backend.load_s, backend.row_s = 0.02, {"shapes-m": 0.010}  # 8 runs of 4 rows take 320 ms
    swept(bare, backend, budget_s=0.0, max_batch=2)
    assert sizes(bare.place.profile("cpu0")) == {
        "shapes-s": [1, 2], "shapes-m": [1], "shapes-l": [1, 2], "tones-s": [1, 2], "tones-l": [1, 2],
    }  # fmt: skip


def test_the_largest_batch_that_meets_the_slo_comes_next(bare: Tiny, backend: FakeBackend) -> None:
    backend.row_s = {"shapes-s": 0.010}
    swept(bare, backend)
    order = list(dict.fromkeys(rows for name, rows in backend.runs if name == "shapes-s"))
    assert order == [1, EVAL_ROWS, 16, 8, 4, 2]


def test_what_does_not_fit_a_share_is_measured_in_the_time_that_others_left(bare: Tiny, backend: FakeBackend) -> None:
    """A cell of shapes-s takes longer than its share, a fifth of the budget."""
    backend.row_s = {"shapes-s": 0.1} | dict.fromkeys(("shapes-m", "shapes-l", "tones-s", "tones-l"), 0.0001)
    backend.load_s = 0.001
    done = swept(bare, backend, budget_s=4.0, max_batch=2)
    assert done.missing == ()
    assert [name for name, _ in backend.runs][-1] == "shapes-s"
    assert backend.clock.now_s <= 4.0 + 0.2  # to the end of the run in which it ended


def test_a_budget_bounds_what_a_device_takes(bare: Tiny, backend: FakeBackend) -> None:
    budget_s = 10.0
    free = swept(bare, backend)
    without_s, most = backend.clock.now_s, runs(free.results.profile)
    bare.place.profile_path("cpu0").unlink()

    backend.clock.now_s = 0.0
    within = runs(swept(bare, backend, budget_s=budget_s).results.profile)
    assert without_s > 2 * budget_s
    assert backend.clock.now_s < 1.05 * budget_s
    assert sum(within) < sum(most)
    assert min(within) >= FEWEST_RUNS


def test_an_estimate_is_what_a_sweep_takes(bare: Tiny, backend: FakeBackend) -> None:
    """The fake runs are as stable as runs can be, so they are the fewest that can show it."""
    backend.row_s, backend.load_s = {"shapes-m": 0.030, "shapes-l": 0.0001}, 0.05
    work = measurement_jobs(bare.place, bare.place.catalog(), device(bare, "cpu0"), backend, 64)
    found = estimates(device(bare, "cpu0"), backend, work)
    backend.clock.now_s = 0.0
    done = swept(bare, backend)
    assert total_s(found, None) == pytest.approx(backend.clock.now_s, rel=0.25)
    assert sum(len(each.cells) for each in found) == done.measured
    assert found[1].useless == (8, 16, 32, 64)


def test_an_estimate_within_a_budget_is_the_budget(bare: Tiny, backend: FakeBackend) -> None:
    work = measurement_jobs(bare.place, bare.place.catalog(), device(bare, "cpu0"), backend, 64)
    found = estimates(device(bare, "cpu0"), backend, work)
    assert total_s(found, 2.0) == 2.0
    assert total_s(found, None) > 2.0
    assert total_s(found, 0.0) == pytest.approx(VARIANTS * (WARM_UP_RUNS + FEWEST_RUNS) * 0.001)
    assert total_s([], None) == 0.0


def test_an_accuracy_that_is_cheap_comes_before_repeats_of_noisy_cells(bare: Tiny, backend: FakeBackend) -> None:
    backend.clock.waiting_fracs = [0.5] * 1000
    done = swept(bare, backend, budget_s=VARIANTS * 0.3)
    assert done.results.unverified == ()
    assert not done.results.lacks_answers
    assert all(variant.noisy for variant in done.results.profile.variants)


def test_an_accuracy_that_takes_most_of_the_time_comes_after_the_cells(bare: Tiny, backend: FakeBackend) -> None:
    """32 rows of 10 ms are more than half of each variant's 0.4 s."""
    backend.row_s = dict.fromkeys(("shapes-s", "shapes-m", "shapes-l", "tones-s", "tones-l"), 0.010)
    done = swept(bare, backend, budget_s=VARIANTS * 0.4, max_batch=2)
    order = list(dict.fromkeys(rows for name, rows in backend.runs if name == "shapes-s"))
    assert order[:2] == [1, 2]
    assert sizes(done.results.profile)["shapes-s"] == [1, 2]


# --- what is kept


def test_an_engine_that_fails_keeps_what_was_measured_before(bare: Tiny, backend: FakeBackend) -> None:
    backend.fails_at = ("shapes-m", 2)
    with pytest.raises(EngineError, match="the model failed"):
        swept(bare, backend, max_batch=4)
    assert sizes(bare.place.profile("cpu0")) == {"shapes-s": [1, 2, 4], "shapes-m": [1, 4]}

    backend.fails_at = None
    before = len(backend.runs)
    assert swept(bare, backend, max_batch=4).measured == 1 + 3 * 3
    assert ("shapes-s", 1) not in backend.runs[before:]


def test_a_live_accuracy_stays_until_the_accuracy_is_measured_anew(bare: Tiny, backend: FakeBackend) -> None:
    made = swept(bare, backend, max_batch=1).results.profile
    live = LiveAccuracyRecord("2026-01-01T00:00:00+00:00", 100, 0.5, 0.4, 0.6)
    variants = tuple(replace(each, live=live) for each in made.variants)
    write_json(bare.place.profile_path("cpu0"), replace(made, variants=variants))
    again = swept(bare, backend, max_batch=2).results.profile
    assert {each.live for each in again.variants} == {live}
    write_json(bare.place.profile_path("cpu0"), replace(again, variants=variants))
    backend.versions = BackendInfo("fake", {"fake": "2"})
    assert {each.live for each in swept(bare, backend, max_batch=1).results.profile.variants} == {UNSET}


@pytest.mark.parametrize("change", ["version", "name"])
def test_another_backend_means_measuring_anew(bare: Tiny, backend: FakeBackend, change: str) -> None:
    swept(bare, backend, max_batch=1)
    backend.versions = (
        BackendInfo("fake", {"fake": "2"}) if change == "version" else BackendInfo("other", {"fake": "1"})
    )
    assert swept(bare, backend, max_batch=1).measured == VARIANTS


def test_progress_never_falls_and_ends_at_one(bare: Tiny, backend: FakeBackend) -> None:
    backend.row_s = {"shapes-m": 0.030, "shapes-l": 0.201}
    on = device(bare, "cpu0")
    work = measurement_jobs(bare.place, bare.place.catalog(), on, backend, 64)
    steps = [done_frac for _now, done_frac in Sweep(bare.place, on, backend, work).run()]
    assert steps == sorted(steps)
    assert steps[0] == 0.0
    assert steps[-1] == 1.0


def test_a_shared_profile_is_written_once(bare: Tiny, backend: FakeBackend) -> None:
    made = swept(bare, backend, max_batch=1).results.profile
    shared = share(bare.place, made, device(bare, "cpu1"))
    path = bare.place.profile_path("cpu1")
    before = path.stat().st_mtime_ns
    assert bare.place.profile("cpu1") == shared
    assert shared.device.id == "cpu1"
    assert shared.measured_on == "cpu0"
    share(bare.place, made, device(bare, "cpu1"))
    assert path.stat().st_mtime_ns == before
