"""A device of another machine: an agent opens it there, and commands go to its process."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from proteus_cli.errors import DeviceLost, EngineError, HostLost
from proteus_cli.serving.devices.executor import Batch, OnLost
from proteus_cli.serving.devices.process import messages
from proteus_cli.serving.devices.process.client import DeviceClient, SentBatch
from proteus_cli.serving.devices.remote.channel.channel import FrameChannel
from proteus_cli.serving.devices.remote.channel.frames import FrameParser, UnreadableFrame
from proteus_cli.serving.devices.remote.channel.messages import DeviceEnded, DeviceStarted, OpenDevice

if TYPE_CHECKING:
    import asyncio

    from proteus_cli.domain.stages.stage_forecast import ExitBounds
    from proteus_cli.serving.devices.process.layout import BatchLayout
    from proteus_cli.serving.devices.remote.sessions.session import AgentSession

REASON_S = 0.05
"""Seconds between the end of a device's connection and its loss: the agent may know why it ended, or be lost, too."""


class RemoteExecutor(DeviceClient):
    """An `Executor` whose device is opened by an agent, which then hands a connection to the device's process.

    The device is lost when that connection ends, when the session with the agent ends, or when the agent says so.
    `close` does not wait: batches that were submitted end as their answers come.
    """

    outputs_stay = True

    def __init__(self, device: str, opening: int, session: "AgentSession", on_lost: OnLost) -> None:
        """``opening`` is the number of this executor in its session; `open` sends the first command."""
        super().__init__(device, on_lost)
        self._opening, self._session = opening, session
        self._needs_models = True
        self._connecting: asyncio.Task[None] | None = None
        self.channel: FrameChannel[messages.ServerEvent] = FrameChannel(messages.SERVER_EVENTS, FrameParser())
        self.channel.owner = self

    def open(self, device: str, slots: int, emulated: messages.EmulatedSpec | None = None) -> None:
        """Have the agent open the device of an id that it has, or an ``emulated`` one."""
        self._needs_models = emulated is None
        behind = [messages.ENCODER.encode(emulated)] if emulated is not None else []
        self._session.send(OpenDevice(self._opening, device, slots), behind)

    def told(self, message: DeviceStarted | DeviceEnded) -> None:
        """The device's process is there, and waits for a connection; or it cannot be opened, or is lost."""
        if isinstance(message, DeviceStarted):
            self._connecting = self._loop.create_task(self._connect(message.token))
        elif isinstance(message.event, messages.FailedEvent):
            self._failed(message.event)
        else:
            self._lose(DeviceLost(message.event.error.message, hint=message.event.error.hint))

    def host_lost(self, loss: HostLost) -> None:
        """The session has ended."""
        self._lose(loss)

    async def send_ahead(self, model: Path) -> None:
        self._require_open()
        await self._name_of(model)

    def close(self) -> None:
        if self._is_closed or self.is_lost:
            return
        self._is_closed = True
        self._fail_loads(DeviceLost(f"{self._device_id} was closed"))
        self._release_if_idle()

    # --- the channel's owner

    def received(self, message: messages.ServerEvent, behind: memoryview) -> None:
        self._handle(message, behind)

    def ended(self, reason: str) -> None:
        loss = DeviceLost(f"{self._device_id} is lost: the connection to its process has ended ({reason})")
        self._loop.call_later(REASON_S, self._lose, loss)

    # ---

    async def _connect(self, token: bytes) -> None:
        try:
            await self._session.connect_to_device(self.channel, token)
        except (OSError, HostLost) as error:
            self._lose(DeviceLost(f"{self._device_id} is lost: its process can't be reached ({error})"))

    async def _name_of(self, model: Path) -> str:
        """The digest of a model, once the agent has it. Raises `EngineError`."""
        if not self._needs_models:
            return ""
        return await self._until_loaded(self._session.sent_model(model))

    @property
    def _there_s(self) -> float:
        return self._session.round_trip_s / 2

    def _send(self, command: messages.ServerCommand) -> None:
        if not self.is_lost:
            self.channel.send(command)

    def _send_batch(
        self,
        batch: Batch,
        layout: "BatchLayout",
        number: int,
        rows: Sequence[int],
        bounds: "ExitBounds | None",
        sent_s: float,  # noqa: ARG002 - by a clock that the device does not have
    ) -> tuple[int, int]:
        pieces = layout.pieces(batch)
        if sum(map(len, pieces)) != layout.input_bytes(batch.rows):
            raise ValueError(f"the parts of a batch have not the bytes that {batch.rows} rows take")
        try:
            size = self.channel.send(messages.RunCommand(number, batch.key, rows, bounds), pieces)
        except UnreadableFrame as error:
            raise EngineError(f"A batch can't be sent to {self._device_id}: {error}") from error
        return 0, size

    def _crossing_s(self, size: int, on_the_way_s: float, now_s: float) -> float:
        self._session.round_trips.add(on_the_way_s, now_s)
        return self._session.crossings.shortest_s(size, on_the_way_s, now_s)

    def _has_ended(self, _: SentBatch) -> None:
        if self._is_closed:
            self._loop.call_soon(self._release_if_idle)

    def _release_if_idle(self) -> None:
        if not self._pending:
            self._release()

    def _release(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        self.channel.close()
        self._sent.clear()
        self._session.forget(self._opening)
