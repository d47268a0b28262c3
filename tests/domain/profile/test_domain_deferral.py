"""What cascades are worth where first stages defer more or less than was profiled."""

from itertools import pairwise

import msgspec
import pytest
from builders import make_measured, make_profile, near
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.profile.deferral import MeasuredDeferral, moved_cascade, with_measured
from proteus_cli.domain.stages.cascade import CascadePoint, CascadeProfile

THRESHOLDS = (0.1, 0.4, 0.6)
FRACTIONS = (0.1, 0.2, 0.5)
FIRST_ACCURACY, SECOND_ACCURACY = 0.8, 0.92


def point(threshold: float, deferred_frac: float, unsure: float, second: float) -> CascadePoint:
    """The first variant is right in `FIRST_ACCURACY` of all queries, and in ``unsure`` of those that are deferred."""
    sure = (FIRST_ACCURACY - deferred_frac * unsure) / (1 - deferred_frac)
    accuracy = (1 - deferred_frac) * sure + deferred_frac * second
    return CascadePoint(threshold, deferred_frac, accuracy, accuracy - 0.01, accuracy + 0.01, sure, unsure, second)


CASCADE = CascadeProfile(
    "a", "s", "l", "e" * 64, (point(0.1, 0.1, 0.3, 0.8), point(0.4, 0.2, 0.45, 0.82), point(0.6, 0.5, 0.65, 0.86))
)
PROFILE = msgspec.structs.replace(
    make_profile(
        "cpu0", make_measured("a", "s", FIRST_ACCURACY, {1: 0.01}), make_measured("a", "l", SECOND_ACCURACY, {1: 0.02})
    ),
    cascades=(CASCADE,),
)


def measured(*fractions: float) -> MeasuredDeferral:
    return MeasuredDeferral("a", "s", 3000, THRESHOLDS, fractions)


def moved(*fractions: float) -> CascadeProfile | None:
    return moved_cascade(CASCADE, measured(*fractions))


def test_where_as_much_is_deferred_as_was_profiled_nothing_changes() -> None:
    found = moved(*FRACTIONS)
    assert found is not None
    for before, after in zip(CASCADE.points, found.points, strict=True):
        assert msgspec.structs.astuple(after)[:8] == pytest.approx(msgspec.structs.astuple(before)[:8])


def test_thresholds_are_as_accurate_as_before_and_cost_what_was_measured() -> None:
    """So do their fallbacks, as far as that can be: of 15 % that are deferred, 5 points can be lost."""
    found = moved(0.15, 0.3, 0.6)
    assert found is not None
    assert [each.deferred_frac for each in found.points] == [0.15, 0.3, 0.6]
    for before, after in zip(CASCADE.points, found.points, strict=True):
        assert (after.threshold, after.rank) == (before.threshold, before.deferred_frac)
        assert (after.accuracy, after.low, after.high) == (before.accuracy, before.low, before.high)
        assert after.accuracy_with(0.0) == near(after.accuracy)
        assert after.accuracy_with(1.0) == near(FIRST_ACCURACY)


@given(st.lists(st.floats(0.001, 0.999), min_size=3, max_size=3))
def test_whatever_is_measured_points_rise_and_their_parts_add_up(fractions: list[float]) -> None:
    found = moved(*sorted(fractions))
    assert found is not None
    for each in found.points:
        assert each.accuracy_with(0.0) == near(each.accuracy)
        assert each.unsure_accuracy <= each.second_accuracy + 1e-9
        assert FIRST_ACCURACY - 1e-9 <= each.accuracy_with(1.0) <= each.accuracy
    assert all(a.accuracy < b.accuracy and a.deferred_frac < b.deferred_frac for a, b in pairwise(found.points))
    assert len(found.points) == len(set(fractions))


def test_a_threshold_that_was_not_measured_is_not_used() -> None:
    found = moved_cascade(CASCADE, MeasuredDeferral("a", "s", 9, (0.1, 0.6), (0.2, 0.4)))
    assert found is not None
    assert [each.threshold for each in found.points] == [0.1, 0.6]
    assert moved_cascade(CASCADE, MeasuredDeferral("a", "s", 9, (0.3,), (0.2,))) is None


def test_a_profile_has_what_was_measured_of_its_first_stages_and_keeps_the_rest() -> None:
    other = msgspec.structs.replace(CASCADE, family="b")
    profile = msgspec.structs.replace(PROFILE, cascades=(CASCADE, other))
    assert with_measured(profile, (measured(0.2, 0.3, 0.6),)).cascades == (moved(0.2, 0.3, 0.6), other)
    assert with_measured(profile, ()) == profile
    nothing = MeasuredDeferral("a", "s", 9, (), ())
    assert with_measured(profile, (nothing,)).cascades == (other,)


def test_what_was_profiled_stays_known_however_often_it_is_measured() -> None:
    once = moved(0.2, 0.3, 0.6)
    assert once is not None
    again = moved_cascade(once, measured(*FRACTIONS))
    assert again is not None
    assert [each.rank for each in again.points] == list(FRACTIONS)
    text = msgspec.json.encode(once)
    assert msgspec.json.decode(text, type=CascadeProfile) == once
    assert b"profiled_frac" in text
    assert b"profiled_frac" not in msgspec.json.encode(CASCADE)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows": 0}, "rows of"),
        ({"thresholds": (0.1,)}, "for each threshold"),
        ({"deferred_frac": (0.0, 0.2, 0.5)}, "above 0"),
        ({"deferred_frac": (0.3, 0.2, 0.5)}, "must rise"),
    ],
)
def test_a_measurement_that_contradicts_itself_does_not_exist(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        msgspec.structs.replace(measured(*FRACTIONS), **wrong)
