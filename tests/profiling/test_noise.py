"""Cells that were measured while others used the device, or whose runs scatter: repeated, marked, measured again."""

import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import pytest
from builders import make_measured, make_point
from command_line import proteus
from fake_backend import FakeBackend, fake_time
from tiny import Tiny, device

from proteus_cli.backends.affinity import pinned, usable_cores
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.profiling.cells import MAX_REPEATS
from proteus_cli.profiling.jobs import measurement_jobs, without_noise
from proteus_cli.profiling.noise import NOISE_FRAC, noise_frac, observing
from proteus_cli.profiling.sweep import Sweep

# --- the decision


@pytest.mark.parametrize(
    ("mean_s", "waiting_frac", "expected"),
    [
        pytest.param(0.010, 0.0, 0.0, id="quiet"),
        pytest.param(0.010, NOISE_FRAC, 0.0, id="as much as is allowed"),
        pytest.param(0.010, 0.6, 0.6, id="waiting for a core"),
        pytest.param(0.0105, 0.0, 0.0, id="a little scatter"),
        pytest.param(0.0125, 0.0, 0.2, id="scatter"),
        pytest.param(0.0125, 0.5, 0.5, id="the larger of both counts"),
        pytest.param(0.009, 0.0, 0.0, id="a mean below the median is no noise"),
    ],
)
def test_a_cell_is_noisy_where_a_tenth_of_its_mean_is_not_its_own(
    mean_s: float, waiting_frac: float, expected: float
) -> None:
    point = msgspec.structs.replace(make_point(1, 0.010), mean_s=mean_s)
    assert noise_frac(point, waiting_frac) == pytest.approx(expected)


def test_points_with_more_slots_go_with_a_noisy_one() -> None:
    known = make_measured("a", "a-s", 0.8, {1: 0.01, 2: 0.02}, at_once_s={2: {1: 0.02}, 3: {1: 0.03}})
    noisy = [msgspec.structs.replace(p, noise_frac=0.5) if p.slots == 2 else p for p in known.concurrent]
    trusted, marked = without_noise(msgspec.structs.replace(known, concurrent=tuple(noisy)))
    assert trusted.points == known.points
    assert trusted.concurrent == ()
    assert [point.slots for point in marked] == [2, 3]


# --- sweeps


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    return FakeBackend(fake_time(monkeypatch))


def swept(
    made: Tiny, backend: FakeBackend, *, budget_s: float | None = None, accepts_noise: bool = False, max_batch: int = 1
) -> Sweep:
    on = device(made, "cpu0")
    jobs = measurement_jobs(made.place, made.place.catalog(), on, backend, max_batch, accepts_noise=accepts_noise)
    done = Sweep(made.place, on, backend, jobs, budget_s)
    for _ in done.run():
        pass
    return done


def noise(profile: Profile) -> list[float]:
    return [point.noise_frac for variant in profile.variants for point in variant.points]


def first(made: Tiny) -> VariantProfile:
    return made.place.profile("cpu0").variants[0]


def test_a_noisy_cell_is_repeated_at_once(bare: Tiny, backend: FakeBackend) -> None:
    backend.clock.waiting_fracs = [0.5]
    swept(bare, backend)
    assert noise(bare.place.profile("cpu0")) == [0.0] * 5
    assert sum(run == ("shapes-s", 1) for run in backend.runs) == 2 * sum(
        run == ("shapes-m", 1) for run in backend.runs
    )


def test_a_cell_that_stays_noisy_is_marked_with_its_least_noise(bare: Tiny, backend: FakeBackend) -> None:
    backend.clock.waiting_fracs = [0.5, 0.3, 0.4]
    assert len(backend.clock.waiting_fracs) == 1 + MAX_REPEATS
    done = swept(bare, backend)
    assert noise(bare.place.profile("cpu0")) == [0.3, 0.0, 0.0, 0.0, 0.0]
    assert done.measured == 5


