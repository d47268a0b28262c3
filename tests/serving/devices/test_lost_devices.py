"""A device that is lost, or given up: who is told of it, in which order, and who is never told anything."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agents import PATIENCE_S, until
from builders import make_measured, make_profile
from tiny import INPUTS, mlp

from proteus_cli.backends.base import NamedArrays, Runner
from proteus_cli.backends.emulated import STUB
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import BackendInfo
from proteus_cli.errors import DeviceLost
from proteus_cli.serving.devices.cpu import CpuExecutor
from proteus_cli.serving.devices.emulated import EmulatedExecutor, TimerThread
from proteus_cli.serving.devices.executor import Batch, BatchResult, Executor, OnLost

CPU = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))
KEY: VariantKey = VariantKey("f", "v")
BATCH = Batch(KEY, [(1, (np.ones(INPUTS, np.float32).tobytes(),))], 1)


class Hanging:
    """ONNX Runtime whose engines hang, or end their thread, while they are told to."""

    versions = BackendInfo("onnxruntime", {})
    max_slots = 1
    meter = None

    def __init__(self) -> None:
        self._backend = OnnxRuntime(CPU)
        self.may_go_on, self.has_begun = threading.Event(), threading.Event()
        self.may_go_on.set()
        self.ends_thread = False
        self.open = 0

    def prepare(self, model: Path, owner: VariantKey | None = None) -> float:
        return 0.0

    @contextmanager
    def runner(self, model: Path, owner: VariantKey | None = None) -> Iterator[Runner]:
        with self._backend.runner(model, owner) as runner:
            self.open += 1
            yield HangingRunner(runner, self)
            self.open -= 1


class HangingRunner:
    def __init__(self, runner: Runner, backend: Hanging) -> None:
        self._runner, self._backend = runner, backend
        self.signature, self.memory_bytes = runner.signature, runner.memory_bytes

    def infer(self, inputs: NamedArrays) -> NamedArrays:
        self._backend.has_begun.set()
        self._backend.may_go_on.wait()
        if self._backend.ends_thread:
            raise SystemExit
        return self._runner.infer(inputs)


@asynccontextmanager
async def on_a_thread(directory: Path, on_lost: OnLost = print) -> AsyncIterator[tuple[CpuExecutor, Hanging]]:
    backend = Hanging()
    executor = CpuExecutor(CPU, backend, on_lost)
    try:
        await executor.load(KEY, mlp(directory / "m.onnx"), 4)
        backend.has_begun.clear()
        yield executor, backend
    finally:
        backend.may_go_on.set()
        executor.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def in_loop() -> None:
        await test()

    asyncio.run(in_loop())


# --- threads


def threads_of_cpu0() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("cpu0-")]


def test_no_callback_is_called_for_a_thread_that_hung_when_its_device_was_abandoned(tmp_path: Path) -> None:
    async def test() -> None:
        told: list[Any] = []
        async with on_a_thread(tmp_path, told.append) as (executor, backend):
            backend.may_go_on.clear()
            executor.submit(BATCH, told.append)
            executor.submit(BATCH, told.append)
            loading = asyncio.create_task(executor.load(VariantKey("f", "other"), tmp_path / "m.onnx", 4))
            await until(backend.has_begun.is_set)
            executor.abandon()
            with pytest.raises(DeviceLost, match="cpu0 was given up"):
                await loading
            with pytest.raises(DeviceLost):
                executor.submit(BATCH, told.append)
            with pytest.raises(DeviceLost):
                await executor.load(KEY, tmp_path / "m.onnx", 4)
            executor.unload(KEY)
            executor.close()
            backend.may_go_on.set()
            await until(lambda: not threads_of_cpu0())
            await until(lambda: backend.open == 0)
            assert told == []

    run(test)


def test_a_thread_that_hangs_until_the_loop_is_closed_ends_without_an_error(tmp_path: Path) -> None:
    backend = Hanging()

    async def test() -> None:
        executor = CpuExecutor(CPU, backend, print)
        await executor.load(KEY, mlp(tmp_path / "m.onnx"), 4)
        backend.has_begun.clear()
        backend.may_go_on.clear()
        executor.submit(BATCH, print)
        await until(backend.has_begun.is_set)
        executor.abandon()

    run(test)
    backend.may_go_on.set()
    stop_s = time.monotonic() + PATIENCE_S
    while backend.open and time.monotonic() < stop_s:
        time.sleep(0.002)
    assert backend.open == 0  # an error in the thread would have failed this test, and kept the engine


def test_an_abandoned_device_can_be_opened_again_beside_its_hung_thread(tmp_path: Path) -> None:
    async def test() -> None:
        async with on_a_thread(tmp_path) as (executor, backend):
            backend.may_go_on.clear()
            executor.submit(BATCH, print)
            executor.abandon()
            again = CpuExecutor(CPU, OnnxRuntime(CPU), print)
            await again.load(KEY, tmp_path / "m.onnx", 4)
            told: list[Any] = []
            again.submit(BATCH, told.append)
            await until(lambda: told)
            assert isinstance(told[0], BatchResult)
            again.close()

    run(test)


def test_when_a_thread_ends_on_lost_is_called_before_the_batches_fail(tmp_path: Path) -> None:
    async def test() -> None:
        told: list[tuple[str, Any]] = []
        async with on_a_thread(tmp_path, lambda loss: told.append(("owner", loss))) as (executor, backend):
            backend.ends_thread = True
            for name in ("first", "second"):
                executor.submit(BATCH, lambda result, name=name: told.append((name, result)))  # type: ignore[misc]
            await until(lambda: len(told) == 3)
            assert [who for who, _ in told] == ["owner", "first", "second"]
            assert all(isinstance(result, DeviceLost) for _, result in told)
            assert "cpu0-run has ended" in str(told[0][1])
            with pytest.raises(DeviceLost, match="cpu0-run"):
                executor.submit(BATCH, print)

    run(test)


def test_no_batch_fails_if_on_lost_abandons_the_device(tmp_path: Path) -> None:
    async def test() -> None:
        told: list[Any] = []
        async with on_a_thread(tmp_path, lambda _: executor.abandon()) as (executor, backend):
            backend.ends_thread = True
            executor.submit(BATCH, told.append)
            await until(lambda: executor.is_lost)
            await until(lambda: not threads_of_cpu0())
            for _ in range(20):  # turns: what they had for the loop is done
                await asyncio.sleep(0)
            assert told == []

    run(test)


@pytest.mark.parametrize("what", ["load", "device"])
def test_an_engine_is_closed_when_its_load_or_device_ends_just_as_it_is_loaded(what: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with on_a_thread(tmp_path) as (executor, backend):
            loading = asyncio.create_task(executor.load(VariantKey("f", "other"), tmp_path / "m.onnx", 4))
            await asyncio.sleep(0)
            is_loaded = threading.Event()
            executor._after_batches(is_loaded.set)
            assert is_loaded.wait(PATIENCE_S)  # the loop must not hear of it yet
            await asyncio.sleep(0)  # now the loop has the engine, and whoever waits for it hasn't
            if what == "load":
                loading.cancel()
            else:
                executor.abandon()
            with pytest.raises((asyncio.CancelledError, DeviceLost)):
                await loading
            await until(lambda: backend.open == (1 if what == "load" else 0))

    run(test)


# --- emulated devices


def emulated(*, load_s: float) -> tuple[EmulatedExecutor, list[Callable[[], None]]]:
    """A device whose batches end when the calls that it sets are made."""
    due: list[Callable[[], None]] = []
    profile = make_profile("v100-0", make_measured("f", "v", 0.9, {1: 0.01}, load_s=load_s))
    return EmulatedExecutor(profile, {"f": STUB}, time.monotonic, lambda _, call: due.append(call), print), due


def test_no_callback_is_called_for_an_abandoned_emulated_device() -> None:
    async def test() -> None:
        executor, due = emulated(load_s=0.0)
        await executor.load(KEY, Path(), 1)
        told: list[Any] = []
        executor.submit(BATCH, told.append)
        executor.abandon()
        for call in due:
            call()
        assert (len(due), told) == (1, [])
        with pytest.raises(DeviceLost):
            executor.submit(BATCH, told.append)
        executor.unload(KEY)
        executor.close()

    run(test)


def test_loads_of_an_abandoned_emulated_device_fail_at_once() -> None:
    async def test() -> None:
        executor, _ = emulated(load_s=3600.0)
        loads = [asyncio.create_task(executor.load(KEY, Path(), 1)) for _ in range(2)]
        await asyncio.sleep(0)
        executor.abandon()
        ended = await asyncio.wait_for(asyncio.gather(*loads, return_exceptions=True), PATIENCE_S)
        assert all(isinstance(each, DeviceLost) for each in ended)

    run(test)


def test_a_load_that_waits_for_a_cancelled_one_on_an_abandoned_emulated_device_fails_at_once() -> None:
    async def test() -> None:
        executor, _ = emulated(load_s=3600.0)
        cancelled = asyncio.create_task(executor.load(KEY, Path(), 1))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        waiting = asyncio.create_task(executor.load(KEY, Path(), 1))
        await asyncio.sleep(0)
        executor.abandon()
        with pytest.raises(DeviceLost):
            await asyncio.wait_for(waiting, PATIENCE_S)

    run(test)


def test_devices_in_this_process_have_no_pid(tmp_path: Path) -> None:
    async def test() -> None:
        with TimerThread() as timer, contextlib.ExitStack() as stack:
            profile = make_profile("v100-0", make_measured("f", "v", 0.9, {1: 0.01}))
            executors: list[Executor] = [
                CpuExecutor(CPU, OnnxRuntime(CPU), print),
                EmulatedExecutor(profile, {"f": STUB}, time.monotonic, timer.at, print),
            ]
            for executor in executors:
                stack.callback(executor.close)
                assert executor.pid is None

    run(test)
