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

import uvloop

from proteus_cli.backends import emulated
from proteus_cli.backends.affinity import pin_this_thread
from proteus_cli.backends.base import BuildContext
from proteus_cli.backends.registry import open_backend
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import DeviceLost, EngineBroken, EngineError
from proteus_cli.serving.child_process import depend_on_parent
from proteus_cli.serving.devices.builds import log_build
from proteus_cli.serving.devices.cpu import CpuExecutor
from proteus_cli.serving.devices.emulated import EmulatedExecutor, TimerThread
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult, Executor, OnLost
from proteus_cli.serving.devices.process import messages
from proteus_cli.serving.devices.process.channel import Channel
from proteus_cli.serving.devices.process.engines import CommandedEngines
from proteus_cli.serving.devices.process.layout import BatchLayout
from proteus_cli.serving.devices.process.shared_memory import TransferBuffer
from proteus_cli.serving.devices.process.spec import CpuSpec, DeviceSpec, EmulatedSpec, GpuSpec

log = logging.getLogger("proteus.process")


class DeviceProcess:
    """Carries out the server's commands on the running loop; batches run on it, too, where the executor allows that."""

    def __init__(self, channel: Channel[messages.DeviceCommand], executor: Executor) -> None:
        self._channel, self._executor = channel, executor
        self._engines = CommandedEngines(executor, partial(channel.send, wait=True))
        self._buffers: dict[int, TransferBuffer] = {}
        self._running = 0
        self._is_closing = False
        self._has_ended = asyncio.Event()

    async def run(self) -> None:
        """Until the server closes the device and all batches have ended; engines go with the process."""
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._read)
        await self._has_ended.wait()

    def _read(self) -> None:
        try:
            received = self._channel.receive(wait=False)
            if received is None:
                os._exit(0)  # the server is gone
            self._obey(*received)
        except BlockingIOError:  # nothing was sent
            return
        except Exception:
            log.exception("a bug in the process of a device, which ends")
            os._exit(1)  # so that the server hears that its commands will have no answer

    def _obey(self, command: messages.DeviceCommand, descriptors: Sequence[int]) -> None:
        match command:
            case messages.RunCommand():
                self._run(command, descriptors)
            case messages.LoadCommand() | messages.CancelLoadCommand() | messages.UnloadCommand():
                self._engines.obey(command)
            case messages.CloseCommand():
                self._is_closing = True
                self._end_if_idle()
            case messages.OpenCommand():
                raise RuntimeError("it is open")

    # --- batches

    def _run(self, command: messages.RunCommand, descriptors: Sequence[int]) -> None:
        """Run the batch as one part, as its inputs are in one piece; where that fails, as the parts that it has."""
        key = command.key
        buffer = self._buffers.setdefault(command.buffer, TransferBuffer())
        inputs, layout = buffer.incoming(descriptors), self._engines.layouts[key]
        complete = partial(self._complete, command.number, layout, buffer)
        leaving = partial(self._left, command.number, layout)
        self._running += 1

        def done(result: BatchResult | Exception) -> None:
            may_be_one_part = isinstance(result, EngineError) and not isinstance(result, DeviceLost | EngineBroken)
            if may_be_one_part and len(command.rows) > 1:
                self._start(layout.read_inputs(key, command.rows, inputs, command.bounds, leaving), complete)
            else:
                complete(result)

        self._start(layout.read_inputs(key, [sum(command.rows)], inputs, command.bounds, leaving), done)

    def _start(self, batch: Batch, done: BatchCallback) -> None:
        try:
            if self._executor.runs_inline:
                result: BatchResult | Exception = self._executor.run(batch)
            else:
                self._executor.submit(batch, done)
                return
        except Exception as error:  # noqa: BLE001 - it is sent to the server
            result = error
        done(result)

    def _complete(
        self, number: int, layout: BatchLayout, buffer: TransferBuffer, result: BatchResult | Exception
    ) -> None:
        self._running -= 1
        event = _event(number, layout, buffer, result)
        self._channel.send(event, buffer.take_unsent() if isinstance(event, messages.RanEvent) else (), wait=True)
        self._end_if_idle()

    def _left(self, number: int, layout: BatchLayout, parts: Sequence[int], result: BatchResult) -> None:
        """Send what leaves a batch. Where that fails, it is in the result of the whole, as all is."""
        buffer = TransferBuffer()
        try:
            shapes = layout.write_outputs(result.given, buffer)
            event = messages.LeftEvent(number, parts, result.compute_s, result.ended_s, shapes)
            self._channel.send(event, buffer.take_unsent(), wait=True)
        except OSError as error:
            log.warning("answers that leave a batch wait for its end: %s", error)
        finally:
            buffer.close()

    def _end_if_idle(self) -> None:
        if self._is_closing and not self._running:
            self._has_ended.set()


