"""How long batches go on for some of their rows is a matter of how many newcomers are given up meanwhile."""

import pytest

from proteus_cli.control.dispatch.family import GIVEN_UP, MAX_OWED, MAX_SAVED, GiveUpBudget


@pytest.mark.parametrize("attainment", [0.9, 0.995])
def test_as_many_are_given_up_in_the_long_run_as_are_allowed(attainment: float) -> None:
    """In this world, each tenth row is given up while batches go on, and none while they do not."""
    patience, given_up = GiveUpBudget(), 0
    for count in range(20_000):
        if patience.is_left and count % 10 == 0:
            patience.gave_up(1)
            given_up += 1
        else:
            patience.answered(1, attainment)
    assert given_up == pytest.approx(20_000 * GIVEN_UP * (1 - attainment), rel=0.05, abs=1 + MAX_SAVED)


def test_at_first_batches_go_on_and_one_row_too_much_ends_that() -> None:
    patience = GiveUpBudget()
    assert patience.is_left
    for _ in range(10_000):
        patience.answered(8, 0.995)
    patience.gave_up(1)
    assert patience.is_left
    patience.gave_up(1)
    assert not patience.is_left


def test_an_overload_is_forgotten() -> None:
    patience = GiveUpBudget()
    patience.gave_up(1_000_000)
    patience.answered(int(MAX_OWED / (GIVEN_UP * 0.1)) + 1, 0.9)
    assert patience.is_left
