"""Whatever the rules ask, no hosting at all beats the plan."""

import pytest
from drawing import examples
from exhaustive import assert_best
from hypothesis import given
from hypothesis import strategies as st
from once_wrong import ONCE_WRONG
from tiny_fleets import Tiny
from tiny_rules import PARTS, SHARED, crowded, interfering, interfering_as_sets, ruled, ruled_by_several, ruled_cascades

from proteus_cli.planning.solver import solve


@pytest.mark.parametrize("part", PARTS)
@given(st.data())
@examples(15, fuzzed=40)
def test_no_hosting_beats_the_plan_where_the_rules_ask_for(part: str, data: st.DataObject) -> None:
    assert_best(data.draw(ruled(part)))


@pytest.mark.parametrize("part", SHARED)
@given(st.data())
@examples(8, fuzzed=15)
def test_no_hosting_beats_the_plan_where_devices_are_shared_and_the_rules_ask_for(
    part: str, data: st.DataObject
) -> None:
    assert_best(data.draw(crowded(part)))


@pytest.mark.parametrize("part", ["the lowest cost", "the fewest loads", "shares", "pins"])
@given(st.data())
@examples(4, fuzzed=40)
def test_no_hosting_beats_the_plan_where_variants_cost_each_other_time_and_the_rules_ask_for(
    part: str, data: st.DataObject
) -> None:
    assert_best(data.draw(interfering(part)))


@pytest.mark.parametrize("part", ["the lowest cost", "shares", "pins"])
@given(st.data())
@examples(4, fuzzed=40)
def test_no_hosting_beats_the_plan_where_only_three_variants_cost_each_other_time(
    part: str, data: st.DataObject
) -> None:
    assert_best(data.draw(interfering_as_sets(part)))


@given(st.data())
@examples(4, fuzzed=40)
def test_nor_where_the_sets_that_matter_are_tried_first(data: st.DataObject) -> None:
    """As where there are many sets."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(solve, "MANY_SETS", 0)
        patched.setattr(solve, "MANY_GAP", 0.0)
        assert_best(data.draw(interfering("shares")))


@given(ruled_by_several())
@examples(60, fuzzed=150)
def test_no_hosting_beats_the_plan_where_several_are_asked_for(tiny: Tiny) -> None:
    assert_best(tiny)


@given(st.data())
@examples(40, fuzzed=300)
def test_no_hosting_beats_the_plan_where_families_prefer_and_bound_something(data: st.DataObject) -> None:
    other = data.draw(st.sampled_from([part for part in PARTS if part not in {"preferences", "bounds of answers"}]))
    assert_best(data.draw(ruled("preferences", "bounds of answers", other)))


@given(ruled_cascades("preferences"))
@examples(25, fuzzed=150)
def test_no_cascade_beats_the_plan_where_families_prefer_something(tiny: Tiny) -> None:
    assert_best(tiny)


@given(ruled_cascades())
@examples(25, fuzzed=150)
def test_no_hosting_and_no_cascade_beats_the_plan(tiny: Tiny) -> None:
    assert_best(tiny)


@given(ruled_cascades("expected accuracies"))
@examples(25, fuzzed=150)
def test_no_cascade_that_is_accurate_enough_beats_the_plan(tiny: Tiny) -> None:
    assert_best(tiny)


@pytest.mark.parametrize("name", ONCE_WRONG)
def test_a_plan_that_was_wrong_once_is_right(name: str) -> None:
    assert_best(ONCE_WRONG[name])
