from collections.abc import Sequence

import pytest
from builders import hosted
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.quota import Quota

WEIGHTS = st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=8)


def router_of(*weights: float) -> Quota:
    return Quota([hosted(f"cpu{i}", latency_s={1: 0.01}, weight=weight) for i, weight in enumerate(weights)])


def order(router: Quota, number: int) -> str:
    return "".join(router.give(1).device.removeprefix("cpu") for _ in range(number))


def test_turns_are_spread_not_bunched() -> None:
    """Shares 5 : 1 : 1 of 7 turns, as nginx's smooth weighted round-robin gives them."""
    assert order(router_of(5, 1, 1), 14) == "0010200" * 2


def test_equal_shares_alternate() -> None:
    assert order(router_of(1, 1, 1, 1), 10) == "0123012301"


def test_what_the_plan_sends_nothing_gets_no_turn() -> None:
    assert order(router_of(0, 2, 1), 6) == "121121"


def test_where_the_plan_sends_nothing_to_anyone_all_take_equal_turns() -> None:
    assert order(router_of(0, 0), 4) == "0101"


def behind(weights: Sequence[float], number: int) -> tuple[float, float]:
    """The furthest that any variant was ahead of its share, and behind it, after any of ``number`` turns."""
    router, total = router_of(*weights), sum(weights)
    ahead = lag = 0.0
    for given_so_far in range(1, number + 1):
        router.give(1)
        gaps = [turns - given_so_far * weight / total for turns, weight in zip(router.turns, weights, strict=True)]
        ahead, lag = max(ahead, *gaps), max(lag, *(-gap for gap in gaps))
    return ahead, lag


@given(WEIGHTS)
def test_no_variant_is_ever_a_turn_ahead_of_its_share(weights: list[float]) -> None:
    """The one with the most credit has at least 1/n of it after a turn was added, so it keeps more than −1."""
    ahead, lag = behind([*weights, 1.0], 60)
    assert ahead <= 1 - 1 / (len(weights) + 1) + 1e-6
    assert lag <= sum(1 / k for k in range(2, len(weights) + 2)) + 1e-6


@given(st.floats(0.001, 1000.0), st.floats(0.001, 1000.0))
def test_two_variants_keep_to_their_shares_within_half_a_turn(one: float, other: float) -> None:
    assert max(behind((one, other), 100)) <= 0.5 + 1e-6


@given(WEIGHTS, st.lists(st.integers(1, 6), max_size=50))
def test_requests_of_many_rows_get_as_many_turns(weights: list[float], rows: list[int]) -> None:
    """Ahead by less than the largest request."""
    router = router_of(*weights)
    for number in rows:
        router.give(number)
    assert sum(router.turns) == sum(rows)
    for turns, weight in zip(router.turns, weights, strict=True):
        assert turns - sum(rows) * weight / sum(weights) < max(rows, default=1) + 1e-6


MOVES = st.lists(
    st.tuples(st.sampled_from(["give", "use", "give_up", "pass_on"]), st.integers(0, 2), st.integers(1, 6)),
    max_size=60,
)


@given(MOVES)
def test_turns_add_up_to_the_rows_that_wait_and_never_fall_below_zero(moves: list[tuple[str, int, int]]) -> None:
    router, waiting = router_of(1, 2, 3), 0
    for move, index, rows in moves:
        host = router.hosts[index]
        match move:
            case "give":
                router.give(rows)
                waiting += rows
            case "use" if rows <= waiting:
                router.use(host, rows)
                waiting -= rows
            case "give_up" if rows <= waiting:
                router.give_up(rows)
                waiting -= rows
            case "pass_on":
                router.pass_on(host, router.hosts[(index + 1) % 3], rows)
        assert sum(router.turns) == waiting
        assert min(router.turns) >= 0


def test_giving_up_costs_whoever_has_most_turns() -> None:
    router = router_of(3, 1)
    for _ in range(4):
        router.give(1)
    router.give_up(1)
    assert router.turns == [2, 1]
    router.give_up(3)
    assert router.turns == [0, 0]


def test_passing_on_moves_turns_without_making_any() -> None:
    router = router_of(1, 1)
    first = router.give(3)
    other = next(host for host in router.hosts if host is not first)
    router.pass_on(first, other, 2)
    assert (router.turns_of(first), router.turns_of(other)) == (1, 2)


def test_who_takes_more_than_its_turns_pays_them_back() -> None:
    """cpu0 has 1 turn and cpu1 3, and cpu0 takes all 4 rows: the next 4 are cpu1's, then they alternate again."""
    router = router_of(1, 1)
    assert [router.give(1).device, router.give(3).device] == ["cpu0", "cpu1"]
    router.use(router.hosts[0], 4)
    assert router.turns == [0, 0]
    assert order(router, 8) == "11110101"


def test_the_fastest_is_so_for_the_rows_in_question() -> None:
    """Alone 10 against 12 ms, in fours 40 against 20 ms."""
    nimble = hosted("cpu0", latency_s={1: 0.010, 4: 0.040})
    wide = hosted("cpu1", latency_s={1: 0.012, 4: 0.020})
    router = Quota([nimble, wide])
    assert router.fastest(1) is nimble
    assert router.fastest(4) is wide


def test_the_fastest_is_one_that_is_there_where_any_is() -> None:
    nimble, wide = hosted("cpu0", latency_s={1: 0.010}), hosted("cpu1", latency_s={1: 0.012})
    router = Quota([nimble, wide])
    assert router.fastest(1, lambda host: host is wide) is wide
    assert router.fastest(1, lambda _host: False) is nimble


def test_a_variant_that_is_not_routed_to_has_no_turns_to_ask_for() -> None:
    with pytest.raises(KeyError):
        router_of(1).turns_of(hosted(latency_s={1: 0.01}))
