"""What the benchmark of five tasks compares, and what that of retraining makes of its figures."""

import numpy as np
import pytest
from builders import make_catalog, make_family, make_measured, make_profile

from benchmarks.lifecycle import retraining, tasks
from benchmarks.lifecycle.retraining import Shift
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.profile import Profile

LATENCIES = {"s": 0.001, "m": 0.002, "l": 0.004}
ACCURACIES = {"s": 0.7, "m": 0.8, "l": 0.9}


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> tuple[Catalog, dict[str, Profile]]:
    """Two families whose large variant takes four times as long as the small one, on two devices."""
    monkeypatch.setattr(tasks, "POLICIES", {"a": "accuracy", "b": "accuracy"})
    named = {name: {f"{name}-{each}": value for each, value in ACCURACIES.items()} for name in "ab"}
    measured = [
        make_measured(family, f"{family}-{each}", ACCURACIES[each], {1: s, 4: 4 * s})
        for family in "ab"
        for each, s in LATENCIES.items()
    ]
    catalog = make_catalog(*(make_family(name, variants, slo="200ms") for name, variants in named.items()))
    return catalog, {device: make_profile(device, *measured) for device in ("cpu0", "cpu1")}


def test_times_are_multiplied_and_rates_divided(families: tuple[Catalog, dict[str, Profile]]) -> None:
    _, profiles = families
    before, after = profiles["cpu0"].variants[0].points[0], tasks._slower(profiles["cpu0"], 10).variants[0].points[0]
    assert (after.mean_s, after.p99_s, after.qps) == pytest.approx(
        (10 * before.mean_s, 10 * before.p99_s, before.qps / 10)
    )


def test_picks_come_by_accuracy_and_are_carried_in_each_burst(families: tuple[Catalog, dict[str, Profile]]) -> None:
    catalog, profiles = families
    usual = tasks._usual_qps(catalog, profiles)
    assert usual == pytest.approx({"a": 150, "b": 150})
    picks = list(tasks._picks(catalog, profiles, usual))
    assert picks[0] == {"a": "a-m", "b": "b-m"}
    assert picks[-1] == {"a": "a-s", "b": "b-s"}
    assert all("l" not in pick["a"] + pick["b"] for pick in picks)


def test_each_task_has_its_burst_in_turn(families: tuple[Catalog, dict[str, Profile]]) -> None:
    trace = tasks._trace({"a": 100.0, "b": 100.0})
    found = [np.histogram(trace.arrival_s[trace.family == place], [0, 20, 30, 50, 60, 80])[0] for place in (0, 1)]
    assert [np.argmax(counts / [20, 10, 20, 10, 20]) for counts in found] == [1, 3]
    assert all(np.diff(trace.arrival_s) >= 0)


def test_picks_and_all_variants_are_compared_on_the_same_queries(
    families: tuple[Catalog, dict[str, Profile]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "BURST_S", 1.0)
    monkeypatch.setattr(tasks, "QUIET_S", 4.0)
    found = tasks.compared(*families, slowdown=1.0)
    assert set(found.picks.values()) <= {"a-s", "a-m", "b-s", "b-m"}
    gained, late = tasks.aims(found)
    assert gained.measured == pytest.approx(
        50 * sum(found.proteus[name].accuracy - found.picked[name].accuracy for name in "ab")
    )
    assert late.measured == pytest.approx(100 * max(each.violations for each in found.proteus.values()))
    assert [row[2] for row in tasks.table(found).rows] == [found.picks[name].removeprefix(f"{name}-") for name in "ab"]


def test_aims_of_retraining_are_those_of_the_worst_seed() -> None:
    shifts = [Shift(0, 0.9, 0.5, 0.88, 20), Shift(1, 0.9, 0.5, 0.86, 400)]
    assert [each.measured for each in retraining.aims(shifts)] == pytest.approx([400, 90])
    never = Shift(2, 0.9, 0.5, 0.9, None)
    assert not retraining.aims([never])[0].is_reached
    assert [len(row) for row in retraining.table([*shifts, never]).rows] == [6] * 3


def test_rows_of_a_seed_are_drawn_again() -> None:
    images, labels = np.arange(128, dtype=np.float32).reshape(2, 8, 8), np.array([0, 1])
    one, other = (retraining._drawn(images, labels, 35.0, np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(one["x"], other["x"])
    assert one["x"].shape == (retraining.ROWS, 8, 8)
