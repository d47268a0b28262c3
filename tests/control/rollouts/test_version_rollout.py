"""Which share of the queries the new version has, step by step, and how a version roll-out ends."""

from typing import Any

import pytest
from drawing import examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from short_forms import parse_guard

from proteus_cli.control.rollouts.guard import Arm
from proteus_cli.control.rollouts.version_rollout import (
    LONGEST_SHADOW_S,
    MAX_SHADOWED,
    MAX_UNLABELLED,
    MIN_QUERIES,
    VersionRollout,
    WantedStep,
)
from proteus_cli.domain.rollouts import Ending, RolloutSpecification, RolloutStage, Verdict
from proteus_cli.errors import Conflict

CAN_FOLLOW = {
    RolloutStage.MEASURING: {RolloutStage.SHADOW, RolloutStage.CANARY},
    RolloutStage.SHADOW: {RolloutStage.CANARY},
    RolloutStage.CANARY: {RolloutStage.CANARY, RolloutStage.PROMOTING},
    RolloutStage.PROMOTING: {RolloutStage.FULL},
    RolloutStage.FULL: set[RolloutStage](),
    RolloutStage.ENDED: set[RolloutStage](),
}


def rollout(**fields: Any) -> VersionRollout:
    """At two canary steps, with errors alone as its guard: what it takes to pass is quickly seen."""
    chosen: dict[str, Any] = {"canary_fracs": (0.1, 0.5), "guard": "errors <= 1%", "rollback_window_s": 60.0} | fields
    chosen["guard"] = parse_guard(chosen["guard"])
    return VersionRollout(RolloutSpecification("a", "m", "m@2", **chosen), slo_s=0.1, now_s=0.0)


def answers(of: VersionRollout, number: int, *, is_failed: bool = False) -> None:
    for _ in range(number):
        of.guard.answered(Arm.NEW, None if is_failed else 0.01, is_failed=is_failed)


def place(wanted: WantedStep) -> tuple[RolloutStage, float]:
    return wanted.stage, wanted.share


def test_with_auto_it_goes_to_the_end_by_itself_as_long_as_the_guard_passes() -> None:
    one = rollout(is_auto=True, shadow_frac=0.05)
    assert place(one.wanted) == (RolloutStage.MEASURING, 0.0)
    assert (place(one.ready(1.0)), one.wanted.shadow_share) == ((RolloutStage.SHADOW, 0.0), 0.05)
    for _ in range(MIN_QUERIES):
        one.guard.shadowed(1.0)
    assert (place(one.decide(2.0)), one.wanted.shadow_share) == ((RolloutStage.CANARY, 0.1), 0.05)
    assert place(one.decide(3.0)) == (RolloutStage.CANARY, 0.1)
    answers(one, 500)
    assert place(one.decide(4.0)) == (RolloutStage.CANARY, 0.5)
    assert place(one.decide(4.5)) == (RolloutStage.CANARY, 0.5), "errors are tested anew"
    answers(one, 500)
    assert place(one.decide(5.0)) == (RolloutStage.PROMOTING, 0.5)
    assert place(one.promoted(6.0)) == (RolloutStage.FULL, 1.0)
    assert place(one.decide(65.9)) == (RolloutStage.FULL, 1.0)
    assert one.decide(66.0) == WantedStep(RolloutStage.ENDED, share=1.0, ending=Ending.DONE)
    assert place(one.wanted) == (RolloutStage.ENDED, 1.0)


def test_without_auto_each_step_waits_for_a_person() -> None:
    one = rollout()
    one.ready(1.0)
    answers(one, 500)
    assert (one.decide(2.0).waits_for_promote, one.wanted.share) == (True, 0.1)
    assert place(one.promote(3.0)) == (RolloutStage.CANARY, 0.5)
    assert not one.wanted.waits_for_promote
    assert place(one.promote(4.0)) == (RolloutStage.PROMOTING, 0.5)  # before the guard has passed, too


def test_a_person_may_leave_out_steps() -> None:
    one = rollout(shadow_frac=0.05)
    one.ready(1.0)
    assert place(one.promote(2.0, fully=True)) == (RolloutStage.PROMOTING, 0.5)


@pytest.mark.parametrize("is_auto", [False, True])
def test_it_is_rolled_back_by_itself_once_the_guard_fails(*, is_auto: bool) -> None:
    one = rollout(is_auto=is_auto)
    one.ready(1.0)
    answers(one, 50, is_failed=True)
    assert place(one.decide(2.0)) == (RolloutStage.ENDED, 0.0)
    assert one.wanted.ending is Ending.ROLLED_BACK
    assert one.wanted.reason == "the guard fails: errors <= 0.01 (100.0 %, 50 queries)"


def test_while_it_is_promoted_the_guard_and_a_person_bring_the_old_version_back() -> None:
    by_guard, by_person = rollout(), rollout()
    for one in (by_guard, by_person):
        one.ready(1.0)
        one.promote(2.0, fully=True)
        assert place(one.decide(3.0)) == (RolloutStage.PROMOTING, 0.5)
    answers(by_guard, 50, is_failed=True)
    by_guard.decide(4.0)
    by_person.abort(4.0, "on request")
    assert [one.wanted.ending for one in (by_guard, by_person)] == [Ending.ROLLED_BACK, Ending.ABORTED]
    for one in (by_guard, by_person):
        with pytest.raises(Conflict):
            one.promoted(5.0)


