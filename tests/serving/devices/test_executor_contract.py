"""What every executor promises, for all of them: in threads, in a process, of another machine, of a GPU, emulated."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agents import CPU, PATIENCE_S, linked, remote_device, run, running_agent, until
from batches import ran
from builders import make_measured, make_profile
from gpu_in_python import FakeContext, FakeEngine
from tiny import INPUTS, looking_up, mlp

from proteus_cli.backends.base import Part
from proteus_cli.backends.emulated import STUB
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import DeviceLost, EngineError
from proteus_cli.serving.devices import gpu as gpu_module
from proteus_cli.serving.devices.cpu import CpuExecutor
from proteus_cli.serving.devices.emulated import EmulatedExecutor, TimerThread
from proteus_cli.serving.devices.executor import Batch, BatchResult, Executor, OnLost
from proteus_cli.serving.devices.gpu import GpuExecutor
from proteus_cli.serving.devices.process.executor import ProcessExecutor
from proteus_cli.serving.devices.process.messages import CpuSpec, EmulatedSpec

KEY, OTHER, UNKNOWN = VariantKey("f", "v"), VariantKey("f", "other"), VariantKey("f", "unknown")
NO_MODEL = b"no model"

Open = Callable[[OnLost], Executor]


@dataclass
class Site:
    """Opens a device again and again, and has what can be loaded there."""

    open_device: Open
    directory: Path
    has_models: bool = True
    opened: list[Executor] = field(default_factory=list)

    def open(self, on_lost: OnLost = print) -> Executor:
        self.opened.append(self.open_device(on_lost))
        return self.opened[-1]

    def model(self) -> Path:
        return mlp(self.directory / "m.onnx")

    def part(self, rows: int = 1, value: float = 1.0) -> Part:
        return rows, (np.full(rows * INPUTS if self.has_models else rows, value, np.float32).tobytes(),)

    def batch(self, *parts: Part, key: VariantKey = KEY) -> Batch:
        given = parts or (self.part(),)
        return Batch(key, given, sum(rows for rows, _ in given))


@asynccontextmanager
async def threads(directory: Path) -> AsyncIterator[Site]:
    yield Site(lambda on_lost: CpuExecutor(CPU, OnnxRuntime(CPU), on_lost), directory)


@asynccontextmanager
async def process(directory: Path) -> AsyncIterator[Site]:
    yield Site(partial(ProcessExecutor, CpuSpec(CPU)), directory)


@asynccontextmanager
async def remote(directory: Path) -> AsyncIterator[Site]:
    async with running_agent(directory) as agent, linked(agent.address) as link:
        yield Site(partial(remote_device, link), directory)


def plan_of(_key: VariantKey, model: Path) -> bytes:
    """What a GPU's engine is read from, where it is built already."""
    if model.read_bytes() == NO_MODEL:
        raise EngineError("the model can't be read")
    return b"plan"


