"""A device in a process of its own answers as one in this process does, and when it is lost, nothing of it is left."""

import asyncio
import logging
import math
import os
import resource
import select
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from agents import PATIENCE_S, until
from batches import ran
from builders import make_catalog, make_family, make_measured, make_profile
from exit_nets import stages_that_fail
from forking.program import of_proteus
from onnx import TensorProto, helper
from short_forms import parse_condition
from tiny import INPUTS, mlp, save_model, tensor

from proteus_cli.backends.base import Part, Signature
from proteus_cli.backends.emulated import STUB
from proteus_cli.backends.exits.runner import NOTES
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.errors import (
    BackendUnavailable,
    DeviceLost,
    DeviceUnavailable,
    EngineError,
)
from proteus_cli.serving.devices.cpu import CpuExecutor
from proteus_cli.serving.devices.emulated import EmulatedExecutor, TimerThread
from proteus_cli.serving.devices.executor import Batch, BatchResult, OnLost
from proteus_cli.serving.devices.hardware import local_devices
from proteus_cli.serving.devices.process import starting as starting_module
from proteus_cli.serving.devices.process.channel import Channel
from proteus_cli.serving.devices.process.child import LogForwarder
from proteus_cli.serving.devices.process.executor import ProcessExecutor
from proteus_cli.serving.devices.process.messages import (
    COMMANDS,
    EVENTS,
    CpuSpec,
    DeviceSpec,
    EmulatedSpec,
    FailedEvent,
    GpuSpec,
    LeftEvent,
    LoadedEvent,
    LogEvent,
    OpenedEvent,
    RanEvent,
    SentError,
)
from proteus_cli.serving.devices.process.shared_memory import TransferBuffer
from proteus_cli.store.models.exit_chains import ExitChain, chain_file

CPU = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))
KEY: VariantKey = VariantKey("f", "v")
OTHER: VariantKey = VariantKey("f", "other")
SHARED = Path("/dev/shm")  # noqa: S108 - nothing is written to it
DTYPES = {
    TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64, TensorProto.FLOAT16: np.float16,
    TensorProto.INT8: np.int8, TensorProto.INT16: np.int16, TensorProto.INT32: np.int32, TensorProto.INT64: np.int64,
    TensorProto.UINT8: np.uint8, TensorProto.UINT16: np.uint16, TensorProto.UINT32: np.uint32,
    TensorProto.UINT64: np.uint64, TensorProto.BOOL: np.bool_,
}  # fmt: skip
ON_CPU = CpuSpec(CPU)


def passing_all_on(path: Path) -> Path:
    """A model with an input and an output of each type, of odd sizes; outputs are the inputs."""
    sizes = {dtype: place % 5 + 1 for place, dtype in enumerate(DTYPES)}
    nodes = [helper.make_node("Identity", [f"x{dtype}"], [f"y{dtype}"]) for dtype in DTYPES]
    inputs = [tensor(f"x{dtype}", ["n", size], dtype) for dtype, size in sizes.items()]
    outputs = [tensor(f"y{dtype}", ["n", size], dtype) for dtype, size in sizes.items()]
    return save_model(path, nodes, inputs=inputs, outputs=outputs)


def finding_most(path: Path) -> Path:
    """A model that gives as many of the largest inputs as the largest of them says: outputs of any size."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["many"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["many", "axis"], ["k"]),
        helper.make_node("TopK", ["x", "k"], ["top", "places"]),
    ]
    ends = [tensor("x", ["n", 2000])], [tensor("top", ["n", "k"])]
    return save_model(path, nodes, inputs=ends[0], outputs=ends[1], weights={"axis": np.array([0], np.int64)})


def parts_of(signature: Signature, rows: Sequence[int], rng: np.random.Generator) -> list[Part]:
    """Requests of so many rows with random inputs."""
    return [
        (each, tuple(np.ascontiguousarray(v).tobytes() for v in signature.sample(each, rng).values())) for each in rows
    ]


def part(*values: float) -> Part:
    """Rows for `looking_up`, and for `mlp`."""
    return len(values), (np.repeat(np.array(values, np.float32), INPUTS).tobytes(),)


def batch(*parts: Part, key: VariantKey = KEY) -> Batch:
    return Batch(key, parts or (part(1),), sum(rows for rows, _ in parts) or 1)


def exists(pid: int | None) -> bool:
    """Also as a zombie."""
    return (Path("/proc") / str(pid)).exists()


def descriptors() -> list[str]:
    """What this process has open."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(path.readlink()))
        except OSError:  # what listing them took
            continue
    return sorted(found)


