"""Requests while a version is rolled out: who is asked, what its guard is told, and that each ends once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import make_measured, make_placement, make_plan, make_profile, near
from one_device import FLOAT, SLO_S, HeldExecutor, twice
from short_forms import parse_guard
from virtual_loop import VirtualLoop

from proteus_cli.control.controller import Controller
from proteus_cli.control.policies import live_policy_named
from proteus_cli.control.rollouts.guard import Guard
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import AskedVersion, Bounds
from proteus_cli.domain.rollouts import RolloutSpecification, StepCounts, VersionPair
from proteus_cli.errors import BoundsUnmet, EngineFailed
from proteus_cli.serving.adaptation.feedback import Feedback
from proteus_cli.serving.adaptation.plan_inputs import ProfileStore
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult
from proteus_cli.serving.lifecycle import LifecycleEvent
from proteus_cli.serving.requests.data_plane import DataPlaneOptions, make_data_plane
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.requests.in_flight import Answered, Result
from proteus_cli.serving.requests.query import Query, RequestOptions
from proteus_cli.serving.requests.version_arms import VersionArms

OLD, NEW = VariantKey("f", "v"), VariantKey("f", "v@2")
GUARD = parse_guard("accuracy >= old - 0.005 and agreement >= 0.9 and errors <= 0.01 and p99 <= slo")
BATCH_S = 0.01
KEEP_S = 3600.0


class Versions(HeldExecutor):
    """Batches end when they are told to; the new version gives the other class where it ``opposes``."""

    runs_inline = can_give_way = False

    def __init__(self, *, opposes: bool = False) -> None:
        super().__init__(FLOAT)
        self._opposes = opposes
        self.asked: list[tuple[str, int]] = []

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        self.asked.append((batch.key.variant, batch.rows))
        super().submit(batch, done)

    def run(self, batch: Batch) -> BatchResult:
        (scores,) = super().run(batch).outputs
        return BatchResult((-scores if self._opposes and batch.key == NEW else scores,), BATCH_S)


class World:
    """A device that hosts both versions, or one of them."""

    def __init__(
        self,
        *,
        opposes: bool = False,
        share: float = 0.0,
        shadow_share: float = 0.0,
        hosted: tuple[VariantKey, ...] = (OLD, NEW),
        new_accuracy: float = 0.9,
    ) -> None:
        times_s = {1: BATCH_S, 8: BATCH_S}
        profile = make_profile("cpu0", make_measured(*OLD, 0.9, times_s), make_measured(*NEW, new_accuracy, times_s))
        rate_qps, share_of_each = 10.0 / len(hosted), 1 / len(hosted)
        placements = [
            make_placement("cpu0", *key, max_batch=8, rate_qps=rate_qps, share=share_of_each, capacity_qps=400.0)
            for key in hosted
        ]
        self.plan = make_plan(*placements)
        controller = Controller({"f": SLO_S}, {"cpu0": 1}, live_policy_named("proteus"))
        controller.use_version_pair("f", VersionPair("f", "v", "v@2"))
        self.executor = Versions(opposes=opposes)
        served = ServedFamily("f", twice(FLOAT), SLO_S, max_rows=8, best_accuracy=0.9)
        models: Any = {OLD: None, NEW: None}
        self.plane = make_data_plane(
            controller, [served], ["cpu0"], lambda _device, _on_lost: self.executor, asyncio.get_running_loop().time,
            models=models, profiles={"cpu0": profile}, options=DataPlaneOptions(keep_answers_s=KEEP_S),
        )  # fmt: skip
        nothing: Any = None
        self.feedback = Feedback(self.plane, ProfileStore({}), nothing, nothing)
        self.begin_rollout(share, shadow_share)
        self.results: list[Result] = []

    def begin_rollout(self, share: float, shadow_share: float = 0.0) -> None:
        """Of the new version, in place of an earlier one of it."""
        plane = self.plane
        self.guard = Guard(RolloutSpecification("f", "v", "v@2", guard=GUARD), SLO_S)
        self.arms = VersionArms(OLD, NEW, self.guard, plane.controller, plane.lifecycle, plane.workers, plane.clock)
        self.arms.use(share, shadow_share)
        plane.arms["f"] = self.arms

    def end_rollout(self) -> None:
        del self.plane.arms["f"]

    async def start(self) -> None:
        await self.plane.fleet.deploy(self.plan)
        self.plane.lifecycle.on(LifecycleEvent.WARMED_UP)

    def submit(
        self,
        *rows: float,
        request_id: str | None = None,
        client: str | None = None,
        version: str | None = None,
        **asked: Any,
    ) -> None:
        """Rows whose second score is higher by as much."""
        content = np.array([(0.0, each) for each in rows], FLOAT).tobytes()
        bounds = None if version is None else Bounds(version=AskedVersion(version, frozenset({version})))
        options = RequestOptions(bounds=bounds, client=client, **asked)
        query = Query("f", len(rows), ((0, False),), options, request_id)
        self.plane.admission.submit(query, lambda: (content,), self.results.append)

    async def label(self, request_id: str, label: int) -> None:
        """A client tells the class of a request."""
        item = {"model": "f", "id": request_id, "label": label}
        taken = await self.feedback.from_client(msgspec.json.encode({"feedback": [item]}))
        assert taken.accepted == 1, taken

    async def end(self, result: BatchResult | Exception | None = None) -> None:
        """One batch runs, and ends."""
        await asyncio.sleep(BATCH_S)
        self.executor.release(result)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    @property
    def answered_by(self) -> list[str]:
        return [
            each.batch.hosted.variant if isinstance(each, Answered) else type(each).__name__ for each in self.results
        ]

    def accuracies(self) -> tuple[float | None, float | None]:
        """Of the new version, and of the old one, by the labels that the guard was told."""
        accuracy = self.guard.status()[0]
        return accuracy.new, accuracy.old

    def seen(self, metric: str) -> tuple[int, float | None]:
        """Observations, and what was seen of the new version."""
        found = next(each for each in self.guard.status() if each.term.startswith(metric))
        return found.observations, found.new


def played(story: Callable[[World], Awaitable[None]], **how: Any) -> None:
    async def play() -> None:
        world = World(**how)
        await world.start()
        await story(world)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play())


@pytest.mark.parametrize("opposes", [False, True])
def test_the_first_row_of_what_the_old_version_has_answered_is_asked_of_the_new_one_and_nobody_sees_it(
    *, opposes: bool
) -> None:
    async def story(world: World) -> None:
        world.submit(1.0, 2.0)
        await world.end()
        assert world.answered_by == ["v"]
        await world.end()
        assert world.executor.asked == [("v", 2), ("v@2", 1)]
        assert world.seen("agreement") == (1, 0.0 if opposes else 1.0)
        assert world.answered_by == ["v"]
        assert world.guard.counts.canary == 0

    played(story, opposes=opposes, shadow_share=1.0)


def test_a_shadow_that_fails_costs_nobody_anything_and_is_told() -> None:
    async def story(world: World) -> None:
        world.submit(1.0)
        await world.end()
        await world.end(EngineFailed("it breaks"))
        assert world.answered_by == ["v"]
        assert world.guard.counts.shadowed == 1
        assert world.seen("agreement") == (1, 0.0)
        world.submit(1.0)
        await world.end()
        assert world.answered_by == ["v", "v"]

    played(story, shadow_share=1.0)


def test_a_share_of_the_answers_is_shadowed() -> None:
    async def story(world: World) -> None:
        for _ in range(8):
            world.submit(1.0)
            while world.executor.held or world.plane.results.in_flight_count:
                await world.end()
        assert [variant for variant, _ in world.executor.asked].count("v@2") == 2

    played(story, shadow_share=0.25)


def test_canaries_are_answered_by_the_new_version_and_its_guard_is_told() -> None:
    async def story(world: World) -> None:
        world.submit(1.0)
        await world.end()
        assert world.answered_by == ["v@2"]
        world.submit(1.0)
        await world.end(RuntimeError("it breaks"))
        assert world.answered_by == ["v@2", "EngineFailed"]
        assert world.guard.counts.canary == 2
        assert world.seen("errors") == (2, 0.5)
        assert world.seen("p99") == (2, 0.5)  # what was never answered is late
        world.submit(1.0)
        await asyncio.sleep(2 * SLO_S)  # its deadline passes while it runs
        assert world.answered_by[2:] == ["DeadlineExceeded"]
        observations, late = world.seen("p99")
        assert (observations, late) == (3, near(2 / 3))

    played(story, share=1.0)


@pytest.mark.parametrize("ending", [None, RuntimeError("it breaks")], ids=["late", "failed"])
@pytest.mark.parametrize("is_full", [False, True], ids=["canary", "full"])
def test_a_request_without_an_answer_tells_of_no_version_that_serves_nowhere(
    ending: Exception | None, *, is_full: bool
) -> None:
    async def story(world: World) -> None:
        if is_full:
            world.arms.use_fully()
        world.submit(1.0)
        if ending is None:
            await asyncio.sleep(2 * SLO_S)
        else:
            await world.end(ending)
        assert world.answered_by == ["DeadlineExceeded" if ending is None else "EngineFailed"]
        assert world.guard.counts.canary == 0
        assert world.seen("p99") == world.seen("errors") == (0, None)

    played(story, share=1.0, hosted=(OLD,))


@pytest.mark.parametrize("version", ["v", "v@2"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_who_asks_for_a_version_has_it_and_the_guard_is_told_nothing(version: str, share: float) -> None:
    """Clients choose what they ask of it."""

    async def story(world: World) -> None:
        world.submit(1.0, version=version)
        await world.end()
        world.submit(1.0, version=version)
        await world.end(RuntimeError("it breaks"))
        assert world.answered_by == [version, "EngineFailed"]
        assert world.executor.asked == [(version, 1)] * 2  # and there was no shadow
        assert world.guard.counts.canary == 0
        assert world.seen("p99") == world.seen("errors") == (0, None)

    played(story, share=share, shadow_share=1.0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_what_the_new_version_cannot_keep_is_answered_as_ever_and_tells_nothing(share: float) -> None:
    async def story(world: World) -> None:
        world.submit(1.0, min_accuracy=0.87)
        await asyncio.sleep(0)
        await world.end()
        assert world.answered_by == ["v"]
        with pytest.raises(BoundsUnmet):
            world.submit(1.0, timeout_s=BATCH_S / 2)
        assert world.guard.counts == StepCounts()
        assert world.seen("p99") == world.seen("errors") == (0, None)
        world.submit(1.0, min_accuracy=0.84, timeout_s=1.0)
        await world.end()
        assert world.answered_by[1:] == ["v@2" if share else "v"]
        assert world.guard.counts.canary == share

    played(story, share=share, shadow_share=1.0, new_accuracy=0.85)


def test_what_another_variant_fails_on_tells_of_neither_version() -> None:
    async def story(world: World) -> None:
        query = Query("f", 1, ((0, False),))
        for variant in ("another", "v", "v@2", ""):
            _, arm = world.arms.enter(query, None, is_probe=False)
            assert arm is not None
            arm.ended(EngineFailed("it fails", variant=variant))
        assert world.guard.counts.canary == 2
        assert world.seen("errors") == (2, 1.0)

    played(story, share=1.0)


def test_one_client_has_one_version() -> None:
    async def story(world: World) -> None:
        for _ in range(3):
            for client in "abcdefgh":
                world.submit(1.0, client=client)
                await world.end()
        one, two, three = (world.answered_by[at : at + 8] for at in (0, 8, 16))
        assert one == two == three
        assert set(one) == {"v", "v@2"}

    played(story, share=0.5)


def test_a_label_of_a_shadowed_request_tells_of_both_versions() -> None:
    async def story(world: World) -> None:
        world.submit(1.0, request_id="r1")
        await world.end()
        await world.end()
        await world.label("r1", 1)
        assert (world.accuracies(), world.guard.counts.labelled) == ((0.0, 1.0), 0)
        world.arms.use(1.0, 1.0)
        world.submit(1.0, request_id="r2")
        await world.end()
        await world.label("r2", 1)
        assert (world.accuracies(), world.guard.counts.labelled) == ((0.0, 1.0), 1)

    played(story, opposes=True, shadow_share=1.0)


def test_labels_of_a_rollout_that_was_aborted_do_not_tell_of_the_next_one_of_the_same_version() -> None:
    async def story(world: World) -> None:
        for share, request_id in ((1.0, "new"), (0.0, "old")):
            world.arms.use(share, 0.0)
            world.submit(1.0, request_id=request_id)
            await world.end()
        assert world.answered_by == ["v@2", "v"]
        world.end_rollout()
        world.begin_rollout(share=1.0)
        await world.label("new", 1)
        await world.label("old", 1)
        assert (world.accuracies(), world.guard.counts.labelled) == ((None, None), 0)

    played(story)


@pytest.mark.parametrize("asked", [{"min_accuracy": 0.87}, {"version": "v"}], ids=["accuracy", "version"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_label_of_what_the_new_version_was_not_to_answer_tells_of_no_arm(share: float, asked: dict[str, Any]) -> None:
    async def story(world: World) -> None:
        world.submit(1.0, request_id="r1", **asked)
        await world.end()
        assert world.answered_by == ["v"]
        await world.label("r1", 1)
        assert world.accuracies() == (None, None)

    played(story, share=share, shadow_share=1.0, new_accuracy=0.85)
