"""Where batches run: one seam, ``submit(batch, done)``, so that threads and others interchange."""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from proteus_cli.backends.affinity import pin_this_thread
from proteus_cli.backends.base import Backend, Part, Runner, Signature
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.errors import DeviceLost, EngineError
from proteus_cli.serving.devices.bisection import OutputArrays, run_with_bisection
from proteus_cli.serving.logs import fields

log = logging.getLogger("proteus.executor")


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What to run: an engine, and of each request its rows and its inputs, in the order of the signature."""

    key: VariantKey
    parts: Sequence[Part]
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class BatchResult:
    """``outputs`` of all rows in the order of the parts, and the seconds that the batch took.

    Parts in ``failures`` (by place) failed, each by itself; their rows in ``outputs`` mean nothing. ``elapsed_s`` is
    from submission to end as the device's own process had it; 0 where it has none.
    """

    outputs: OutputArrays
    compute_s: float
    failures: Mapping[int, Exception] = field(default_factory=dict)
    elapsed_s: float = 0.0


BatchCallback = Callable[[BatchResult | Exception], None]
OnLost = Callable[[DeviceLost], None]
"""Called once, on the running loop, when a device is lost; before any batch or load of it fails."""

OpenDevice = Callable[[str, OnLost], "Executor"]
"""Opens the device of an id. Raises `DeviceUnavailable`."""
Awaited = TypeVar("Awaited")


class Executor(Protocol):
    """Loads engines on one device and runs batches on them.

    A device is lost when nothing can run there any more: its process or thread has ended, or its CUDA context is
    broken. The executor then calls the `OnLost` that it was made with. If that does not `abandon` the executor, all
    pending batches and loads fail with `DeviceLost` next. Later calls raise `DeviceLost`.

    Once an executor is lost or abandoned, another may be made for its device.
    """

    runs_inline: bool
    """Whether `run` may be called."""

    @property
    def pid(self) -> int | None:
        """Of the process that the device has for itself; None where it has none."""
        ...

    async def load(self, key: VariantKey, model: Path, warm_up_rows: int) -> Signature:
        """Load and warm up an engine beside those that are loaded. Raises `EngineError`, `DeviceLost` once lost."""
        ...

    def unload(self, key: VariantKey) -> None:
        """Free an engine once what was submitted before has run. Nothing to do once lost or abandoned."""
        ...

    def run(self, batch: Batch) -> BatchResult:
        """Run a batch on the calling thread, while no submitted batch runs; only where `runs_inline`.

        Raises `EngineError`.
        """
        ...

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        """Run a batch elsewhere; ``done`` is told on the running loop.

        Raises `RuntimeError` once closed, `DeviceLost` once lost or abandoned.
        """
        ...

    def close(self) -> None:
        """Wait for what was submitted, then free everything. Nothing to do once abandoned."""
        ...

    def abandon(self) -> None:
        """Give the device up at once, as it hangs or is lost, and wait for nothing.

        No batch that was submitted is told of any more; loads raise `DeviceLost`. What can't be freed without waiting
        is left behind: a thread that hangs ends with this process; a process is killed.
        """
        ...


class ExecutorBase:
    """What executors share: who waits for a device that may be lost. All of it belongs to the loop's thread."""

    runs_inline = False
    pid: int | None = None

    def __init__(self, device: str, on_lost: OnLost) -> None:
        self._device_id, self._on_lost = device, on_lost
        self._is_closed = False
        self._loss: DeviceLost | None = None
        self._numbers = count()
        self._submitted: dict[int, BatchCallback] = {}
        self._loading: set[asyncio.Future[Any]] = set()

    @property
    def is_lost(self) -> bool:
        """Lost or abandoned."""
        return self._loss is not None

    def _require_open(self) -> None:
        if self._loss is not None:
            raise DeviceLost(self._loss.message, hint=self._loss.hint)
        if self._is_closed:
            raise RuntimeError(f"{self._device_id} is closed")

    def run(self, batch: Batch) -> BatchResult:
        raise RuntimeError(f"{self._device_id} runs no batch on the calling thread: {batch.key}")

    def _register(self, done: BatchCallback) -> int:
        """The number under which a batch ends."""
        number = next(self._numbers)
        self._submitted[number] = done
        return number

    def _complete(self, number: int, result: BatchResult | Exception) -> None:
        """A batch has ended; nobody cares where the device was abandoned meanwhile."""
        done = self._submitted.pop(number, None)
        if done is not None:
            done(result)

    def _lose(self, loss: DeviceLost) -> None:
        """Call ``on_lost``, unless this executor was closed; then fail all pending batches and loads."""
        if self._loss is not None:
            return
        self._loss = loss
        if not self._is_closed:
            self._on_lost(loss)
        for number in list(self._submitted):
            self._complete(number, loss)
        self._end_loads(loss)

    def _forget(self) -> None:
        """Nobody is told of anything any more."""
        self._loss = self._loss or DeviceLost(f"{self._device_id} was given up")
        self._submitted.clear()
        self._end_loads(self._loss)

    def _end_loads(self, loss: DeviceLost) -> None:
        for loading in self._loading:
            if not loading.done():
                loading.set_exception(DeviceLost(loss.message, hint=loss.hint))
                loading.exception()  # it may be that nobody waits

    async def _engine(self, loading: "asyncio.Future[Loaded]") -> "Loaded":
        """Wait for an engine; where it comes just as the load or the device is given up, close it."""
        try:
            engine = await self._loaded(loading)
        except asyncio.CancelledError:
            if loading.done() and not loading.cancelled() and loading.exception() is None:
                loading.result().close()
            raise
        if self.is_lost:
            engine.close()
            self._require_open()
        return engine

    async def _loaded(self, loading: "asyncio.Future[Awaited]") -> Awaited:
        """Wait for an engine, or until the device is lost."""
        self._loading.add(loading)
        try:
            return await loading
        finally:
            self._loading.discard(loading)


