"""The server's side of a device in a process of its own."""

import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from proteus_cli.backends.base import Signature
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import DeviceLost, DeviceUnavailable, EngineError
from proteus_cli.serving.child_process import LIMITS_HINT, start_process
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult, LeavingCallback, OnLost
from proteus_cli.serving.devices.process import messages
from proteus_cli.serving.devices.process.channel import Channel, UnreadableMessage
from proteus_cli.serving.devices.process.commanding import CommandingExecutor
from proteus_cli.serving.devices.process.layout import BatchLayout
from proteus_cli.serving.devices.process.shared_memory import CAN_SHARE, TransferBuffer
from proteus_cli.serving.devices.process.spec import DeviceSpec
from proteus_cli.serving.logs import fields

if TYPE_CHECKING:
    import subprocess

CLOSE_S = 10.0
"""A process that was told to close, and sends nothing for so long, is killed."""

REAP_S = 1.0
"""How long closing waits for a process that was killed: it may be in the driver."""

_UNREADABLE = (OSError, TypeError, ValueError, KeyError)
"""Where no more files can be open, the system drops descriptors; a broken process may say anything."""

log = logging.getLogger("proteus.process")


class SentBatch(msgspec.Struct, frozen=True, eq=False):
    """A batch that was sent: its buffer's ``place``, and when (`time.monotonic`, which both processes share)."""

    layout: BatchLayout
    place: int
    sent_s: float
    leaving: LeavingCallback | None


