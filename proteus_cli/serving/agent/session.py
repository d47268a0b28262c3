"""What an agent does for one server, over one connection."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from proteus_cli.backends.free_memory import host_memory
from proteus_cli.domain.connection import BEAT_S
from proteus_cli.errors import DeviceLost, DeviceUnavailable, EngineError, ProteusError
from proteus_cli.serving.agent.host_devices import HostDevices
from proteus_cli.serving.agent.measuring import Measurer
from proteus_cli.serving.agent.models import ModelStore, OfferedModels
from proteus_cli.serving.agent.sharing import DeviceTurn, SharedDevices, SharedOpening
from proteus_cli.serving.devices.executor import BatchResult
from proteus_cli.serving.devices.process import messages as device_messages
from proteus_cli.serving.devices.process.engines import CommandedEngines
from proteus_cli.serving.devices.process.layout import BatchLayout
from proteus_cli.serving.devices.remote.channel import FrameChannel
from proteus_cli.serving.devices.remote.frames import UnreadableFrame
from proteus_cli.serving.devices.remote.messages import (
    AbandonDevice,
    BatchRan,
    Beat,
    DevicesShared,
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

ALL = "all"
"""Instead of devices, in the options of a measurement."""

BEATS_A_LOOK = 10
"""At the memory of the host."""

SERVER_SILENT_S = 10.0
"""A server that sends nothing for so long is gone. It pings each second, but its event loop may be held up."""


@dataclass
class BatchCounts:
    """The batches that a server sent, and how each ended: with an answer, with an error, or without anyone to tell."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    given_up: int = 0


