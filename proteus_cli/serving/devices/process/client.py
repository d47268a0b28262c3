"""The server's side of a device whose process runs elsewhere: on this machine, or on another one."""

import asyncio
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import msgspec

from proteus_cli.backends.base import OutputArrays, Signature
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.errors import DeviceLost
from proteus_cli.serving.devices.executor import (
    Batch,
    BatchCallback,
    BatchResult,
    ExecutorBase,
    LeavingCallback,
    OnLost,
    settle,
)
from proteus_cli.serving.devices.process import messages
from proteus_cli.serving.devices.process.layout import BatchLayout
from proteus_cli.units import counted

_UNREADABLE = (IndexError, KeyError, OSError, TypeError, ValueError)
"""Where no more files can be open, the system drops descriptors; a broken process may say anything."""


class SentBatch(msgspec.Struct, frozen=True, eq=False):
    """A batch of ``total`` rows, sent at ``sent_s`` (`time.monotonic`) in ``buffer``, or in ``size`` bytes."""

    layout: BatchLayout
    rows: Sequence[int]
    total: int
    buffer: int
    size: int
    sent_s: float
    leaving: LeavingCallback | None


class DeviceClient(ExecutorBase):
    """Sends commands to the process of a device, and handles its events. Its messages are sent without waiting.

    ``outputs_stay``: outputs may be used where they were received.
    """

    outputs_stay = False

    def __init__(self, device: str, on_lost: OnLost) -> None:
        super().__init__(device, on_lost)
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[str] = self._loop.create_future()
        self._loading.add(self._opened)
        self._loads: dict[int, asyncio.Future[Signature]] = {}
        self._layouts: dict[VariantKey, BatchLayout] = {}
        self._sent: dict[int, SentBatch] = {}

    async def opened(self) -> str:
        """Wait until the device is open; returns the name of its backend.

        Raises `BackendUnavailable`, `DeviceUnavailable` where it cannot be opened, `DeviceLost`.
        """
        return await asyncio.shield(self._opened)

    async def load(self, key: VariantKey, model: Path, warm_up_rows: int, *, gives_way: bool = False) -> Signature:
        """Besides, raises like `opened`."""
        await self.opened()
        name = await self._name_of(model)
        self._require_open()
        number, loaded = next(self._numbers), self._loop.create_future()
        self._loads[number] = loaded
        self._send(messages.LoadCommand(number, key, name, warm_up_rows, gives_way))
        try:
            signature: Signature = await self._until_loaded(loaded)
        except asyncio.CancelledError:
            self._send(messages.CancelLoadCommand(number, key))
            raise
        finally:
            del self._loads[number]
        self._layouts[key] = BatchLayout(signature)
        return signature

    def unload(self, key: VariantKey) -> None:
        if not self.is_lost:
            del self._layouts[key]
            self._send(messages.UnloadCommand(key))

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        """Besides, raises `EngineError` where the inputs cannot be sent."""
        self._require_open()
        layout, rows = self._layouts[batch.key], [rows for rows, _ in batch.parts]
        sent_s, bounds = time.monotonic(), batch.bounds
        if bounds is not None:
            bounds = bounds.by_clock(-sent_s, self._there_s)
        number = self._register(done)
        try:
            buffer, size = self._send_batch(batch, layout, number, rows, bounds, sent_s)
        except Exception:
            del self._pending[number]
            raise
        self._sent[number] = SentBatch(layout, rows, batch.rows, buffer, size, sent_s, batch.leaving)

    async def _name_of(self, model: Path) -> str:
        """The name that a model file has where the device is, once it is there. Raises `EngineError`."""
        return str(model)

    @property
    def _there_s(self) -> float:
        """The time that a message takes to the device."""
        return 0.0

    @abstractmethod
    def _send(self, command: messages.ServerCommand) -> None:
        """Send a command; nothing once lost."""

    @abstractmethod
    def _send_batch(
        self,
        batch: Batch,
        layout: BatchLayout,
        number: int,
        rows: Sequence[int],
        bounds: ExitBounds | None,
        sent_s: float,
    ) -> tuple[int, int]:
        """Send a `RunCommand`; returns the number of its buffer, and its size in bytes. Raises as `submit`."""

    def _has_ended(self, sent: SentBatch) -> None:
        """The answer to a batch came."""

    def _crossing_s(self, size: int, on_the_way_s: float, now_s: float) -> float:  # noqa: ARG002
        """The time that counts for the way of a batch of ``size`` bytes, inputs and outputs."""
        return 0.0

    # --- events

    def _handle(self, event: messages.ServerEvent, memory: memoryview) -> None:
        """An event came; the outputs of a batch lie in ``memory``."""
        match event:
            case messages.RanEvent():
                self._ran(event, memory)
            case messages.LeftEvent():
                self._left(event, memory)
            case messages.LoadedEvent(number=number, signature=signature):
                if number in self._loads:
                    settle(self._loads[number], signature)
            case messages.OpenedEvent(platform=platform, can_give_way=can_give_way):
                self.can_give_way = can_give_way
                settle(self._opened, platform)
            case messages.FailedEvent():
                self._failed(event)

    def _ran(self, event: messages.RanEvent, memory: memoryview) -> None:
        """Take the result of a batch. Its times are bounded by the time that passed here."""
        try:
            sent = self._sent.pop(event.number)
            given = self._given(sent, sent.total, event.shapes, memory)
        except _UNREADABLE as error:
            self._lose_outputs(error)
            return
        now_s = time.monotonic()
        passed_s = now_s - sent.sent_s
        elapsed_s = min(event.elapsed_s, passed_s)
        crossing_s = self._crossing_s(sent.size + len(memory), passed_s - elapsed_s, now_s)
        self._has_ended(sent)
        failures = {part: error.error() for part, error in event.failures.items()} if event.failures else {}
        outputs, notes = sent.layout.signature.told_apart(given)
        compute_s, waited_s = min(event.compute_s, passed_s), min(event.waited_s, passed_s)
        ended_s = sent.sent_s + min(event.ended_s, passed_s)
        result = BatchResult(outputs, compute_s, failures, elapsed_s + crossing_s, waited_s, notes, ended_s)
        self._complete(event.number, result)

    def _left(self, event: messages.LeftEvent, memory: memoryview) -> None:
        try:
            sent = self._sent[event.number]
            given = self._given(sent, sum([sent.rows[part] for part in event.parts]), event.shapes, memory)
        except _UNREADABLE as error:
            self._lose_outputs(error)
            return
        if sent.leaving is not None:
            outputs, notes = sent.layout.signature.told_apart(given)
            passed_s = time.monotonic() - sent.sent_s
            ended_s = sent.sent_s + min(event.ended_s, passed_s)
            result = BatchResult(outputs, min(event.compute_s, passed_s), notes=notes, ended_s=ended_s)
            self._part_left(event.number, sent.leaving, event.parts, result)

    def _given(self, sent: SentBatch, rows: int, shapes: Sequence[tuple[int, ...]], memory: memoryview) -> OutputArrays:
        """The outputs and notes of ``rows`` rows. Raises one of `_UNREADABLE` where they are not whole."""
        given = sent.layout.outputs_in(shapes, memory)
        for values in given:
            if len(values) != rows:
                raise ValueError(f"{counted(len(values), 'row')} instead of {rows}")
        return given if self.outputs_stay else tuple([values.copy() for values in given])

    def _failed(self, event: messages.FailedEvent) -> None:
        number, error = event.number, event.error.error()
        if number == messages.OPENING:
            settle(self._opened, error)
        elif number in self._loads:
            settle(self._loads[number], error)
        elif (sent := self._sent.pop(number, None)) is not None:
            self._has_ended(sent)
            self._complete(number, error)

    def _lose_outputs(self, error: Exception) -> None:
        self._lose(DeviceLost(f"{self._device_id} is lost: the outputs of a batch can't be reached ({error})"))

    def _lose(self, loss: DeviceLost) -> None:
        self._release()
        super()._lose(loss)

    def abandon(self) -> None:
        self._forget_pending()
        self._release()

    @abstractmethod
    def _release(self) -> None:
        """End the device's process without waiting, and free the rest; harmless a second time."""
