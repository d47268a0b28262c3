"""The benchmark of arrivals: what its traces are like, what it counts, and that it runs without the paper's data."""

import io
import sys

import msgspec
import numpy as np
import pytest
from rich.console import Console

from benchmarks.arrivals import kinds, pages
from benchmarks.arrivals.__main__ import main
from benchmarks.arrivals.ahead import told
from benchmarks.arrivals.results import Benchmark, Found, Limits, Runs
from benchmarks.arrivals.rows import BOUNDS, ORACLE, OURS, POLICIES, ROWS, TUNING, UNSEEN, VALIDATION, Replayed, Site
from benchmarks.arrivals.workers import ACCURACIES, FAMILY, alike
from benchmarks.paper.cluster import Cluster
from benchmarks.paper.lab import Case, play
from benchmarks.paper.results import Figures
from proteus_cli.control.policies import PROTEUS
from proteus_cli.domain.base import MadeBy
from proteus_cli.domain.profile import Point
from proteus_cli.domain.rules import PAPER_RULES
from proteus_cli.domain.trace import Trace

MIX = {"a": 0.1, "b": 0.6, "c": 0.3}
KINDS = [row.kind for row in (ROWS | UNSEEN).values() if isinstance(row, Replayed) and row.kind is not None]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"), VALIDATION[:1], POLICIES, is_quick=False, progress=lambda _now: None)


def made(kind: kinds.Kind, duration_s: float, seed: int = 1) -> Trace:
    return kind(MIX, duration_s, np.random.default_rng(seed))


def figures(requests: int, violations: float, accuracy: float, *, drop: float = 1.0, loads: int = 0) -> Figures:
    rejected = round(requests * violations)
    return Figures(
        "p", "t", 0.0, (0.3,), requests, 0, 0, rejected, violations, accuracy, drop, 1.0, 1.0, 1.0, 2, loads, 0.1
    )


def test_the_worst_window_is_a_part_of_all_queries() -> None:
    runs = [
        msgspec.structs.replace(figures(count, 0.0, 1.0), worst_window_violations=lost)
        for count, lost in ((100, 3), (300, 5))
    ]
    assert Runs("p", tuple(runs)).worst_window == 8 / 400


def test_no_validation_seed_is_used_for_tuning_and_no_unseen_kind_is_tuned_on() -> None:
    assert not set(TUNING) & set(VALIDATION)
    assert not set(ROWS) & set(UNSEEN)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_one_trace_and_another_seed_another(kind: kinds.Kind) -> None:
    """Within its duration, of the families of the mix, whatever the mix."""
    trace, same, other = made(kind, 12.0), made(kind, 12.0), made(kind, 12.0, seed=2)
    assert np.array_equal(trace.arrival_s, same.arrival_s)
    assert np.array_equal(trace.family, same.family)
    assert not np.array_equal(trace.arrival_s, other.arrival_s)
    assert trace.duration_s <= 12.0
    assert set(trace.families) == set(MIX)


def test_a_square_wave_is_low_then_high() -> None:
    """Of two minutes, 15 s each: 2,250 and 16,275 queries, give or take five deviations."""
    trace = made(kinds.square, 120.0)
    low, high = (sum(trace.counts(start_s, start_s + 15.0).values()) for start_s in (30.0, 45.0))
    assert low == pytest.approx(2250, abs=5 * 2250**0.5)
    assert high == pytest.approx(16275, abs=5 * 16275**0.5)


def test_clumps_scatter_as_measured_of_real_ones() -> None:
    """Half of all windows of 300 ms have at most 5 queries, one in ten 234, one in a hundred 433."""
    median, p90, p99 = kinds.scatter([made(kinds.clumps, 240.0, seed) for seed in range(12)])
    assert median < 20  # half of the windows have the edge of a clump at most
    assert p90 == pytest.approx(234, rel=0.15)
    assert p99 == pytest.approx(433, rel=0.15)


