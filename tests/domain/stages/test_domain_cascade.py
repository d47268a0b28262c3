import math

import msgspec
import numpy as np
import pytest
from builders import make_measured, make_profile

from proteus_cli.domain.base import checked
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.stages.cascade import CascadePoint, CascadeProfile, accuracy_by_level

A_FIFTH = CascadePoint(0.4, 0.2, 0.94, 0.92, 0.96, sure_accuracy=0.95, unsure_accuracy=0.5, second_accuracy=0.9)
A_THIRD = CascadePoint(0.6, 0.3, 0.96, 0.94, 0.98, sure_accuracy=0.96, unsure_accuracy=0.6, second_accuracy=0.96)
CASCADE = CascadeProfile("digits", "s", "l", "e" * 64, (A_FIFTH, A_THIRD))


def test_a_fallback_is_worth_what_the_first_variant_is_on_the_deferred_queries() -> None:
    """A fifth is deferred: with the second variant .8 · .95 + .2 · .9, with the first .8 · .95 + .2 · .5."""
    assert A_FIFTH.accuracy_with(0.0) == pytest.approx(0.94)
    assert A_FIFTH.accuracy_with(1.0) == pytest.approx(0.86)
    assert A_FIFTH.accuracy_with(0.5) == pytest.approx(0.90)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"unsure_accuracy": 1.1}, "unsure_accuracy"),
        ({"low": 0.95}, "within its interval"),
        ({"high": 1.01}, "high"),
        ({"second_accuracy": 0.91}, "must be"),
    ],
)
def test_a_point_that_contradicts_itself_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked(msgspec.structs.replace(A_FIFTH, **wrong))


@pytest.mark.parametrize(
    "wrong",
    [{"threshold": math.nan}, {"threshold": math.inf}, {"deferred_frac": 0.0}, {"deferred_frac": 1.0}],
    ids=str,
)
def test_a_field_of_a_point_out_of_range_is_named(wrong: dict[str, float]) -> None:
    """The document is changed, as a point with such a field may also contradict itself."""
    document = msgspec.to_builtins(A_FIFTH) | wrong
    with pytest.raises(msgspec.ValidationError, match=rf"at `\$\.{next(iter(wrong))}`"):
        msgspec.convert(document, CascadePoint)


def test_the_points_of_a_cascade_rise_and_are_few() -> None:
    with pytest.raises(ValueError, match="must rise"):
        msgspec.structs.replace(CASCADE, points=(A_THIRD, A_FIFTH))
    with pytest.raises(ValueError, match="points"):
        checked(msgspec.structs.replace(CASCADE, points=()))
    with pytest.raises(ValueError, match="both variants"):
        msgspec.structs.replace(CASCADE, second="s")


def test_a_profile_keeps_its_cascades_and_says_nothing_of_none() -> None:
    plain = make_profile("cpu0", make_measured("digits", "s", 0.9, {1: 0.01}))
    with_one = msgspec.structs.replace(plain, cascades=(CASCADE,))
    assert msgspec.json.decode(msgspec.json.encode(with_one), type=Profile) == with_one
    assert b"cascades" not in msgspec.json.encode(plain)
    with pytest.raises(ValueError, match="cascade is listed twice"):
        msgspec.structs.replace(plain, cascades=(CASCADE, CASCADE))


def test_by_level_the_accuracies_add_up_to_those_of_each_point() -> None:
    """Whatever is deferred: levels, weighted by how many queries have them, are worth what the points say."""
    points = (
        CascadePoint(0.1, 0.1, 0.85, 0.84, 0.86, 0.77 / 0.9, 0.3, 0.8),
        CascadePoint(0.4, 0.2, 0.874, 0.87, 0.88, 0.71 / 0.8, 0.45, 0.82),
        CascadePoint(0.6, 0.5, 0.905, 0.9, 0.91, 0.475 / 0.5, 0.65, 0.86),
    )
    first, second = accuracy_by_level(points, (0.1, 0.4, 0.6))
    rows = np.array([0.1, 0.1, 0.3, 0.5])
    for place, point in enumerate(points):
        deferred = np.arange(4) <= place
        answered = np.where(deferred, second, first)
        assert float(rows @ answered) == pytest.approx(point.accuracy)
        assert float(np.average(np.array(first)[deferred], weights=rows[deferred])) == pytest.approx(
            point.unsure_accuracy
        )
    # Thresholds of other pairs are within the same bands.
    finer, _ = accuracy_by_level(points, (0.05, 0.1, 0.4, 0.5, 0.6, 0.7))
    assert finer == (first[0], first[0], first[1], first[2], first[2], first[3], first[3])
    assert accuracy_by_level(points[:1], (0.1,)) == ((0.3, 0.77 / 0.9), (0.8, 0.8))
