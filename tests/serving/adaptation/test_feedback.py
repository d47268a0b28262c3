"""What becomes of feedback, and when plans count on it. Nothing here is served: the parts around it are made up."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from builders import hosted, make_cascade, make_measured, make_plan, make_profile
from looping import loop_around

from proteus_cli.control.decision import Effects
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.profile_changes import without_variants
from proteus_cli.domain.stages.cascade import CascadeProfile
from proteus_cli.errors import ArtefactError, BadRequest, BodyTooLarge, Conflict
from proteus_cli.serving.adaptation.feedback import (
    LONGEST_BODY,
    MAX_ITEMS,
    MAX_PROBLEMS,
    ROWS_AT_ONCE,
    Feedback,
)
from proteus_cli.serving.adaptation.plan_inputs import LivePlanner, ProfileStore
from proteus_cli.serving.requests.answers.answer_log import AnswerLog
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch, Staged
from proteus_cli.serving.requests.query import Query

KEY = VariantKey("a", "a-s")
HOST = hosted("cpu0", *KEY, latency_s={1: 0.01}, accuracy=0.9)
POINTS = (make_cascade("a", "a-s", "a-l").point,)


def profile(device: str) -> Profile:
    variants = (make_measured("a", name, accuracy, {1: 0.01}) for name, accuracy in (("a-s", 0.9), ("a-l", 0.95)))
    cascades = (CascadeProfile("a", "a-s", "a-l", "d", POINTS),)
    return msgspec.structs.replace(make_profile(device, *variants), cascades=cascades)


@dataclass
class Source:
    """Profiles that are written, one by one."""

    written: list[Profile] = field(default_factory=list)

    def write_profile(self, written: Profile) -> None:
        self.written.append(written)

    def inputs(self) -> dict[str, str]:
        return {"profiles/cpu0.json": f"{len(self.written)}"}

    @property
    def live(self) -> list[Any]:
        """Of the variant, in what was written."""
        return [each.variants[0].live for each in self.written]


@dataclass
class World:
    """Takes feedback of answers that it makes up."""

    answers: AnswerLog = field(default_factory=lambda: AnswerLog(60.0, lambda: 0.0))
    profiles: ProfileStore = field(default_factory=lambda: ProfileStore({"cpu0": profile("cpu0")}))
    reasons: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    used: int = 0
    accuracies_in_control: list[float] = field(default_factory=list)
    applied: list[Effects] = field(default_factory=list)
    source: Source | None = None
    plans: list[Plan] = field(default_factory=list)

    def __post_init__(self) -> None:
        controller = SimpleNamespace(
            plan=make_plan(), replanning=SimpleNamespace(ask=self._ask), use_profiles=self._use_in_control
        )
        family = SimpleNamespace(labels=("x", "y"), variants={"a-s": 0.9})
        families = SimpleNamespace(by_name={"a": family}, use=self._use)
        plane: Any = SimpleNamespace(
            controller=controller,
            fleet=SimpleNamespace(apply=self.applied.append),
            families=families,
            clock=lambda: 0.0,
            samples=None,
            arms={},
            answers=self.answers,
        )
        source: Any = self.source or Source()
        control_loop = loop_around(plane, planner=LivePlanner(source, self.profiles, None))
        replaced: Any = control_loop
        replaced.redeploy = self._redeploy
        self.feedback = Feedback(plane, self.profiles, control_loop, source, is_recording=self.source is not None)

    async def _redeploy(self, change: Callable[[], Plan], reason: str, **_: Any) -> None:
        self.plans.append(change())
        assert isinstance(self.plans[-1], Plan)
        self.reasons.append(reason)

    def _ask(self, reason: str, _now_s: float) -> None:
        self.asked.append(reason)

    def _use(self, _profiles: object) -> None:
        self.used += 1

    def _use_in_control(self, profiles: ProfileStore) -> Effects:
        self.accuracies_in_control.append(profiles["cpu0"].variants[0].accuracy)
        return Effects(ask=("cpu0",))

    def answered(self, number: int, *, staged: Staged | None = None) -> None:
        batch = AnsweredBatch(HOST, 1, (np.array([[1.0, 0.0]]),), 0.0, staged=staged)
        query = Query("a", 1, (), id=f"r{number}")
        for observer in self.answers.observers(query):
            observer.ended(Answered(batch, 0, 1, 0.0))

    async def tell(self, *items: dict[str, Any]) -> Any:
        body = msgspec.json.encode({"feedback": [{"model": "a", **item} for item in items]})
        return await self.feedback.from_client(body)

    async def told(self, numbers: range, label: int, *, staged: Staged | None = None) -> None:
        for number in numbers:
            self.answered(number, staged=staged)
        found = await self.tell(*({"id": f"r{number}", "label": label} for number in numbers))
        assert found.accepted == len(numbers)


def played(story: Callable[[World], Awaitable[None]], world: World | None = None) -> World:
    world = world or World()

    async def play() -> None:
        running = asyncio.create_task(world.feedback.run())
        await story(world)
        for _ in range(5):
            await asyncio.sleep(0)
        running.cancel()

    asyncio.run(play())
    return world


def test_plans_count_on_an_accuracy_that_is_lower_until_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proteus_cli.serving.adaptation.feedback.PAUSE_S", 0.0)

    async def story(world: World) -> None:
        await world.told(range(100), 1)
        while world.profiles["cpu0"].variants[0].accuracy != 0.0:
            await asyncio.sleep(0.001)
        assert world.profiles["cpu0"].cascades == ()
        assert world.profiles.alone["cpu0"] == profile("cpu0")
        assert world.feedback.status().families["a"].planned == {"a-s": 0.0}
        await world.told(range(100, 5_000), 0)

    world = played(story)
    assert world.profiles["cpu0"] == profile("cpu0")
    assert world.reasons[0] == "a-s has an accuracy of 0.0 % by feedback"
    assert world.reasons[-1] == "a-s is as accurate as profiled again"
    assert len(world.reasons) <= 6
    assert (world.asked, world.used) == (world.reasons, len(world.reasons))
    assert (world.accuracies_in_control[0], world.accuracies_in_control[-1]) == (0.0, 0.9)
    assert [each.ask for each in world.applied] == [("cpu0",)] * len(world.accuracies_in_control)


async def written(source: Source, times: int) -> None:
    while len(source.written) < times:
        await asyncio.sleep(0.001)
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_plans_count_on_is_recorded_and_counts_in_the_next_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proteus_cli.serving.adaptation.feedback.PAUSE_S", 0.0)
    first, second = Source(), Source()

    async def lost(world: World) -> None:
        await world.told(range(100), 1)
        await written(first, 1)
        assert world.plans[-1].inputs["profiles/cpu0.json"] == "1", "plans are made of what was written"

    played(lost, World(source=first))
    (live,) = first.live
    assert (live.rows >= 99, live.accuracy, live.low) == (True, 0.0, 0.0)
    assert first.written[0].variants[0].accuracy == 0.9, "what was measured stays"

    async def found_again(world: World) -> None:
        assert world.profiles["cpu0"].variants[0].accuracy == 0.0
        await world.told(range(20), 1)
        assert world.reasons == []
        await world.told(range(100, 5_000), 0)
        while not (second.live and second.live[-1] is msgspec.UNSET):
            await asyncio.sleep(0.001)
        for _ in range(5):
            await asyncio.sleep(0)

    world = played(found_again, World(profiles=ProfileStore({"cpu0": first.written[0]}), source=second))
    assert world.reasons[-1] == "a-s is as accurate as profiled again"
    assert world.profiles["cpu0"] == profile("cpu0")


def test_a_profile_that_cannot_be_written_changes_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    class Full(Source):
        def write_profile(self, written: Profile) -> None:
            super().write_profile(written)
            raise ArtefactError("Can't write: no space.")

    full = Full()

    async def lost(world: World) -> None:
        await world.told(range(100), 1)
        await written(full, 1)
        assert world.profiles["cpu0"].variants[0].accuracy == 0.0

    assert len(played(lost, World(source=full)).reasons) == 1
    assert "can't write the profile of cpu0: Can't write: no space." in caplog.text


def test_answers_as_promised_and_those_by_stages_change_no_plan() -> None:
    async def story(world: World) -> None:
        await world.told(range(500), 0)
        await world.told(range(500, 700), 1, staged=Staged(1, 0.9, 0.97))

    world = played(story)
    found = world.feedback.status().families["a"]
    assert (found.plain["a-s"].accuracy, found.plain["a-s"].is_lower) == (1.0, False)
    assert (found.staged["a-s"].rows, round(found.staged["a-s"].promised, 6)) == (200, 0.97)
    assert (found.staged["a-s"].is_lower, found.planned, world.reasons) == (True, {}, [])


def test_what_is_no_class_may_have_a_score() -> None:
    async def story(world: World) -> None:
        batch = AnsweredBatch(HOST, 1, (np.array([0.3]),), 0.0)
        world.answers.keep(("a", "r"), Answered(batch, 0, 1, 0.0), None)
        told = await world.tell({"id": "r", "label": 0}, {"id": "r", "score": 1.0})
        assert (told.wrong, told.accepted) == (1, 1)
        assert told.problems[0].error == "answers of `a` are no classes: send a `score`"

    played(story)


@pytest.mark.parametrize("label", [-1, 2, 2**63, "z"])
def test_a_label_that_is_no_class_is_wrong_and_may_come_again(label: int | str) -> None:
    async def story(world: World) -> None:
        world.answered(0)
        told = await world.tell({"id": "r0", "label": label}, {"id": "r0", "label": 0})
        assert (told.wrong, told.accepted, told.problems[0].error) == (1, 1, f"`a` has no class `{label}`")

    played(story)


def test_plans_count_on_nothing_of_variants_that_are_gone() -> None:
    async def story(world: World) -> None:
        world.profiles.use([without_variants(profile("cpu0"), {KEY})])
        await world.told(range(100), 1)
        assert world.feedback.plain[KEY].is_lower

    assert played(story).reasons == []


def test_others_have_their_turn_between_rows_of_a_large_batch() -> None:
    async def story(world: World) -> None:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        waiting = asyncio.create_task(others())
        await world.tell(*({"id": "x", "label": [0] * ROWS_AT_ONCE} for _ in range(10)))
        assert turns >= 9
        waiting.cancel()

    played(story)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{", BadRequest),
        (b'{"feedback": [{"model": "a", "id": "x", "score": 1.5}]}', BadRequest),
        (b'{"feedback": [{"model": "a", "id": "x", "label": []}]}', BadRequest),
        (b'{"feedback": [%b]}' % b",".join([b'{"model":"a","id":"x"}'] * (MAX_ITEMS + 1)), BadRequest),
        (b" " * (LONGEST_BODY + 1), BodyTooLarge),
    ],
    ids=["no JSON", "a score", "no label", "too many", "too long"],
)
def test_what_is_no_feedback_counts_nothing(body: bytes, error: type[Exception]) -> None:
    async def story(world: World) -> None:
        with pytest.raises(error):
            await world.feedback.from_client(body)

    assert played(story).feedback.plain == {}


def test_only_the_first_problems_are_named() -> None:
    async def story(world: World) -> None:
        told = await world.tell(*({"id": "x"} for _ in range(MAX_PROBLEMS + 5)))
        assert (told.wrong, len(told.problems)) == (MAX_PROBLEMS + 5, MAX_PROBLEMS)

    played(story)


def test_without_answers_there_is_no_feedback() -> None:
    nothing: Any = None
    feedback = Feedback(cast("Any", SimpleNamespace(answers=None)), ProfileStore({}), nothing, nothing)
    with pytest.raises(Conflict, match="--feedback"):
        feedback.status()
