from collections.abc import Sequence

import pytest
from builders import hosted
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.dispatch.queues.host_class import HostClass
from proteus_cli.control.dispatch.queues.quota import Quota

WEIGHTS = st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=8)


def quota_over(*weights: float) -> Quota:
    return Quota([HostClass((hosted(f"cpu{i}", latency_s={1: 0.01}, weight=w),)) for i, w in enumerate(weights)])


def rows_of(quota: Quota) -> list[int]:
    return [each.quota for each in quota.classes]


def order(quota: Quota, number: int) -> str:
    return "".join(quota.assign(1).host.device.removeprefix("cpu") for _ in range(number))


def test_quota_is_spread_not_bunched() -> None:
    """Shares 5 : 1 : 1 of 7 rows, as nginx's smooth weighted round-robin gives them."""
    assert order(quota_over(5, 1, 1), 14) == "0010200" * 2


def test_equal_shares_alternate() -> None:
    assert order(quota_over(1, 1, 1, 1), 10) == "0123012301"


def test_a_host_without_a_share_gets_no_quota() -> None:
    assert order(quota_over(0, 2, 1), 6) == "121121"


def test_where_the_plan_gives_no_shares_all_get_equal_quota() -> None:
    assert order(quota_over(0, 0), 4) == "0101"


def behind(weights: Sequence[float], number: int) -> tuple[float, float]:
    """The furthest that any variant was ahead of its share, and behind it, after any of ``number`` rows."""
    quota, total = quota_over(*weights), sum(weights)
    ahead = lag = 0.0
    for given_so_far in range(1, number + 1):
        quota.assign(1)
        gaps = [
            assigned - given_so_far * weight / total for assigned, weight in zip(rows_of(quota), weights, strict=True)
        ]
        ahead, lag = max(ahead, *gaps), max(lag, *(-gap for gap in gaps))
    return ahead, lag


@given(WEIGHTS)
def test_no_host_is_ever_a_row_ahead_of_its_share(weights: list[float]) -> None:
    """The one with the most credit has at least 1/n of it after a row was added, so it keeps more than −1."""
    ahead, lag = behind([*weights, 1.0], 60)
    assert ahead <= 1 - 1 / (len(weights) + 1) + 1e-6
    assert lag <= sum(1 / k for k in range(2, len(weights) + 2)) + 1e-6


@given(st.floats(0.001, 1000.0), st.floats(0.001, 1000.0))
def test_two_hosts_keep_to_their_shares_within_half_a_row(one: float, other: float) -> None:
    assert max(behind((one, other), 100)) <= 0.5 + 1e-6


@given(WEIGHTS, st.lists(st.integers(1, 6), max_size=50))
def test_a_request_of_many_rows_gets_quota_for_all_of_them(weights: list[float], rows: list[int]) -> None:
    """Ahead by less than the largest request."""
    quota = quota_over(*weights)
    for number in rows:
        quota.assign(number)
    assert sum(rows_of(quota)) == sum(rows)
    for rows_assigned, weight in zip(rows_of(quota), weights, strict=True):
        assert rows_assigned - sum(rows) * weight / sum(weights) < max(rows, default=1) + 1e-6


MOVES = st.lists(
    st.tuples(st.sampled_from(["assign", "consume", "withdraw"]), st.integers(0, 2), st.integers(1, 6)),
    max_size=60,
)


@given(MOVES)
def test_quota_adds_up_to_the_rows_that_wait_and_never_falls_below_zero(moves: list[tuple[str, int, int]]) -> None:
    quota, waiting = quota_over(1, 2, 3), 0
    for move, index, rows in moves:
        match move:
            case "assign":
                quota.assign(rows)
                waiting += rows
            case "consume" if rows <= waiting:
                quota.consume(quota.classes[index], rows)
                waiting -= rows
            case "withdraw" if rows <= waiting:
                quota.withdraw(rows)
                waiting -= rows
        assert sum(rows_of(quota)) == waiting
        assert min(rows_of(quota)) >= 0


def test_rows_are_withdrawn_from_the_host_with_the_most_quota() -> None:
    quota = quota_over(3, 1)
    for _ in range(4):
        quota.assign(1)
    quota.withdraw(1)
    assert rows_of(quota) == [2, 1]
    quota.withdraw(3)
    assert rows_of(quota) == [0, 0]


def test_more_rows_than_the_quota_are_an_error_and_no_endless_loop() -> None:
    quota = quota_over(3, 1)
    quota.assign(2)
    with pytest.raises(ValueError, match="1 rows more than the quota"):
        quota.withdraw(3)
    with pytest.raises(ValueError, match="1 rows more than the quota"):
        quota.consume(quota.classes[0], 1)


def test_a_class_that_takes_more_than_its_quota_owes_nothing() -> None:
    """cpu0 has a quota of 1 and cpu1 of 3, and cpu0 takes all 4 rows: what follows is shared as planned."""
    quota = quota_over(1, 1)
    assert [quota.assign(1).host.device, quota.assign(3).host.device] == ["cpu0", "cpu1"]
    quota.consume(quota.classes[0], 4)
    assert rows_of(quota) == [0, 0]
    assert order(quota, 8) == "00010101"
