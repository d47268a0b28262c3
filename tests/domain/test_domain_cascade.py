import msgspec
import pytest
from builders import make_measured, make_profile

from proteus_cli.domain.cascade import MAX_POINTS, CascadePoint, CascadeProfile
from proteus_cli.domain.profile import Profile

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
        ({"threshold": float("nan")}, "finite"),
        ({"deferred_frac": 0.0}, "above 0"),
        ({"deferred_frac": 1.0}, "below 1"),
        ({"unsure_accuracy": 1.1}, "fractions"),
        ({"low": 0.95}, "within its interval"),
        ({"high": 1.01}, "within its interval"),
        ({"second_accuracy": 0.91}, "must be"),
    ],
)
def test_a_point_that_contradicts_itself_does_not_exist(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        msgspec.structs.replace(A_FIFTH, **wrong)


def test_the_points_of_a_cascade_rise_and_are_few() -> None:
    with pytest.raises(ValueError, match="must rise"):
        msgspec.structs.replace(CASCADE, points=(A_THIRD, A_FIFTH))
    with pytest.raises(ValueError, match=f"1 to {MAX_POINTS} points"):
        msgspec.structs.replace(CASCADE, points=())
    with pytest.raises(ValueError, match="both variants"):
        msgspec.structs.replace(CASCADE, second="s")


def test_a_profile_keeps_its_cascades_and_says_nothing_of_none() -> None:
    plain = make_profile("cpu0", make_measured("digits", "s", 0.9, {1: 0.01}))
    with_one = msgspec.structs.replace(plain, cascades=(CASCADE,))
    assert msgspec.json.decode(msgspec.json.encode(with_one), type=Profile) == with_one
    assert b"cascades" not in msgspec.json.encode(plain)
    with pytest.raises(ValueError, match="cascade is listed twice"):
        msgspec.structs.replace(plain, cascades=(CASCADE, CASCADE))