@asynccontextmanager
async def opened(spec: DeviceSpec = ON_CPU, on_lost: OnLost = print) -> AsyncIterator[ProcessExecutor]:
    """A device in a process; nothing of it may be left over."""
    executor = ProcessExecutor(spec, on_lost)
    try:
        await executor.opened()
        yield executor
    finally:
        executor.close()
        await until(lambda: not exists(executor.pid))


@pytest.fixture(autouse=True, scope="module")
def _template() -> None:
    """What processes are forked from is there before any test counts what is open."""
    of_proteus()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def in_loop() -> None:
        await test()

    before = descriptors()
    asyncio.run(in_loop())
    assert [each for each in descriptors() if each.startswith("/memfd:")] == []
    stop_s = time.monotonic() + PATIENCE_S
    while len(after := descriptors()) > len(before):  # a thread may be about to close one
        assert time.monotonic() < stop_s, Counter(after) - Counter(before)
        time.sleep(0.01)
    assert not list(SHARED.glob("*proteus*"))


# --- answers


def same(found: Sequence[npt.NDArray[Any]], wanted: Sequence[npt.NDArray[Any]]) -> bool:
    pairs = list(zip(found, wanted, strict=True))
    return all(a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b) for a, b in pairs)


@pytest.mark.from_nothing
def test_outputs_are_those_of_a_thread_for_all_types_and_sizes(tmp_path: Path) -> None:
    """Also of batches that are larger than any before, several at once, and of two engines in turn."""

    async def test() -> None:
        models = {KEY: passing_all_on(tmp_path / "all.onnx"), OTHER: mlp(tmp_path / "mlp.onnx")}
        thread, rng = CpuExecutor(CPU, OnnxRuntime(CPU), print), np.random.default_rng(3)
        async with opened() as process:
            signatures = {}
            for key, model in models.items():
                signatures[key] = await process.load(key, model, 4)
                assert signatures[key] == await thread.load(key, model, 4)
            sizes = [(1,), (2, 1), (40, 3, 1), (4,), (1, 1, 1, 1, 1, 1, 1), (300,), (2,)]
            asked = [Batch(k, parts_of(signatures[k], rows, rng), sum(rows)) for rows in sizes for k in models]
            found = await asyncio.gather(*(ran(process, each) for each in asked))
            for each, result in zip(asked, found, strict=True):
                wanted = await ran(thread, each)
                assert same(result.outputs, wanted.outputs)
                assert result.compute_s > 0
        thread.close()

    run(test)