class OpenedDevice:
    """One opening of a device for one server; its batches take ``turns``. ``on_closed`` is called when it is over."""

    def __init__(
        self,
        command: OpenDevice,
        devices: HostDevices,
        turns: SharedOpening,
        channel: FrameChannel[ToAgent],
        models: ModelStore,
        counts: BatchCounts,
        on_closed: Callable[[int], object],
    ) -> None:
        """Raises `DeviceUnavailable` where it cannot be opened."""
        self.device = command.device
        self._opening, self._channel, self._on_closed = command.opening, channel, on_closed
        self._executor = devices.open(command, self._on_lost)
        self._engines = CommandedEngines(
            self._executor, self._send, models.path_of if command.emulated is None else Path
        )
        self._turns, self._counts, self._running = turns, counts, 0
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
                    self._turns.after_batches(partial(self._engines.obey, command))
            case AbandonDevice():
                self.abandon()

    def abandon(self) -> None:
        """Give the device up at once, with the batches that run there: their results reach nobody."""
        self._executor.abandon()
        self._turns.leave()
        self._counts.given_up += self._running
        self._running = 0
        self._on_closed(self._opening)

    def _run(self, command: RunBatch, inputs: memoryview) -> None:
        self._counts.sent += 1
        layout = self._engines.layouts.get(command.key)
        if layout is None:
            self._batch_failed(command.number, EngineError(f"`{command.key.variant}` is not loaded."))
            return
        arrived_s = time.monotonic()
        self._running += 1

        def start(turn: DeviceTurn) -> None:
            def ended(result: BatchResult | Exception) -> None:
                turn.end()
                self._running -= 1
                if isinstance(result, Exception):
                    self._batch_failed(command.number, result)
                else:
                    self._answer(command, layout, result, time.monotonic() - arrived_s, turn.waited_s)
                self._end_if_idle()

            try:
                self._executor.submit(layout.read_inputs(command.key, command.rows, inputs), ended)
            except Exception as error:  # noqa: BLE001 - it is sent to the server
                ended(error)

        self._turns.submit(start)

    def _answer(
        self, command: RunBatch, layout: BatchLayout, result: BatchResult, elapsed_s: float, waited_s: float
    ) -> None:
        failures = {part: device_messages.SentError.of(error) for part, error in result.failures.items()}
        shapes = [values.shape for values in result.outputs]
        ran = BatchRan(self._opening, command.number, result.compute_s, elapsed_s, waited_s, shapes, failures)
        try:
            self._channel.send(ran, layout.output_pieces(result.outputs))
        except (TypeError, UnreadableFrame) as error:
            self._batch_failed(command.number, EngineError(f"the outputs can't be sent: {error}"))
        else:
            self._counts.answered += 1

    def _batch_failed(self, number: int, error: Exception) -> None:
        self._counts.failed += 1
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

    ``devices`` are those of this host, and ``shared`` says who else has them open. ``on_end`` is called once.
    """

    def __init__(
        self,
        hello: Hello,
        channel: FrameChannel[ToAgent],
        devices: HostDevices,
        shared: SharedDevices,
        models: ModelStore,
        measurer: Measurer,
        on_end: Callable[["ServerSession", str], None],
    ) -> None:
        self.hello, self.peer, self.batches = hello, channel.peer, BatchCounts()
        self._channel, self._devices, self._models, self._on_end = channel, devices, models, on_end
        self._shared, self._measurer, self._offered = shared, measurer, OfferedModels(models)
        self._opened: dict[int, OpenedDevice] = {}
        self._told_shared: Mapping[str, int] = {}
        self._writing: set[asyncio.Task[None]] = set()
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
                self._write(digest, self._offered.offered(message))
            case ModelPiece(digest=digest):
                self._write(digest, self._offered.take(message, behind))
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
        self._offered.close()
        self._on_end(self, reason)

    def tell_shared(self) -> None:
        """Tell the server which of its devices others have open, too, unless it knows."""
        shared = self._shared.shared_by(self.hello.server)
        if shared != self._told_shared:
            self._told_shared = shared
            self._channel.send(DevicesShared(shared))

    # ---

    def _open(self, command: OpenDevice) -> None:
        """Open a device. An earlier opening of it is given up: it may hang."""
        for earlier in [each for each in self._opened.values() if each.device == command.device]:
            earlier.abandon()
        turns = self._shared.join(command.device, self.hello.server, command.slots)
        try:
            device = OpenedDevice(
                command, self._devices, turns, self._channel, self._models, self.batches, self._forget
            )
        except DeviceUnavailable as error:
            turns.leave()
            self._channel.send(FromDevice(command.opening, _cannot_open(error)))
            return
        self._opened[command.opening] = device
        self._start(device.report_opened())

    def _forget(self, opening: int) -> None:
        self._opened.pop(opening, None)

    async def _answer(self, digest: str, state: "Coroutine[Any, Any, ModelState]") -> None:
        try:
            answer = await state
        except Exception as error:  # noqa: BLE001 - it is sent to the server
            answer = ModelState(digest, [], is_whole=False, error=device_messages.SentError.logged(error))
        self._channel.send(answer)

    def _write(self, digest: str, state: "Coroutine[Any, Any, ModelState]") -> None:
        """Answer with a state. What writes a model is not broken off when the session ends: others may write there."""
        task = asyncio.create_task(self._answer(digest, state))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _measure(self, command: MeasureDevices) -> None:
        """Measure devices, after giving up what is open: it would be measured, too."""
        for device in list(self._opened.values()):
            device.abandon()
        try:
            self._require_unused(command.options.devices)
            content = await self._measurer.measure(command, self._models.path_of, self._say)
            self._channel.send(Measured(), [content])
        except Exception as error:  # noqa: BLE001 - it is sent to the server
            self._channel.send(Measured(device_messages.SentError.logged(error)))

    def _require_unused(self, devices: str) -> None:
        """Raise `DeviceUnavailable` where other servers use devices that are to be measured; ``all`` means any."""
        wanted = None if devices == ALL else {name.strip() for name in devices.split(",")}
        used = sorted(device for device in self._shared.open_devices if wanted is None or device in wanted)
        if used:
            raise DeviceUnavailable(
                f"A server uses {', '.join(used)}: to measure beside it would say nothing, and slow it down.",
                hint="stop that server, or measure other devices",
            )

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
