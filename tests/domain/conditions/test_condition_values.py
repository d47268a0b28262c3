import math
from itertools import product

import numpy as np
import pytest
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.conditions.condition import (
    OPERATORS,
    AllOf,
    Comparison,
    Condition,
    all_of,
    any_of,
    holds,
    metrics,
)
from proteus_cli.domain.conditions.metrics import Metric
from proteus_cli.domain.conditions.parser import parse
from proteus_cli.domain.conditions.reach import reach, reach_in

LEVELS = (1.0, 2.0, 3.0)
COMPARISONS = st.builds(
    Comparison,
    st.sampled_from([Metric.CONFIDENCE, Metric.EXIT, Metric.LATENCY]),
    st.sampled_from(list(OPERATORS)),
    st.sampled_from(LEVELS),
)
CONDITIONS: "st.SearchStrategy[Condition]" = st.recursive(
    COMPARISONS,
    lambda inner: st.builds(
        lambda join, parts: join(parts), st.sampled_from([all_of, any_of]), st.lists(inner, min_size=2, max_size=3)
    ),
    max_leaves=8,
)
ROWS = {
    Metric.CONFIDENCE: (np.nan, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5),
    Metric.EXIT: (1.0, 2.0, 3.0, 4.0),
    Metric.LATENCY: (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5),
}


def by_hand(condition: Condition, row: dict[Metric, float]) -> bool:
    if isinstance(condition, Comparison):
        have, value = row[condition.metric], condition.value
        answers = {
            "<": have < value, "<=": have <= value, "==": have == value, ">": have > value, ">=": have >= value,
        }  # fmt: skip
        return answers[condition.operator]
    each = [by_hand(part, row) for part in condition.parts]
    return all(each) if isinstance(condition, AllOf) else any(each)


def all_rows() -> list[dict[Metric, float]]:
    return [dict(zip(ROWS, values, strict=True)) for values in product(*ROWS.values())]


@examples(100, fuzzed=2000)
@given(CONDITIONS)
def test_each_row_is_judged_as_one_judges_it_by_hand(condition: Condition) -> None:
    rows = all_rows()
    values = {metric: np.array([row[metric] for row in rows]) for metric in ROWS}
    assert holds(condition, values, len(rows)).tolist() == [by_hand(condition, row) for row in rows]


@examples(100, fuzzed=2000)
@given(CONDITIONS)
def test_what_can_become_of_a_condition_is_what_becomes_of_it_in_some_row(condition: Condition) -> None:
    outcomes = {by_hand(condition, row) for row in all_rows()}
    assert reach(condition, exits=4) == (True in outcomes, False in outcomes)


def test_values_of_all_rows_and_of_each_go_together() -> None:
    condition = parse("confidence >= 0.8 or latency >= 30ms and exit >= 2")
    confidence = np.array([0.9, 0.8, 0.7, np.nan])
    assert holds(condition, {Metric.CONFIDENCE: confidence, Metric.LATENCY: 0.03, Metric.EXIT: 1}, 4).tolist() == [
        True, True, False, False,
    ]  # fmt: skip
    assert holds(condition, {Metric.CONFIDENCE: confidence, Metric.LATENCY: 0.03, Metric.EXIT: 2}, 4).all()
    assert holds(parse("exit >= 2"), {Metric.EXIT: 2}, 3).tolist() == [True] * 3


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_row_without_a_confidence_fulfils_no_comparison_with_it(operator: str) -> None:
    condition = parse(f"confidence {operator} 0.5")
    assert not holds(condition, {Metric.CONFIDENCE: np.array([np.nan], np.float32)}, 1).any()


def test_a_condition_tells_which_metrics_it_needs() -> None:
    condition = parse("confidence >= 0.8 or energy >= 2J and (exit >= 2 or confidence > 0.5)")
    assert metrics(condition) == {Metric.CONFIDENCE, Metric.ENERGY, Metric.EXIT}


@pytest.mark.parametrize(
    ("text", "exits", "can_hold", "can_fail"),
    [
        ("exit >= 1", None, True, False),
        ("exit >= 4", 4, True, True),
        ("exit > 4", 4, False, True),
        ("exit > 4", None, True, True),
        ("latency >= 0ms", None, True, False),
        ("computation <= 1", None, True, False),
        ("accuracy > 1", None, False, True),
        ("confidence < 0.5 or confidence >= 0.5", None, True, True),  # a row may have none
        ("energy < 2J or energy >= 2J", None, True, False),
        ("energy < 2J and energy > 2J", None, False, True),
        ("exit > 1 and exit < 2", None, False, True),
        (
            " or ".join(f"{m} > {v}" for v in (".1", ".2", ".3", ".4") for m in ("confidence", "accuracy")),
            4,
            True,
            True,
        ),
    ],
)
def test_a_condition_that_never_or_always_holds_is_known(
    text: str, exits: int | None, *, can_hold: bool, can_fail: bool
) -> None:
    assert reach(parse(text), exits) == (can_hold, can_fail)


THIRDS = [
    {Metric.EXIT: [1.0], Metric.COMPUTATION: [0.2], Metric.ACCURACY: [0.9, 0.4]},
    {Metric.EXIT: [2.0], Metric.COMPUTATION: [0.5], Metric.ACCURACY: [0.9, 0.7, math.nan]},
    {Metric.EXIT: [3.0], Metric.COMPUTATION: [1.0], Metric.ACCURACY: [0.9, 0.7, 0.6]},
]


@pytest.mark.parametrize(
    ("text", "can_hold", "can_fail"),
    [
        ("computation <= 0.2", True, True),
        ("computation < 0.2", False, True),
        ("computation >= 0.2", True, False),
        ("computation > 0.5 and exit <= 2", False, True),
        ("computation > 0.5 and exit <= 3 and latency > 2s", True, True),
        ("accuracy > 0.9", False, True),
        ("accuracy >= 0.4", True, True),  # one is unknown
        ("accuracy < 0.5 and exit >= 2", False, True),
        ("confidence >= 0.8 or latency >= 30ms and exit >= 2", True, True),
        ("exit > 3", False, True),
        ("latency < 0s", False, True),
    ],
)
def test_what_a_profile_knows_of_exits_tells_more(text: str, *, can_hold: bool, can_fail: bool) -> None:
    assert reach_in(parse(text), THIRDS) == (can_hold, can_fail)
