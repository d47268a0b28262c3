"""Multi-exit models on the threads of a GPU's executor, on stages that compute in Python."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from gpu_in_python import EXITS, FLOAT, LETHAL, MAX_ROWS, POISON, WITHIN_S, FakeContext, FakeStages
from short_forms import parse_condition

from proteus_cli.backends.tensorrt import chain
from proteus_cli.backends.tensorrt.chain import ChainPlans
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.errors import DeviceLost, EngineError
from proteus_cli.serving.devices.executor import Batch, BatchResult
from proteus_cli.serving.devices.gpu import GpuExecutor

QUICK, WHOLE = VariantKey("f", "quick"), VariantKey("f", "whole")
STOP_WHEN = {QUICK: "confidence >= 15", WHOLE: f"exit >= {EXITS}"}
SLOTS = 2


class World:
    """An executor with two models of the same stages, whose confidence is their answer."""

    def __init__(self, made: list[FakeStages]) -> None:
        self.confidence = "output:y"
        self.made, self.events = made, list[tuple[str, Any]]()
        context: Any = FakeContext()

        def read(key: VariantKey, _model: Path) -> ChainPlans:
            return ChainPlans((b"1", b"2", b"3"), parse_condition(STOP_WHEN[key]), self.confidence, f"`{key.variant}`")

        self.executor = GpuExecutor(context, read, lambda loss: self.events.append(("on_lost", loss)), slots=SLOTS)

    def submit(
        self, name: str, rows: Sequence[Sequence[float]], bounds: ExitBounds | None = None, key: VariantKey = QUICK
    ) -> None:
        parts = [(len(each), (np.array(each, FLOAT).tobytes(),)) for each in rows]
        batch = Batch(
            key,
            parts,
            sum(rows for rows, _ in parts),
            bounds,
            leaving=lambda places, left: self.events.append((f"{name} left {places}", left)),
        )
        self.executor.submit(batch, lambda result: self.events.append((name, result)))

    async def until(self, count: int) -> None:
        async with asyncio.timeout(WITHIN_S):
            while len(self.events) < count:
                await asyncio.sleep(0.002)


def run(
    test: Callable[[World], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    keys: Sequence[VariantKey] = (QUICK, WHOLE),
) -> World:
    made: list[FakeStages] = []

    def loaded(plans: Sequence[bytes], context: Any, *, slots: int) -> FakeStages:
        made.append(FakeStages(plans, context, slots=slots))
        return made[-1]

    monkeypatch.setattr(chain, "LoadedStages", loaded)

    async def in_loop() -> World:
        world = World(made)
        for key in keys:
            await world.executor.load(key, Path("m.exits"), MAX_ROWS)
        try:
            await test(world)
        finally:
            world.executor.close()
        return world

    return asyncio.run(in_loop())


def answers(result: Any) -> tuple[list[float], list[int]]:
    """The outputs, and the exits that gave them."""
    assert isinstance(result, BatchResult), result
    return result.outputs[0].ravel().tolist(), result.notes[0].tolist()


def test_rows_stop_where_the_condition_holds_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        world.submit("batch", [[6.0, 0.0], [-20.0]])
        await world.until(1)

    ((_, result),) = run(test, monkeypatch).events
    assert answers(result) == ([16.0, 20.0, 10.0], [1, 2, 3])
    assert 0 < result.ended_s <= monotonic()


def test_all_stages_are_warmed_up_on_each_slot_wherever_rows_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        for slot in world.made[0].all_slots:
            assert slot.ran == [(place, rows) for rows in (1, 2, MAX_ROWS) for place in (1, 2, 3)]

    run(test, monkeypatch, keys=[QUICK])


def test_a_model_of_stages_that_serve_is_loaded_without_their_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both slots are taken by batches, which end after the load; no slot is warmed up twice."""

    async def test(world: World) -> None:
        slots = world.made[0].all_slots
        for slot in slots:
            slot.goes_on.clear()
        for name in ("one", "two"):
            world.submit(name, [[6.0]])
        await world.executor.load(WHOLE, Path("m.exits"), MAX_ROWS)
        assert world.events == []
        for slot in slots:
            slot.goes_on.set()
        await world.until(2)
        for slot in slots:
            assert slot.ran == [*((place, rows) for rows in (1, 2, MAX_ROWS) for place in (1, 2, 3)), (1, 1)]

    run(test, monkeypatch, keys=[QUICK])


