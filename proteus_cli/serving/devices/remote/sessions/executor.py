"""The server's side of a device of another machine."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from proteus_cli.errors import DeviceLost, EngineError
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult, LeavingCallback, OnLost
from proteus_cli.serving.devices.process import messages as device_messages
from proteus_cli.serving.devices.process.commanding import CommandingExecutor, SentCommand
from proteus_cli.serving.devices.remote.channel.frames import UnreadableFrame
from proteus_cli.serving.devices.remote.channel.messages import (
    AbandonDevice,
    BatchLeft,
    BatchRan,
    FromDevice,
    OpenDevice,
    RunBatch,
    ToDevice,
)
from proteus_cli.units import counted

if TYPE_CHECKING:
    from proteus_cli.backends.base import OutputArrays
    from proteus_cli.serving.devices.process.layout import BatchLayout
    from proteus_cli.serving.devices.process.spec import EmulatedSpec
    from proteus_cli.serving.devices.remote.sessions.session import AgentSession


class _Sent(msgspec.Struct, frozen=True, eq=False):
    """A batch that was sent, with so many rows in each part, in a frame of so many bytes, when."""

    layout: "BatchLayout"
    rows: Sequence[int]
    bytes: int
    sent_s: float
    leaving: LeavingCallback | None


class RemoteExecutor(CommandingExecutor):
    """An `Executor` whose device is opened by an agent, over the session of its host.

    The device is lost when the session ends, or when the agent says so. `close` does not wait: batches that were
    submitted end as their answers come.
    """

    def __init__(self, device: str, opening: int, session: "AgentSession", on_lost: OnLost) -> None:
        """``opening`` is the number of this executor in its session; `open` sends the first command."""
        super().__init__(device, on_lost)
        self._opening, self._session = opening, session
        self._sent: dict[int, _Sent] = {}
        self._needs_models = True

    def open(self, device: str, slots: int, emulated: "EmulatedSpec | None" = None) -> None:
        """Have the agent open the device of an id that it has, or an ``emulated`` one."""
        self._needs_models = emulated is None
        behind = [device_messages.ENCODER.encode(emulated)] if emulated is not None else []
        self._session.send(OpenDevice(self._opening, device, slots), behind)

    async def send_ahead(self, model: Path) -> None:
        self._require_open()
        await self._name_of(model)

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        """Besides, raises `EngineError` where the batch is too large for a frame."""
        self._require_open()
        layout = self._layouts[batch.key]
        number = self._register(done)
        sent_s, bounds = time.monotonic(), batch.bounds
        if bounds is not None:
            bounds = bounds.by_clock(-sent_s, self._session.round_trip_s / 2)
        command = RunBatch(self._opening, number, batch.key, [rows for rows, _ in batch.parts], bounds)
        try:
            size = self._session.send(command, layout.pieces(batch))
        except UnreadableFrame as error:
            del self._pending[number]
            raise EngineError(f"A batch can't be sent to {self._device_id}: {error}") from error
        self._sent[number] = _Sent(layout, command.rows, size, sent_s, batch.leaving)

    def close(self) -> None:
        if self._is_closed or self.is_lost:
            return
        self._is_closed = True
        self._send(device_messages.CloseCommand())
        self._fail_loads(DeviceLost(f"{self._device_id} was closed"))
        if not self._pending:
            self._session.forget(self._opening)

    def abandon(self) -> None:
        if not self.is_lost:
            self._session.send(AbandonDevice(self._opening))
        self._forget_pending()
        self._sent.clear()
        self._session.forget(self._opening)

    # --- events

    def told(self, message: FromDevice) -> None:
        """An event of the device came: a load or a batch has ended or failed."""
        if isinstance(message.event, device_messages.FailedEvent):
            number, error = message.event.number, message.event.error.error()
            if not self._failed(number, error) and self._sent.pop(number, None) is not None:
                self._ended(number, error)
        else:
            self._told(message.event)

    def ran(self, event: BatchRan, behind: memoryview) -> None:
        """Take the result of a batch; outputs are ``behind`` the event. Its times are bounded by what passed here."""
        sent = self._sent.pop(event.number, None)
        if sent is None:
            return
        session, now_s = self._session, time.monotonic()
        passed_s = now_s - sent.sent_s
        agent_s = min(event.elapsed_s, passed_s)
        on_the_way_s = passed_s - agent_s
        session.round_trips.add(on_the_way_s, now_s)
        given = self._given(sent, range(len(sent.rows)), event.shapes, behind)
        if given is None:
            return
        failures = {part: error.error() for part, error in event.failures.items()} if event.failures else {}
        crossing_s = session.crossings.shortest_s(sent.bytes + len(behind), on_the_way_s, now_s)
        outputs, notes = sent.layout.signature.told_apart(given)
        compute_s, waited_s = min(event.compute_s, passed_s), min(event.waited_s, passed_s)
        ended_s = sent.sent_s + min(event.ended_s, passed_s)
        result = BatchResult(outputs, compute_s, failures, agent_s + crossing_s, waited_s, notes, ended_s)
        self._ended(event.number, result)

    def left(self, event: BatchLeft, behind: memoryview) -> None:
        sent = self._sent.get(event.number)
        if sent is None or sent.leaving is None:
            return
        given = self._given(sent, event.parts, event.shapes, behind)
        if given is None:
            return
        outputs, notes = sent.layout.signature.told_apart(given)
        passed_s = time.monotonic() - sent.sent_s
        ended_s = sent.sent_s + min(event.ended_s, passed_s)
        result = BatchResult(outputs, min(event.compute_s, passed_s), notes=notes, ended_s=ended_s)
        self._part_left(event.number, sent.leaving, event.parts, result)

    def _given(
        self, sent: _Sent, parts: Sequence[int], shapes: Sequence[tuple[int, ...]], behind: memoryview
    ) -> "OutputArrays | None":
        """Outputs and notes of parts that came; None where they are not whole: the device is lost then."""
        try:
            given = sent.layout.outputs_in(shapes, behind)
            _require_rows(given, sum([sent.rows[part] for part in parts]))
        except (IndexError, TypeError, ValueError) as error:
            self._session.send(AbandonDevice(self._opening))
            self._lose(DeviceLost(f"{self._device_id} is lost: the outputs of a batch are not whole ({error})"))
            return None
        return given

    def lost(self, loss: DeviceLost) -> None:
        """The session has ended."""
        self._lose(loss)

    def _ended(self, number: int, result: BatchResult | Exception) -> None:
        self._complete(number, result)
        if self._is_closed and not self._pending:
            self._session.forget(self._opening)

    def _lose(self, loss: DeviceLost) -> None:
        self._session.forget(self._opening)
        self._sent.clear()
        super()._lose(loss)

    async def _name_of(self, model: Path) -> str:
        """The digest of a model, once the agent has it. Raises `EngineError`."""
        if not self._needs_models:
            return ""
        return await self._until_loaded(self._session.sent_model(model))

    def _send(self, command: SentCommand) -> None:
        if not self.is_lost:
            self._session.send(ToDevice(self._opening, command))


def _require_rows(given: "OutputArrays", rows: int) -> None:
    for values in given:
        if len(values) != rows:
            raise ValueError(f"{counted(len(values), 'row')} instead of {rows}")
