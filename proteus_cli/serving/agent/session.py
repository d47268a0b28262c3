"""What an agent does for one server, over one connection."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from itertools import count
from typing import Any

from proteus_cli.backends.free_memory import host_memory
from proteus_cli.errors import DeviceLost, DeviceUnavailable, EngineError, ProteusError
from proteus_cli.serving.agent.measuring import Measurer
from proteus_cli.serving.agent.models import ModelStore
from proteus_cli.serving.devices.executor import BatchResult
from proteus_cli.serving.devices.process import messages as device_messages
from proteus_cli.serving.devices.process.engines import CommandedEngines
from proteus_cli.serving.devices.process.executor import ProcessExecutor
from proteus_cli.serving.devices.process.layout import BatchLayout
from proteus_cli.serving.devices.process.spec import DeviceSpec, GpuSpec
from proteus_cli.serving.devices.remote.channel import FrameChannel
from proteus_cli.serving.devices.remote.frames import UnreadableFrame
from proteus_cli.serving.devices.remote.link import BEAT_S
from proteus_cli.serving.devices.remote.messages import (
    AbandonDevice,
    BatchRan,
    Beat,
    FromDevice,
    Hello,
    Inquiry,
    Measured,
    MeasureDevices,
    Measuring,
    ModelPiece,
    ModelState,
    OfferModel,
    OpenDevice,
    Ping,
    Pong,
    RunBatch,
    ToAgent,
    ToDevice,
)

BEATS_A_LOOK = 10
"""At the memory of the host."""

SERVER_SILENT_S = 10.0
"""A server that sends nothing for so long is gone. It pings each second, but its event loop may be held up."""


class OpenedDevice:
    """One opening of a device, in a process of its own, for one server. ``on_closed`` is called when it is over."""

    def __init__(
        self,
        opening: int,
        spec: DeviceSpec,
        channel: FrameChannel[ToAgent],
        models: ModelStore,
        on_closed: Callable[[int], object],
    ) -> None:
        """Raises `DeviceUnavailable` where no process can be started."""
        self.device = spec.device.id
        self._opening, self._channel, self._on_closed = opening, channel, on_closed
        self._executor = ProcessExecutor(spec, self._on_lost)
        self._engines = CommandedEngines(self._executor, self._send, models.path_of)
        self._running = 0
        self._is_closing = False

    async def report_opened(self) -> None:
        try:
            self._send(device_messages.OpenedEvent(await self._executor.opened()))
        except DeviceLost:
            pass  # `_on_lost` has said so
        except ProteusError as error:
            self._send(_cannot_open(error))

    def obey(self, message: RunBatch | ToDevice | AbandonDevice, behind: memoryview) -> None:
        match message:
            case RunBatch():
                self._run(message, behind)
            case ToDevice(command=command):
                if isinstance(command, device_messages.CloseCommand):
                    self._is_closing = True
                    self._end_if_idle()
                else:
                    self._engines.obey(command)
            case AbandonDevice():
                self.abandon()

    def abandon(self) -> None:
        """End the device's process at once."""
        self._executor.abandon()
        self._on_closed(self._opening)

    def _run(self, command: RunBatch, inputs: memoryview) -> None:
        layout = self._engines.layouts.get(command.key)
        if layout is None:
            self._fail(command.number, EngineError(f"`{command.key.variant}` is not loaded."))
            return
        began_s = time.monotonic()
        self._running += 1

        def ended(result: BatchResult | Exception) -> None:
            self._running -= 1
            if isinstance(result, Exception):
                self._fail(command.number, result)
            else:
                self._answer(command, layout, result, time.monotonic() - began_s)
            self._end_if_idle()

        try:
            self._executor.submit(layout.read_inputs(command.key, command.rows, inputs), ended)
        except Exception as error:  # noqa: BLE001 - it is sent to the server
            ended(error)

    def _answer(self, command: RunBatch, layout: BatchLayout, result: BatchResult, elapsed_s: float) -> None:
        failures = {part: device_messages.SentError.of(error) for part, error in result.failures.items()}
        shapes = [values.shape for values in result.outputs]
        ran = BatchRan(self._opening, command.number, result.compute_s, elapsed_s, shapes, failures)
        try:
            self._channel.send(ran, layout.output_pieces(result.outputs))
        except (TypeError, UnreadableFrame) as error:
            self._fail(command.number, EngineError(f"the outputs can't be sent: {error}"))

    def _fail(self, number: int, error: Exception) -> None:
        self._send(device_messages.FailedEvent(number, device_messages.SentError.logged(error)))

    def _end_if_idle(self) -> None:
        if self._is_closing and not self._running:
            self.abandon()

    def _on_lost(self, loss: DeviceLost) -> None:
        self._send(device_messages.LostEvent(device_messages.SentError.of(loss)))
        self.abandon()

    def _send(self, event: Any) -> None:
        self._channel.send(FromDevice(self._opening, event))


