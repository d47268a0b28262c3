"""What a guard makes of what is seen of both versions."""

import numpy as np
import pytest
from short_forms import parse_guard

from proteus_cli.control.rollouts.guard import Arm, Guard
from proteus_cli.domain.rollouts import RolloutSpecification, StepCounts, Verdict

SLO_S = 0.1


def guard(text: str, share: float = 0.5) -> Guard:
    made = Guard(RolloutSpecification("a", "m", "m@2", guard=parse_guard(text)), SLO_S)
    made.begin_step(share)
    return made


def decided(text: str, losses: tuple[float, float], seed: int, queries: int = 10_000) -> tuple[Verdict, int]:
    """By labels of shadowed queries, of which so many only the old version, and only the new one, answers wrongly.

    The verdict, and after how many queries.
    """
    tested, old_only = guard(text), losses[0]
    for place, chance in enumerate(np.random.default_rng(seed).random(queries).tolist(), 1):
        tested.labelled_shadow(float(chance >= old_only), float(not old_only <= chance < sum(losses)))
        if tested.verdict is not Verdict.HOLD:
            return tested.verdict, place
    return tested.verdict, queries


def test_a_version_that_is_much_worse_fails_soon_and_a_better_one_passes_soon() -> None:
    worse = [decided("accuracy >= old - 0.005", (0.02, 0.1), seed) for seed in range(20)]
    better = [decided("accuracy >= old - 0.005", (0.04, 0.01), seed) for seed in range(20)]
    assert {verdict for verdict, _ in worse} == {Verdict.FAIL}
    assert {verdict for verdict, _ in better} == {Verdict.PASS}
    assert max(queries for _, queries in worse + better) < 1_000


def test_at_the_bound_of_a_term_it_seldom_fails_however_often_one_looks() -> None:
    """It passes as a rule: it is not notably worse."""
    found = [decided("accuracy >= old - 0.005", (0.01, 0.015), seed)[0] for seed in range(40)]
    assert found.count(Verdict.FAIL) <= 4
    assert found.count(Verdict.PASS) >= 36


def test_a_version_that_is_notably_worse_seldom_passes() -> None:
    found = [decided("accuracy >= old - 0.005", (0.01, 0.03), seed)[0] for seed in range(40)]
    assert found.count(Verdict.PASS) <= 4
    assert found.count(Verdict.FAIL) >= 36


OLD_ACCURACY = 0.92


def disagreeing(text: str, differ: float, seed: int, queries: int = 3_000) -> tuple[Verdict, int]:
    """By shadowed queries without labels, of which both versions answer a part differently."""
    tested = Guard(RolloutSpecification("a", "m", "m@2", guard=parse_guard(text)), SLO_S, OLD_ACCURACY)
    tested.begin_step(0.0)
    for place, chance in enumerate(np.random.default_rng(seed).random(queries).tolist(), 1):
        tested.shadowed(float(chance >= differ))
        if tested.verdict is not Verdict.HOLD:
            return tested.verdict, place
    return tested.verdict, queries


@pytest.mark.parametrize("text", ["accuracy >= old - 0.005", "accuracy >= 0.9"])
def test_without_labels_a_version_that_is_plainly_wrong_fails_by_what_it_disagrees_on(text: str) -> None:
    found = [disagreeing(text, 0.6, seed) for seed in range(20)]
    assert {verdict for verdict, _ in found} == {Verdict.FAIL}
    assert max(queries for _, queries in found) < 100


def test_without_labels_a_version_that_may_be_right_where_it_disagrees_does_not_fail() -> None:
    """Of all queries the old version errs on 8 %: the new one may be right there, and wrong on half a point more."""
    found = [disagreeing("accuracy >= old - 0.005", 2 * (1 - OLD_ACCURACY) + 0.005, seed)[0] for seed in range(40)]
    assert set(found) == {Verdict.HOLD}
    unknown = Guard(RolloutSpecification("a", "m", "m@2", guard=parse_guard("accuracy >= old - 0.005")), SLO_S)
    for _ in range(1_000):
        unknown.shadowed(0.0)
    assert unknown.verdict is Verdict.HOLD  # the old one may err on anything


def test_what_a_term_fails_by_is_told_without_labels_too() -> None:
    tested = Guard(
        RolloutSpecification("a", "m", "m@2", guard=parse_guard("accuracy >= old - 0.005")), SLO_S, OLD_ACCURACY
    )
    for _ in range(100):
        tested.shadowed(0.0)
    assert tested.reason == (
        "accuracy >= old - 0.005 (no labels; both versions answer 100.0 % of 100 queries differently)"
    )
    assert tested.status()[0].against == 1.0


def test_arms_tell_of_labels_as_well() -> None:
    """At a share of a half: of 100 queries of either version, one answers 95 rightly and the other one 80."""
    tested = guard("accuracy >= old - 0.005")
    for place in range(1_000):
        tested.labelled(Arm.OLD, float(place % 20 != 0))
        tested.labelled(Arm.NEW, float(place % 5 != 0))
    assert tested.verdict is Verdict.FAIL


def test_labels_of_shadowed_queries_tell_more_than_those_of_arms() -> None:
    """Versions that mostly err on the same queries: a hundredth of them tells both apart."""
    tested = guard("accuracy >= old - 0.005")
    for place in range(800):
        is_wrong_in_both = place % 10 == 0
        tested.labelled_shadow(float(not is_wrong_in_both), float(not is_wrong_in_both and place % 20 != 1))
    assert tested.verdict is Verdict.FAIL


def test_without_labels_few_disagreements_are_enough_to_pass_and_many_are_no_failure() -> None:
    alike, unlike = guard("accuracy >= old - 0.005"), guard("accuracy >= old - 0.005")
    for place in range(2_000):
        alike.shadowed(float(place % 500 != 0))
        unlike.shadowed(float(place % 10 != 0))
    assert (alike.verdict, unlike.verdict) == (Verdict.PASS, Verdict.HOLD)