def test_larger_clumps_scatter_more() -> None:
    """One window in ten has 269 queries, one in a hundred 684."""
    _, p90, p99 = kinds.scatter([made(kinds.larger_clumps, 240.0, seed) for seed in range(12)])
    assert p90 == pytest.approx(269, rel=0.1)
    assert p99 == pytest.approx(684, rel=0.1)


def test_clumps_of_one_family_are_of_one_each() -> None:
    """A second has 14 clumps at most, so about that many changes of family in the order of arrivals, not 180."""
    one, all_together = made(kinds.family_clumps, 60.0), made(kinds.clumps, 60.0)
    changes, many = (np.count_nonzero(np.diff(trace.family)) / len(trace) for trace in (one, all_together))
    assert changes < many / 2


def test_families_are_on_and_off_by_themselves() -> None:
    """The demands of two families hardly go together, though each varies by far more than chance."""
    trace = made(kinds.on_and_off, 600.0)
    seconds = [np.bincount(trace.arrival_s[trace.family == f].astype(int), minlength=600) for f in range(3)]
    assert all(np.var(each) > 4 * np.mean(each) for each in seconds)
    assert abs(np.corrcoef(seconds[0], seconds[1]).item(0, 1)) < 0.5


def test_alike_workers_are_those_of_the_study() -> None:
    """63 queries/s of the fastest variant; the most accurate takes longer than its SLO."""
    fleet = alike(60)
    [profile], slo_s = fleet.types.values(), fleet.catalog.slo_s()[FAMILY]
    fastest, *_, best = profile.variants
    assert PAPER_RULES.capacity_within(slo_s, fastest.points).qps == pytest.approx(63, abs=0.5)
    assert best.points[0].mean_s > slo_s
    assert best.accuracy == max(ACCURACIES)
    assert len(fleet.profiles()) == 60


def test_devices_that_are_slow_take_longer_and_carry_less(site: Site) -> None:
    cluster = site.alike(3)
    slow = cluster.slowed(1.25)
    assert list(slow.profiles) == list(cluster.profiles)
    for one, other in zip(_points(cluster), _points(slow), strict=True):
        assert other.mean_s == pytest.approx(1.25 * one.mean_s)
        assert other.p95_s == pytest.approx(1.25 * one.p95_s)
        assert other.qps == pytest.approx(one.qps / 1.25)


def _points(cluster: Cluster) -> list[Point]:
    return [point for profile in cluster.profiles.values() for each in profile.variants for point in each.points]