@asynccontextmanager
async def gpu(directory: Path) -> AsyncIterator[Site]:
    """The threads of a GPU's executor, on engines that compute in Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_module, "LoadedEngine", FakeEngine)
        context: Any = FakeContext()
        yield Site(lambda on_lost: GpuExecutor(context, plan_of, on_lost), directory, has_models=False)


EMULATED = EmulatedSpec(
    make_profile(
        "cpu0", *(make_measured("f", variant, 0.9, {1: 0.001, 8: 0.004}, load_s=0.01) for variant in ("v", "other"))
    ),
    {"f": STUB},
)


@asynccontextmanager
async def emulated(directory: Path) -> AsyncIterator[Site]:
    with TimerThread() as timer:

        def open_device(on_lost: OnLost) -> Executor:
            return EmulatedExecutor(EMULATED.profile, EMULATED.signatures, time.monotonic, timer.at, on_lost)

        yield Site(open_device, directory, has_models=False)


@asynccontextmanager
async def emulated_by_an_agent(directory: Path) -> AsyncIterator[Site]:
    with TimerThread() as timer:
        async with running_agent(directory, [], timer=timer) as agent, linked(agent.address, emulates=True) as link:
            yield Site(lambda on_lost: remote_device(link, on_lost, emulated=EMULATED), directory, has_models=False)


WITH_MODELS = {"threads": threads, "process": process, "remote": remote}
SITES = {**WITH_MODELS, "gpu": gpu, "emulated": emulated, "emulated by an agent": emulated_by_an_agent}


@pytest.fixture(params=SITES)
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Callable[[Site], Awaitable[None]]], None]:
    return partial(_run_at, SITES[request.param], tmp_path)


@pytest.fixture(params=WITH_MODELS)
def with_models(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Callable[[Site], Awaitable[None]]], None]:
    return partial(_run_at, SITES[request.param], tmp_path)


def _run_at(open_site: Any, directory: Path, test: Callable[[Site], Awaitable[None]]) -> None:
    async def at_site() -> None:
        async with AsyncExitStack() as stack:
            site = await stack.enter_async_context(open_site(directory))
            await test(site)
            for executor in site.opened:
                executor.abandon()

    run(at_site)


AtSite = Callable[[Callable[[Site], Awaitable[None]]], None]


def test_every_batch_ends_once_with_its_own_rows(anywhere: AtSite) -> None:
    async def test(site: Site) -> None:
        executor, told = site.open(), list[tuple[int, Any]]()
        await executor.load(KEY, site.model(), 8)
        for rows in range(1, 9):
            executor.submit(site.batch(site.part(rows)), lambda result, rows=rows: told.append((rows, result)))  # type: ignore[misc]
        await until(lambda: len(told) == 8)
        assert sorted(rows for rows, _ in told) == list(range(1, 9))
        for rows, result in told:
            assert isinstance(result, BatchResult)
            assert {len(values) for values in result.outputs} == {rows}
            assert result.compute_s > 0
            assert 0 <= result.elapsed_s < PATIENCE_S

    anywhere(test)


def test_outputs_are_those_of_a_thread(with_models: AtSite) -> None:
    """Also of batches that are larger than any before, and of engines in turn."""

    async def test(site: Site) -> None:
        here, executor = CpuExecutor(CPU, OnnxRuntime(CPU), print), site.open()
        models = {KEY: site.model(), OTHER: mlp(site.directory / "other.onnx", seed=9)}
        for key, model in models.items():
            assert await executor.load(key, model, 4) == await here.load(key, model, 4)
        assert executor.can_give_way == here.can_give_way
        for sizes in ((1,), (2, 1), (40, 3, 1), (7000, 1), (4,)):
            parts = [site.part(rows, value=float(rows)) for rows in sizes]
            for key in models:
                found, wanted = (
                    await ran(executor, site.batch(*parts, key=key)),
                    await ran(here, site.batch(*parts, key=key)),
                )
                assert all(np.array_equal(a, b) for a, b in zip(found.outputs, wanted.outputs, strict=True))
        here.close()

    with_models(test)


def test_only_the_parts_fail_that_fail_by_themselves(with_models: AtSite) -> None:
    async def test(site: Site) -> None:
        executor = site.open()
        await executor.load(KEY, looking_up(site.directory / "m.onnx"), 8)
        found = await ran(executor, site.batch(*(site.part(value=value) for value in (1.0, 99.0, 3.0))))
        assert list(found.failures) == [1]
        assert isinstance(found.failures[1], EngineError)
        with pytest.raises(EngineError, match="the model failed"):
            await ran(executor, site.batch(site.part(value=99.0)))
        assert (await ran(executor, site.batch())).failures == {}

    with_models(test)


def test_what_cannot_be_loaded_is_an_engine_error_and_disturbs_nothing(anywhere: AtSite) -> None:
    async def test(site: Site) -> None:
        executor = site.open()
        await executor.load(KEY, site.model(), 4)
        broken = site.directory / "broken.onnx"
        broken.write_bytes(NO_MODEL)
        with pytest.raises(EngineError):
            await executor.load(UNKNOWN, broken, 4)
        with pytest.raises((EngineError, KeyError)):
            await ran(executor, site.batch(key=UNKNOWN))
        assert (await ran(executor, site.batch())).failures == {}

    anywhere(test)


def test_an_engine_can_be_freed_after_its_batches_and_loaded_again(anywhere: AtSite) -> None:
    async def test(site: Site) -> None:
        executor, told = site.open(), list[Any]()
        await executor.load(KEY, site.model(), 4)
        executor.submit(site.batch(), told.append)
        executor.unload(KEY)
        await until(lambda: told)
        assert isinstance(told[0], BatchResult)
        with pytest.raises(KeyError):
            executor.submit(site.batch(), told.append)
        await executor.load(KEY, site.model(), 4)
        assert (await ran(executor, site.batch())).failures == {}
        assert len(told) == 1

    anywhere(test)


def test_a_load_that_is_cancelled_at_any_time_can_be_repeated(anywhere: AtSite) -> None:
    async def test(site: Site) -> None:
        executor, model = site.open(), site.model()
        for pause_s in (0.0, 0.001, 0.005, 0.02):
            loading = asyncio.create_task(executor.load(KEY, model, 4, gives_way=executor.can_give_way))
            await asyncio.sleep(pause_s)
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        await executor.load(KEY, model, 4)
        assert (await ran(executor, site.batch())).failures == {}

    anywhere(test)


def test_what_was_submitted_before_closing_ends_and_nothing_may_follow(anywhere: AtSite) -> None:
    async def test(site: Site) -> None:
        lost, told = list[Any](), list[Any]()
        executor = site.open(lost.append)
        await executor.load(KEY, site.model(), 4)
        for _ in range(5):
            executor.submit(site.batch(), told.append)
        executor.close()
        with pytest.raises(RuntimeError, match="is closed"):
            executor.submit(site.batch(), told.append)
        await until(lambda: len(told) == 5)
        assert all(isinstance(result, BatchResult) for result in told)
        executor.close()
        assert lost == []

    anywhere(test)


def test_nothing_is_told_after_a_device_was_given_up_and_it_can_be_opened_again(anywhere: AtSite) -> None:
    async def test(site: Site) -> None:
        lost, told = list[Any](), list[Any]()
        executor = site.open(lost.append)
        await executor.load(KEY, site.model(), 4)
        executor.submit(site.batch(), told.append)
        executor.abandon()
        with pytest.raises(DeviceLost):
            executor.submit(site.batch(), told.append)
        with pytest.raises(DeviceLost):
            await executor.load(KEY, site.model(), 4)
        executor.unload(KEY)
        executor.abandon()
        again = site.open()
        await again.load(KEY, site.model(), 4)
        for _ in range(3):
            assert (await ran(again, site.batch())).failures == {}
        assert (told, lost) == ([], [])

    anywhere(test)


def test_a_load_fails_when_its_device_is_given_up(anywhere: AtSite) -> None:
    async def test(site: Site) -> None:
        executor = site.open()
        loading = asyncio.create_task(executor.load(KEY, site.model(), 4))
        await asyncio.sleep(0)
        executor.abandon()
        with pytest.raises(DeviceLost):
            await asyncio.wait_for(loading, PATIENCE_S)

    anywhere(test)
