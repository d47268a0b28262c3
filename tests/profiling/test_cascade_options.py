"""What a device carries with variants and cascades, and which of them are worth telling."""

import pytest
from builders import make_measured, make_profile
from msgspec.structs import replace

from proteus_cli.domain.catalog import Family, Variant
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.stages.cascade import CascadePoint, CascadeProfile
from proteus_cli.profiling.cascade_options import Option, frontier, options_of, substitute

FAMILY = Family("digits", "100ms", tuple(Variant(name, 0.9) for name in ("s", "m", "l")))
TENTH = CascadePoint(0.4, 0.1, 0.95, 0.94, 0.96, sure_accuracy=0.95, unsure_accuracy=0.5, second_accuracy=0.95)
HALF = CascadePoint(0.6, 0.5, 0.96, 0.95, 0.97, sure_accuracy=0.97, unsure_accuracy=0.8, second_accuracy=0.95)


def profile(*points: CascadePoint, slow_s: float = 0.04) -> Profile:
    """`s` carries 1,000 qps, `m` 100, and `l` 25; a cascade of `s` and `l`."""
    made = make_profile(
        "cpu0",
        make_measured("digits", "s", 0.90, {1: 0.001}),
        make_measured("digits", "m", 0.94, {1: 0.010}),
        make_measured("digits", "l", 0.961, {1: slow_s}),
        make_measured("signals", "x", 0.99, {1: 0.001}),
    )
    return replace(made, cascades=(CascadeProfile("digits", "s", "l", "e" * 64, points),)) if points else made


def test_a_cascade_takes_the_first_stage_of_all_queries_and_the_second_of_the_deferred() -> None:
    """1 ms of each query, and 40 ms of a tenth of them: 5 ms."""
    *alone, cascade = options_of(FAMILY, profile(TENTH))
    assert [option.first for option in alone] == ["s", "m", "l"]
    assert [option.qps for option in alone] == pytest.approx([1000, 100, 25])
    assert (cascade.second, cascade.point, cascade.accuracy) == ("l", TENTH, 0.95)
    assert cascade.qps == pytest.approx(200)
    assert cascade.variants == (("digits", "s"), ("digits", "l"))


def test_what_misses_the_slo_is_no_option_alone_or_as_a_stage() -> None:
    assert [option.first for option in options_of(FAMILY, profile(TENTH, slow_s=0.2))] == ["s", "m"]


def test_the_frontier_is_what_sharing_time_between_two_others_cannot_replace() -> None:
    """`m` takes 10 ms for .94, and a cascade 5 ms for .95."""
    found = frontier(options_of(FAMILY, profile(TENTH, HALF)))
    assert [(option.first, option.second, option.accuracy) for option in found] == [
        ("s", None, 0.90), ("s", "l", 0.95), ("s", "l", 0.96), ("l", None, 0.961),
    ]  # fmt: skip
    assert frontier([]) == []


def test_the_fastest_cascade_that_is_as_accurate_is_told() -> None:
    """.961 less .003 leaves .96, though not .95."""
    both = substitute(options_of(FAMILY, profile(TENTH, HALF)))
    assert both is not None
    assert (both[0].first, both[1].point) == ("l", HALF)


def test_else_the_most_accurate_one_is() -> None:
    both = substitute(options_of(FAMILY, profile(TENTH)))
    assert both is not None
    assert both[1].point == TENTH


def test_a_cascade_that_a_variant_alone_beats_is_not_told() -> None:
    """`m` alone is more accurate, and faster."""
    alone = [Option("digits", name, accuracy, qps) for name, accuracy, qps in (("m", 0.96, 300.0), ("l", 0.99, 25.0))]
    assert substitute([*alone, Option("digits", "s", 0.95, 200.0, "l", TENTH)]) is None


def test_a_cascade_that_is_as_accurate_but_slower_than_its_second_variant_alone_is_not_told() -> None:
    """.966 is .003 below .9677 at most, but the second variant alone is faster, too."""
    alone = [Option("digits", name, accuracy, qps) for name, accuracy, qps in (("s", 0.94, 2e6), ("l", 0.9677, 9e5))]
    assert substitute([*alone, Option("digits", "s", 0.9666, 8e5, "l", TENTH)]) is None
    both = substitute([*alone, Option("digits", "s", 0.9666, 1e6, "l", TENTH)])
    assert both is not None
    assert both[1].qps == 1e6


def test_there_is_nothing_to_tell_without_a_cascade_or_without_a_variant() -> None:
    assert substitute(options_of(FAMILY, profile())) is None
    assert substitute([Option("digits", "s", 0.95, 200.0, "l", TENTH)]) is None
