"""Runs batches on a GPU: one thread enqueues them, one per slot waits for them, and one loads."""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter

import numpy as np

from proteus_cli.backends.base import Part, Signature
from proteus_cli.backends.tensorrt.cuda import PrimaryContext
from proteus_cli.backends.tensorrt.engine import LoadedEngine
from proteus_cli.backends.tensorrt.slots import Slot
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import DeviceLost, EngineError
from proteus_cli.serving.devices.bisection import OutputArrays, run_with_bisection
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult, ExecutorBase, OnLost, settle
from proteus_cli.serving.logs import fields

log = logging.getLogger("proteus.gpu")

ReadPlan = Callable[[VariantKey, Path], bytes]
"""The serialized engine of a model; called on the thread that loads. Raises `ProteusError`."""

Jobs = SimpleQueue[Callable[[], None] | None]


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """A batch on the device, or one that failed to get there, for ``error``."""

    engine: LoadedEngine
    slot: Slot
    batch: Batch
    number: int
    started_s: float
    error: Exception | None


class GpuExecutor(ExecutorBase):
    """An `Executor` of one CUDA device, with as many batches on it at once as it has slots, in the order of `submit`.

    Where the context is lost, so is the device: only another process can use it again.
    """

    def __init__(self, context: PrimaryContext, read_plan: ReadPlan, on_lost: OnLost, *, slots: int = 2) -> None:
        super().__init__(f"gpu{context.ordinal}", on_lost)
        self._context, self._read_plan, self._slots = context, read_plan, slots
        self._engines: dict[VariantKey, LoadedEngine] = {}
        self._loop = asyncio.get_running_loop()
        self._jobs: Jobs = SimpleQueue()
        self._loads: Jobs = SimpleQueue()
        self._flights: SimpleQueue[Flight | None] = SimpleQueue()
        self._room = threading.Semaphore(slots)  # of the device, whichever engines its batches are for
        name = f"gpu{context.ordinal}"
        self._owner = _started(f"{name}-run", partial(_work, self._jobs))
        self._waiters = [_started(f"{name}-wait{place}", self._land) for place in range(slots)]
        self._loader = _started(f"{name}-load", partial(_work, self._loads))

    async def load(self, key: VariantKey, model: Path, warm_up_rows: int) -> Signature:
        self._require_open()
        loaded: asyncio.Future[LoadedEngine] = self._loop.create_future()

        def open_it() -> None:
            try:
                engine = self._open(key, model, warm_up_rows)
            except BaseException as error:  # noqa: BLE001 - it is raised again, where it is waited for
                self._tell(settle, loaded, error)
            else:
                self._tell(settle, loaded, engine)

        self._loads.put(open_it)
        engine = self._engines[key] = await self._engine(loaded)
        return engine.signature

    def unload(self, key: VariantKey) -> None:
        if not self.is_lost:
            self._free(self._engines.pop(key))

    def _free(self, engine: LoadedEngine) -> None:
        # Once all that was submitted before has its slot, the loader waits until the slots are free again.
        self._jobs.put(lambda: self._loads.put(engine.close))

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        self._require_open()
        engine = self._engines[batch.key]
        self._jobs.put(partial(self._enqueue, engine, batch, self._register(done)))

    def close(self) -> None:
        if not self._is_closed:
            self._dismiss()
            for thread in (self._owner, *self._waiters, self._loader):
                thread.join()

    def abandon(self) -> None:
        self._forget()
        if not self._is_closed:
            self._dismiss()

    def _dismiss(self) -> None:
        """The threads end when they have nothing more to do, and have freed the engines."""
        self._is_closed = True
        for engine in self._engines.values():
            self._free(engine)
        self._engines.clear()
        self._jobs.put(self._dismiss_others)
        self._jobs.put(None)

    def _lose(self, loss: DeviceLost) -> None:
        if not self.is_lost:
            log.error("%s", loss, extra=fields(device=self._device_id))
        super()._lose(loss)

    def _open(self, key: VariantKey, model: Path, warm_up_rows: int) -> LoadedEngine:
        """Beside what runs: its slots have streams of their own."""
        self._require_open()
        engine = LoadedEngine(self._read_plan(key, model), self._context, slots=self._slots)
        try:
            _require_room(engine, key, warm_up_rows)
            self._warm_up(engine, warm_up_rows)
            self._require_open()
        except BaseException:
            engine.close()
            raise
        return engine

    def _warm_up(self, engine: LoadedEngine, max_rows: int) -> None:
        """Run batches on each slot: what TensorRT does late, it does now."""
        rng = np.random.default_rng(0)
        parts = [engine.sample(rows, rng) for rows in sorted({1, min(2, max_rows), max_rows})]
        for _ in range(self._slots):  # the next is always another
            with engine.slot() as slot:
                for part in parts:
                    self._run(slot, [part])

    # --- the thread that owns the device

    def _dismiss_others(self) -> None:
        for _ in self._waiters:
            self._flights.put(None)
        self._loads.put(None)

    def _enqueue(self, engine: LoadedEngine, batch: Batch, number: int) -> None:
        if self.is_lost:
            return
        self._room.acquire()
        slot, started_s, failure = engine.take(), perf_counter(), None
        try:
            with self._context.current():
                slot.submit(batch.parts)
        except Exception as error:  # noqa: BLE001 - it is told to whoever waits for the batch
            failure = error
        self._flights.put(Flight(engine, slot, batch, number, started_s, failure))

    # --- the threads that wait

    def _land(self) -> None:
        while (flight := self._flights.get()) is not None:
            result = self._result(flight)
            flight.engine.give_back(flight.slot)
            self._room.release()
            self._tell(self._complete, flight.number, result)

    def _result(self, flight: Flight) -> BatchResult | Exception:
        try:
            outputs, failures = self._outputs(flight)
        except Exception as error:  # noqa: BLE001 - it is told to whoever waits for the batch
            return error
        return BatchResult(outputs, perf_counter() - flight.started_s, failures)

    def _outputs(self, flight: Flight) -> tuple[OutputArrays, Mapping[int, Exception]]:
        """Of a batch on the device; where it failed, but not for good, of those of its parts that don't fail alone."""
        try:
            if flight.error is not None:
                raise flight.error
            with self._context.current():
                return flight.slot.wait(), {}
        except DeviceLost:
            raise
        except EngineError:
            return self._apart(flight.engine, flight.slot, flight.batch)

    # --- whichever thread has a slot

    def _apart(self, engine: LoadedEngine, slot: Slot, batch: Batch) -> tuple[OutputArrays, Mapping[int, Exception]]:
        return run_with_bisection(batch.parts, partial(self._run, slot), partial(self._fails_anyway, engine, slot))

    def _run(self, slot: Slot, parts: Sequence[Part]) -> OutputArrays:
        with self._context.current():
            slot.submit(parts)
            return slot.wait()

    def _fails_anyway(self, engine: LoadedEngine, slot: Slot) -> bool:
        """The engine fails on what it could do when it was loaded."""
        try:
            self._run(slot, [engine.sample(1, np.random.default_rng(0))])
        except DeviceLost:
            raise
        except EngineError:
            return True
        return False

    def _tell(self, call: Callable[..., None], whose: object, result: object) -> None:
        """Have the loop make a call; of a loss it hears first. A thread that was left behind may outlive the loop."""
        if self.is_lost and self._loop.is_closed():
            return
        if isinstance(result, DeviceLost):
            self._tell_loss()
        self._loop.call_soon_threadsafe(call, whose, result)

    def _tell_loss(self) -> None:
        if (loss := self._context.loss) is not None:
            self._loop.call_soon_threadsafe(self._lose, loss)


def _work(jobs: Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()


def _started(name: str, target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread


def _require_room(engine: LoadedEngine, key: VariantKey, rows: int) -> None:
    if rows > engine.layout.max_rows:
        raise EngineError(
            f"The engine of `{key[1]}` takes {engine.layout.max_rows} rows at most, and the plan wants {rows}.",
            hint="build it anew for the plan's batch",
        )
