"""The process of one device: ``python -m proteus_cli.serving.devices.process.child DESCRIPTOR`` (its socket end)."""

import asyncio
import gc
import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import uvloop

from proteus_cli.backends import emulated
from proteus_cli.backends.affinity import pin_this_thread
from proteus_cli.backends.base import Part, Signature
from proteus_cli.backends.engines import Engines
from proteus_cli.backends.opening import open_backend
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import DeviceLost, EngineBroken, EngineError, ProteusError
from proteus_cli.serving.child_process import depend_on_parent
from proteus_cli.serving.devices.bisection import OutputArrays
from proteus_cli.serving.devices.builds import BuildLog
from proteus_cli.serving.devices.emulated import EmulatedExecutor, TimerThread
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult, Executor, OnLost, ThreadExecutor
from proteus_cli.serving.devices.process.inner import DeviceSpec, Emulated, OnCpu, OnGpu
from proteus_cli.serving.devices.process.memory import TransferBuffer, offsets
from proteus_cli.serving.devices.process.wire import (
    OPENING,
    TO_PROCESS,
    Channel,
    Close,
    Failed,
    Failure,
    Forget,
    FromProcess,
    Load,
    Loaded,
    Lost,
    Open,
    Opened,
    Ran,
    Run,
    Said,
    ToProcess,
    Unload,
    told,
)

log = logging.getLogger("proteus.process")


