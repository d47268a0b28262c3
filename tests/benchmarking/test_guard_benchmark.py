"""What the benchmark of guards simulates, and what it makes of that."""

import numpy as np
import pytest

from benchmarks.lifecycle.guard import (
    WITHIN,
    Found,
    Run,
    _queries,
    aims,
    best_power,
    fails_at_the_bound,
    simulated,
    tables,
)


@pytest.mark.parametrize(("share", "shadow"), [(0.5, 0.0), (None, 0.05)])
def test_a_version_that_is_much_worse_is_rolled_back_and_a_better_one_is_promoted(
    share: float | None, shadow: float
) -> None:
    worse = [simulated(0.92, -0.08, share, seed, shadow) for seed in range(3)]
    better = [simulated(0.92, 0.03, share, seed, shadow) for seed in range(3)]
    assert [run.is_promoted for run in worse + better] == [False] * 3 + [True] * 3
    assert max(run.labelled for run in worse) < WITHIN


def test_a_version_at_the_bound_keeps_its_place() -> None:
    assert not any(fails_at_the_bound(seed) for seed in range(3))


def test_a_seed_draws_the_same_roll_out_again() -> None:
    assert simulated(0.92, -0.08, 0.5, 1) == simulated(0.92, -0.08, 0.5, 1)


def test_queries_are_as_accurate_as_they_should_be_and_half_of_the_errors_are_common() -> None:
    rng = np.random.default_rng(5)
    drawn = np.array([query for _ in range(500) for query in _queries(0.8, -0.05, rng)])
    old, new = drawn[:, 2], drawn[:, 3]
    assert old.mean() == pytest.approx(0.8, abs=0.01)
    assert new.mean() == pytest.approx(0.75, abs=0.01)
    assert ((old == 0) & (new == 0)).mean() == pytest.approx(0.1, abs=0.01)


def test_the_best_test_rolls_equal_versions_back_as_often_as_it_may() -> None:
    assert best_power(0.92, 0.0, 0.1) == pytest.approx(0.05)
    powers = [best_power(0.92, -loss, 0.1) for loss in (0.01, 0.02, 0.05)]
    assert powers == sorted(powers)
    assert best_power(0.92, -0.02, 0.01) > best_power(0.92, -0.02, 0.5)


def test_aims_are_those_of_each_accuracy_and_of_the_worst_arms() -> None:
    soon, late, promoted = Run(False, WITHIN), Run(False, WITHIN + 1), Run(True, 500)
    found = [
        Found(0.7, -0.02, None, [soon] * 18 + [late, promoted]),
        Found(0.7, 0.0, None, [promoted] * 19 + [soon]),
        Found(0.92, -0.02, None, [soon] * 20),
        Found(0.92, 0.0, None, [promoted] * 9 + [soon]),
        Found(0.92, -0.02, 0.1, [soon, late]),
        Found(0.92, -0.02, 0.5, [soon]),
        Found(0.92, 0.0, 0.1, [promoted]),
    ]
    told = aims(found, [True] + [False] * 9)
    assert [(aim.measured, aim.is_reached) for aim in told] == [
        (90, False), (95, True), (5, True),
        (100, True), (90, False), (0, True),
        (50, False), (100, True), (0, True),
        (10, False),
    ]  # fmt: skip
    assert [place for place, aim in enumerate(told) if aim.possible is not None] == [6]
    arms, whole = tables(found)
    assert [len(table.rows) for table in (arms, whole)] == [3, 4]
    assert arms.rows[0][:6] == ("0.92", "-2", "10%", "0", "0", "50")
