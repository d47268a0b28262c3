"""What the benchmark of cascades makes of answers: shares of options, and what is left on rows that nobody has seen."""

import numpy as np
import pytest
from builders import make_measured, make_profile

from benchmarks.cascades import tables_of
from benchmarks.cascades.by_labels import cascades_by_labels
from benchmarks.cascades.zoo import Find, Measured
from proteus_cli.domain.catalog import Family, Variant
from proteus_cli.profiling.cascade_options import Option
from proteus_cli.profiling.cascades import cascades_of
from proteus_cli.store.answers import Answers

ROWS = 3000


@pytest.fixture(scope="module")
def digits() -> Measured:
    """`m` errs on a quarter of the rows, most of which it is not sure of, and `xxl` on few; 1,000 and 100 qps."""
    rng = np.random.default_rng(0)
    hard = rng.random(ROWS)
    family = Family("digits", "1s", (Variant("digits-m", 0.75), Variant("digits-xxl", 0.97)))
    answers = {
        name: Answers(
            "1", "2", "margin", (1 - hard).astype(np.float32), rng.random(ROWS) < right, np.zeros(ROWS, np.int64)
        )
        for name, right in (("digits-m", np.clip(1.5 - hard, 0, 1) * 0.9), ("digits-xxl", np.full(ROWS, 0.97)))
    }
    profile = make_profile(
        "cpu0",
        make_measured("digits", "digits-m", 0.75, {1: 0.001}),
        make_measured("digits", "digits-xxl", 0.97, {1: 0.010}),
    )
    return Measured(family, profile, answers)


def test_options_share_the_time_that_there_is() -> None:
    """At 200 qps a query has 5 ms: four ninths of queries take 10 ms, and five ninths 1 ms."""
    fast, slow = Option("f", "s", 0.7, 1000.0), Option("f", "l", 0.9, 100.0)
    assert [share for share, _ in tables_of.mixed([fast, slow], 0.005)] == pytest.approx([5 / 9, 4 / 9])
    assert tables_of.mixed([fast, slow], 0.05) == [(1.0, slow)]
    assert tables_of.mixed([fast, slow], 0.0001) == [(1.0, fast)]


@pytest.mark.parametrize("find", [cascades_of, cascades_by_labels])
def test_what_is_found_on_some_rows_holds_on_others(digits: Measured, find: Find) -> None:
    draws = tables_of.unseen(digits, 4, find)
    assert all(draw.gains[4] > 0.02 for draw in draws)
    assert all(abs(draw.too_high) < 0.05 for draw in draws)
    assert all(draw.speed_up is None or draw.speed_up > 2.5 for draw in draws)


def test_an_option_is_worth_the_same_on_the_rows_that_it_was_found_on(digits: Measured) -> None:
    rows = np.arange(ROWS)
    for option in digits.on(rows):
        assert digits.judged(option, rows) == pytest.approx((option.accuracy, option.qps))


def test_tables_and_aims_name_what_they_are_of(digits: Measured) -> None:
    draws = tables_of.unseen(digits, 2)
    assert tables_of.unseen_table({("digits", "quantiles"): draws}).rows[0][:3] == ("digits", "quantiles", "2 of 2")
    assert [row[0] for row in tables_of.studied([digits]).rows] == ["digits-m → digits-xxl"]
    assert tables_of.profiled_table(digits).rows[0][0] == "digits-m"
    assert len(list(tables_of.aims("digits", draws))) == 2 + len(tables_of.MULTIPLES)
    none = tables_of.Unseen(None, None, dict.fromkeys(tables_of.MULTIPLES, -0.01), 0.0)
    assert [aim.is_reached for aim in tables_of.aims("digits", [none])] == [False, True, False, False, False]