def test_outputs_do_not_change_while_later_batches_run(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened() as process:
            await process.load(KEY, mlp(tmp_path / "m.onnx"), 4)
            first = await ran(process, batch(part(1)))
            before = first.outputs[0].copy()
            for value in range(5):
                await ran(process, batch(part(value + 2)))
            assert np.array_equal(first.outputs[0], before)

    run(test)


def test_outputs_may_be_larger_than_those_before(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened() as process:
            signature = await process.load(KEY, finding_most(tmp_path / "m.onnx"), 1)
            assert signature.outputs[0].shape == (None,)
            for many in (3, 1500, 7):
                x = np.zeros((2, 2000), np.float32)
                x[0, 5] = many
                result = await ran(process, Batch(KEY, [(2, (x.tobytes(),))], 2))
                assert result.outputs[0].shape == (2, many)
                assert result.outputs[0][0, 0] == many

    run(test)


def test_an_emulated_device_answers_the_same(tmp_path: Path) -> None:
    async def test() -> None:
        profile = make_profile("v100-0", make_measured("f", "v", 0.9, {1: 0.001, 4: 0.002}, load_s=0.01))
        asked = batch((2, (np.array([1, 2], np.float32).tobytes(),)), (1, (np.array([3], np.float32).tobytes(),)))
        with TimerThread() as timer:
            here = EmulatedExecutor(profile, {"f": STUB}, time.monotonic, timer.at, print)
            async with opened(EmulatedSpec(profile, {"f": STUB})) as process:
                assert await process.load(KEY, tmp_path, 4) == await here.load(KEY, tmp_path, 4)
                found, wanted = await ran(process, asked), await ran(here, asked)
                assert same(found.outputs, wanted.outputs)
                assert found.compute_s == wanted.compute_s
                with pytest.raises(EngineError, match="`other` was never profiled"):
                    await process.load(OTHER, tmp_path, 4)

    run(test)


def test_an_emulated_multi_exit_model_notes_its_exits(tmp_path: Path) -> None:
    """Of two rows, one has no time for the second stage, and leaves; that it was tried out is no answer."""

    async def test() -> None:
        points = (StagePoint(1, 0.001, 0.001), StagePoint(4, 0.002, 0.002))
        exits = (ExitProfile(points=points), ExitProfile(points=points))
        slow_exits = (exits[0], ExitProfile(points=(StagePoint(1, 1e3, 1e3),)))  # as the server would have it
        measured = make_measured("f", "v", 0.9, {1: 0.001, 4: 0.002}, load_s=0.01)
        profile = make_profile("cpu0", msgspec.structs.replace(measured, exits=exits))
        part = 1, (np.array([1], np.float32).tobytes(),)
        async with opened(EmulatedSpec(profile, {"f": STUB})) as process:
            assert (await process.load(KEY, tmp_path, 4)).notes == NOTES
            left = list[tuple[Sequence[int], BatchResult]]()
            bounds = ExitBounds([time.monotonic() + 600.0, math.inf], [1, 1], slow_exits)
            asked = Batch(KEY, [part, part], 2, bounds, leaving=lambda *each: left.append(each))
            found = await ran(process, asked)
            ((places, of_one),) = left
            assert [*places] == [0]
            assert 0 < of_one.ended_s < found.ended_s
            assert same(of_one.outputs, [values[:1] for values in found.outputs])
            assert of_one.notes[0].tolist() == [1]
            exits_of_rows, confidences, cut, _held, _energy = found.notes
            assert (exits_of_rows.tolist(), cut.tolist()) == ([1, 2], [True, False])
            assert np.isnan(confidences).all()
            tried = await ran(process, Batch(KEY, [part, part], 2))
            assert [values.dtype for values in tried.notes] == [spec.dtype for spec in NOTES]

    run(test)


# --- errors


def test_parts_that_are_run_again_keep_the_bounds_of_their_requests(tmp_path: Path) -> None:
    """The process joins the parts of a batch, and runs them one by one where it fails: one was late before it began."""

    async def test() -> None:
        model = chain_file(
            ExitChain(tuple(stages_that_fail(tmp_path)), parse_condition("exit >= 3"), "margin"), tmp_path
        )
        exits = [ExitProfile(points=(StagePoint(1, 1.0, 1.0),))] * 3
        left = list[tuple[Sequence[int], BatchResult]]()
        async with opened() as process:
            await process.load(KEY, model, 8)
            bounds = ExitBounds([1e12, 1e12, -1e12], [1, 1, 2], exits)
            parts = [part(1), part(99), part(2, 3)]
            found = await ran(process, Batch(KEY, parts, 4, bounds, leaving=lambda *each: left.append(each)))
        assert list(found.failures) == [1]
        assert found.notes[0].tolist() == [3, 0, 1, 1]
        assert [[*places] for places, _ in left] == [[0], [2]]
        assert [result.notes[0].tolist() for _, result in left] == [[3], [1, 1]]

    run(test)


@pytest.mark.from_nothing
def test_a_device_that_cannot_be_opened_has_the_error_of_its_backend() -> None:
    async def test() -> None:
        gpu = Device("gpu0", "t4", "gpu", "a GPU", 2**30)
        executor = ProcessExecutor(GpuSpec(gpu, "built", slots=1), print)
        for _ in range(2):
            with pytest.raises(BackendUnavailable) as refusal:
                await executor.load(KEY, Path("m.onnx"), 4)
            assert "tensorrt" in refusal.value.hint
        executor.close()
        await until(lambda: not exists(executor.pid))

    run(test)


# --- loading


def test_a_load_delays_no_batch_and_can_be_cancelled(tmp_path: Path) -> None:
    """The model is a pipe into which nobody writes, so loading it takes forever."""

    async def test() -> None:
        os.mkfifo(tmp_path / "slow.onnx")
        async with opened() as process:
            await process.load(KEY, mlp(tmp_path / "m.onnx"), 4)
            loading = asyncio.create_task(process.load(OTHER, tmp_path / "slow.onnx", 4))
            await asyncio.sleep(0)
            for _ in range(20):
                await ran(process, batch())
            assert not loading.done()
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading
            await ran(process, batch())

    run(test)


def test_an_engine_whose_load_was_cancelled_is_not_kept(tmp_path: Path) -> None:

    async def test() -> None:
        model = mlp(tmp_path / "m.onnx")
        async with opened() as process:
            await process.load(OTHER, model, 4)
            loading = asyncio.create_task(process.load(KEY, model, 4))
            while not process._loads:  # until the process was told, and no longer: a fast one is done in a millisecond
                await asyncio.sleep(0)
            announced = select.poll()  # `select.select` knows no more than 1024 files
            announced.register(process._process.channel, select.POLLIN)
            assert announced.poll(1000 * PATIENCE_S)  # the engine is announced, and not heard
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            await ran(process, batch(key=OTHER))
            process._layouts[KEY] = process._layouts[OTHER]
            with pytest.raises(EngineError, match="is not loaded"):
                await ran(process, batch())

    run(test)


# --- losses


@pytest.mark.from_nothing
def test_when_the_process_is_killed_on_lost_is_called_first_and_the_device_can_be_opened_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        model = mlp(tmp_path / "m.onnx")
        told: list[tuple[str, Any]] = []
        async with opened(on_lost=lambda loss: told.append(("owner", loss))) as process:
            assert process.pid is not None
            await process.load(KEY, model, 4)
            await ran(process, batch())
            os.kill(process.pid, signal.SIGSTOP)
            for name in ("first", "second"):
                process.submit(batch(), lambda result, name=name: told.append((name, result)))  # type: ignore[misc]
            loading = asyncio.create_task(process.load(OTHER, model, 4))
            await until(lambda: process._loads)
            assert told == []
            os.kill(process.pid, signal.SIGKILL)
            with pytest.raises(DeviceLost, match=f"its process {process.pid} has ended"):
                await asyncio.wait_for(loading, PATIENCE_S)
            assert [who for who, _ in told] == ["owner", "first", "second"]
            assert all(isinstance(result, DeviceLost) for _, result in told)
            with pytest.raises(DeviceLost):
                process.submit(batch(), print)
            with pytest.raises(DeviceLost):
                await process.load(KEY, model, 4)
            process.unload(KEY)
        async with opened() as again:
            await again.load(KEY, model, 4)
            await ran(again, batch())

    caplog.set_level(logging.INFO, "proteus")
    run(test)
    assert "its process has ended: SIGKILL" in caplog.text


def test_a_stopped_process_is_abandoned_at_once_and_leaves_no_zombie(tmp_path: Path) -> None:
    async def test() -> None:
        told: list[Any] = []
        async with opened(on_lost=told.append) as process:
            assert process.pid is not None
            model = mlp(tmp_path / "m.onnx")
            await process.load(KEY, model, 4)
            os.kill(process.pid, signal.SIGSTOP)
            process.submit(batch(), told.append)
            loading = asyncio.create_task(process.load(OTHER, model, 4))
            await until(lambda: process._loads)
            process.abandon()
            with pytest.raises(DeviceLost, match="was given up"):
                await asyncio.wait_for(loading, PATIENCE_S)
            with pytest.raises(DeviceLost):
                process.submit(batch(), told.append)
            process.unload(KEY)
            process.abandon()
            await until(lambda: not exists(process.pid))
            assert told == []

    run(test)


@pytest.mark.from_nothing
def test_a_process_that_ends_while_it_is_being_opened_is_lost() -> None:
    async def test() -> None:
        told: list[Any] = []
        process = ProcessExecutor(ON_CPU, told.append)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(DeviceLost):
            await process.load(KEY, Path("m.onnx"), 4)
        assert len(told) == 1

    run(test)


def test_a_process_that_reads_nothing_is_lost_before_messages_fill_the_memory(tmp_path: Path) -> None:
    async def test() -> None:
        told: list[Any] = []
        async with opened(on_lost=told.append) as process:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGSTOP)
            loads = [asyncio.create_task(process.load(KEY, tmp_path, 4)) for _ in range(2000)]
            ended = await asyncio.wait_for(asyncio.gather(*loads, return_exceptions=True), PATIENCE_S)
            assert all(isinstance(each, DeviceLost) for each in ended)
            assert ["takes no more messages" in str(loss) for loss in told] == [True]

    run(test)


def _encoded(message: Any) -> bytes:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        Channel(ours, EVENTS).send(message, wait=True)
        return its.recv(2**16)


@pytest.mark.parametrize(
    "said",
    [
        b"\0", b"\xc1", b"\xff" * 1000, b"\x91\xa8LogEvent", _encoded(RanEvent(99, 0.1, 0.1, 0.1, 0.0, [], {})),
        *[_encoded(RanEvent(1, 0.1, 0.1, 0.1, 0.0, [shape], {})) for shape in [(2**40,), (2**62, 2**62)]],
        _encoded(LeftEvent(99, [0], 0.1, 0.1, [])), _encoded(LeftEvent(0, [0], 0.1, 0.1, [(2, 10)])),
    ],
)  # fmt: skip
def test_a_device_whose_process_says_nonsense_is_lost(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """Its memory may be broken. Its batches run elsewhere then."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def start(_: str) -> tuple["subprocess.Popen[bytes]", socket.socket]:
        return subprocess.Popen(["sleep", "600"]), ours

    monkeypatch.setattr(starting_module, "_start_process", start)

    async def test() -> None:
        told: list[Any] = []
        process = ProcessExecutor(ON_CPU, told.append)
        channel = Channel(its, COMMANDS)
        channel.send(OpenedEvent("onnxruntime"), wait=True)
        load = asyncio.create_task(process.load(KEY, Path("m.onnx"), 4))
        await until(lambda: process._loads)
        channel.send(LoadedEvent(0, STUB), wait=True)
        await asyncio.wait_for(load, PATIENCE_S)
        part = STUB.sample_part(1, np.random.default_rng(0))
        process.submit(Batch(KEY, [part], 1), told.append)
        its.send(said)
        await until(lambda: len(told) == 2)
        assert all(isinstance(each, DeviceLost) for each in told)
        await until(lambda: not exists(process.pid))

    try:
        asyncio.run(test())
    finally:
        its.close()


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process can open none."""
    limits, held = resource.getrlimit(resource.RLIMIT_NOFILE), list[int]()
    most = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
    try:
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.from_nothing
def test_without_free_file_descriptors_a_batch_fails_or_its_device_is_lost(
    tmp_path: Path,
) -> None:
    def asked(many: int) -> Batch:
        x = np.zeros((2, 2000), np.float32)
        x[0, 5] = many
        return Batch(KEY, [(2, (x.tobytes(),))], 2)

    async def test() -> None:
        async with opened() as process:
            await process.load(KEY, finding_most(tmp_path / "m.onnx"), 1)
            with no_more_files(), pytest.raises(EngineError, match="No memory to share with cpu0"):
                await ran(process, asked(3))
            await ran(process, asked(3))
            with no_more_files(), pytest.raises(DeviceLost, match="can't be reached"):
                await ran(process, asked(1500))
            with no_more_files(), pytest.raises(DeviceUnavailable, match="No process can be started for cpu0"):
                ProcessExecutor(ON_CPU, print)

    run(test)


# --- the end


def test_closing_does_not_wait_for_loads(tmp_path: Path) -> None:
    async def test() -> None:
        os.mkfifo(tmp_path / "slow.onnx")
        told: list[Any] = []
        async with opened(on_lost=told.append) as process:
            loading = asyncio.create_task(process.load(KEY, tmp_path / "slow.onnx", 4))
            await until(lambda: process._loads)
        with pytest.raises(DeviceLost, match="cpu0 was closed"):
            await asyncio.wait_for(loading, PATIENCE_S)
        assert told == []

    run(test)


def test_a_process_that_does_not_end_is_killed_and_its_batches_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proteus_cli.serving.devices.process.starting.CLOSE_S", 0.05)

    async def test() -> None:
        told: list[Any] = []
        async with opened() as process:
            assert process.pid is not None
            await process.load(KEY, mlp(tmp_path / "m.onnx"), 4)
            os.kill(process.pid, signal.SIGSTOP)
            process.submit(batch(), told.append)
        await until(lambda: told)
        assert isinstance(told[0], DeviceLost)

    run(test)


@pytest.mark.from_nothing
@pytest.mark.parametrize("times", [24, pytest.param(200, marks=pytest.mark.extended)])
def test_opening_and_closing_many_times_leaves_nothing(times: int) -> None:
    """Most are ended before they are open, as that is quick."""

    async def test() -> None:
        pids = []
        for number in range(times):
            executor = ProcessExecutor(ON_CPU, print)
            pids.append(executor.pid)
            if number % 9 == 0:
                await executor.opened()
            (executor.abandon if number % 2 else executor.close)()
        await until(lambda: not any(map(exists, pids)))
        assert not any(map(exists, pids))

    run(test)


# --- devices of this machine


@pytest.mark.from_nothing
def test_local_devices_run_in_processes_on_request_and_can_be_opened_again(tmp_path: Path) -> None:
    async def test() -> None:
        one, other = CPU, Device("cpu1", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))
        catalog = make_catalog(make_family("f", {"v": 0.9}))
        models = {KEY: mlp(tmp_path / "m.onnx")}
        found: dict[bool, set[int | None]] = {}
        for in_processes in (False, True):
            devices, slots = {"cpu0": one, "cpu1": other}, {"cpu0": 1, "cpu1": 1}
            here = local_devices(devices, catalog, models, tmp_path, slots, in_processes=in_processes)
            async with here as hardware:
                assert hardware.platform == "onnxruntime"
                executors = [hardware.open_device("cpu0", print) for _ in range(2)]  # nobody asks for the other
                found[in_processes] = {executor.pid for executor in executors}
                for executor in executors:
                    signature = await executor.load(KEY, models[KEY], 4)
                    assert signature == hardware.signatures["f"]
                    await ran(executor, batch())
                    executor.close()
        assert found[False] == {None}
        assert len(found[True] - {None}) == 2
        assert [thread for thread in threading.enumerate() if thread.name.startswith("cpu1")] == []

    run(test)


# --- what is said


def test_messages_of_any_size_arrive_whole_and_with_their_descriptors() -> None:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sender = Channel(ends[0], COMMANDS)
    receiver = Channel(ends[1], EVENTS)
    slot = TransferBuffer()
    slot.outgoing(3)[:3] = b"abc"
    for size, sent in ((10, slot.take_unsent()), (10**6, ()), (0, ())):
        message = FailedEvent(7, SentError("EngineError", "x" * size))
        sender.send(message, sent, wait=False)
        found = receiver.receive(wait=False)
        assert found is not None
        assert found[0] == message
        assert len(found[1]) == len(sent)
        if sent:
            assert bytes(TransferBuffer().incoming(found[1])[:3]) == b"abc"
    with pytest.raises(BlockingIOError):
        receiver.receive(wait=False)
    sender.close()
    assert receiver.receive(wait=False) is None
    receiver.close()
    slot.close()


def test_the_server_logs_what_the_process_logs() -> None:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    receiver = Channel(ends[1], EVENTS)
    here = {"fields": {"family": "f", "where": Path("m")}}
    line = logging.makeLogRecord({"name": "proteus.somewhere", "levelno": logging.ERROR, "msg": "a bug", **here})
    line.exc_info = (ValueError, ValueError("odd"), None)
    LogForwarder(Channel(ends[0], COMMANDS)).emit(line)
    found = receiver.receive(wait=False)
    assert found is not None
    said = found[0]
    assert isinstance(said, LogEvent)
    assert (said.level, said.logger, said.message) == (logging.ERROR, "proteus.somewhere", "a bug")
    assert said.fields["family"] == "f"
    assert said.fields["where"] == "m"
    assert "ValueError: odd" in said.fields["exception"]
    for end in ends:
        end.close()


def test_a_profile_of_any_size_reaches_the_process() -> None:
    """The first message has the whole profile of an emulated device."""
    measured = [make_measured("f", f"v{number}", 0.9, {1: 0.001}) for number in range(1500)]
    spec = EmulatedSpec(make_profile("v100-0", *measured), {"f": STUB})
    assert len(msgspec.msgpack.encode(spec.profile)) > 2**18

    async def test() -> None:
        async with opened(spec) as process:
            assert await process.load(VariantKey("f", "v1499"), Path(), 1) == STUB

    run(test)
