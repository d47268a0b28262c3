"""Whether a derived variant is kept: a decision about accuracies and rates."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proteus_cli.variants.judging import Standing, frontier, judge

PARENT = Standing(0.90, 100.0)


@pytest.mark.parametrize(
    ("own", "kept"),
    [
        (Standing(0.87, 104.0), True),  # faster: whether that is worth the accuracy, the planner weighs
        (Standing(0.31, 300.0), True),  # … however much it costs, as long as more is answered rightly per second
        (Standing(0.29, 300.0), False),
        (Standing(0.50, 104.0), False),
        (Standing(0.90, 102.0), False),  # as fast, for what is measured
        (Standing(0.89, 100.0), False),
        (Standing(0.92, 100.0), True),  # as fast, and more accurate
        (Standing(0.905, 100.0), False),  # … by a few rows of an eval split
        (Standing(0.92, 20.0), True),  # slower, and nothing else is so accurate
        (Standing(0.90, 20.0), False),
    ],
)
def test_it_is_kept_if_it_is_faster_or_more_accurate_than_its_parent(own: Standing, *, kept: bool) -> None:
    assert judge(own, PARENT, ()).kept is kept


def test_a_slower_one_is_dropped_where_a_sibling_is_as_accurate() -> None:
    sibling = Standing(0.92, 50.0)
    assert not judge(Standing(0.92, 20.0), PARENT, [sibling]).kept
    assert judge(sibling, PARENT, [Standing(0.92, 20.0)]).kept


def test_a_faster_one_is_dropped_where_a_sibling_is_better() -> None:
    """Of two that are alike both are kept."""
    own = Standing(0.80, 200.0)
    assert not judge(own, PARENT, [Standing(0.85, 202.0)]).kept
    assert judge(own, PARENT, [Standing(0.81, 250.0)]).why == "2.00 × the rate, and another one is better"
    assert judge(own, PARENT, [own, Standing(0.805, 202.0), Standing(0.7, 300.0), Standing(0.85, 150.0)]).kept


def test_the_reason_has_the_rate_beside_that_of_the_parent() -> None:
    assert judge(Standing(0.8, 250.0), PARENT, ()).why == "2.50 × the rate"
    assert judge(Standing(0.8, 50.0), PARENT, ()).why == "0.50 × the rate, and not more accurate"
    less = "2.00 × the rate, and so inaccurate that it answers less rightly per second"
    assert judge(Standing(0.4, 200.0), PARENT, ()).why == less


def test_what_misses_the_slo_is_dropped_however_accurate() -> None:
    judgement = judge(Standing(0.99, 0.0), PARENT, ())
    assert (judgement.kept, judgement.why) == (False, "too slow for the SLO")
    assert not judge(Standing(0.99, 0.0), Standing(0.9, 0.0), ()).kept


def test_what_is_in_time_is_kept_where_its_parent_is_not() -> None:
    judgement = judge(Standing(0.5, 10.0), Standing(0.9, 0.0), ())
    assert (judgement.kept, judgement.why) == (True, "within the SLO, and what it is made of is not")


FAR_APART = st.builds(Standing, st.floats(0, 1), st.just(0.0) | st.floats(1, 1e6))
NEARLY_THE_SAME = st.builds(Standing, st.floats(0.9, 0.95), st.floats(100, 112))
"""Several of them are the same as the next one, and the first is not the same as the last."""


@given(st.lists(FAR_APART, max_size=8) | st.lists(NEARLY_THE_SAME, max_size=8))
@example([Standing(0.902, 108.6), Standing(0.927, 105.9), Standing(0.945, 103.6)])
def test_on_the_frontier_nothing_is_better_and_nothing_that_is_left_out_is_missed(found: list[Standing]) -> None:
    """What is left out is too slow, or something kept is as fast and as accurate, for what is measured."""
    by_name = {str(place): each for place, each in enumerate(found)}
    judgements = frontier(by_name)
    kept = [by_name[name] for name, judgement in judgements.items() if judgement.kept]
    within = [each for each in found if each.qps > 0]
    assert bool(kept) == bool(within)
    if within:
        assert max(each.accuracy for each in kept) == max(each.accuracy for each in within)
    for name, judgement in judgements.items():
        own = by_name[name]
        if judgement.kept:
            assert own.qps > 0
            assert not any(each.qps > own.qps * 1.03 and each.accuracy >= own.accuracy for each in kept)
        elif own.qps > 0:
            assert any(own.qps <= each.qps * 1.03 and own.accuracy <= each.accuracy + 0.01 for each in kept)


def test_the_fastest_is_kept_where_what_is_better_is_beaten_itself() -> None:
    """`mid` is as fast as `quick` and more accurate; so is `best` beside `mid`, but it is slower than `quick`."""
    found = {"quick": Standing(0.902, 108.6), "mid": Standing(0.927, 105.9), "best": Standing(0.945, 103.6)}
    assert {name: tuple(judgement) for name, judgement in frontier(found).items()} == {
        "quick": (True, "the fastest"),
        "mid": (False, "best is as fast, and as accurate"),
        "best": (True, "the most accurate"),
    }


def test_of_the_frontier_each_is_told_why() -> None:
    found = {
        "slow": Standing(1.0, 0.0), "quick": Standing(0.5, 900.0), "mid": Standing(0.8, 300.0),
        "like mid": Standing(0.805, 290.0), "best": Standing(0.9, 20.0), "poor": Standing(0.6, 30.0),
    }  # fmt: skip
    assert {name: judgement.why for name, judgement in frontier(found).items()} == {
        "slow": "too slow for the SLO",
        "quick": "the fastest",
        "mid": "more accurate than all that are faster",
        "like mid": "mid is as fast, and as accurate",
        "best": "the most accurate",
        "poor": "mid is as fast, and as accurate",
    }
