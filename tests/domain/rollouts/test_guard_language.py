"""The language of guards: what a text stands for, and what is refused."""

import pytest
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.conditions.reading import LONGEST_TEXT, ConditionError
from proteus_cli.domain.rollouts.guard_terms import DEFAULT_GUARD, QUANTILES, GuardMetric, Term, guard_text, parse_guard
from proteus_cli.units import MAX_DURATION_S

PARTS = st.floats(0, 1, exclude_min=True, exclude_max=True)
ADDED = st.floats(-1, 1, exclude_min=True, exclude_max=True).map(lambda value: value + 0.0)  # -0.0 is 0
TERMS = st.one_of(
    st.builds(Term, st.just(GuardMetric.ACCURACY), st.just("old"), ADDED),
    st.builds(Term, st.just(GuardMetric.ERRORS), st.just("old"), ADDED),
    st.builds(Term, st.sampled_from([GuardMetric.ACCURACY, GuardMetric.AGREEMENT]), st.just("number"), PARTS),
    st.builds(Term, st.just(GuardMetric.ERRORS), st.just("number"), st.floats(0, 1, exclude_max=True)),
    st.builds(Term, st.sampled_from(list(QUANTILES)), st.just("slo")),
    st.builds(
        Term, st.sampled_from(list(QUANTILES)), st.just("number"), st.floats(0, MAX_DURATION_S, exclude_min=True)
    ),
)
GUARDS = st.lists(TERMS, min_size=1, unique_by=lambda term: term.metric).map(tuple)
PIECES = ["and ", "or ", "accuracy ", "p99", " errors", ">=", "<=", "old", " - ", "+", "0.5", "30ms", "1%", "slo", "é"]


@examples(100, fuzzed=5_000)
@given(GUARDS)
def test_the_text_of_a_guard_stands_for_just_that_guard(terms: tuple[Term, ...]) -> None:
    text = guard_text(terms)
    assert parse_guard(text) == terms
    assert guard_text(parse_guard(text)) == text


@examples(300, fuzzed=20_000)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_any_text_is_a_guard_or_an_error_that_points_into_it(text: str) -> None:
    try:
        terms = parse_guard(text)
    except ConditionError as raised:
        error = raised
    else:
        assert parse_guard(guard_text(terms)) == terms
        return
    assert 0 <= error.column <= len(text)
    assert error.hint


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (DEFAULT_GUARD, DEFAULT_GUARD),
        ("accuracy>=old-0.5%", "accuracy >= old - 0.005"),
        ("accuracy >= old + .01 and p99<=slo", "accuracy >= old + 0.01 and p99 <= slo"),
        ("accuracy >= old -0", "accuracy >= old"),
        ("p95 <= 0.25s and errors <= 1%", "p95 <= 250ms and errors <= 0.01"),
        ("errors <= 0 and agreement >= 97 %", "errors <= 0 and agreement >= 0.97"),
        ("errors <= old+1%", "errors <= old + 0.01"),
    ],
)
def test_a_guard_has_a_canonical_text(text: str, canonical: str) -> None:
    assert guard_text(parse_guard(text)) == canonical


@pytest.mark.parametrize(
    ("text", "column", "problem", "hint"),
    [
        ("", 1, "the end where a metric should be", "metrics: accuracy, agreement, p50"),
        ("acuracy >= old", 1, "no metric `acuracy`", "metrics: accuracy"),
        ("p90 <= slo", 1, "no metric `p90`", "p50, p95, p99"),
        ("accuracy > old", 10, "`>` where `accuracy` is bounded", "write `accuracy >= …`"),
        ("p99 >= slo", 5, "`>=` where `p99` is bounded", "write `p99 <= …`"),
        ("accuracy >= slo", 13, "`accuracy` has no SLO", "`0.97`, or with that of the old version"),
        ("p99 <= old + 5ms", 8, "`p99` of the old version", "a duration or the SLO"),
        ("agreement >= old", 14, "`agreement` of the old version", "`97%`"),
        ("accuracy >= old - 5ms", 19, "`5ms` is no plain number", "without a unit"),
        ("accuracy >= old - old", 19, "`old` where a quantity should be", "a part of all"),
        ("accuracy >= old - 1", 19, "as near to each other as that", "old - 0.005"),
        ("accuracy >= 0", 13, "any version has an accuracy of 0", "at least"),
        ("p99 <= 30", 8, "The duration `30` has no unit", "units: us"),
        ("p99 <= 0ms", 8, "no version answers in no time", "`30ms`"),
        ("errors <= 100%", 11, "no version has more errors than that", "`1%`"),
        ("p99 <= slo or errors <= 1%", 12, "`or` where the guard should go on", "join terms by `and`"),
        ("p99 <= slo and p99 <= 30ms", 16, "another term of `p99`", "one term of each metric"),
        ("(p99 <= slo)", 1, "`(` where a metric should be", "metrics"),
        ("p99 <= slo and", 15, "the end where a metric should be", "metrics"),
        ("p99 <= slo" + " " * LONGEST_TEXT, LONGEST_TEXT + 1, "a guard of 2,010 characters", "at most 2,000"),
    ],
)
def test_what_has_no_sound_test_is_an_error_that_points(text: str, column: int, problem: str, hint: str) -> None:
    with pytest.raises(ConditionError) as raised:
        parse_guard(text)
    assert raised.value.column == column - 1
    assert problem in str(raised.value)
    assert hint in raised.value.hint
