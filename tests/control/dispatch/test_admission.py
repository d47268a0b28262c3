from proteus_cli.control.dispatch.dispatch import can_answer, retry_after_s


def test_what_can_be_answered_in_the_budget_is_let_in() -> None:
    """100 qps for 50 ms answer 5 rows."""
    assert can_answer(5, 100.0, 0.05)
    assert not can_answer(6, 100.0, 0.05)


def test_nothing_fits_no_capacity_or_no_time() -> None:
    assert not can_answer(1, 0.0, 1.0)
    assert not can_answer(1, 100.0, 0.0)
    assert not can_answer(1, 100.0, -1.0)


def test_asking_again_helps_after_what_is_ahead_is_answered() -> None:
    """250 rows at 100 qps take 2.5 s: 3 whole seconds; never less than 1."""
    assert retry_after_s(250, 100.0) == 3.0
    assert retry_after_s(1, 100.0) == 1.0
    assert retry_after_s(0, 100.0) == 1.0
    assert retry_after_s(5, 0.0) == 1.0