def test_an_accuracy_lacks_labels_until_one_has_come() -> None:
    of_any, of_arm, of_both = (guard("accuracy >= old - 0.005 and p99 <= slo") for _ in range(3))
    assert of_any.lacking_labels == "accuracy >= old - 0.005 (nothing is known of it)"
    of_any.label_came()
    of_arm.labelled(Arm.OLD, 1.0)
    of_both.labelled_shadow(1.0, 1.0)
    assert [each.lacking_labels for each in (of_any, of_arm, of_both)] == [""] * 3


def test_agreement_is_bounded_on_what_is_shadowed() -> None:
    good, bad = guard("agreement >= 90%"), guard("agreement >= 90%")
    for place in range(2_000):
        good.shadowed(float(place % 25 != 0))
        bad.shadowed(None if place % 5 == 0 else 1.0)
    assert (good.verdict, bad.verdict) == (Verdict.PASS, Verdict.FAIL)


def test_late_answers_and_those_that_never_came_count_against_a_quantile() -> None:
    for text, latency_s in (("p99 <= slo", SLO_S + 1e-9), ("p99 <= 30ms", 0.031), ("p99 <= 30ms", None)):
        good, bad = guard(text), guard(text)
        for place in range(1_000):
            good.answered(Arm.NEW, 0.03)
            bad.answered(Arm.NEW, latency_s if place % 20 == 0 else 0.03)
            bad.answered(Arm.OLD, None)
        assert (good.verdict, bad.verdict) == (Verdict.PASS, Verdict.FAIL)


def test_errors_are_those_of_the_new_version_alone_or_beside_the_old_one() -> None:
    alone, beside = guard("errors <= 1%"), guard("errors <= old + 1%")
    for place in range(2_000):
        for tested in (alone, beside):
            tested.answered(Arm.NEW, None if place % 25 == 0 else 0.01, is_failed=place % 25 == 0)
            tested.answered(Arm.OLD, None, is_failed=place % 25 == 1)
    assert (alone.verdict, beside.verdict) == (Verdict.FAIL, Verdict.PASS)


def test_where_there_are_to_be_no_errors_the_first_is_one_too_many() -> None:
    tested = guard("errors <= 0")
    for _ in range(1_000):
        tested.answered(Arm.NEW, 0.01)
    before = tested.verdict
    tested.shadowed(None)
    assert (before, tested.verdict) == (Verdict.PASS, Verdict.FAIL)
    assert tested.reason == "errors <= 0 (0.1 %, 1,001 queries)"


def test_a_failure_is_final() -> None:
    tested = guard("p99 <= slo")
    for _ in range(20):
        tested.answered(Arm.NEW, None)
    for _ in range(5_000):
        tested.answered(Arm.NEW, 0.01)
    assert tested.verdict is Verdict.FAIL


def test_latency_is_to_pass_anew_in_each_step_and_accuracy_is_not() -> None:
    tested = guard("accuracy >= old - 0.1 and p99 <= slo", share=0.5)
    for _ in range(600):
        for arm in Arm:
            tested.answered(arm, 0.01)
            tested.labelled(arm, 1.0)
    before = tested.verdict
    assert tested.counts == StepCounts(canary=600, labelled=600)
    tested.begin_step(0.6)
    assert (before, tested.verdict) == (Verdict.PASS, Verdict.HOLD)
    assert tested.counts == StepCounts()
    assert [term.verdict for term in tested.status()] == [Verdict.PASS, Verdict.HOLD]


def test_a_latency_that_is_only_bad_at_a_larger_share_is_found() -> None:
    tested = guard("p99 <= slo", share=0.1)
    for _ in range(5_000):
        tested.answered(Arm.NEW, 0.01)
    tested.begin_step(0.5)
    late = 0
    while tested.verdict is not Verdict.FAIL:
        late += 1
        tested.answered(Arm.NEW, None)
        for _ in range(9):
            tested.answered(Arm.NEW, 0.01)
    assert late < 20


def test_a_status_says_what_was_seen() -> None:
    tested = guard("accuracy >= old - 0.005 and p99 <= slo")
    tested.labelled(Arm.NEW, 0.5)
    tested.labelled(Arm.OLD, 1.0)
    tested.answered(Arm.NEW, None)
    accuracy, latency = tested.status()
    assert (accuracy.new, accuracy.old, accuracy.observations) == (0.5, 1.0, 1)
    assert (latency.new, latency.old, latency.observations) == (1.0, None, 1)
    assert tested.reason == (
        "accuracy >= old - 0.005 (50.0 %, old 100.0 %, 1 query); p99 <= slo (100.0 % late, 1 query)"
    )
    assert guard("p99 <= slo").reason == "p99 <= slo (nothing is known of it)"


def test_the_error_of_a_guard_is_divided_among_its_terms() -> None:
    """The more terms there are, the more late answers it takes until one fails."""
    late = []
    for text in ("p99 <= slo", "p99 <= slo and p50 <= slo and accuracy >= old and errors <= 0.01"):
        tested = guard(text)
        late.append(0)
        while tested.verdict is not Verdict.FAIL:
            late[-1] += 1
            tested.answered(Arm.NEW, None)
    assert late[0] < late[1] < 2 * late[0]


def test_where_no_version_could_be_notably_worse_one_query_is_enough() -> None:
    for text in ("agreement >= 1%", "accuracy >= 0.01"):
        tested = guard(text)
        tested.shadowed(0.0)
        tested.labelled(Arm.NEW, 0.0)
        assert tested.verdict is Verdict.PASS
