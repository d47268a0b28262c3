"""The device's side of the protocol: carries out the commands of a server, wherever that is."""

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from proteus_cli.backends.base import OutputArrays
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import DeviceLost, EngineBroken, EngineError
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult, Executor
from proteus_cli.serving.devices.process import messages
from proteus_cli.serving.devices.process.channel import Channel
from proteus_cli.serving.devices.process.layout import BatchLayout
from proteus_cli.serving.devices.process.shared_memory import TransferBuffer

log = logging.getLogger("proteus.process")

OutputEvent = messages.RanEvent | messages.LeftEvent
StartBatch = Callable[[float, Callable[[], None]], None]
"""Starts a batch. The arguments are the seconds for which it waited, and a function to call when it has ended."""


class ServerLink(Protocol):
    """The device's end of what connects it to its server.

    ``sends_at_once``: also while a batch runs on the thread of the event loop.
    """

    sends_at_once: bool

    def send(self, event: messages.ServerEvent) -> object:
        """Send an event without tensors."""
        ...

    def send_outputs(self, event: OutputEvent, layout: BatchLayout, given: OutputArrays, buffer: int) -> None:
        """Send an event and outputs. Raises `TypeError` where these do not have the types of the layout."""
        ...


class MemoryLink:
    """A `ServerLink` on this machine: tensors lie in memory that both processes share."""

    sends_at_once = True

    def __init__(self, channel: Channel[messages.DeviceCommand]) -> None:
        self._channel = channel
        self._buffers = defaultdict[int, TransferBuffer](TransferBuffer)

    def inputs(self, command: messages.RunCommand, descriptors: Sequence[int]) -> memoryview:
        """The inputs of a batch."""
        return self._buffers[command.buffer].incoming(descriptors)

    def send(self, event: messages.ServerEvent) -> None:
        self._channel.send(event, wait=True)

    def send_outputs(self, event: OutputEvent, layout: BatchLayout, given: OutputArrays, buffer: int) -> None:
        memory = self._buffers[buffer] if isinstance(event, messages.RanEvent) else TransferBuffer()
        pieces = layout.output_pieces(given)
        memory.write(pieces, sum(map(len, pieces)))
        self._channel.send(event, memory.take_unsent(), wait=True)


class Turns:
    """Has batches wait for their turn while other servers use the device, too.

    ``want`` is called once for each batch that waits, and leads to a `give`.
    """

    def __init__(self, want: Callable[[], object]) -> None:
        self.is_shared = False
        self._want = want
        self._waiting: deque[tuple[StartBatch | None, Callable[[], None]]] = deque()

    def submit(self, start: StartBatch) -> None:
        """Start a batch when it is its turn: now, or later."""
        if self.is_shared or self._waiting:
            self._waiting.append((start, lambda: None))
            self._want()
        else:
            start(0.0, lambda: None)

    def after_batches(self, action: Callable[[], None]) -> None:
        """Call it once all batches that came before have started."""
        if self._waiting:
            self._waiting.append((None, action))
        else:
            action()

    def give(self, waited_s: float, ended: Callable[[], None]) -> None:
        """It is the turn of the batch that has waited longest; ``ended`` is called when that has ended."""
        start, _ = self._waiting.popleft()
        if start is not None:
            start(waited_s, ended)
        while self._waiting and self._waiting[0][0] is None:
            self._waiting.popleft()[1]()