def test_marked_cells_are_what_the_next_sweep_measures(bare: Tiny, backend: FakeBackend) -> None:
    backend.clock.waiting_fracs = [0.5]
    swept(bare, backend, budget_s=0.0)
    others = [variant.points for variant in bare.place.profile("cpu0").variants[1:]]
    again = swept(bare, backend)
    assert again.measured == 1
    assert first(bare).points[0].noise_frac == 0.0
    assert [variant.points for variant in bare.place.profile("cpu0").variants[1:]] == others
    assert swept(bare, backend).measured == 0


def test_a_cell_that_is_noisier_the_second_time_stays_as_it_was(bare: Tiny, backend: FakeBackend) -> None:
    backend.clock.waiting_fracs = [0.3]
    swept(bare, backend, budget_s=0.0)
    before = first(bare).points
    backend.clock.waiting_fracs = [0.8] * (1 + MAX_REPEATS)
    swept(bare, backend)
    assert first(bare).points == before


def test_a_marked_cell_that_the_sweep_did_not_come_to_stays_in_the_profile(bare: Tiny, backend: FakeBackend) -> None:
    """The mark is of the batch of two, and the budget is too small to measure it again."""
    backend.clock.waiting_fracs = [0.0] * 9 + [0.5] * (1 + MAX_REPEATS)
    swept(bare, backend, max_batch=2)
    before = bare.place.profile("cpu0")
    assert noise(before)[-1] == 0.5
    done = swept(bare, backend, budget_s=0.0, max_batch=2)
    assert [cell.batch for cell in done.missing] == [2]
    assert [each.points for each in bare.place.profile("cpu0").variants] == [each.points for each in before.variants]


def test_who_accepts_noise_gets_no_marks_and_no_repeats(bare: Tiny, backend: FakeBackend) -> None:
    backend.clock.waiting_fracs = [0.5, 0.5]
    swept(bare, backend, accepts_noise=True)
    assert noise(bare.place.profile("cpu0")) == [0.0] * 5
    assert len({backend.runs.count((name, rows)) for name, rows in backend.runs if rows == 1}) == 1


# --- a real machine


@pytest.fixture
def hogs() -> Iterator[int]:
    """Two programs that keep one core busy; the core."""
    core = usable_cores()[0]
    spin = f"import os; os.sched_setaffinity(0, {{{core}}}); print('spinning', flush=True)\nwhile True: pass"
    running = [
        subprocess.Popen((sys.executable, "-c", spin), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        for _ in range(2)
    ]
    try:
        for hog in running:
            assert hog.stdout is not None
            assert hog.stdout.readline() == b"spinning\n"
        yield core
    finally:
        for hog in running:
            hog.kill()
            hog.communicate()


@pytest.mark.alone
def test_a_program_that_shares_its_core_with_two_others_waits_for_most_of_the_time(hogs: int) -> None:
    with pinned((hogs,)), observing((hogs,)) as waiting:
        stop_s = time.process_time() + 0.2
        while time.process_time() < stop_s:
            pass
    assert waiting.frac > 0.4  # two thirds, where all three get the same


@pytest.mark.alone
def test_a_dry_run_says_that_the_machine_is_loaded_now(hogs: int, bare: Tiny) -> None:
    ended = proteus("profile", "--device", "cpu0", "--dry-run", "--max-batch", "1", "-w", bare.root)
    assert device(bare, "cpu0").cores == (hogs,)
    assert "warning: other programs use cpu0 now: work there waits for a core for " in ended.stderr
    call = ("profile", "--device", "cpu0", "--dry-run", "--max-batch", "1", "-w", bare.root, "--json")
    assert proteus(*call).document()[0]["waiting_frac"] > 0.4


def test_a_program_that_never_sleeps_waits_while_it_does_not_run() -> None:
    """So not at all, where it has its core for itself; however busy the machine is."""
    core = usable_cores()[-1]
    with pinned((core,)), observing((core,)) as waiting:
        start_s, ran_s = time.perf_counter(), time.process_time()
        while time.process_time() - ran_s < 0.1:
            pass
        ran_frac = (time.process_time() - ran_s) / (time.perf_counter() - start_s)
    assert waiting.frac == pytest.approx(1 - ran_frac, abs=NOISE_FRAC / 2)
