"""The classes of answers: that of the highest score, and none where there is no such score."""

import numpy as np
import pytest

from proteus_cli.backends.base import OutputArrays
from proteus_cli.serving.requests.answers.answer_log import class_of, classes_of


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ((np.array([[1, 3, 2], [9, 0, 0]], np.int64),), 1),
        ((np.array([[0.5, -np.inf]], np.float32),), 0),
        ((np.array([[0.5, np.nan]], np.float32),), None),
        ((np.zeros((1, 1), np.float32),), None),
        ((np.zeros((1, 2, 2), np.float32),), None),
        ((np.zeros(1, np.float32),), None),
        ((np.array([["a", "b"]]),), None),
    ],
    ids=str,
)
def test_the_class_of_an_answer_is_that_of_its_first_row(outputs: OutputArrays, expected: int | None) -> None:
    assert class_of(outputs) == expected


def test_each_row_has_a_class_but_those_with_a_score_that_is_no_number() -> None:
    scores = np.array([[0.1, 0.9], [np.nan, 1.0], [2.0, 1.0]], np.float32)
    assert classes_of((scores,)) == (1, None, 0)
    assert classes_of((scores.reshape(3, 2, 1),)) == ()
