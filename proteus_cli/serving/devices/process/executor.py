"""The server's side of a device in a process of its own."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np

from proteus_cli.backends.base import Signature
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import DeviceLost, DeviceUnavailable, EngineError
from proteus_cli.serving.child_process import group_signals_blocked
from proteus_cli.serving.devices.bisection import OutputArrays
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult, ExecutorBase, OnLost
from proteus_cli.serving.devices.process.inner import DeviceSpec
from proteus_cli.serving.devices.process.memory import CAN_SHARE, TransferBuffer, offsets
from proteus_cli.serving.devices.process.wire import (
    FROM_PROCESS,
    OPENING,
    Channel,
    Close,
    Failed,
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
    heard,
)
from proteus_cli.serving.logs import fields

CLOSE_S = 10.0
"""A process that is told to end, and is silent for so long, is killed."""

REAP_S = 1.0
"""How long closing waits for one that was killed: it may be in the driver."""

log = logging.getLogger("proteus.process")

Settled = TypeVar("Settled")

_STDERR = 2
_LIMITS = "`ulimit -a` shows what this user may have"


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """What is known here of an engine that is loaded there."""

    signature: Signature
    row_bytes: Sequence[int]
    """Of each input."""


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """A batch that is there: its slot's ``place``, and when it was sent (`time.monotonic`, which both sides share)."""

    engine: Engine
    place: int
    sent_s: float