class LogForwarder(logging.Handler):
    """Has the server log what is logged here."""

    def __init__(self, channel: Channel[messages.DeviceCommand]) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        named = dict(getattr(record, "fields", {}))
        if record.exc_info:
            named["exception"] = "".join(traceback.format_exception(*record.exc_info))
        try:
            self._channel.send(messages.LogEvent(record.levelno, record.name, record.getMessage(), named), wait=True)
        except ConnectionError:
            os._exit(0)  # the server is gone


def main(descriptor: int) -> None:
    """Open the device that the first message names, and carry out the commands that follow."""
    depend_on_parent()
    channel: Channel[messages.DeviceCommand] = Channel(socket.socket(fileno=descriptor), messages.COMMANDS)
    received = channel.receive(wait=True)
    if received is None or not isinstance(received[0], messages.OpenCommand):
        return
    opening = received[0]
    logging.basicConfig(handlers=[LogForwarder(channel)], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("proteus").setLevel(opening.log_level)
    sys.setswitchinterval(opening.switch_interval_s)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(channel, opening.spec))


async def _serve(channel: Channel[messages.DeviceCommand], spec: DeviceSpec) -> None:
    with ExitStack() as stack:
        try:
            pin_this_thread(spec.device.cores)
            executor, platform = _open_device(spec, stack, partial(_end_lost, channel))
        except Exception as error:  # noqa: BLE001 - it is sent to the server
            channel.send(messages.FailedEvent(messages.OPENING, messages.SentError.logged(error)), wait=True)
            return
        process = DeviceProcess(channel, executor)
        gc.freeze()  # what was imported stays
        channel.send(messages.OpenedEvent(platform, executor.can_give_way), wait=True)
        await process.run()


def _end_lost(channel: Channel[messages.DeviceCommand], loss: DeviceLost) -> None:
    """Tell the server that the device is lost, and end.

    To free anything would only fail, and only another process can use the device again.
    """
    channel.send(messages.LostEvent(messages.SentError.of(loss)), wait=True)
    os._exit(1)


def _open_device(spec: DeviceSpec, stack: ExitStack, on_lost: OnLost) -> tuple[Executor, str]:
    """The executor of the device and the name of its backend. Only what the device needs is imported.

    Raises `BackendUnavailable`, `DeviceUnavailable`.
    """
    match spec:
        case CpuSpec(device=device):
            backend = open_backend(device)
            return CpuExecutor(device, backend, on_lost), backend.versions.name
        case GpuSpec(device=device, slots=slots):
            from proteus_cli.backends.tensorrt.backend import TensorRT  # noqa: PLC0415 - an extra
            from proteus_cli.backends.tensorrt.chain import ChainPlans  # noqa: PLC0415 - an extra
            from proteus_cli.serving.devices.gpu import GpuExecutor  # noqa: PLC0415 - an extra

            tensorrt = TensorRT(device, BuildContext(Path(spec.built), say=log.info, watch=log_build))

            def read_plan(key: VariantKey, model: Path) -> bytes | ChainPlans:
                return tensorrt.plan(model, key)

            return GpuExecutor(tensorrt.context, read_plan, on_lost, slots=slots), tensorrt.versions.name
        case EmulatedSpec(profile=profile, signatures=signatures):
            timer = stack.enter_context(TimerThread())
            return EmulatedExecutor(profile, signatures, time.monotonic, timer.at, on_lost), emulated.NAME


def _event(
    number: int, layout: BatchLayout, buffer: TransferBuffer, result: BatchResult | Exception
) -> messages.RanEvent | messages.FailedEvent:
    """What became of a batch; its outputs are written to the buffer."""
    if isinstance(result, Exception):
        return messages.FailedEvent(number, messages.SentError.logged(result))
    try:
        shapes = layout.write_outputs(result.given, buffer)
    except Exception as error:  # noqa: BLE001 - it is sent to the server
        return messages.FailedEvent(number, messages.SentError.logged(error))
    failures = {part: messages.SentError.logged(error) for part, error in result.failures.items()}
    return messages.RanEvent(number, result.compute_s, result.ended_s or time.monotonic(), shapes, failures)


if __name__ == "__main__":
    main(int(sys.argv[1]))
    os._exit(0)  # at once, also where a model is being loaded
