"""Conditions as data: how rows are judged, which conditions can hold, and what is refused."""

import math
from itertools import product
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st
from short_forms import parse_condition

from proteus_cli.domain.conditions import Condition, Metric, Operator

CONDITIONS: st.SearchStrategy[Condition] = st.recursive(
    st.builds(
        Condition,
        st.sampled_from([Metric.CONFIDENCE, Metric.EXIT, Metric.LATENCY]),
        st.sampled_from(get_args(Operator)),
        st.sampled_from((1.0, 2.0, 3.0)),
    ),
    lambda inner: st.builds(
        lambda is_all, parts: Condition(all=tuple(parts)) if is_all else Condition(any=tuple(parts)),
        st.booleans(),
        st.lists(inner, min_size=2, max_size=3),
    ),
    max_leaves=8,
)
ROWS = {
    Metric.CONFIDENCE: (np.nan, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5),
    Metric.EXIT: (1.0, 2.0, 3.0, 4.0),
    Metric.LATENCY: (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5),
}
EXAMPLE = {
    "any": [
        {"metric": "confidence", "op": ">=", "value": 0.8},
        {"all": [{"metric": "latency", "op": ">=", "value": 0.03}, {"metric": "exit", "op": ">=", "value": 2}]},
    ]
}


def by_hand(condition: Condition, row: dict[Metric, float]) -> bool:
    if condition.metric is not None and condition.value is not None:
        have, value = row[condition.metric], condition.value
        return {
            "<": have < value, "<=": have <= value, "==": have == value, ">": have > value, ">=": have >= value,
        }[str(condition.op)]  # fmt: skip
    return (all if condition.all else any)(by_hand(part, row) for part in condition.all or condition.any)


def all_rows() -> list[dict[Metric, float]]:
    return [dict(zip(ROWS, values, strict=True)) for values in product(*ROWS.values())]


@examples(100, fuzzed=2000)
@given(CONDITIONS)
def test_each_row_is_judged_as_one_judges_it_by_hand(condition: Condition) -> None:
    rows = all_rows()
    values = {metric: np.array([row[metric] for row in rows]) for metric in ROWS}
    expected = [by_hand(condition, row) for row in rows]
    assert condition.holds(values, len(rows)).tolist() == expected
    assert msgspec.json.decode(msgspec.json.encode(condition), type=Condition) == condition


def test_values_of_all_rows_and_of_each_go_together() -> None:
    condition = msgspec.convert(EXAMPLE, Condition)
    confidence = np.array([0.9, 0.8, 0.7, np.nan])
    values: dict[Metric, Any] = {Metric.CONFIDENCE: confidence, Metric.LATENCY: 0.03}
    assert condition.holds({**values, Metric.EXIT: 1}, 4).tolist() == [True, True, False, False]
    assert condition.holds({**values, Metric.EXIT: 2}, 4).all()
    assert parse_condition("exit >= 2").holds({Metric.EXIT: 2}, 3).tolist() == [True] * 3


def test_a_condition_for_people_has_parentheses_around_inner_conditions() -> None:
    condition = msgspec.convert(EXAMPLE, Condition)
    assert condition.metrics == {Metric.CONFIDENCE, Metric.LATENCY, Metric.EXIT}
    assert str(condition) == "confidence >= 0.8 or (latency >= 0.03 and exit >= 2)"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, "a condition has `metric`, `op` and `value`"),
        ({"metric": "exit", "op": ">="}, "a condition has `metric`, `op` and `value`"),
        ({"all": [EXAMPLE]}, "two or more conditions"),
        (EXAMPLE | {"all": [EXAMPLE, EXAMPLE]}, "or else"),
        (EXAMPLE | {"metric": "exit"}, "or else"),
        ({"any": [EXAMPLE] * 9}, "at most 24 comparisons"),
        ({"metric": "exit", "op": ">=", "value": 2, "for": 3}, "unknown field `for`"),
        ({"metric": "confidnce", "op": ">=", "value": 0.8}, "Invalid enum value 'confidnce'"),
        ({"metric": "confidence", "op": "=", "value": 0.8}, "Invalid enum value '='"),
        ({"metric": "confidence", "op": ">=", "value": math.nan}, "confidence is from -inf to inf; got nan"),
        ({"metric": "accuracy", "op": ">=", "value": 97.3}, "accuracy is from 0 to 1; got 97.3"),
        ({"metric": "exit", "op": ">=", "value": 1.5}, "an exit has a whole number; got 1.5"),
        ({"metric": "exit", "op": ">=", "value": 0}, "exit is from 1 to 1e"),
        ("exit >= 2", "Expected `object`, got `str`"),
    ],
)
def test_what_is_no_condition_is_refused(data: Any, problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.convert(data, Condition)
