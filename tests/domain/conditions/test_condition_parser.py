from pathlib import Path

import pytest
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.conditions.condition import OPERATORS, AllOf, AnyOf, Comparison, Condition, all_of, any_of
from proteus_cli.domain.conditions.metrics import Metric
from proteus_cli.domain.conditions.parser import DEEPEST, MAX_COMPARISONS, parse
from proteus_cli.domain.conditions.reading import LONGEST_TEXT, ConditionError
from proteus_cli.units import MAX_DURATION_S

POSITIVE = st.floats(0, allow_infinity=False)
FRACTIONS = st.floats(0, 1)
VALUES = {
    Metric.LATENCY: st.floats(0, MAX_DURATION_S),
    Metric.CONFIDENCE: st.floats(allow_nan=False, allow_infinity=False),
    Metric.ACCURACY: FRACTIONS,
    Metric.ENERGY: POSITIVE,
    Metric.COMPUTATION: FRACTIONS,
    Metric.EXIT: st.integers(1, 1_000_000).map(float),
}
COMPARISONS = st.one_of(
    [
        st.builds(Comparison, st.just(metric), st.sampled_from(list(OPERATORS)), values)
        for metric, values in VALUES.items()
    ]
)
CONDITIONS: "st.SearchStrategy[Condition]" = st.recursive(
    COMPARISONS,
    lambda inner: st.builds(
        lambda join, parts: join(parts), st.sampled_from([all_of, any_of]), st.lists(inner, min_size=2, max_size=3)
    ),
    max_leaves=10,
)
PIECES = ["and ", "or ", "(", ")", "exit", " latency", ">=", "==", "0.8", "30ms", " ", "%", "é", "\n"]


@examples(100, fuzzed=5000)
@given(CONDITIONS)
def test_the_text_of_a_condition_stands_for_just_that_condition_and_is_not_too_long(condition: Condition) -> None:
    assert parse(str(condition)) == condition
    assert len(str(condition)) <= LONGEST_TEXT / MAX_COMPARISONS * len(condition.comparisons)


@examples(300, fuzzed=20_000)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_any_text_is_a_condition_or_an_error_that_points_into_it(text: str) -> None:
    try:
        condition = parse(text)
    except ConditionError as raised:
        error = raised
    else:
        assert parse(str(condition)) == condition
        return
    message, shown, pointer, hint = str(error).split("\n")
    assert message.endswith(f", at column {error.column + 1}:")
    assert pointer == " " * (len(pointer) - 1) + "^"
    assert shown[len(pointer) - 1 :][:1] == text[error.column :][:1].replace("\n", "·")
    assert hint.startswith("hint: ")