def test_in_the_rollback_window_the_guard_and_a_person_bring_the_old_version_back() -> None:
    by_guard, by_person = rollout(), rollout()
    for one in (by_guard, by_person):
        one.ready(1.0)
        one.promote(2.0, fully=True)
        one.promoted(3.0)
    answers(by_guard, 50, is_failed=True)
    by_guard.decide(4.0)
    by_person.abort(4.0, "on request")
    assert [one.wanted.ending for one in (by_guard, by_person)] == [Ending.ROLLED_BACK, Ending.ABORTED]
    assert {one.wanted.share for one in (by_guard, by_person)} == {0.0}


def test_a_step_that_stays_undecided_ends_an_automatic_roll_out_alone() -> None:
    for is_auto in (False, True):
        one = rollout(is_auto=is_auto, guard="accuracy >= old", most_queries=300)
        one.ready(1.0)
        answers(one, 300)
        one.decide(2.0)
        reason = "undecided after 300 queries: accuracy >= old (nothing is known of it)" if is_auto else ""
        assert one.wanted.reason == reason
        assert one.wanted.ending is (Ending.ROLLED_BACK if is_auto else None)


def test_a_shadow_goes_on_after_a_number_of_queries_or_a_time_where_the_guard_cannot_tell() -> None:
    by_number, by_time = (rollout(is_auto=True, shadow_frac=0.05, guard="accuracy >= old - 0.005") for _ in range(2))
    for one in (by_number, by_time):
        one.ready(1.0)
    for number in range(MAX_SHADOWED):
        assert by_number.decide(2.0).stage is RolloutStage.SHADOW
        by_number.guard.shadowed(float(number % 10 != 0))
    by_number.guard.label_came()  # and others will
    assert by_number.decide(2.0).stage is RolloutStage.CANARY
    undecided = "the shadow is undecided after 2,000 queries: accuracy >= old - 0.005"
    differ = "(no labels; both versions answer 10.0 % of 2,000 queries differently)"
    assert by_number.status(2.0).note == by_number.decide(3.0).note == f"{undecided} {differ}"
    assert by_time.decide(1.0 + LONGEST_SHADOW_S - 0.1).stage is RolloutStage.SHADOW
    assert by_time.decide(1.0 + LONGEST_SHADOW_S).stage is RolloutStage.CANARY
    nothing = "the shadow is undecided after 0 queries: accuracy >= old - 0.005 (nothing is known of it)"
    assert by_time.status(5_000.0).note == nothing


def unlabelled(**fields: Any) -> VersionRollout:
    """Both versions answer a tenth of the shadowed queries differently, of which the old one errs on as many."""
    one = rollout(shadow_frac=0.05, guard="accuracy >= old - 0.005", **fields)
    one.ready(1.0)
    for number in range(MAX_UNLABELLED):
        assert one.decide(2.0).stage is RolloutStage.SHADOW
        one.guard.shadowed(float(number % 10 != 0))
    return one


def test_where_no_labels_come_a_version_that_disagrees_by_too_much_to_pass_is_rolled_back_or_a_person_is_told() -> None:
    reason = (
        "no label has come in 2,000 queries, without which it cannot pass: accuracy >= old - 0.005 "
        "(no labels; both versions answer 10.0 % of 2,000 queries differently)"
    )
    by_itself, by_hand = unlabelled(is_auto=True), unlabelled()
    assert place(by_itself.decide(3.0)) == (RolloutStage.ENDED, 0.0)
    assert (by_itself.wanted.ending, by_itself.wanted.reason) == (Ending.ROLLED_BACK, reason)
    wanted = by_hand.decide(3.0)
    assert (wanted.stage, wanted.waits_for_promote, wanted.note) == (RolloutStage.SHADOW, True, reason)
    assert by_hand.status(3.0).note == reason


@pytest.mark.parametrize("guard", ["accuracy >= old - 0.005", "accuracy >= 0.9"])
def test_without_a_shadow_and_labels_nothing_can_tell_and_few_canaries_are_asked(guard: str) -> None:
    one = rollout(is_auto=True, guard=guard)
    one.ready(1.0)
    answers(one, MAX_UNLABELLED - 1)
    assert one.decide(2.0).ending is None
    answers(one, 1)
    assert one.decide(2.0).ending is Ending.ROLLED_BACK
    assert one.wanted.reason.startswith("no label has come in 2,000 queries, without which it cannot pass: accuracy")


def test_where_labels_come_or_hardly_anything_differs_a_step_has_all_its_queries() -> None:
    labelled, alike = rollout(is_auto=True, guard="accuracy >= old"), rollout(is_auto=True, guard="accuracy >= old")
    for one in (labelled, alike):
        one.ready(1.0)
    labelled.guard.label_came()
    for number in range(MAX_UNLABELLED):
        alike.guard.shadowed(float(number % 67 != 0))  # of 1.5 %, nobody can say whether it is more than passes
    for one in (labelled, alike):
        answers(one, MAX_UNLABELLED)
        assert one.decide(2.0).stage is RolloutStage.CANARY