def test_help_says_that_batch_times_scatter_on_alike_workers_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each other profile, of the paper's cluster or of the synthetic one, has one time for each batch size."""
    assert all(point.p50_s == point.p99_s for point in _points(site.lab.cluster()))
    assert all(point.p50_s < point.p95_s for point in _points(site.alike(3)))
    monkeypatch.setattr(sys, "argv", ["arrivals", "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "of alike workers (steps-…, steady) scatter" in " ".join(capsys.readouterr().out.split())
    assert [name for name, row in (ROWS | UNSEEN).items() if isinstance(row, Replayed) and row.workers is not None] == [
        name for name in ROWS | UNSEEN if name.startswith(("steps-", "steady"))
    ]


def test_violations_are_of_all_queries_and_accuracy_of_those_that_were_answered() -> None:
    """300 of 400 missed and 0 of 100; answers 0.9 and 0.8 accurate, so on time 0.9 × 100 + 0.8 × 100 of 500."""
    runs = Runs("p", (figures(400, 0.75, 0.9, drop=2.0, loads=3), figures(100, 0.0, 0.8, drop=1.0, loads=4)))
    assert runs.violations == pytest.approx(0.6)
    assert runs.relative_accuracy == pytest.approx(0.85)
    assert runs.accuracy_on_time == pytest.approx(0.34)
    assert (runs.max_drop, runs.loads, runs.replans) == (2.0, 3.5, 2.0)


def test_there_is_an_aim_for_each_limit_that_is_set() -> None:
    ours = Runs("p", (figures(100, 0.01, 0.99, drop=2.0, loads=300),))
    found = {aim.what: aim.is_reached for aim in Limits(1.0, 99.5, None, 400).aims("row", ours)}
    assert found == {"row: violations": True, "row: relative accuracy": False, "row: loads": True}


def test_a_row_has_all_policies_and_the_oracle_is_the_most_accurate(site: Site) -> None:
    """Three workers, from 80 to 160 queries/s; the slow ones too, which only the oracle knows of."""
    steps = kinds.steps((80.0, 160.0, 80.0))
    for row in (Replayed("even", steps, 6.0, workers=3), Replayed("slow", steps, 6.0, workers=3, slowdown=1.15)):
        found = row.measure(site, "row")
        by_name = {runs.policy: runs for runs in found.policies}
        assert tuple(by_name) == POLICIES
        assert by_name[OURS].accuracy_on_time <= by_name[ORACLE].accuracy_on_time
        assert [aim.what for aim in found.aims] == [
            f"row: ahead of {name}, on time" for name in POLICIES if name not in {OURS, *BOUNDS}
        ]


def test_what_is_told_nothing_ahead_is_proteus_and_else_it_expects_a_step(site: Site) -> None:
    cluster, trace = site.alike(3), kinds.steps((40.0, 400.0))({FAMILY: 1.0}, 12.0, np.random.default_rng(1))
    slo_s = cluster.fleet.catalog.slo_s()
    [ours, same, told_ahead] = [
        play(Case(policy, trace), cluster)[1] for policy in (PROTEUS, told(trace, slo_s, 0.0), told(trace, slo_s, 1.0))
    ]
    assert msgspec.structs.replace(same, cpu_s=ours.cpu_s) == ours
    assert told_ahead.slo_violation_ratio < ours.slo_violation_ratio


def test_the_same_seed_finds_the_same(site: Site) -> None:
    row = Replayed("even", kinds.steps((80.0, 160.0)), 2.0, workers=3)
    one, other = (
        [(runs.violations, runs.relative_accuracy, runs.loads) for runs in row.measure(site, "row").policies]
        for _ in range(2)
    )
    assert one == other


def test_the_table_has_a_line_for_each_policy_and_each_aim() -> None:
    runs = tuple(Runs(policy, (figures(100, 0.01, 0.99),)) for policy in ("proteus", "oracle"))
    row = Found("row", "some arrivals", runs, Limits(0.5).aims("row", runs[0]), remarks=("row: a remark.",))
    done = Benchmark(MadeBy("0", "h", "2026-01-02T00:00:00"), "cmd", "m", "tuning", 1.0, (row,), ("Skipped x.",))
    console = Console(record=True, width=150, file=io.StringIO())
    console.print(pages.shown(done))
    text = console.export_text()
    for part in ("some arrivals", "proteus", "oracle", "1.00 %", "✗ row: violations", "a remark", "Skipped x."):
        assert part in text
    assert "needed" not in text


def test_what_both_limits_need_stands_beside_what_is_reached() -> None:
    """99.4 % as accurate and 1 % lost is 98.41 % on time; without a limit of accuracy there is nothing to reach."""
    limits = Limits(1.0, 99.4)
    runs = (Runs("proteus", (figures(100, 0.02, 0.99),)), Runs("oracle", (figures(100, 0.0, 1.0),)))
    rows = (
        Found("a", "some arrivals", runs, needed=limits.accuracy_on_time),
        Found("b", "others", runs, needed=Limits(1.0).accuracy_on_time),
    )
    done = Benchmark(MadeBy("0", "h", "2026-01-02T00:00:00"), "cmd", "m", "tuning", 1.0, rows, ())
    console = Console(record=True, width=150, file=io.StringIO())
    console.print(pages.shown(done))
    _, _, needed = console.export_text().partition("beside what the limits need")
    [line] = [line for line in needed.splitlines() if "%" in line and "On time" not in line]
    assert line.split() == ["some", "arrivals", "98.41", "%", "97.02", "%", "100.00", "%"]