def test_and_binds_tighter_than_or() -> None:
    sure = Comparison(Metric.CONFIDENCE, ">=", 0.8)
    slow, deep = Comparison(Metric.LATENCY, ">=", 0.03), Comparison(Metric.EXIT, ">=", 2)
    assert parse("confidence >= 0.8 or latency >= 30ms and exit >= 2") == AnyOf((sure, AllOf((slow, deep))))
    assert parse("(confidence >= 0.8 or latency >= 30ms) and exit >= 2") == AllOf((AnyOf((sure, slow)), deep))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("response_time>30 ms", "latency > 30ms"),
        ("latency >= 0.25s", "latency >= 250ms"),
        ("latency >= 1min", "latency >= 60s"),
        ("energy <= 2J", "energy <= 2J"),
        ("energy < 500uJ", "energy < 0.5mJ"),
        ("energy == 0J", "energy == 0mJ"),
        ("computation < 62.5 %", "computation < 0.625"),
        ("accuracy >= 97.3%", "accuracy >= 0.973"),
        ("confidence > -1.5e1", "confidence > -15"),
        ("(((exit == 3)))", "exit == 3"),
        ("exit>1and(exit<4and exit<3)", "exit > 1 and exit < 4 and exit < 3"),
        ("exit > 1 or (exit > 2 or exit > 3)or exit > 4", "exit > 1 or exit > 2 or exit > 3 or exit > 4"),
    ],
)
def test_a_text_has_a_canonical_one(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical


def test_the_hint_has_the_metrics_that_are_known_where_it_is_for() -> None:
    with pytest.raises(ConditionError) as caught:
        parse("exitt >= 2", {Metric.EXIT, Metric.CONFIDENCE})
    assert caught.value.hint == "metrics: confidence, exit"


@pytest.mark.parametrize(
    ("text", "column", "problem", "hint"),
    [
        ("", 1, "the end where a metric should be", "metrics: latency, confidence, accuracy"),
        ("confidnce >= 0.8", 1, "no metric `confidnce`", "metrics: latency"),
        ("0.8 <= confidence", 1, "`0.8` where a metric should be", "write the metric first"),
        ("confidence 0.8", 12, "`0.8` where `confidence` should be compared", "operators: < <= == > >="),
        ("confidence = 0.8", 12, "no operator `=`", "operators: < <= == > >="),
        ("confidence != 0.8", 12, "no operator `!=`", "operators"),
        ("confidence >= or exit > 2", 15, "`or` where a number should be after `>=`", "a plain number: `0.8`"),
        ("confidence >= nan", 15, "`nan` where a number should be after `>=`", "a plain number"),
        ("confidence >= 80%", 15, "`80%` is no plain number", "without a unit"),
        ("confidence >= 1e999", 15, "`1e999` is no plain number", "without a unit"),
        ("latency >= 30", 12, "The duration `30` has no unit", "units: us, µs, ms"),
        ("latency >= 30 J", 12, "has an unknown unit `J`", "units: us"),
        ("latency >= -1ms", 12, "must be a finite number that is not negative", "units"),
        ("energy >= 2", 11, "The energy `2` has no unit", "`20mJ`; units: uJ, µJ, mJ, J, kJ"),
        ("accuracy >= 97.3", 13, "`97.3` is no part of a whole", "`97.5%`"),
        ("exit >= 1.5", 9, "`1.5` is no number of an exit", "counted from 1"),
        ("exit >= 0", 9, "`0` is no number of an exit", "counted from 1"),
        ("exit >= 2 && exit < 4", 11, "`&&` where the condition should go on", "`and` or `or`"),
        ("exit >= 2 AND exit < 4", 9, "`2 AND` is no number of an exit", "counted from 1"),
        ("exit >= 2 and", 14, "the end where a metric should be", "metrics"),
        ("(exit >= 2 or exit > 3", 1, "a `(` that nothing closes", "write a `)`"),
        ("exit >= 2)", 10, "a `)` that closes nothing", "leave it out"),
        ("exit >= 2 ; 1", 11, "`;` where the condition should go on", "join"),
        ("(" * 20 + "exit > 1" + ")" * 20, DEEPEST + 1, "more than 16 parentheses", "fewer"),
        (" or ".join(["exit > 1"] * 25), 24 * 12 + 1, "one comparison too many", "at most 24"),
        ("exit > 1" + " " * LONGEST_TEXT, LONGEST_TEXT + 1, "a condition of 2,008 characters", "at most 2,000"),
    ],
)
def test_what_is_no_condition_is_an_error_that_points(text: str, column: int, problem: str, hint: str) -> None:
    with pytest.raises(ConditionError) as raised:
        parse(text)
    assert raised.value.column == column - 1
    assert problem in str(raised.value)
    assert hint in raised.value.hint


def test_an_error_shows_the_place() -> None:
    with pytest.raises(ConditionError) as raised:
        parse("confidence >= 0.8 or\tlatency >= 30 and exit >= 2")
    assert str(raised.value).split("\n")[1:3] == [
        "  confidence >= 0.8 or·latency >= 30 and exit >= 2",
        "                                  ^",
    ]


def test_of_a_long_text_an_error_shows_what_is_around_the_place() -> None:
    with pytest.raises(ConditionError) as raised:
        parse("exit > 1 or " * 10 + "exit ? 2" + " or exit > 1" * 10)
    shown, pointer = str(raised.value).split("\n")[1:3]
    assert shown[pointer.index("^")] == "?"
    assert [shown[2], shown[-1], len(shown)] == ["…", "…", 2 + 1 + 72 + 1]


def test_the_docs_show_an_error_as_it_is() -> None:
    with pytest.raises(ConditionError) as raised:
        parse("confidence >= 0.8 or latency >= 30 and exit >= 2")
    page = Path(__file__).parents[3] / "docs" / "bounds.md"
    assert f"\n```\n{raised.value}\n```\n" in page.read_text(encoding="utf-8")
