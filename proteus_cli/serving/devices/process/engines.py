"""The far side of an executor's engines: loads and frees them on another executor, as commands say."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.serving.devices.executor import Executor
from proteus_cli.serving.devices.process import messages
from proteus_cli.serving.devices.process.layout import BatchLayout

EngineCommand = messages.LoadCommand | messages.CancelLoadCommand | messages.UnloadCommand
SendEvent = Callable[[messages.LoadedEvent | messages.FailedEvent], object]


class CommandedEngines:
    """Each load is answered with one event. ``layouts`` has the engines that are loaded.

    ``find_model`` says where the model is that a command names.
    """

    def __init__(self, executor: Executor, send: SendEvent, find_model: Callable[[str], Path] = Path) -> None:
        self._executor, self._send, self._find_model = executor, send, find_model
        self.layouts: dict[VariantKey, BatchLayout] = {}
        self._loads: dict[int, asyncio.Task[None]] = {}

    def obey(self, command: EngineCommand) -> None:
        """Load an engine, give a load up, or unload an engine; events tell what became of it."""
        match command:
            case messages.LoadCommand():
                task = asyncio.create_task(self._load(command))
                self._loads[command.number] = task
                task.add_done_callback(lambda _: self._loads.pop(command.number, None))
            case messages.CancelLoadCommand(number=number, key=key):
                if number not in self._loads or not self._loads[number].cancel():
                    self._unload(key)
            case messages.UnloadCommand(key=key):
                self._unload(key)

    async def _load(self, command: messages.LoadCommand) -> None:
        try:
            model = self._find_model(command.model)
            rows, gives_way = command.warm_up_rows, command.gives_way
            signature = await self._executor.load(command.key, model, rows, gives_way=gives_way)
        except Exception as error:  # noqa: BLE001 - it is sent to the server
            self._send(messages.FailedEvent(command.number, messages.SentError.logged(error)))
        else:
            self.layouts[command.key] = BatchLayout(signature)
            self._send(messages.LoadedEvent(command.number, signature))

    def _unload(self, key: VariantKey) -> None:
        if self.layouts.pop(key, None) is not None:
            self._executor.unload(key)
