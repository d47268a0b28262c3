"""A device that a server has opened at an agent: what it is told, and what becomes of its batches."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from proteus_cli.errors import DeviceLost, EngineError, ProteusError
from proteus_cli.serving.agent.host_devices import HostDevices
from proteus_cli.serving.agent.models import ModelStore
from proteus_cli.serving.agent.sharing import DeviceTurn, SharedOpening
from proteus_cli.serving.devices.executor import BatchResult
from proteus_cli.serving.devices.process import messages as device_messages
from proteus_cli.serving.devices.process.engines import CommandedEngines
from proteus_cli.serving.devices.process.layout import BatchLayout
from proteus_cli.serving.devices.process.spec import EmulatedSpec
from proteus_cli.serving.devices.remote.channel.channel import FrameChannel
from proteus_cli.serving.devices.remote.channel.frames import UnreadableFrame
from proteus_cli.serving.devices.remote.channel.messages import (
    AbandonDevice,
    BatchLeft,
    BatchRan,
    FromDevice,
    OpenDevice,
    RunBatch,
    ToAgent,
    ToDevice,
)

log = logging.getLogger("proteus.agent")


@dataclass
class BatchCounts:
    """The batches that a server sent, and how each ended: with an answer, with an error, or without anyone to tell."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    given_up: int = 0


@dataclass(frozen=True, slots=True)
class _SentBatch:
    """A batch that came at ``arrived_s``, by the monotonic clock, and how its tensors lie."""

    command: RunBatch
    layout: BatchLayout
    arrived_s: float


class OpenedDevice:
    """One opening of a device for one server; its batches take ``turns``. ``on_closed`` is called when it is over."""

    def __init__(
        self,
        command: OpenDevice,
        emulated: EmulatedSpec | None,
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
        self._executor = devices.open(command, emulated, self._on_lost)
        self._engines = CommandedEngines(self._executor, self._send, models.path_of if emulated is None else Path)
        self._turns, self._counts, self._running = turns, counts, 0
        self._is_closing = False

    async def report_opened(self) -> None:
        """Tell the server once the device is open, or why it cannot be opened."""
        try:
            platform = await self._executor.opened()
            self._send(device_messages.OpenedEvent(platform, self._executor.can_give_way))
        except DeviceLost:
            pass  # `_on_lost` has said so
        except ProteusError as error:
            self._send(cannot_open(error))

    def obey(self, message: RunBatch | ToDevice | AbandonDevice, behind: memoryview) -> None:
        """Do what the server asks; the inputs of a batch are ``behind`` its message."""
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
        self._running += 1
        self._turns.submit(partial(self._start, _SentBatch(command, layout, time.monotonic()), inputs))

    def _start(self, sent: _SentBatch, inputs: memoryview, turn: DeviceTurn) -> None:
        """It is the turn of a batch."""
        command, bounds, leaving = sent.command, sent.command.bounds, None
        if bounds is not None:
            bounds, leaving = bounds.by_clock(sent.arrived_s), partial(self._left, sent)
        ended = partial(self._ended, sent, turn)
        try:
            self._executor.submit(sent.layout.read_inputs(command.key, command.rows, inputs, bounds, leaving), ended)
        except Exception as error:  # noqa: BLE001 - it is sent to the server
            ended(error)

    def _ended(self, sent: _SentBatch, turn: DeviceTurn, result: BatchResult | Exception) -> None:
        turn.end()
        self._running -= 1
        if isinstance(result, Exception):
            self._batch_failed(sent.command.number, result)
        else:
            self._answer(sent, result, turn.waited_s)
        self._end_if_idle()

    def _answer(self, sent: _SentBatch, result: BatchResult, waited_s: float) -> None:
        number, elapsed_s = sent.command.number, time.monotonic() - sent.arrived_s
        ended_s = result.ended_s - sent.arrived_s if result.ended_s else elapsed_s
        failures = {part: device_messages.SentError.of(error) for part, error in result.failures.items()}
        shapes = [values.shape for values in result.given]
        ran = BatchRan(self._opening, number, result.compute_s, elapsed_s, ended_s, waited_s, shapes, failures)
        try:
            self._channel.send(ran, sent.layout.output_pieces(result.given))
        except (TypeError, UnreadableFrame) as error:
            self._batch_failed(number, EngineError(f"the outputs can't be sent: {error}"))
        else:
            self._counts.answered += 1

    def _left(self, sent: _SentBatch, parts: Sequence[int], result: BatchResult) -> None:
        """Send what leaves a batch. Where that fails, it is in the result of the whole, as all is."""
        shapes, ended_s = [values.shape for values in result.given], result.ended_s - sent.arrived_s
        left = BatchLeft(self._opening, sent.command.number, parts, result.compute_s, ended_s, shapes)
        try:
            self._channel.send(left, sent.layout.output_pieces(result.given))
        except (TypeError, UnreadableFrame) as error:
            log.warning("answers that leave a batch wait for its end: %s", error)

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


def cannot_open(error: ProteusError) -> device_messages.FailedEvent:
    """The answer to `OpenDevice` where that fails."""
    return device_messages.FailedEvent(device_messages.OPENING, device_messages.SentError.of(error))