class ProcessExecutor(ExecutorBase):
    """An `Executor` whose device is opened in a process of its own, which ends when this one does, however that ends.

    The process is started at once and told of everything at once; what it answers is read on the running loop. It is
    lost where it ends by itself, or says that its device is. Batches never run on this thread.
    """

    def __init__(self, inner: DeviceSpec, on_lost: OnLost) -> None:
        super().__init__(inner.device.id, on_lost)
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[str] = self._loop.create_future()
        self._loading.add(self._opened)
        self._loads: dict[int, asyncio.Future[Signature]] = {}
        self._engines: dict[VariantKey, Engine] = {}
        self._flights: dict[int, Flight] = {}
        self._slots: list[TransferBuffer] = []
        self._free: list[int] = []
        self._room_bytes = 0
        self._is_released = False
        self._process, end = _started(inner.device.id)
        self._channel: Channel[FromProcess] = Channel(end, FROM_PROCESS)
        self.pid = self._process.pid
        self._reaper = threading.Thread(target=self._reap, name=f"{inner.device.id}-reap", daemon=True)
        self._loop.add_reader(self._channel.fileno(), self._read)
        level = logging.getLogger("proteus").getEffectiveLevel()
        self._send(Open(inner, level, sys.getswitchinterval()))

    async def opened(self) -> str:
        """The name of the backend, once the device is open.

        Raises `BackendUnavailable`, `DeviceUnavailable` where it can't be opened, `DeviceLost`.
        """
        return await asyncio.shield(self._opened)

    async def load(self, key: VariantKey, model: Path, warm_up_rows: int) -> Signature:
        """Besides, raises like `opened`."""
        await self.opened()
        self._require_open()
        number, loaded = next(self._numbers), self._loop.create_future()
        self._loads[number] = loaded
        self._send(Load(number, *key, str(model), warm_up_rows))
        try:
            signature: Signature = await self._loaded(loaded)
        except asyncio.CancelledError:
            self._send(Forget(number, *key))
            raise
        finally:
            del self._loads[number]
        row_bytes = [spec.row_bytes for spec in signature.inputs]
        self._engines[key] = Engine(signature, row_bytes)
        self._room_bytes = max(self._room_bytes, offsets(size * warm_up_rows for size in row_bytes)[1])
        return signature

    def unload(self, key: VariantKey) -> None:
        if not self.is_lost:
            del self._engines[key]
            self._send(Unload(*key))

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        self._require_open()
        engine = self._engines[batch.key]
        place = self._free.pop() if self._free else self._make_slot()
        slot = self._slots[place]
        try:
            self._put(engine, batch, slot)
        except Exception as error:
            self._free.append(place)
            if isinstance(error, OSError):
                raise EngineError(f"No memory to share with {self._device_id}: {error}", hint=_LIMITS) from error
            raise
        number = self._register(done)
        self._flights[number] = Flight(engine, place, time.monotonic())
        self._send(Run(number, place, *batch.key, [rows for rows, _ in batch.parts]), slot.take_unsent())

    def close(self) -> None:
        if self._is_closed or self.is_lost:
            return
        self._is_closed = True
        if self._opened.done():
            self._send(Close())
            self._hear_out()
        self._release()
        self._reaper.join(REAP_S)
        # Told to whoever still waits: for a load, or for a batch that didn't end.
        self._loop.call_soon(self._lose, DeviceLost(f"{self._device_id} was closed"))

    def abandon(self) -> None:
        self._forget()
        self._release()

    # --- batches

    def _make_slot(self) -> int:
        self._slots.append(TransferBuffer())
        return len(self._slots) - 1

    def _put(self, engine: Engine, batch: Batch, slot: TransferBuffer) -> None:
        """Write the inputs, each in one piece."""
        places, size = offsets(batch.rows * row_bytes for row_bytes in engine.row_bytes)
        memory = slot.outgoing(size, self._room_bytes)
        for which, (first, row_bytes) in enumerate(zip(places, engine.row_bytes, strict=True)):
            start = first
            for rows, buffers in batch.parts:
                end = start + rows * row_bytes
                memory[start:end] = buffers[which]
                start = end

    def _ran(self, ran: Ran, descriptors: Sequence[int]) -> None:
        flight = self._flights.pop(ran.number)
        try:
            outputs = _taken(flight.engine.signature, ran.shapes, self._slots[flight.place].incoming(descriptors))
        except (OSError, TypeError) as error:  # where no more files can be open, the system drops descriptors
            what = f"{self._device_id} is lost: the outputs of a batch can't be reached ({error})"
            self._lose(DeviceLost(what, hint=_LIMITS))
            return
        self._free.append(flight.place)
        failures = {part: heard(failure) for part, failure in ran.failures.items()}
        self._complete(ran.number, BatchResult(outputs, ran.compute_s, failures, ran.ended_s - flight.sent_s))

    def _failed(self, number: int, error: Exception) -> None:
        if number == OPENING:
            self._settle(self._opened, error)
        elif number in self._loads:
            self._settle(self._loads[number], error)
        elif number in self._flights:
            self._free.append(self._flights.pop(number).place)
            self._complete(number, error)

    # --- what the process says

    def _read(self) -> None:
        try:
            found = self._channel.receive(wait=False)
        except BlockingIOError:
            return
        if found is not None:
            self._take(*found)
            return
        loss = DeviceLost(
            f"{self._device_id} is lost: its process {self.pid} has ended",
            hint="the log says how; `dmesg` tells of processes that were killed for memory",
        )
        log.error("%s", loss, extra=fields(device=self._device_id, pid=self.pid))
        self._lose(loss)

    def _take(self, message: FromProcess, descriptors: Sequence[int]) -> None:
        match message:
            case Ran():
                self._ran(message, descriptors)
            case Failed(number=number, failure=failure):
                self._failed(number, heard(failure))
            case Opened(platform=platform):
                self._settle(self._opened, platform)
            case Loaded(number=number, signature=signature):
                if number in self._loads:
                    self._settle(self._loads[number], signature)
            case Lost(failure=failure):
                self._lose(DeviceLost(failure.message, hint=failure.hint))
            case Said():
                named = {"device": self._device_id, **message.fields}
                logging.getLogger(message.logger).log(message.level, "%s", message.message, extra=fields(**named))

    # --- the process

    def _send(self, message: ToProcess, descriptors: Sequence[int] = ()) -> None:
        if self._is_released:
            return
        try:
            self._channel.send(message, descriptors, wait=False)
        except BlockingIOError:  # hundreds of messages that it didn't read
            loss = DeviceLost(f"{self._device_id} is lost: its process {self.pid} takes no more messages")
            self._loop.call_soon(self._lose, loss)
        except ConnectionError:
            pass  # it has ended, as the reader will hear

    def _hear_out(self) -> None:
        """Wait until it has ended, and have the loop take what it said until then."""
        self._loop.remove_reader(self._channel.fileno())
        self._channel.set_timeout(CLOSE_S)
        try:
            while (found := self._channel.receive(wait=True)) is not None:
                self._loop.call_soon(self._take, *found)
        except TimeoutError:
            log.warning(
                "the process of %s does not end, and is killed", self._device_id,
                extra=fields(device=self._device_id, pid=self.pid),
            )  # fmt: skip

    def _lose(self, loss: DeviceLost) -> None:
        self._release()
        super()._lose(loss)

    def _release(self) -> None:
        """See that it ends, also where it hangs or is stopped, without waiting for that."""
        if self._is_released:
            return
        self._is_released = True
        self._loop.remove_reader(self._channel.fileno())
        self._process.kill()
        self._channel.close()
        self._reaper.start()
        self._loop.call_soon(self._free_slots)  # what it said at last may have to be taken out first

    def _free_slots(self) -> None:
        for slot in self._slots:
            slot.close()
        self._slots.clear()
        self._flights.clear()

    def _reap(self) -> None:
        code = self._process.wait()
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        log.info("its process has ended: %s", how, extra=fields(device=self._device_id, pid=self.pid))

    @staticmethod
    def _settle(waiting: "asyncio.Future[Settled]", result: "Settled | Exception") -> None:
        if waiting.done():
            return
        if isinstance(result, Exception):
            waiting.set_exception(result)
            waiting.exception()  # it may be that nobody waits
        else:
            waiting.set_result(result)


def _started(device: str) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """A process, and our end of the socket to it. Raises `DeviceUnavailable` where there can't be one."""
    if not CAN_SHARE:
        raise DeviceUnavailable(f"{device} can't have a process of its own on this system.", hint="that takes Linux")
    command = [sys.executable, "-P", "-m", "proteus_cli.serving.devices.process.child"]
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)  # whatever was done to find this package
    try:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise _no_process(device, error) from error
    try:
        with group_signals_blocked():
            process = subprocess.Popen(
                [*command, str(its.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,
                pass_fds=[its.fileno()],
                env=os.environ | {"PYTHONPATH": paths},
            )
    except OSError as error:
        ours.close()
        raise _no_process(device, error) from error
    finally:
        its.close()
    return process, ours


def _no_process(device: str, error: OSError) -> DeviceUnavailable:
    return DeviceUnavailable(f"No process can be started for {device}: {error}", hint=_LIMITS)


def _taken(signature: Signature, shapes: Sequence[tuple[int, ...]], memory: memoryview) -> OutputArrays:
    """Copies of the outputs, as the next batch takes their place."""
    dtypes = [spec.dtype for spec in signature.outputs]
    places, _ = offsets(prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True))
    tensors = zip(shapes, dtypes, places, strict=True)
    return tuple(np.ndarray(shape, dtype, memory, place).copy() for shape, dtype, place in tensors)
