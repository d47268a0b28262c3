"""What profiles tell of sure answers: how often two variants give different classes there."""

import numpy as np
import pytest
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.stages.cascade import SureRows
from proteus_cli.profiling.cascades.judging import judged
from proteus_cli.profiling.cascades.pairs import StageAnswers, cascades_of

ROW = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.sampled_from([0.1, 0.4, 0.6, 0.9]))
"""Label, classes of both variants, and the confidence of the first."""


@given(st.lists(ROW, min_size=2, max_size=40))
@examples(100, fuzzed=2000)
def test_the_classes_that_differ_are_counted_on_the_sure_rows(rows: list[tuple[int, int, int, float]]) -> None:
    labels, first, second, confidences = (np.array(values) for values in zip(*rows, strict=True))
    found = judged(0.5, confidences.astype(np.float32), first == labels, second == labels, first != second)
    sure = [row for row in rows if row[3] >= 0.5]
    if not 0 < len(sure) < len(rows):
        assert found is None
        return
    differ = sum(first != second for _, first, second, _ in sure)
    assert found is not None
    assert found.point.sure_rows == SureRows(len(sure), differ)
    least, most = SureRows(len(sure), differ).disagreement()
    assert 0 <= least <= differ / len(sure) <= most <= 1


def stages(*, known: bool) -> list[StageAnswers]:
    """Two variants on 2,000 rows of 10 classes; the first is sure of the easy ones, and right there."""
    rng = np.random.default_rng(1)
    hard, labels = rng.random(2000), rng.integers(0, 10, 2000)
    found = []
    for variant, qps, least in (("small", 100.0, 0.7), ("large", 10.0, 0.97)):
        classes = np.where(rng.random(2000) < np.where(hard < 0.6, 0.99, least), labels, (labels + 1) % 10)
        right = classes == labels
        confidences = (1 - hard).astype(np.float32)
        found.append(StageAnswers(variant, float(right.mean()), qps, confidences, right, classes if known else None))
    return found


def test_the_surer_the_first_variant_the_more_they_agree() -> None:
    """Wherever the classes of both are known."""
    (cascade,) = cascades_of("f", "e", stages(known=True)).cascades
    first, second = stages(known=True)
    assert first.classes is not None
    parts = []
    for point in cascade.points:
        sure = first.confidences >= point.threshold
        assert isinstance(point.sure_rows, SureRows)
        assert point.sure_rows.differ == int((first.classes != second.classes)[sure].sum())
        parts.append(point.sure_rows.differ / point.sure_rows.rows)
    assert len(parts) > 2
    assert parts == sorted(parts, reverse=True)
    (unknown,) = cascades_of("f", "e", stages(known=False)).cascades
    assert not any(isinstance(point.sure_rows, SureRows) for point in unknown.points)


def test_more_rows_leave_less_room() -> None:
    few, many = SureRows(100, 3).disagreement(), SureRows(10_000, 300).disagreement()
    assert few[0] < many[0] < 0.03 < many[1] < few[1]


@pytest.mark.parametrize(("rows", "differ"), [(0, 0), (10, 11), (10, -1)])
def test_counts_that_cannot_be_are_refused(rows: int, differ: int) -> None:
    with pytest.raises(ValueError, match="sure rows must be at least 1"):
        SureRows(rows, differ)