class ServerSession:
    """Obeys a server that was welcomed, until its connection ends: then nothing of it is left but models.

    ``specs`` are the devices of this host. ``on_end`` is called once.
    """

    def __init__(
        self,
        hello: Hello,
        channel: FrameChannel[ToAgent],
        specs: Mapping[str, DeviceSpec],
        models: ModelStore,
        measurer: Measurer,
        on_end: Callable[["ServerSession", str], None],
    ) -> None:
        self.hello, self.peer = hello, channel.peer
        self._channel, self._specs, self._models, self._on_end = channel, specs, models, on_end
        self._measurer, self._one_measurement = measurer, asyncio.Lock()
        self._opened: dict[int, OpenedDevice] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_ended = False
        channel.owner = self
        self._start(self._beat())

    # --- the channel's owner

    def received(self, message: ToAgent, behind: memoryview) -> None:
        match message:
            case RunBatch() | ToDevice() | AbandonDevice():
                if message.opening in self._opened:
                    self._opened[message.opening].obey(message, behind)
            case OpenDevice():
                self._open(message)
            case Ping(sent_s=sent_s):
                self._channel.send(Pong(sent_s), [behind])
            case OfferModel(digest=digest):
                self._start(self._answer(digest, self._models.offered(message)))
            case ModelPiece(digest=digest):
                self._start(self._answer(digest, self._models.take(message, behind)))
            case MeasureDevices():
                self._start(self._measure(message))
            case Hello() | Inquiry():
                self.end("it greets twice")

    def ended(self, reason: str) -> None:
        self.end(reason)

    def end(self, reason: str) -> None:
        """Close the connection, and give all devices up at once: late results reach nobody."""
        if self._has_ended:
            return
        self._has_ended = True
        self._channel.close()
        for device in list(self._opened.values()):
            device.abandon()
        for task in self._tasks:
            task.cancel()
        self._on_end(self, reason)

    # ---

    def _open(self, command: OpenDevice) -> None:
        """Open a device. An earlier opening of it is given up: it may hang."""
        for earlier in [each for each in self._opened.values() if each.device == command.device]:
            earlier.abandon()
        try:
            spec = self._spec_of(command)
            device = OpenedDevice(command.opening, spec, self._channel, self._models, self._forget)
        except DeviceUnavailable as error:
            self._channel.send(FromDevice(command.opening, _cannot_open(error)))
            return
        self._opened[command.opening] = device
        self._start(device.report_opened())

    def _spec_of(self, command: OpenDevice) -> DeviceSpec:
        spec = self._specs.get(command.device)
        if spec is None:
            raise DeviceUnavailable(f"This host has no device `{command.device}`.")
        return GpuSpec(spec.device, spec.built, command.slots) if isinstance(spec, GpuSpec) else spec

    def _forget(self, opening: int) -> None:
        self._opened.pop(opening, None)

    async def _answer(self, digest: str, state: "Coroutine[Any, Any, ModelState]") -> None:
        try:
            answer = await state
        except Exception as error:  # noqa: BLE001 - it is sent to the server
            answer = ModelState(digest, [], is_whole=False, error=device_messages.SentError.logged(error))
        self._channel.send(answer)

    async def _measure(self, command: MeasureDevices) -> None:
        """Measure devices, after giving up what is open: it would be measured, too."""
        for device in list(self._opened.values()):
            device.abandon()
        try:
            async with self._one_measurement:
                content = await self._measurer.measure(command, self._models.path_of, self._say)
            self._channel.send(Measured(), [content])
        except Exception as error:  # noqa: BLE001 - it is sent to the server
            self._channel.send(Measured(device_messages.SentError.logged(error)))

    def _say(self, line: str) -> None:
        self._channel.send(Measuring(line))

    async def _beat(self) -> None:
        seen, seen_s = self._channel.bytes_received, time.monotonic()
        memory = host_memory()
        for number in count(1):
            self._channel.send(Beat(memory))
            if number % BEATS_A_LOOK == 0:
                memory = host_memory()
            await asyncio.sleep(BEAT_S)
            now_s = time.monotonic()
            if self._channel.bytes_received != seen:
                seen, seen_s = self._channel.bytes_received, now_s
            elif now_s - seen_s > SERVER_SILENT_S:
                self.end(f"nothing came from it for {SERVER_SILENT_S:.0f} s")
                return

    def _start(self, work: "Coroutine[Any, Any, None]") -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _cannot_open(error: ProteusError) -> device_messages.FailedEvent:
    return device_messages.FailedEvent(device_messages.OPENING, device_messages.SentError.of(error))
