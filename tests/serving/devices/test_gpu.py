"""The threads of a GPU's executor, on engines that compute in Python; `tests/contract` has them on pycuda."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_in_python import FLOAT, LETHAL, MAX_ROWS, POISON, SIGNATURE, WITHIN_S, FakeContext, FakeEngine

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import DeviceLost, EngineBroken, EngineError
from proteus_cli.serving.devices import gpu
from proteus_cli.serving.devices.executor import Batch, BatchResult
from proteus_cli.serving.devices.gpu import GpuExecutor

KEY = VariantKey("f", "v")
SLOTS = 2


class World:
    """An executor with one engine; ``events`` are the calls of ``on_lost`` and of callbacks."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        context: Any = FakeContext()
        self.executor = GpuExecutor(
            context, lambda _key, _model: b"plan", lambda loss: self.events.append(("on_lost", loss)), slots=SLOTS
        )

    @property
    def engine(self) -> FakeEngine:
        engine: Any = self.executor._engines[KEY]
        assert isinstance(engine, FakeEngine)
        return engine

    def submit(self, name: str, *values: float) -> None:
        parts = [(1, (np.array([value], FLOAT).tobytes(),)) for value in values]
        self.executor.submit(Batch(KEY, parts, len(parts)), lambda result: self.events.append((name, result)))

    async def until(self, count: int) -> None:
        async with asyncio.timeout(WITHIN_S):
            while len(self.events) < count:
                await asyncio.sleep(0.002)


def run(test: Callable[[World], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(gpu, "LoadedEngine", FakeEngine)

    async def in_loop() -> World:
        world = World()
        assert await world.executor.load(KEY, Path("m.onnx"), MAX_ROWS) == SIGNATURE
        try:
            await test(world)
        finally:
            world.executor.close()
        return world

    return asyncio.run(in_loop())


def values(result: Any) -> list[float]:
    assert isinstance(result, BatchResult), result
    found: list[float] = result.outputs[0].ravel().tolist()
    return found


def test_as_many_batches_run_at_once_as_there_are_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        slots = world.engine.all_slots
        for slot in slots:
            slot.goes_on.clear()
        for number in range(SLOTS + 1):
            world.submit(str(number), number)
        async with asyncio.timeout(WITHIN_S):
            while not all(slot.parts for slot in slots):
                await asyncio.sleep(0.002)
        assert world.events == []
        for slot in slots:
            slot.goes_on.set()
        await world.until(SLOTS + 1)

    world = run(test, monkeypatch)
    assert {name: values(result) for name, result in world.events} == {"0": [0.0], "1": [2.0], "2": [4.0]}


def test_a_failed_batch_is_run_again_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        world.submit("batch", 1, POISON, 3)
        await world.until(1)

    ((_, result),) = run(test, monkeypatch).events
    assert values(result)[::2] == [2.0, 6.0]
    assert list(result.failures) == [1]


def test_an_engine_that_fails_on_anything_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        for slot in world.engine.all_slots:
            slot.is_broken = True
        world.submit("batch", 1, 2)
        await world.until(1)

    ((_, result),) = run(test, monkeypatch).events
    assert isinstance(result, EngineBroken)


def test_a_lost_context_is_reported_before_batches_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        _, hung = world.engine.all_slots
        hung.goes_on.clear()
        world.submit("first", LETHAL)
        world.submit("second", 1)
        await world.until(3)
        hung.goes_on.set()

    world = run(test, monkeypatch)
    assert [name for name, _ in world.events] == ["on_lost", "first", "second"]
    assert all(isinstance(result, DeviceLost) for _, result in world.events)


def test_an_engine_for_too_small_batches_is_refused_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeEngine] = []

    async def test(world: World) -> None:
        def make(plan: bytes, context: Any, *, slots: int) -> FakeEngine:
            made.append(FakeEngine(plan, context, slots=slots))
            return made[-1]

        monkeypatch.setattr(gpu, "LoadedEngine", make)
        with pytest.raises(EngineError, match="takes 8 rows at most, and the plan wants 9"):
            await world.executor.load(VariantKey("f", "other"), Path("m.onnx"), MAX_ROWS + 1)

    run(test, monkeypatch)
    assert [engine.is_closed for engine in made] == [True]
