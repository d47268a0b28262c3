"""What profiles tell of sure answers: how often two variants give different classes there, from which are right."""

import numpy as np
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.stages.cascade import SureRows
from proteus_cli.profiling.cascades.judging import judged

ROW = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.sampled_from([0.1, 0.4, 0.6, 0.9]))
"""Label, classes of both variants, and the confidence of the first."""


def sure_rows(rows: list[tuple[int, int, int, float]]) -> SureRows | None:
    labels, first, second, confidences = (np.array(values) for values in zip(*rows, strict=True))
    found = judged(0.5, confidences.astype(np.float32), first == labels, second == labels)
    return None if found is None or not isinstance(found.point.sure_rows, SureRows) else found.point.sure_rows


@given(st.lists(ROW, min_size=2, max_size=40))
@examples(200, fuzzed=2000)
def test_the_classes_differ_as_often_as_the_bounds_say(rows: list[tuple[int, int, int, float]]) -> None:
    sure = [row for row in rows if row[3] >= 0.5]
    found = sure_rows(rows)
    if not 0 < len(sure) < len(rows):
        assert found is None
        return
    assert found is not None
    differ = sum(first != second for _, first, second, _ in sure)
    assert found.rows == len(sure)
    assert found.one_right <= differ <= found.one_right + found.none_right
    least, most = found.disagreement()
    assert 0 <= least <= differ / len(sure) <= most <= 1


@given(st.lists(ROW, min_size=2, max_size=40))
@examples(100, fuzzed=1000)
def test_of_two_classes_wrong_answers_are_alike(rows: list[tuple[int, int, int, float]]) -> None:
    two = [(label % 2, first % 2, second % 2, confidence) for label, first, second, confidence in rows]
    found = sure_rows(two)
    assert found is None or found.one_right == sum(first != second for _, first, second, c in two if c >= 0.5)


def test_more_rows_leave_less_room() -> None:
    few, many = SureRows(100, 2, 1).disagreement(), SureRows(10_000, 200, 100).disagreement()
    assert few[0] < many[0] < 0.02
    assert 0.03 < many[1] < few[1]