def test_calls_that_make_no_sense_are_refused() -> None:
    one = rollout()
    for call in (one.promote, one.promoted):
        with pytest.raises(Conflict, match="is at `measuring`"):
            call(1.0)
    one.abort(2.0, "on request")
    with pytest.raises(Conflict, match="has ended: aborted"):
        one.abort(3.0, "again")
    with pytest.raises(Conflict, match="is at `aborted`"):
        one.ready(3.0)
    assert one.fail(4.0, "its device is lost").ending is Ending.ABORTED


def test_a_status_is_what_is_wanted_and_what_was_seen() -> None:
    one = rollout(shadow_frac=0.2)
    one.ready(1.0)
    one.promote(2.0)
    answers(one, 3)
    status = one.status(7.0)
    assert (status.stage, status.step, status.share, status.shadow_share) == (RolloutStage.CANARY, 1, 0.1, 0.2)
    assert (status.stage_s, status.counts.canary, status.verdict) == (5.0, 3, Verdict.HOLD)
    assert [term.term for term in status.terms] == ["errors <= 0.01"]


class AnyRollout(RuleBasedStateMachine):
    """Whatever happens in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.endings = list[Ending]()

    @initialize(is_auto=st.booleans(), shadow_frac=st.sampled_from([0.0, 0.1]), most=st.sampled_from([200, 2_000]))
    def start(self, *, is_auto: bool, shadow_frac: float, most: int) -> None:
        self.one = rollout(is_auto=is_auto, shadow_frac=shadow_frac, most_queries=most)
        self.before = self.one.wanted

    def _moved(self, *, by_person: bool = False, is_told: bool = False) -> None:
        before, after = self.before, self.one.wanted
        if (after.stage, after.number) != (before.stage, before.number) and after.ending is None:
            assert by_person or after.stage in CAN_FOLLOW[before.stage]
            is_passed = self.one.specification.is_auto and before.stage in {RolloutStage.SHADOW, RolloutStage.CANARY}
            assert by_person or is_told or is_passed
        if before.ending is not None:
            assert after == before
        elif after.ending is not None:
            self.endings.append(after.ending)
        self.before = after

    @rule()
    def becomes_ready(self) -> None:
        try:
            self.one.ready(self.now_s)
        except Conflict:
            assert self.before.stage is not RolloutStage.MEASURING
        self._moved(is_told=True)

    @rule(seconds=st.sampled_from([0.0, 1.0, 61.0, 4_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        verdict = self.one.guard.verdict
        self.one.decide(self.now_s)
        self._moved()
        if (
            self.one.wanted.share > 0
            and self.one.wanted.ending is None
            and self.one.wanted.stage is not RolloutStage.PROMOTING
        ):
            assert verdict is not Verdict.FAIL

    @rule(number=st.sampled_from([1, 100, 500]), is_failed=st.booleans())
    def is_asked(self, *, number: int, is_failed: bool) -> None:
        answers(self.one, number if not is_failed else min(number, 30), is_failed=is_failed)
        self._moved()

    @rule(number=st.sampled_from([1, 100]))
    def is_shadowed(self, number: int) -> None:
        for _ in range(number):
            self.one.guard.shadowed(1.0)
        self._moved()

    @rule(fully=st.booleans())
    def person_promotes(self, *, fully: bool) -> None:
        try:
            self.one.promote(self.now_s, fully=fully)
        except Conflict:
            assert self.before.stage not in {RolloutStage.SHADOW, RolloutStage.CANARY}
        self._moved(by_person=True)

    @rule()
    def catalog_is_written(self) -> None:
        try:
            self.one.promoted(self.now_s)
        except Conflict:
            assert self.before.stage is not RolloutStage.PROMOTING
        self._moved(is_told=True)

    @precondition(lambda self: self.before.stage is not RolloutStage.MEASURING)
    @rule(is_by_person=st.booleans())
    def is_broken_off(self, *, is_by_person: bool) -> None:
        try:
            if is_by_person:
                self.one.abort(self.now_s, "on request")
            else:
                self.one.fail(self.now_s, "its engine is broken")
        except Conflict:
            assert self.before.ending is not None
        assert self.one.wanted.ending is not None
        self._moved()

    @invariant()
    def the_old_version_serves_unless_it_is_replaced(self) -> None:
        wanted = self.one.wanted
        assert len(self.endings) <= 1
        assert (wanted.ending is not None) == (wanted.stage is RolloutStage.ENDED) == bool(self.endings)
        if wanted.ending is not None:
            is_done = wanted.ending is Ending.DONE
            assert (wanted.share, wanted.shadow_share) == (float(is_done), 0.0)
        elif wanted.stage in {RolloutStage.MEASURING, RolloutStage.SHADOW}:
            assert wanted.share == 0


TestAnyRollout = AnyRollout.TestCase
TestAnyRollout.settings = examples(30, fuzzed=300, stateful_step_count=25)
