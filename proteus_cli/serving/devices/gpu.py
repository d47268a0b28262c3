"""Runs batches on a GPU: one thread submits them, one per slot waits for them, and one loads engines."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from time import monotonic, perf_counter
from typing import Any, Protocol

import numpy as np

from proteus_cli.backends.base import OutputArrays, Part, Signature
from proteus_cli.backends.tensorrt.chain import ChainPlans, ExitSlot, LoadedChains
from proteus_cli.backends.tensorrt.cuda import PrimaryContext
from proteus_cli.backends.tensorrt.engine import LoadedEngine, warm_up_parts
from proteus_cli.backends.tensorrt.slots import EngineTensors
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.errors import DeviceLost, EngineError
from proteus_cli.serving.devices.bisection import Left, leave_by, run_with_bisection
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult, LeavingCallback, OnLost
from proteus_cli.serving.devices.threaded import ThreadedExecutor
from proteus_cli.serving.logs import fields
from proteus_cli.units import counted

log = logging.getLogger("proteus.gpu")

ReadPlan = Callable[[VariantKey, Path], bytes | ChainPlans]
"""The serialized engine of a model, or the engines of its stages; called on the thread that loads. Raises
`ProteusError`."""


class GpuSlot(Protocol):
    """The resources of one batch on the device: a `Slot`, or the `ExitSlot` of a multi-exit model."""

    def submit(self, parts: Sequence[Part]) -> None: ...

    def wait(self) -> OutputArrays: ...


class GpuEngine(Protocol):
    """A `LoadedEngine`, or a `LoadedChain`. Each gets back slots that were taken of it."""

    @property
    def signature(self) -> Signature: ...

    @property
    def tensors(self) -> EngineTensors: ...

    def take(self) -> GpuSlot: ...

    def give_back(self, slot: Any) -> None: ...

    def slot(self) -> AbstractContextManager[GpuSlot]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class GpuBatch:
    """A batch that was submitted to the device, or could not be, because of ``error``."""

    engine: GpuEngine
    slot: GpuSlot
    batch: Batch
    number: int
    started_s: float
    error: Exception | None


class GpuExecutor(ThreadedExecutor[GpuEngine]):
    """An `Executor` of one CUDA device, with as many batches on it at once as it has slots, in the order of `submit`.

    The thread that waits for a batch of a multi-exit model takes it through all of its stages.

    Where the context is lost, so is the device: only another process can use it again.
    """

    def __init__(self, context: PrimaryContext, read_plan: ReadPlan, on_lost: OnLost, *, slots: int = 2) -> None:
        self._context, self._read_plan, self._slots = context, read_plan, slots
        self._chains = LoadedChains(context, slots)
        self._running: SimpleQueue[GpuBatch | None] = SimpleQueue()
        self._free_slots = threading.Semaphore(slots)  # of the device, whichever engines its batches are for
        super().__init__(f"gpu{context.ordinal}", on_lost)
        for place in range(slots):
            self._start_thread(f"wait{place}", self._complete_batches)

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        self._require_open()
        engine = self._engines[batch.key]
        self._jobs.put(partial(self._start_batch, engine, batch, self._register(done)))

    def _lose(self, loss: DeviceLost) -> None:
        if not self.is_lost:
            log.error("%s", loss, extra=fields(device=self._device_id))
        super()._lose(loss)

    # --- the loading thread

    def _load(self, key: VariantKey, model: Path, warm_up_rows: int) -> GpuEngine:
        """Load an engine beside the batches that run: its slots have streams of their own."""
        plan = self._read_plan(key, model)
        engine: GpuEngine
        if isinstance(plan, ChainPlans):
            engine = self._chains.load(plan)
        else:
            engine = LoadedEngine(plan, self._context, slots=self._slots)
        try:
            _require_max_rows(engine, key, warm_up_rows)
            if not isinstance(plan, ChainPlans):  # stages were warmed up before others shared them
                self._warm_up(engine, warm_up_rows)
        except BaseException:
            engine.close()
            raise
        return engine

    def _warm_up(self, engine: GpuEngine, max_rows: int) -> None:
        parts = warm_up_parts(engine.signature, max_rows)
        for _ in range(self._slots):  # the next is always another
            with engine.slot() as slot:
                for part in parts:
                    self._run(slot, [part])

    # --- the running thread

    def _start_batch(self, engine: GpuEngine, batch: Batch, number: int) -> None:
        if self.is_lost:
            return
        self._free_slots.acquire()
        slot, started_s, failure = engine.take(), perf_counter(), None
        try:
            with self._context.current():
                slot.submit(batch.parts)
        except Exception as error:  # noqa: BLE001 - the batch's callback gets it
            failure = error
        self._running.put(GpuBatch(engine, slot, batch, number, started_s, failure))

    def _end_other_threads(self) -> None:
        super()._end_other_threads()
        for _ in range(self._slots):
            self._running.put(None)

    # --- the waiting threads

    def _complete_batches(self) -> None:
        while (running := self._running.get()) is not None:
            result = self._result(running)
            running.engine.give_back(running.slot)
            self._free_slots.release()
            self._on_loop(self._complete, running.number, result)

    def _result(self, running: GpuBatch) -> BatchResult | Exception:
        failures: Mapping[int, Exception] = {}
        try:
            try:
                outputs = self._outputs(running)
            except DeviceLost:
                raise
            except EngineError:
                known_good = running.engine.signature.sample_part(1, np.random.default_rng(0))
                outputs, failures = run_with_bisection(
                    running.batch.parts,
                    partial(self._run, running.slot),
                    known_good,
                    running.batch.bounds,
                    self._left_by(running),
                )
        except Exception as error:  # noqa: BLE001 - the batch's callback gets it
            return error
        return _batch_result(running, outputs, failures)

    def _outputs(self, running: GpuBatch) -> OutputArrays:
        if running.error is not None:
            raise running.error
        with self._context.current():
            return _waited(running.slot, running.batch.bounds, self._left_by(running))

    def _left_by(self, running: GpuBatch) -> Left | None:
        leaving = running.batch.leaving
        return leaving and partial(self._left, running, leaving)

    def _left(self, running: GpuBatch, leaving: LeavingCallback, places: Sequence[int], given: OutputArrays) -> None:
        self._on_loop(self._part_left, running.number, leaving, places, _batch_result(running, given, {}))

    # --- any thread that has a slot

    def _run(
        self, slot: GpuSlot, parts: Sequence[Part], bounds: ExitBounds | None = None, left: Left | None = None
    ) -> OutputArrays:
        with self._context.current():
            slot.submit(parts)
            return _waited(slot, bounds, left)

    def _on_loop(self, call: Callable[..., object], *arguments: Any) -> None:
        """Have the loop make a call; after `_lose` where it is about a batch or a load that lost the device."""
        loss = self._context.loss
        if loss is not None and isinstance(arguments[-1], DeviceLost):
            super()._on_loop(self._lose, loss)
        super()._on_loop(call, *arguments)


def _waited(slot: GpuSlot, bounds: ExitBounds | None, left: Left | None) -> OutputArrays:
    return slot.wait(bounds, leave_by(left)) if isinstance(slot, ExitSlot) else slot.wait()


def _batch_result(running: GpuBatch, given: OutputArrays, failures: Mapping[int, Exception]) -> BatchResult:
    outputs, notes = running.engine.signature.told_apart(given)
    compute_s, ended_s = perf_counter() - running.started_s, monotonic()
    return BatchResult(outputs, compute_s, failures, notes=notes, ended_s=ended_s)


def _require_max_rows(engine: GpuEngine, key: VariantKey, rows: int) -> None:
    if rows > engine.tensors.max_rows:
        most = counted(engine.tensors.max_rows, "row")
        raise EngineError(
            f"The engine of `{key.variant}` takes {most} at most, and the plan wants {rows}.",
            hint="build it anew for the plan's batch",
        )