class ProcessExecutor(CommandingExecutor):
    """An `Executor` whose device is opened in a process of its own, which ends when this one does, however that ends.

    The process is started at once, and commands are sent without waiting; its events are read on the running loop. The
    device is lost when its process ends by itself, reads no more commands, or says that the device is lost.
    """

    def __init__(self, spec: DeviceSpec, on_lost: OnLost) -> None:
        """Raises `DeviceUnavailable` where no process can be started."""
        super().__init__(spec.device.id, on_lost)
        self._sent: dict[int, SentBatch] = {}
        self._buffers: list[TransferBuffer] = []
        self._free_buffers: list[int] = []
        self._reserve_bytes = 0
        self._is_released = False
        self._process, end = _start_process(spec.device.id)
        self._channel: Channel[messages.DeviceEvent] = Channel(end, messages.EVENTS)
        self.pid = self._process.pid
        self._reaper = threading.Thread(target=self._reap, name=f"{spec.device.id}-reap", daemon=True)
        self._loop.add_reader(self._channel.fileno(), self._read)
        level = logging.getLogger("proteus").getEffectiveLevel()
        self._send(messages.OpenCommand(spec, level, sys.getswitchinterval()))

    async def load(self, key: VariantKey, model: Path, warm_up_rows: int, *, gives_way: bool = False) -> Signature:
        signature = await super().load(key, model, warm_up_rows, gives_way=gives_way)
        self._reserve_bytes = max(self._reserve_bytes, self._layouts[key].input_bytes(warm_up_rows))
        return signature

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        """Besides, raises `EngineError` where there is no memory for the inputs."""
        self._require_open()
        layout = self._layouts[batch.key]
        place = self._free_buffers.pop() if self._free_buffers else self._make_buffer()
        buffer = self._buffers[place]
        try:
            layout.write_inputs(batch, buffer, self._reserve_bytes)
        except Exception as error:
            self._free_buffers.append(place)
            if isinstance(error, OSError):
                raise EngineError(f"No memory to share with {self._device_id}: {error}", hint=LIMITS_HINT) from error
            raise
        number = self._register(done)
        self._sent[number] = SentBatch(layout, place, time.monotonic(), batch.leaving)
        command = messages.RunCommand(number, place, batch.key, [rows for rows, _ in batch.parts], batch.bounds)
        self._send(command, buffer.take_unsent())

    def close(self) -> None:
        if self._is_closed or self.is_lost:
            return
        self._is_closed = True
        if self._opened.done():
            self._send(messages.CloseCommand())
            self._receive_rest()
        self._release()
        self._reaper.join(REAP_S)
        # Loads, and batches that did not end, fail with this.
        self._loop.call_soon(self._lose, DeviceLost(f"{self._device_id} was closed"))

    def abandon(self) -> None:
        self._forget_pending()
        self._release()

    # --- events

    def _read(self) -> None:
        try:
            received = self._channel.receive(wait=False)
        except BlockingIOError:
            return
        except UnreadableMessage as error:
            self._lose(DeviceLost(f"{self._device_id} is lost: {error}", hint=LIMITS_HINT))
            return
        if received is not None:
            self._handle(*received)
            return
        loss = DeviceLost(
            f"{self._device_id} is lost: its process {self.pid} has ended",
            hint="the log says how; `dmesg` tells of processes that were killed for memory",
        )
        log.error("%s", loss, extra=fields(device=self._device_id, pid=self.pid))
        self._lose(loss)

    def _handle(self, event: messages.DeviceEvent, descriptors: Sequence[int]) -> None:
        match event:
            case messages.RanEvent():
                self._ran(event, descriptors)
            case messages.LeftEvent():
                self._left(event, descriptors)
            case messages.FailedEvent(number=number, error=error):
                self._has_failed(number, error.error())
            case messages.OpenedEvent() | messages.LoadedEvent() | messages.LostEvent():
                self._told(event)
            case messages.LogEvent():
                named = {"device": self._device_id, **event.fields}
                logging.getLogger(event.logger).log(event.level, "%s", event.message, extra=fields(**named))

    def _ran(self, event: messages.RanEvent, descriptors: Sequence[int]) -> None:
        try:
            sent = self._sent.pop(event.number)
            given = sent.layout.read_outputs(event.shapes, self._buffers[sent.place].incoming(descriptors))
        except _UNREADABLE as error:
            self._lose_outputs(error)
            return
        self._free_buffers.append(sent.place)
        failures = {part: error.error() for part, error in event.failures.items()}
        elapsed_s = event.ended_s - sent.sent_s
        outputs, notes = sent.layout.signature.told_apart(given)
        result = BatchResult(outputs, event.compute_s, failures, elapsed_s, notes=notes, ended_s=event.ended_s)
        self._complete(event.number, result)

    def _left(self, event: messages.LeftEvent, descriptors: Sequence[int]) -> None:
        buffer = TransferBuffer()
        try:
            sent = self._sent[event.number]
            given = sent.layout.read_outputs(event.shapes, buffer.incoming(descriptors))
        except _UNREADABLE as error:
            self._lose_outputs(error)
            return
        finally:
            buffer.close()
        if sent.leaving is not None:
            outputs, notes = sent.layout.signature.told_apart(given)
            result = BatchResult(outputs, event.compute_s, notes=notes, ended_s=event.ended_s)
            self._part_left(event.number, sent.leaving, event.parts, result)

    def _lose_outputs(self, error: Exception) -> None:
        what = f"{self._device_id} is lost: the outputs of a batch can't be reached ({error})"
        self._lose(DeviceLost(what, hint=LIMITS_HINT))

    def _has_failed(self, number: int, error: Exception) -> None:
        if not self._failed(number, error) and number in self._sent:
            self._free_buffers.append(self._sent.pop(number).place)
            self._complete(number, error)

    # --- the process

    def _make_buffer(self) -> int:
        self._buffers.append(TransferBuffer())
        return len(self._buffers) - 1

    def _send(self, command: messages.DeviceCommand, descriptors: Sequence[int] = ()) -> None:
        if self._is_released:
            return
        try:
            self._channel.send(command, descriptors, wait=False)
        except BlockingIOError:  # hundreds of commands are unread
            loss = DeviceLost(f"{self._device_id} is lost: its process {self.pid} takes no more messages")
            self._loop.call_soon(self._lose, loss)
        except ConnectionError:
            pass  # the process has ended, as `_read` finds out next

    def _receive_rest(self) -> None:
        """Wait until the process has ended, and have the loop handle what it sent until then."""
        self._loop.remove_reader(self._channel.fileno())
        self._channel.set_timeout(CLOSE_S)
        try:
            while (received := self._channel.receive(wait=True)) is not None:
                self._loop.call_soon(self._handle, *received)
        except (TimeoutError, UnreadableMessage):
            log.warning(
                "the process of %s does not end as it should, and is killed", self._device_id,
                extra=fields(device=self._device_id, pid=self.pid),
            )  # fmt: skip

    def _lose(self, loss: DeviceLost) -> None:
        self._release()
        super()._lose(loss)

    def _release(self) -> None:
        """Kill the process, also where it hangs or is stopped, and free the rest, without waiting."""
        if self._is_released:
            return
        self._is_released = True
        self._loop.remove_reader(self._channel.fileno())
        self._process.kill()
        self._channel.close()
        self._reaper.start()
        self._loop.call_soon(self._free)  # after the last events, which may bring outputs

    def _free(self) -> None:
        for buffer in self._buffers:
            buffer.close()
        self._buffers.clear()
        self._sent.clear()

    def _reap(self) -> None:
        code = self._process.wait()
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        log.info("its process has ended: %s", how, extra=fields(device=self._device_id, pid=self.pid))


def _start_process(device: str) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """A process, and our end of the socket to it. Raises `DeviceUnavailable` where none can be started."""
    if not CAN_SHARE:
        raise DeviceUnavailable(f"{device} can't have a process of its own on this system.", hint="that takes Linux")
    try:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise _no_process(device, error) from error
    try:
        process = start_process("proteus_cli.serving.devices.process.child", its.fileno())
    except OSError as error:
        ours.close()
        raise _no_process(device, error) from error
    finally:
        its.close()
    return process, ours


def _no_process(device: str, error: OSError) -> DeviceUnavailable:
    return DeviceUnavailable(f"No process can be started for {device}: {error}", hint=LIMITS_HINT)