def test_an_error_of_the_stages_names_the_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        world.confidence = "output:sure"
        with pytest.raises(EngineError, match=r"^`whole`: .*no stage has an output `sure`"):
            await world.executor.load(WHOLE, Path("m.exits"), MAX_ROWS)

    run(test, monkeypatch, keys=[QUICK])


def test_stages_that_do_not_fit_are_refused_before_any_of_them_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stage does not give would be read from elsewhere on the device."""

    async def test(world: World) -> None:
        world.confidence = "output:sure"
        with pytest.raises(EngineError, match="no stage has an output `sure`"):
            await world.executor.load(WHOLE, Path("m.exits"), MAX_ROWS)
        (stages,) = world.made
        assert [slot.ran for slot in stages.all_slots] == [[], []]
        assert stages.is_closed

    run(test, monkeypatch, keys=[])


def test_models_of_the_same_stages_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        world.submit("quick", [[6.0]])
        world.submit("whole", [[6.0]], key=WHOLE)
        await world.until(2)
        world.executor.unload(QUICK)
        world.submit("after", [[6.0]], key=WHOLE)
        await world.until(3)
        assert [stages.is_closed for stages in world.made] == [False]

    world = run(test, monkeypatch)
    assert {name: answers(result)[1] for name, result in world.events} == {"quick": [1], "whole": [3], "after": [3]}
    assert [stages.is_closed for stages in world.made] == [True]


def test_what_is_due_before_the_next_stage_ends_leaves_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = monotonic()
    points = [ExitProfile(points=(StagePoint(1, each_s, each_s),)) for each_s in (1e-3, 1e3, 1e-3)]

    async def test(world: World) -> None:
        world.submit("batch", [[0.0], [0.0, 6.0]], ExitBounds((now_s + 600, math.inf), (1, 2), points), WHOLE)
        await world.until(2)

    (first, left), (second, whole) = run(test, monkeypatch).events
    assert (first, second) == ("batch left (0,)", "batch")
    assert answers(left) == ([10.0], [1])
    assert left.ended_s > 0
    assert answers(whole) == ([10.0, 30.0, 36.0], [1, 3, 3])


def test_while_one_batch_is_between_two_stages_another_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        held, _ = world.made[0].all_slots
        held.goes_on.clear()
        world.submit("held", [[0.0]])
        world.submit("other", [[0.0]])
        await world.until(1)
        held.goes_on.set()
        await world.until(2)

    assert [name for name, _ in run(test, monkeypatch).events] == ["other", "held"]


def test_of_a_batch_only_requests_fail_that_fail_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        world.submit("batch", [[6.0], [POISON], [0.0]])
        await world.until(1)

    ((_, result),) = run(test, monkeypatch).events
    assert list(result.failures) == [1]
    assert isinstance(result.failures[1], EngineError)
    assert answers(result) == ([16.0, 0.0, 20.0], [1, 0, 2])


def test_a_context_that_is_lost_in_a_later_stage_fails_the_batch_and_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(world: World) -> None:
        world.submit("batch", [[LETHAL]], key=WHOLE)
        await world.until(2)
        with pytest.raises(DeviceLost):
            world.submit("late", [[0.0]])

    world = run(test, monkeypatch)
    assert [name for name, _ in world.events] == ["on_lost", "batch"]
    assert all(isinstance(result, DeviceLost) for _, result in world.events)
