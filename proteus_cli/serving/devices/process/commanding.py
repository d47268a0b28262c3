"""The near side of an executor whose device is opened elsewhere: it sends commands, and is told events."""

import asyncio
from abc import abstractmethod
from pathlib import Path

from proteus_cli.backends.base import Signature
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import DeviceLost
from proteus_cli.serving.devices.executor import ExecutorBase, OnLost, settle
from proteus_cli.serving.devices.process import messages
from proteus_cli.serving.devices.process.layout import BatchLayout

SentCommand = messages.LoadCommand | messages.CancelLoadCommand | messages.UnloadCommand | messages.CloseCommand


class CommandingExecutor(ExecutorBase):
    """The loads of such an executor, by their numbers, and the layouts of its engines. `_send` never waits."""

    def __init__(self, device: str, on_lost: OnLost) -> None:
        super().__init__(device, on_lost)
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[str] = self._loop.create_future()
        self._loading.add(self._opened)
        self._loads: dict[int, asyncio.Future[Signature]] = {}
        self._layouts: dict[VariantKey, BatchLayout] = {}

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

    async def _name_of(self, model: Path) -> str:
        """What a model file is called where the device is, once it is there. Raises `EngineError`."""
        return str(model)

    @abstractmethod
    def _send(self, command: SentCommand) -> None:
        """Send a command without waiting; nothing once lost."""

    def _told(self, event: messages.OpenedEvent | messages.LoadedEvent | messages.LostEvent) -> None:
        match event:
            case messages.OpenedEvent(platform=platform, can_give_way=can_give_way):
                self.can_give_way = can_give_way
                settle(self._opened, platform)
            case messages.LoadedEvent(number=number, signature=signature):
                if number in self._loads:
                    settle(self._loads[number], signature)
            case messages.LostEvent(error=error):
                self._lose(DeviceLost(error.message, hint=error.hint))

    def _failed(self, number: int, error: Exception) -> bool:
        """The device cannot be opened, or a load has failed; False where the number is that of a batch."""
        if number == messages.OPENING:
            settle(self._opened, error)
        elif number in self._loads:
            settle(self._loads[number], error)
        else:
            return False
        return True
