"""A device in a process of its own on this machine."""

import logging
from collections.abc import Sequence
from pathlib import Path

from proteus_cli.backends.base import Signature
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.errors import DeviceLost, EngineError
from proteus_cli.serving.child_process import LIMITS_HINT
from proteus_cli.serving.devices.executor import Batch, OnLost
from proteus_cli.serving.devices.process import messages
from proteus_cli.serving.devices.process.client import DeviceClient, SentBatch
from proteus_cli.serving.devices.process.layout import BatchLayout
from proteus_cli.serving.devices.process.shared_memory import TransferBuffer
from proteus_cli.serving.devices.process.starting import StartedProcess
from proteus_cli.serving.logs import fields

log = logging.getLogger("proteus.process")


class ProcessExecutor(DeviceClient):
    """An `Executor` whose device is opened in a process of its own, with which it shares memory.

    The process is started at once. The device is lost when its process ends by itself, reads no more commands, or says
    that the device is lost.
    """

    def __init__(self, spec: messages.DeviceSpec, on_lost: OnLost) -> None:
        """Raises `DeviceUnavailable` where no process can be started."""
        super().__init__(spec.device.id, on_lost)
        self._buffers: list[TransferBuffer] = []
        self._free_buffers: list[int] = []
        self._reserve_bytes = 0
        self._process = StartedProcess(spec, self._received, self._process_lost)
        self.pid = self._process.pid

    async def load(self, key: VariantKey, model: Path, warm_up_rows: int, *, gives_way: bool = False) -> Signature:
        signature = await super().load(key, model, warm_up_rows, gives_way=gives_way)
        self._reserve_bytes = max(self._reserve_bytes, self._layouts[key].input_bytes(warm_up_rows))
        return signature

    def close(self) -> None:
        if self._is_closed or self.is_lost:
            return
        self._is_closed = True
        if self._opened.done():
            self._send(messages.CloseCommand())
            self._process.close()
        self._release()
        self._process.join()
        # Loads, and batches that did not end, fail with this.
        self._loop.call_soon(self._lose, DeviceLost(f"{self._device_id} was closed"))

    def _send(self, command: messages.ServerCommand) -> None:
        self._process.send(command)

    def _send_batch(
        self,
        batch: Batch,
        layout: BatchLayout,
        number: int,
        rows: Sequence[int],
        bounds: ExitBounds | None,
        sent_s: float,
    ) -> tuple[int, int]:
        if not self._free_buffers:
            self._free_buffers.append(len(self._buffers))
            self._buffers.append(TransferBuffer())
        place = self._free_buffers[-1]
        try:
            self._buffers[place].write(layout.pieces(batch), layout.input_bytes(batch.rows), self._reserve_bytes)
        except OSError as error:
            raise EngineError(f"No memory to share with {self._device_id}: {error}", hint=LIMITS_HINT) from error
        self._free_buffers.pop()
        command = messages.RunCommand(number, batch.key, rows, bounds, place, sent_s)
        self._process.send(command, self._buffers[place].take_unsent())
        return place, 0

    def _has_ended(self, sent: SentBatch) -> None:
        self._free_buffers.append(sent.buffer)

    def _received(self, event: messages.DeviceEvent, descriptors: Sequence[int]) -> None:
        match event:
            case messages.RanEvent() | messages.LeftEvent():
                try:
                    is_whole = isinstance(event, messages.RanEvent)
                    buffer = self._buffers[self._sent[event.number].buffer] if is_whole else TransferBuffer()
                    memory = buffer.incoming(descriptors)
                except (KeyError, OSError, ValueError) as error:
                    self._lose_outputs(error)
                else:
                    self._ran(event, memory) if isinstance(event, messages.RanEvent) else self._left(event, memory)
            case messages.LostEvent(error=error):
                self._lose(DeviceLost(error.message, hint=error.hint))
            case messages.TurnWantedEvent() | messages.TurnEndedEvent() | messages.LogEvent():
                pass
            case _:
                self._handle(event, memoryview(b""))

    def _process_lost(self, loss: DeviceLost) -> None:
        if not self.is_lost:
            log.error("%s", loss, extra=fields(device=self._device_id, pid=self.pid))
        self._lose(loss)

    def _release(self) -> None:
        self._process.release()
        self._loop.call_soon(self._free)  # after the last events, which may bring outputs

    def _free(self) -> None:
        for buffer in self._buffers:
            buffer.close()
        self._buffers.clear()
        self._sent.clear()
