"""Whether a derived variant is kept: a decision about accuracies and rates."""

import pytest

from proteus_cli.variants.verdict import Standing, judge

PARENT = Standing(0.90, 100.0)


@pytest.mark.parametrize(
    ("own", "kept"),
    [
        (Standing(0.50, 104.0), True),  # faster, whatever it costs: the planner weighs that
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


def test_the_reason_has_the_rate_beside_that_of_the_parent() -> None:
    assert judge(Standing(0.8, 250.0), PARENT, ()).why == "2.50 × the rate"
    assert judge(Standing(0.8, 50.0), PARENT, ()).why == "0.50 × the rate, and not more accurate"


def test_what_misses_the_slo_is_dropped_however_accurate() -> None:
    verdict = judge(Standing(0.99, 0.0), PARENT, ())
    assert (verdict.kept, verdict.why) == (False, "too slow for the SLO")
    assert not judge(Standing(0.99, 0.0), Standing(0.9, 0.0), ()).kept


def test_what_is_in_time_is_kept_where_its_parent_is_not() -> None:
    verdict = judge(Standing(0.5, 10.0), Standing(0.9, 0.0), ())
    assert (verdict.kept, verdict.why) == (True, "within the SLO, and what it is made of is not")
