import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from proteus_cli.domain.catalog import Family, Variant
from proteus_cli.domain.stages.cascade import margin, output_of

SCORES = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(2, 6)), elements=st.floats(-100, 100, width=32))


@given(SCORES)
def test_the_margin_is_what_the_best_score_leads_by(
    scores: "np.ndarray[tuple[int, int], np.dtype[np.float32]]",
) -> None:
    ranked = np.sort(scores, axis=1)
    assert margin(scores).tolist() == (ranked[:, -1] - ranked[:, -2]).tolist()


def test_scores_of_any_type_and_shape_have_a_margin() -> None:
    assert margin(np.array([[[1, 5], [2, 0]]])).tolist() == [3.0]
    assert margin(np.array([[0.25, 1.0, 0.5]], np.float16)).tolist() == [0.5]
    assert margin(np.array([[True, True]])).tolist() == [0.0]


@pytest.mark.parametrize(
    "scores",
    [np.ones((2, 1)), np.ones(2), np.ones((2, 0)), np.array([[1.0, np.nan, 3.0]] * 2), np.full((2, 2), np.inf)],
    ids=["one class", "a number", "no class", "not a number", "infinities"],
)
def test_without_two_scores_to_compare_there_is_no_margin(
    scores: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
) -> None:
    assert np.isnan(margin(scores)).tolist() == [True, True]


def test_a_family_names_the_output_that_tells_its_confidence() -> None:
    assert output_of(Family("shapes", "1s", (Variant("s", 0.5),)).confidence) is None
    assert output_of(Family("shapes", "1s", (Variant("s", 0.5),), confidence="output:sure").confidence) == "sure"
    with pytest.raises(ValueError, match="confidence of `shapes`: `entropy` is neither `margin`, nor `output:`"):
        Family("shapes", "1s", (Variant("s", 0.5),), confidence="entropy")
    with pytest.raises(ValueError, match="neither"):
        Family("shapes", "1s", (Variant("s", 0.5),), confidence="output:")