class Engine:
    """A loaded engine."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._row_bytes = [spec.row_bytes for spec in signature.inputs]

    def batch(self, key: VariantKey, rows: Sequence[int], inputs: memoryview) -> Batch:
        """Parts of so many rows, whose inputs lie each in one piece."""
        total = sum(rows)
        firsts, size = offsets(total * size for size in self._row_bytes)
        if len(inputs) < size:
            raise RuntimeError(f"{size} bytes of inputs don't lie in {len(inputs)}")  # the system drops descriptors
        parts: list[Part] = []
        for each in rows:
            lasts = [first + each * size for first, size in zip(firsts, self._row_bytes, strict=True)]
            parts.append((each, tuple(inputs[first:last] for first, last in zip(firsts, lasts, strict=True))))
            firsts = lasts
        return Batch(key, parts, total)


class DeviceProcess:
    """Does what the server says, on the running loop; batches run on it, too, where the executor allows that."""

    def __init__(self, channel: Channel[ToProcess], executor: Executor) -> None:
        self._channel, self._executor = channel, executor
        self._engines: dict[VariantKey, Engine] = {}
        self._slots: dict[int, TransferBuffer] = {}
        self._loads: dict[int, asyncio.Task[None]] = {}
        self._running = 0
        self._is_closing = False
        self._has_ended = asyncio.Event()

    async def run(self) -> None:
        """Until told to end, when all batches have ended; what is loaded goes with the process."""
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._read)
        await self._has_ended.wait()

    def _read(self) -> None:
        try:
            found = self._channel.receive(wait=False)
        except BlockingIOError:
            return
        if found is None:
            os._exit(0)  # nobody is left whom anything could be told
        try:
            self._take(*found)
        except Exception:
            log.exception("a bug in the process of a device, which ends")
            os._exit(1)  # so that whoever waits for an answer hears that there will be none

    def _take(self, message: ToProcess, descriptors: Sequence[int]) -> None:
        match message:
            case Run():
                self._run(message, descriptors)
            case Load():
                task = asyncio.create_task(self._load(message))
                self._loads[message.number] = task
                task.add_done_callback(lambda _: self._loads.pop(message.number))
            case Forget(number=number, family=family, variant=variant):
                self._forget(number, VariantKey(family, variant))
            case Unload(family=family, variant=variant):
                self._unload(VariantKey(family, variant))
            case Close():
                self._is_closing = True
                self._end_if_idle()
            case Open():
                raise RuntimeError("it is open")

    # --- engines

    async def _load(self, load: Load) -> None:
        key = VariantKey(load.family, load.variant)
        try:
            signature = await self._executor.load(key, Path(load.model), load.warm_up_rows)
        except Exception as error:  # noqa: BLE001 - it is told to whoever waits
            self._say(Failed(load.number, _told(error)))
        else:
            self._engines[key] = Engine(signature)
            self._say(Loaded(load.number, signature))

    def _forget(self, number: int, key: VariantKey) -> None:
        """Nobody waits for a load any more, be it done or not."""
        if number not in self._loads or not self._loads[number].cancel():
            self._unload(key)

    def _unload(self, key: VariantKey) -> None:
        if self._engines.pop(key, None) is not None:
            self._executor.unload(key)

    # --- batches

    def _run(self, run: Run, descriptors: Sequence[int]) -> None:
        """Run it as if it was one request, as its inputs are in one piece; apart only where that fails."""
        key = VariantKey(run.family, run.variant)
        slot = self._slots.setdefault(run.slot, TransferBuffer())
        inputs, engine = slot.incoming(descriptors), self._engines[key]
        self._running += 1

        def done(result: BatchResult | Exception) -> None:
            may_be_one = isinstance(result, EngineError) and not isinstance(result, DeviceLost | EngineBroken)
            if may_be_one and len(run.rows) > 1:
                self._start(engine.batch(key, run.rows, inputs), partial(self._done, run.number, engine, slot))
            else:
                self._done(run.number, engine, slot, result)

        self._start(engine.batch(key, [sum(run.rows)], inputs), done)

    def _start(self, batch: Batch, done: BatchCallback) -> None:
        try:
            if self._executor.runs_inline:
                result: BatchResult | Exception = self._executor.run(batch)
            else:
                self._executor.submit(batch, done)
                return
        except Exception as error:  # noqa: BLE001 - it is told to whoever waits
            result = error
        done(result)

    def _done(self, number: int, engine: Engine, slot: TransferBuffer, result: BatchResult | Exception) -> None:
        self._running -= 1
        reply = _reply(number, engine, slot, result)
        self._channel.send(reply, slot.take_unsent() if isinstance(reply, Ran) else (), wait=True)
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._is_closing and not self._running:
            self._has_ended.set()

    def _say(self, message: FromProcess) -> None:
        self._channel.send(message, wait=True)


class LogForwarder(logging.Handler):
    """Has the server log what is logged here."""

    def __init__(self, channel: Channel[ToProcess]) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        named = dict(getattr(record, "fields", {}))
        if record.exc_info:
            named["exception"] = "".join(traceback.format_exception(*record.exc_info))
        try:
            self._channel.send(Said(record.levelno, record.name, record.getMessage(), named), wait=True)
        except ConnectionError:
            os._exit(0)  # nobody is left whom anything could be told


def main(descriptor: int) -> None:
    """Open the device that the first message names, and do what the others say."""
    depend_on_parent()
    channel: Channel[ToProcess] = Channel(socket.socket(fileno=descriptor), TO_PROCESS)
    found = channel.receive(wait=True)
    if found is None or not isinstance(found[0], Open):
        return
    opening = found[0]
    logging.basicConfig(handlers=[LogForwarder(channel)], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("proteus").setLevel(opening.log_level)
    sys.setswitchinterval(opening.switch_interval_s)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(channel, opening.inner))


async def _serve(channel: Channel[ToProcess], inner: DeviceSpec) -> None:
    with ExitStack() as stack:
        try:
            pin_this_thread(inner.device.cores)
            executor, platform = _opened(inner, stack, partial(_end_lost, channel))
        except Exception as error:  # noqa: BLE001 - it is told to whoever waits
            channel.send(Failed(OPENING, _told(error)), wait=True)
            return
        child = DeviceProcess(channel, executor)
        gc.freeze()  # what was imported stays
        channel.send(Opened(platform), wait=True)
        await child.run()


def _end_lost(channel: Channel[ToProcess], loss: DeviceLost) -> None:
    """Tell the server that the device is lost, and end.

    To free anything would only fail, and only another process can use the device again.
    """
    channel.send(Lost(told(loss)), wait=True)
    os._exit(1)


def _opened(inner: DeviceSpec, stack: ExitStack, on_lost: OnLost) -> tuple[Executor, str]:
    """The device, and the name of its backend; only what it needs is imported.

    Raises `BackendUnavailable`, `DeviceUnavailable`.
    """
    match inner:
        case OnCpu(device=device):
            # One batch at a time, so waking a thread for it would only cost time; another thread loads.
            backend = open_backend(device)
            return ThreadExecutor(device, backend, on_lost), backend.versions.name
        case OnGpu(device=device):
            from proteus_cli.backends.tensorrt.backend import TensorRT  # noqa: PLC0415 - an extra
            from proteus_cli.serving.devices.gpu import GpuExecutor  # noqa: PLC0415 - an extra

            tensorrt = TensorRT(device, Engines(Path(inner.built), say=log.info, watch=BuildLog().watch))
            context, slots = tensorrt.context, inner.slots
            gpu = GpuExecutor(context, lambda key, model: tensorrt.plan(model, key), on_lost, slots=slots)
            return gpu, tensorrt.versions.name
        case Emulated(profile=profile, signatures=signatures):
            alarm = stack.enter_context(TimerThread())
            return EmulatedExecutor(profile, signatures, time.monotonic, alarm.at, on_lost), emulated.NAME


def _reply(number: int, engine: Engine, slot: TransferBuffer, result: BatchResult | Exception) -> Ran | Failed:
    """What became of a batch; its outputs are in the slot."""
    if isinstance(result, Exception):
        return Failed(number, _told(result))
    try:
        _put(engine.signature, result.outputs, slot)
    except Exception as error:  # noqa: BLE001 - it is told to whoever waits
        return Failed(number, _told(error))
    failures = {part: _told(error) for part, error in result.failures.items()}
    shapes = [values.shape for values in result.outputs]
    return Ran(number, result.compute_s, time.monotonic(), shapes, failures)


def _put(signature: Signature, outputs: OutputArrays, slot: TransferBuffer) -> None:
    """Write the outputs, of the types that the signature says."""
    dtypes = [spec.dtype for spec in signature.outputs]
    places, size = offsets(values.size * dtype.itemsize for values, dtype in zip(outputs, dtypes, strict=True))
    memory = slot.outgoing(size)
    for values, dtype, place in zip(outputs, dtypes, places, strict=True):
        np.copyto(np.ndarray(values.shape, dtype, memory, place), values, casting="no")


def _told(error: Exception) -> Failure:
    """An error for the server; its log has where it comes from, if it is a bug."""
    if not isinstance(error, ProteusError):
        log.error("a bug: %r", error, exc_info=error)
    return told(error)


if __name__ == "__main__":
    main(int(sys.argv[1]))
    os._exit(0)  # at once, also where a model is being loaded
