"""Cascades of a family: found where confidence says something, by what it says; else not, and it is said why."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from proteus_cli.domain.stages.cascade import MAX_POINTS
from proteus_cli.profiling.cascades import MIN_ROWS, FoundCascades, StageAnswers, cascades_of

POPULATION = 10_000


def drawn(seed: int, rows: int, *, informed: float = 1.0) -> list[StageAnswers]:
    """Three variants on rows that are easy or hard, `small` sure of the easy ones where it is ``informed``."""
    rng = np.random.default_rng(seed)
    hard = rng.random(rows)
    noise = rng.random(rows)
    stages = []
    for variant, qps, skill in (("small", 100.0, 0.80), ("medium", 30.0, 0.90), ("large", 10.0, 0.97)):
        correct = rng.random(rows) < np.clip(skill + 5 * (1 - skill) * (0.5 - hard), 0, 1)
        confidences = (informed * (1 - hard) + (1 - informed) * noise).astype(np.float32)
        stages.append(StageAnswers(variant, float(correct.mean()), qps, confidences, correct))
    return stages


def names(found: FoundCascades) -> list[tuple[str, str]]:
    return [(cascade.first, cascade.second) for cascade in found.cascades]


def test_every_pair_of_a_fast_and_an_accurate_variant_may_be_one() -> None:
    found = cascades_of("digits", "e", drawn(1, 4000))
    assert names(found) == [("small", "medium"), ("small", "large"), ("medium", "large")]
    assert found.why_not == ()
    for cascade in found.cascades:
        assert (cascade.family, cascade.eval_digest) == ("digits", "e")
        assert len(cascade.points) <= MAX_POINTS
        slopes = [
            (after.accuracy - before.accuracy) / (after.deferred_frac - before.deferred_frac)
            for before, after in pairwise(cascade.points)
        ]
        assert all(steep > flat > 0 for steep, flat in pairwise(slopes))


def test_the_order_of_variants_and_of_rows_says_nothing() -> None:
    stages = drawn(2, 2000)
    forwards, backwards = cascades_of("f", "e", stages), cascades_of("f", "e", stages[::-1])
    assert sorted(names(forwards)) == sorted(names(backwards))
    order = np.random.default_rng(0).permutation(2000)
    shuffled = [replace(each, confidences=each.confidences[order], correct=each.correct[order]) for each in stages]
    assert cascades_of("f", "e", shuffled) == forwards


def test_a_point_says_of_both_variants_what_their_accuracies_on_the_whole_split_say() -> None:
    """The first is right on some of the rows that are not deferred, and on some of those that are: on all together."""
    stages = {stage.variant: stage for stage in drawn(3, 2000)}
    found = cascades_of("f", "e", list(stages.values())).cascades
    assert found
    for cascade in found:
        for point in cascade.points:
            assert point.accuracy_with(1.0) == pytest.approx(stages[cascade.first].accuracy)


def test_what_is_less_accurate_and_slower_is_never_first() -> None:
    slow = [replace(stage, qps=1 / stage.qps) for stage in drawn(1, 2000)]
    found = cascades_of("f", "e", slow)
    assert found == FoundCascades((), ("no variant is both faster and less accurate than another",))


def test_a_confidence_that_says_nothing_makes_no_cascade_however_often_it_is_tried() -> None:
    """By chance alone, one family in twenty at most has one."""
    tried = [cascades_of("f", "e", drawn(seed, 600, informed=0.0)) for seed in range(30)]
    by_chance = [found for found in tried if found.cascades]
    assert len(by_chance) <= 3
    assert tried[0].why_not == ("no pair is better than chance, beyond noise",)


def test_what_is_promised_holds_for_queries_that_nobody_has_seen() -> None:
    """On average over many splits. Of points, those on the hull were luckier, by some tenths of a point."""
    errors, deferred_errors, covered = [], [], []
    for seed in range(20):
        for cascade in cascades_of("f", "e", drawn(seed, 800)).cascades:
            unseen = {stage.variant: stage for stage in drawn(10_000 + seed, POPULATION)}
            first, second = unseen[cascade.first], unseen[cascade.second]
            for point in cascade.points:
                deferred = first.confidences < point.threshold
                truth = float(np.where(deferred, second.correct, first.correct).mean())
                errors.append(point.accuracy - truth)
                deferred_errors.append(point.deferred_frac - float(deferred.mean()))
                covered.append(point.low <= truth <= point.high)
    assert len(errors) > 100
    assert abs(float(np.mean(errors))) < 0.005
    assert abs(float(np.mean(deferred_errors))) < 0.01
    assert float(np.mean(covered)) > 0.93


# --- why there is none


def test_too_few_rows_are_told() -> None:
    found = cascades_of("f", "e", drawn(1, MIN_ROWS - 1))
    assert found == FoundCascades((), (f"the eval split has {MIN_ROWS - 1} rows, and it takes {MIN_ROWS}",))


def test_a_lone_variant_is_told() -> None:
    assert cascades_of("f", "e", drawn(1, 1000)[:1]) == FoundCascades((), ("it takes two variants",))


@pytest.mark.parametrize("unknown", [1, 1000])
def test_a_confidence_that_is_not_a_number_is_told_and_the_others_go_on(unknown: int) -> None:
    """All rows: a model with a single score, which has no margin."""
    small, *others = drawn(1, 2000)
    confidences = small.confidences.copy()
    confidences[:unknown] = np.nan
    found = cascades_of("f", "e", [replace(small, confidences=confidences), *others])
    assert names(found) == [("medium", "large")]
    (why,) = found.why_not
    assert why.startswith("the confidence of small is not a number in ")


def test_a_confidence_that_is_always_the_same_is_told() -> None:
    stages = [replace(stage, confidences=np.ones(1000, np.float32)) for stage in drawn(1, 1000)]
    found = cascades_of("f", "e", stages)
    assert found.cascades == ()
    assert "the confidence of small is the same in all rows" in found.why_not


def test_ties_are_deferred_together_or_not_at_all() -> None:
    """Of two levels of confidence, only the higher one is a threshold."""
    stages = [replace(each, confidences=(each.confidences > 0.3).astype(np.float32)) for each in drawn(1, 2000)]
    thresholds = {point.threshold for cascade in cascades_of("f", "e", stages).cascades for point in cascade.points}
    assert thresholds == {1.0}


def test_variants_that_are_always_right_or_always_wrong_make_none_or_a_clear_one() -> None:
    small, _, large = drawn(1, 1000)
    wrong, right = np.zeros(1000, bool), np.ones(1000, bool)
    never = replace(small, accuracy=0.0, correct=wrong)
    assert cascades_of("f", "e", [never, replace(large, accuracy=1.0, correct=right)]).cascades == ()
    assert cascades_of("f", "e", [replace(small, accuracy=1.0, correct=right), large]).cascades == ()