class DeviceServer:
    """Carries out commands with an executor on the running loop, and answers over a link.

    ``find_model`` says where the model is that a command names. ``on_end`` is called when the server has closed the
    device, and all batches have ended.
    """

    def __init__(
        self,
        executor: Executor,
        link: ServerLink,
        on_end: Callable[[], object],
        find_model: Callable[[str], Path] = Path,
        turns: Turns | None = None,
    ) -> None:
        self._executor, self._link, self._on_end, self._find_model = executor, link, on_end, find_model
        self._turns = turns or Turns(lambda: None)
        self._layouts: dict[VariantKey, BatchLayout] = {}
        self._loads: dict[int, asyncio.Task[None]] = {}
        self._running = 0
        self._is_closing = False

    def obey(self, command: messages.ServerCommand, inputs: memoryview) -> None:
        """Carry out a command; a batch has ``inputs``."""
        if isinstance(command, messages.RunCommand):
            self._run(command, inputs)
        else:
            self._turns.after_batches(partial(self._obey, command))

    def _obey(self, command: messages.ServerCommand) -> None:
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
            case messages.CloseCommand():
                self._is_closing = True
                self._end_if_idle()

    async def _load(self, command: messages.LoadCommand) -> None:
        try:
            model = self._find_model(command.model)
            rows, gives_way = command.warm_up_rows, command.gives_way
            signature = await self._executor.load(command.key, model, rows, gives_way=gives_way)
        except Exception as error:  # noqa: BLE001 - it is sent to the server
            self._fail(command.number, error)
        else:
            self._layouts[command.key] = BatchLayout(signature)
            self._link.send(messages.LoadedEvent(command.number, signature))

    def _unload(self, key: VariantKey) -> None:
        if self._layouts.pop(key, None) is not None:
            self._executor.unload(key)

    # --- batches

    def _run(self, command: messages.RunCommand, inputs: memoryview) -> None:
        layout = self._layouts.get(command.key)
        if layout is None:
            self._fail(command.number, EngineError(f"`{command.key.variant}` is not loaded."))
            return
        self._running += 1
        began_s = command.sent_s or time.monotonic()
        self._turns.submit(partial(self._start, command, layout, inputs, began_s))

    def _start(
        self,
        command: messages.RunCommand,
        layout: BatchLayout,
        inputs: memoryview,
        began_s: float,
        waited_s: float,
        end_turn: Callable[[], None],
    ) -> None:
        """Run the batch as one part, as its inputs are in one piece; where that fails, as the parts that it has."""
        bounds = None if command.bounds is None else command.bounds.by_clock(began_s)
        leaving = None if bounds is None else partial(self._left, command, layout, began_s)

        def submit(rows: Sequence[int], done: BatchCallback) -> None:
            try:
                batch = layout.read_inputs(command.key, rows, inputs, bounds, leaving)
            except Exception as error:  # noqa: BLE001 - it is sent to the server
                done(error)
            else:
                self._submit(batch, done)

        def ended(result: BatchResult | Exception) -> None:
            end_turn()
            self._running -= 1
            self._answer(command, layout, began_s, waited_s, result)
            self._end_if_idle()

        def has_run(result: BatchResult | Exception) -> None:
            may_be_one_part = isinstance(result, EngineError) and not isinstance(result, DeviceLost | EngineBroken)
            if may_be_one_part and len(command.rows) > 1:
                submit(command.rows, ended)
            else:
                ended(result)

        submit([sum(command.rows)], has_run)

    def _submit(self, batch: Batch, done: BatchCallback) -> None:
        try:
            if not (self._executor.runs_inline and self._link.sends_at_once):
                self._executor.submit(batch, done)
                return
            result: BatchResult | Exception = self._executor.run(batch)
        except Exception as error:  # noqa: BLE001 - it is sent to the server
            result = error
        done(result)

    def _answer(
        self,
        command: messages.RunCommand,
        layout: BatchLayout,
        began_s: float,
        waited_s: float,
        result: BatchResult | Exception,
    ) -> None:
        number = command.number
        if isinstance(result, Exception):
            self._fail(number, result)
            return
        elapsed_s = max(0.0, time.monotonic() - began_s)
        ended_s = max(0.0, result.ended_s - began_s) if result.ended_s else elapsed_s
        failures = {part: messages.SentError.logged(error) for part, error in result.failures.items()}
        given = result.given
        shapes = [values.shape for values in given]
        event = messages.RanEvent(number, result.compute_s, elapsed_s, ended_s, waited_s, shapes, failures)
        try:
            self._link.send_outputs(event, layout, given, command.buffer)
        except Exception as error:  # noqa: BLE001 - it is sent to the server
            self._fail(number, EngineError(f"The outputs can't be sent: {error}"))

    def _left(
        self,
        command: messages.RunCommand,
        layout: BatchLayout,
        began_s: float,
        parts: Sequence[int],
        result: BatchResult,
    ) -> None:
        """Send the answers that leave a batch. Where that fails, they come with the result of the whole."""
        given, ended_s = result.given, max(0.0, result.ended_s - began_s)
        shapes = [values.shape for values in given]
        event = messages.LeftEvent(command.number, parts, result.compute_s, ended_s, shapes)
        try:
            self._link.send_outputs(event, layout, given, command.buffer)
        except Exception as error:  # noqa: BLE001 - the result of the whole has them
            log.warning("answers that leave a batch wait for its end: %s", error)

    def _fail(self, number: int, error: Exception) -> None:
        self._link.send(messages.FailedEvent(number, messages.SentError.logged(error)))

    def _end_if_idle(self) -> None:
        if self._is_closing and not self._running:
            self._on_end()