class Engine:
    """A loaded model with the buffers that its batches are put together in, which are made once and used again."""

    def __init__(self, runner: Runner, stack: ExitStack, rows: int) -> None:
        self.runner, self._stack = runner, stack
        self._known_good = runner.signature.sample(1, np.random.default_rng(0))
        self._room = 0
        self._reserve(rows)

    def close(self) -> None:
        self._stack.close()

    def run(self, parts: Sequence[Part], rows: int) -> BatchResult:
        """Run parts as one batch. Raises `EngineError` where all of them fail."""
        start_s = perf_counter()
        if rows > self._room:
            self._reserve(rows)
        outputs, failures = run_with_bisection(parts, self._run, self._fails_anyway)
        return BatchResult(outputs, perf_counter() - start_s, failures)

    def _fails_anyway(self) -> bool:
        """The model fails on what it could do when it was loaded."""
        try:
            self.runner.infer(self._known_good)
        except EngineError:
            return True
        return False

    def _run(self, parts: Sequence[Part]) -> OutputArrays:
        rows = sum(rows for rows, _ in parts)
        inputs = {}
        for place, (spec, row_bytes, view, values) in enumerate(self._inputs):
            first = 0
            for part_rows, buffers in parts:
                last = first + part_rows * row_bytes
                view[first:last] = buffers[place]
                first = last
            inputs[spec.name] = values[:rows]
        outputs = tuple(self.runner.infer(inputs).values())
        for values in outputs:
            if len(values) != rows:
                raise EngineError(f"the model gave {len(values)} rows for the {rows} that it got")
        return outputs

    def _reserve(self, rows: int) -> None:
        """Make room for batches of so many rows."""
        self._room = rows
        self._inputs = []
        for spec in self.runner.signature.inputs:
            values = np.zeros((rows, *(size or 1 for size in spec.shape)), spec.dtype)
            view = values.reshape(-1).view(np.uint8).data
            self._inputs.append((spec, values.nbytes // rows, view, values))


class ThreadExecutor(ExecutorBase):
    """One thread that runs and one that loads, both on the cores of the device.

    ONNX Runtime releases the GIL while it runs, so devices run side by side.
    """

    runs_inline = True

    def __init__(self, device: Device, backend: Backend, on_lost: OnLost) -> None:
        super().__init__(device.id, on_lost)
        self._backend, self._device = backend, device
        self._engines: dict[VariantKey, Engine] = {}
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._loads: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, args=(jobs,), name=f"{device.id}-{role}", daemon=True)
            for role, jobs in (("run", self._jobs), ("load", self._loads))
        ]
        for thread in self._threads:
            thread.start()

    async def load(self, key: VariantKey, model: Path, warm_up_rows: int) -> Signature:
        self._require_open()
        loaded: asyncio.Future[Engine] = self._loop.create_future()

        def open_it() -> None:
            try:
                engine = self._open(model, warm_up_rows)
            except Exception as error:  # noqa: BLE001 - it is raised again, where it is waited for
                self._tell(settle, loaded, error)
            else:
                self._tell(settle, loaded, engine)

        self._loads.put(open_it)
        engine = self._engines[key] = await self._engine(loaded)
        return engine.runner.signature

    def unload(self, key: VariantKey) -> None:
        if not self.is_lost:
            self._jobs.put(self._engines.pop(key).close)

    def run(self, batch: Batch) -> BatchResult:
        self._require_open()
        return self._engines[batch.key].run(batch.parts, batch.rows)

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        self._require_open()
        engine = self._engines[batch.key]
        number = self._register(done)

        def run_it() -> None:
            if self.is_lost:
                return
            try:
                result: BatchResult | Exception = engine.run(batch.parts, batch.rows)
            except Exception as error:  # noqa: BLE001 - it is told to whoever waits
                result = error
            self._tell(self._complete, number, result)

        self._jobs.put(run_it)

    def close(self) -> None:
        if not self._is_closed:
            self._dismiss()
            for thread in self._threads:
                thread.join()

    def abandon(self) -> None:
        self._forget()
        if not self._is_closed:
            self._dismiss()

    def _dismiss(self) -> None:
        """The threads end when they have nothing more to do."""
        self._is_closed = True
        for engine in self._engines.values():
            self._jobs.put(engine.close)
        self._engines.clear()
        self._loads.put(None)
        self._jobs.put(None)

    # --- its threads

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        """Have the loop make a call. A thread that was left behind may outlive the loop."""
        if not (self.is_lost and self._loop.is_closed()):
            self._loop.call_soon_threadsafe(call, *arguments)

    def _work(self, jobs: "SimpleQueue[Callable[[], None] | None]") -> None:
        pin_this_thread(self._device.cores)
        try:
            while (job := jobs.get()) is not None:
                job()
        except BaseException as error:  # whatever ends a thread
            name = threading.current_thread().name
            log.exception("the thread %s has ended", name, extra=fields(device=self._device_id))
            self._tell(self._lose, DeviceLost(f"{self._device_id} is lost: its thread {name} has ended ({error!r})"))

    def _open(self, model: Path, warm_up_rows: int) -> Engine:
        with ExitStack() as stack:
            runner = stack.enter_context(self._backend.runner(model))
            rng = np.random.default_rng(0)
            for rows in sorted({1, 2, warm_up_rows}):
                outputs = runner.infer(runner.signature.sample(rows, rng))
                for name, values in outputs.items():
                    _require_rows(model, name, values, rows)
            return Engine(runner, stack.pop_all(), warm_up_rows)


class Closable(Protocol):
    def close(self) -> None: ...


Loaded = TypeVar("Loaded", bound=Closable)


def settle(loaded: "asyncio.Future[Loaded]", result: Loaded | BaseException) -> None:
    """Tell whoever waits for an engine what became of it; where nobody does any more, close it."""
    if isinstance(result, BaseException):
        if not loaded.done():
            loaded.set_exception(result)
    elif loaded.done():
        result.close()
    else:
        loaded.set_result(result)


def _require_rows(model: Path, name: str, values: npt.NDArray[Any], rows: int) -> None:
    """Each row of a batch must have its row in every output, or its answer couldn't be told from the others'."""
    if len(values) != rows:
        raise EngineError(
            f"`{name}` of `{model}` has {len(values)} rows for {rows} rows of input.",
            hint="export the model with axis 0 of every input and output as the batch",
        )
