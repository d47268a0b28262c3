"""Cascades in the server: rows that the first stage is not sure of, and what their clients get in the end."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from builders import make_placement, near
from one_device import FLOAT, SLO_S, twice
from two_stages import SURE, UNSURE, TwoStages, plan_of, run

from proteus_cli.backends.base import OutputArrays, Signature, TensorSpec
from proteus_cli.control.decision import FirstStage
from proteus_cli.control.devices.breaker import BreakerEvent
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Bounds, Outcome, Request
from proteus_cli.errors import ArtefactError, EngineError
from proteus_cli.serving.devices.executor import BatchResult
from proteus_cli.serving.requests.answers.second_stages import Confidence
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.requests.in_flight import Answered, Result, Staged
from proteus_cli.serving.requests.query import RequestOptions


def test_a_sure_answer_goes_out_after_the_first_stage() -> None:
    async def sure(world: TwoStages) -> None:
        await world.after_first_stage(SURE)
        scores, batch, staged = world.answer
        assert (scores, batch.hosted.variant) == ([10.0, 18.0], "s")
        assert staged == Staged(1, 8.0, 0.95, is_fallback=False)
        assert world.counted == ({("cpu0", "served"): 1}, 0, 0)
        assert world.second.held == []

    run(sure)


def test_an_unsure_one_is_the_second_stages() -> None:
    async def unsure(world: TwoStages) -> None:
        await world.after_first_stage(UNSURE)
        assert world.results == []
        world.second.release()
        scores, batch, staged = world.answer
        assert (scores, batch.hosted.variant, batch.rows) == (near_to(100.0, 102.0), "l", 1)
        assert staged == Staged(2, near(0.2), 0.9, is_fallback=False)
        assert world.counted == ({("cpu1", "served"): 1}, 1, 0)
        assert world.plane.counts.by_family["f"].accuracy == near(0.9)

    run(unsure)


def exits(exit_: int, *, is_cut: bool, energy_j: float = np.nan) -> OutputArrays:
    """What a multi-exit model says of a batch of one row."""
    place = np.array([exit_], np.uint8)
    return place, np.array([8.0], np.float32), np.array([is_cut]), place, np.array([energy_j])


@pytest.mark.parametrize(
    ("row", "ends", "expected"),
    [
        (SURE, lambda world: None, Staged(1, 8.0, 0.95, exit=2, is_cut=True)),
        (UNSURE, lambda world: world.second.release(), Staged(2, near(0.2), 0.9, exit=3)),
        (
            UNSURE,
            lambda world: world.second.release(EngineError("it fails")),
            Staged(1, near(0.2), 0.6, is_fallback=True, exit=2, is_cut=True),
        ),
    ],
    ids=["first", "second", "fallback"],
)
def test_an_answer_of_a_cascade_of_multi_exit_models_tells_the_exit_of_its_last_stage(
    row: tuple[float, float], ends: Callable[[TwoStages], None], expected: Staged
) -> None:
    async def of_exits(world: TwoStages) -> None:
        world.first.notes, world.second.notes = exits(2, is_cut=True), exits(3, is_cut=False)
        await world.after_first_stage(row)
        ends(world)
        assert world.answer[2] == expected
        cut = world.plane.counts.by_family["f"].cut
        assert cut == ({("s", 2): 1} if expected.is_cut else {})

    run(of_exits)


def near_to(*values: float) -> Any:
    return pytest.approx(list(values), rel=1e-5)


def test_rows_of_a_request_go_different_ways_and_come_back_together() -> None:
    """Two of three are deferred, and the second stage sees just these."""

    async def mixed(world: TwoStages) -> None:
        await world.after_first_stage(UNSURE, SURE, (7.0, 7.0))
        world.second.release()
        assert world.second.inputs == [near_to(*UNSURE, 7.0, 7.0)]
        scores, batch, staged = world.answer
        assert scores == near_to(100.0, 102.0, 10.0, 18.0, 140.0, 140.0)
        assert batch.rows == 2
        assert staged == Staged(2, 0.0, near(0.95 / 3 + 0.9 * 2 / 3), is_fallback=False)
        assert world.plane.counts.by_family["f"].rows == 3

    run(mixed)


def test_where_the_second_answer_is_not_there_in_time_the_first_goes_out() -> None:
    """At 98 ms, 2 % before the deadline; what the second stage answers later counts for nothing."""

    async def slow(world: TwoStages) -> None:
        await world.after_first_stage(UNSURE)
        await asyncio.sleep(SLO_S * 0.98 - 0.012)
        assert world.results == []
        await asyncio.sleep(0.002)
        scores, batch, staged = world.answer
        assert (scores, batch.hosted.variant) == (near_to(10.0, 10.2), "s")
        assert staged == Staged(1, near(0.2), 0.6, is_fallback=True)
        world.second.release()
        assert world.counted == ({("cpu0", "served"): 1}, 1, 1)

    run(slow)


def test_where_the_second_stage_has_too_much_to_do_the_first_answer_goes_out_at_once() -> None:
    """It is busy, with 400 rows per second: at 79 ms, of two rows none is in time."""

    async def busy(world: TwoStages) -> None:
        world.submit(UNSURE, UNSURE)
        await asyncio.sleep(0.079)
        world.first.release()
        _, _, staged = world.answer
        assert (staged.stages, staged.is_fallback) == (1, True)
        assert world.second.held == []

    run(busy)


def test_where_the_second_variant_fails_the_first_answer_goes_out() -> None:
    async def failing(world: TwoStages) -> None:
        await world.after_first_stage(UNSURE, SURE)
        world.second.release(EngineError("it broke"))
        scores, _, staged = world.answer
        assert scores == near_to(10.0, 10.2, 10.0, 18.0)
        assert staged == Staged(1, near(0.2), near((0.95 + 0.6) / 2), is_fallback=True)
        assert world.counted == ({("cpu0", "served"): 1}, 1, 1)

    run(failing)


def test_where_the_second_stage_fails_on_one_request_its_first_answer_goes_out() -> None:
    async def poisoned(world: TwoStages) -> None:
        await world.after_first_stage(UNSURE)
        world.second.release(BatchResult((np.zeros((1, 2), FLOAT),), 0.001, {0: EngineError("this one")}))
        assert world.answer[2].is_fallback

    run(poisoned)


def test_where_the_device_of_the_second_stage_is_lost_the_first_answer_goes_out() -> None:
    async def lost(world: TwoStages) -> None:
        await world.after_first_stage(UNSURE)
        world.plane.fleet.lose("cpu1", BreakerEvent.DIED, "it was killed")
        await asyncio.sleep(0.001)
        assert world.answer[2].is_fallback
        assert world.counted == ({("cpu0", "served"): 1}, 1, 1)

    run(lost)


def test_a_plan_without_the_second_variant_sends_the_first_answer_of_what_waits() -> None:
    async def replaced(world: TwoStages) -> None:
        await world.after_first_stage(UNSURE)  # this one runs
        waiting: list[Result] = []
        world.results, running = waiting, world.results
        await world.after_first_stage(UNSURE)
        assert waiting == []
        other = make_placement("cpu1", "f", "s", max_batch=8, rate_qps=0.0, capacity_qps=800.0)
        await world.plane.fleet.deploy(plan_of(other, cascades=()))
        assert world.answer[2].is_fallback
        assert running == []
        world.second.release()
        assert [result.batch.hosted.variant for result in running if isinstance(result, Answered)] == ["l"]

    run(replaced)


@pytest.mark.parametrize("is_running", [True, False])
def test_a_client_that_goes_gets_nothing_and_its_rows_are_not_run(*, is_running: bool) -> None:
    async def gone(world: TwoStages) -> None:
        if not is_running:
            await world.after_first_stage(UNSURE)
            world.results = []
        request = await world.after_first_stage(UNSURE)
        world.plane.admission.cancel(request)
        world.plane.admission.cancel(request)
        world.second.release()
        await asyncio.sleep(0.01)
        assert world.second.held == []
        assert world.results == []
        assert world.counted[0]["", "dropped"] == 1

    run(gone)


# --- with a minimum of confidence


def at_least(confidence: float) -> RequestOptions:
    return RequestOptions(bounds=Bounds(confidence))


def test_what_is_less_confident_than_asked_is_deferred_though_it_is_above_the_threshold() -> None:
    """The first stage has 8.0, and 0.5 would do; the second has 80.0 of it, which the answer says."""

    async def demanding(world: TwoStages) -> None:
        await world.after_first_stage(SURE, (1.0, 9.0), options=at_least(10.0))
        assert world.second.inputs == []
        world.second.release()
        assert world.second.inputs == [near_to(*SURE)]
        scores, batch, staged = world.answer
        assert scores == near_to(100.0, 180.0, 2.0, 18.0)
        assert (batch.hosted.variant, staged) == ("l", Staged(2, near(16.0), near((0.95 + 0.9) / 2), is_fallback=False))

    run(demanding)


def test_below_the_threshold_a_minimum_changes_nothing() -> None:
    async def modest(world: TwoStages) -> None:
        await world.after_first_stage(UNSURE, options=at_least(0.1))
        world.second.release()
        assert world.answer[2].stages == 2

    run(modest)


def test_without_a_cascade_the_answer_says_how_confident_it_is_only_to_who_asked() -> None:
    async def alone(world: TwoStages) -> None:
        await world.plane.fleet.deploy(plan_of(cascades=()))
        await world.after_first_stage(SURE, UNSURE, options=at_least(10.0))
        scores, batch, staged = world.answer
        assert (scores, batch.hosted.variant) == (near_to(10.0, 18.0, 10.0, 10.2), "s")
        assert staged == Staged(None, near(0.2), 0.8, is_fallback=False)
        other: list[Result] = []
        world.results = other
        await world.after_first_stage(SURE)
        assert [result.batch.staged for result in other if isinstance(result, Answered)] == [None]

    run(alone)


# --- within an energy


def within(energy_j: float) -> RequestOptions:
    return RequestOptions(bounds=Bounds(max_energy_j=energy_j))


def test_an_answer_within_an_energy_says_what_both_stages_took() -> None:
    """Each batch computes for 1 ms, at 10 and 20 W; half of the rows go on."""

    async def both(world: TwoStages) -> None:
        await world.after_first_stage(UNSURE, SURE, options=within(1.0))
        world.second.release()
        assert world.answer[2] == Staged(2, near(0.2), near((0.95 + 0.9) / 2), is_fallback=False, energy_j=near(0.03))

    run(both)


def test_where_the_first_stage_leaves_too_little_energy_its_answer_goes_out() -> None:
    """By the profile, one row takes 0.1 J of the first stage, and 0.4 J of the second."""

    async def scarce(world: TwoStages) -> None:
        await world.after_first_stage(UNSURE, options=within(0.49))
        assert world.answer[2] == Staged(1, near(0.2), 0.6, is_fallback=True, energy_j=near(0.01))
        assert world.second.held == []
        world.results = other = list[Result]()
        await world.after_first_stage(UNSURE, options=within(0.51))
        world.second.release()
        assert [result.batch.hosted.variant for result in other if isinstance(result, Answered)] == ["l"]

    run(scarce)


def test_a_multi_exit_model_says_what_an_answer_took() -> None:
    async def alone(world: TwoStages) -> None:
        await world.plane.fleet.deploy(plan_of(cascades=()))
        world.first.notes = exits(1, is_cut=True, energy_j=0.07)
        await world.after_first_stage(SURE, options=within(0.1))
        assert world.answer[2] == Staged(None, 8.0, 0.8, energy_j=0.07, exit=1, is_cut=True)

    run(alone)


@pytest.mark.parametrize(("took_j", "is_asked"), [(0.04, True), (0.06, False)])
def test_a_second_stage_has_what_a_multi_exit_model_has_left(took_j: float, *, is_asked: bool) -> None:
    """The second stage takes 0.4 J of 0.45; the whole of the first takes 0.1 J."""

    async def both(world: TwoStages) -> None:
        world.first.notes = exits(1, is_cut=True, energy_j=took_j)
        await world.after_first_stage(UNSURE, options=within(0.45))
        assert len(world.second.held) == is_asked
        if is_asked:
            world.second.release()
        assert (world.answer[2].stages, world.answer[2].is_fallback) == (1 + is_asked, not is_asked)

    run(both)


# --- confidence


def request_of(rows: int) -> Request:
    return Request(0, "f", 0.0, 0.1, rows)


def computed_of(signature: Signature, confidence: str) -> Confidence:
    served = ServedFamily("f", signature, slo_s=0.1, max_rows=8, best_accuracy=0.9, confidence=confidence)
    return Confidence({served.name: served})


STAGE = FirstStage(VariantKey("f", "s"), thresholds=(0.25, 0.5), ranks=(0.2, 0.5))


def test_the_confidence_is_the_margin_of_the_scores_and_what_has_none_reaches_no_threshold() -> None:
    computed = computed_of(twice(FLOAT), "margin")
    scores = np.array([[0.1, 0.9], [0.5, 0.8], [np.nan, 1.0], [0.0, 0.5], [0.5, 0.6]], FLOAT)
    levels, lowest = computed.levels(request_of(5), STAGE, (scores,))
    assert (levels.tolist(), lowest) == ([2, 1, 0, 2, 0], None)
    assert computed.levels(request_of(1), STAGE, (scores[4:],))[1] == near(0.1)


def test_or_an_output_that_the_family_names() -> None:
    signature = Signature(
        (TensorSpec("x", FLOAT, (2,)),), (TensorSpec("y", FLOAT, (2,)), TensorSpec("sure", FLOAT, (1,)))
    )
    computed = computed_of(signature, "output:sure")
    outputs = np.zeros((2, 2), FLOAT), np.array([[0.4], [0.5]], FLOAT)
    levels, lowest = computed.levels(request_of(2), STAGE, outputs)
    assert (levels.tolist(), lowest) == ([1, 2], near(0.4))


def test_an_output_that_no_variant_has_is_an_error_that_names_those_that_there_are() -> None:
    with pytest.raises(ArtefactError, match="no variant has an output `sure`") as refused:
        computed_of(twice(FLOAT), "output:sure").of("f", (np.zeros((1, 2), FLOAT),))
    assert "they have: y" in refused.value.hint


def test_outcomes_are_counted_once() -> None:
    async def many(world: TwoStages) -> None:
        await world.after_first_stage(UNSURE)
        world.second.release()
        counts = world.plane.counts.by_family["f"]
        assert counts.of_outcome(Outcome.SERVED) == sum(counts.latency.counts) == sum(counts.queue.counts) == 1
        assert sum(counts.batch.counts) == 2
        assert (counts.batch.total, counts.answered_rows) == (2, 1), "the row ran twice, and was answered once"

    run(many)
