"""The session of an agent with one server, over one connection."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import msgspec

from proteus_cli.backends.free_memory import host_memory
from proteus_cli.domain.cluster import BEAT_S
from proteus_cli.errors import DeviceUnavailable
from proteus_cli.serving.agent.hosted_device import HostedDevice
from proteus_cli.serving.agent.measuring import Measurer
from proteus_cli.serving.agent.models import ModelStore, OfferedModels
from proteus_cli.serving.agent.sharing import SharedDevices, SharedOpening
from proteus_cli.serving.devices.process import messages as device_messages
from proteus_cli.serving.devices.remote.channel.channel import FrameChannel
from proteus_cli.serving.devices.remote.channel.messages import (
    EMULATED,
    MAX_ECHO_BYTES,
    PIECES_ON_THE_WAY,
    AbandonDevice,
    AbandonMeasuring,
    Beat,
    DeviceEnded,
    DevicesShared,
    DeviceStarted,
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
    ToAgent,
    WithdrawModel,
)

MEMORY_S = 1.0
"""Between two looks at the memory of the host."""

SERVER_SILENT_S = 10.0
"""Seconds without a message after which a server is gone. It pings each second, but its event loop may be held up."""


async def beat(channel: FrameChannel[ToAgent], end: Callable[[str], object]) -> None:
    """Send something each `BEAT_S`, until the server has been silent for too long; then ``end`` is told so.

    One of the signs of life in each `MEMORY_S` has the memory of the host.
    """
    heard, heard_s = channel.bytes_received, time.monotonic()
    told_s = -math.inf
    while True:
        now_s = time.monotonic()
        if now_s - told_s >= MEMORY_S:
            channel.send(Beat(host_memory()))
            told_s = now_s
        else:
            channel.send_sign_of_life()
        await asyncio.sleep(BEAT_S)
        now_s = time.monotonic()
        if channel.bytes_received != heard:
            heard, heard_s = channel.bytes_received, now_s
        elif now_s - heard_s > SERVER_SILENT_S:
            end(f"nothing came from it for {SERVER_SILENT_S:.0f} s")
            return


OpenHosted = Callable[
    [OpenDevice, device_messages.EmulatedSpec | None, SharedOpening, Callable[[Any], object]], HostedDevice
]
"""Opens a device of the host, or an emulated one. Raises `DeviceUnavailable`."""

ExpectConnection = Callable[[HostedDevice], bytes]
"""Has the next connection with the token that it returns handed to a device."""


class ServerSession:
    """Obeys a server that was welcomed, until its connection ends. After that only its models are left.

    ``shared`` says who else has a device open. ``on_end`` is called once.
    """

    def __init__(
        self,
        hello: Hello,
        channel: FrameChannel[ToAgent],
        open_hosted: OpenHosted,
        expect: ExpectConnection,
        shared: SharedDevices,
        models: ModelStore,
        measurer: Measurer,
        on_end: Callable[["ServerSession", str], None],
    ) -> None:
        self.hello, self.peer = hello, channel.peer
        self._channel, self._models, self._on_end = channel, models, on_end
        self._open_hosted, self._expect = open_hosted, expect
        self._shared, self._measurer, self._offered = shared, measurer, OfferedModels(models)
        self._opened: dict[int, HostedDevice] = {}
        self._told_shared: Mapping[str, int] = {}
        self._writing: set[asyncio.Task[None]] = set()
        self._pieces = Counter[str]()  # that are written now, by the digest of their model
        self._tasks: set[asyncio.Task[None]] = set()
        self._measuring: dict[int, asyncio.Task[None]] = {}
        self._has_ended = False
        channel.owner = self
        self._start(beat(channel, self.end))

    # --- the channel's owner

    def received(self, message: ToAgent, behind: memoryview) -> None:
        match message:
            case AbandonDevice(opening=opening):
                self._abandon(opening)
            case OpenDevice():
                self._open(message, behind)
            case Ping(sent_s=sent_s):
                self._echo(sent_s, behind)
            case OfferModel(digest=digest):
                self._write(digest, self._offered.offered(message))
            case ModelPiece():
                self._take(message, behind)
            case WithdrawModel(digest=digest):
                self._offered.withdraw(digest)
            case MeasureDevices() | AbandonMeasuring():
                self._obey_measuring(message)
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
        for opening in list(self._opened):
            self._abandon(opening)
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
        for device in self._opened.values():
            device.share(is_shared=device.device in shared)

    # ---

    def _echo(self, sent_s: float, behind: memoryview) -> None:
        """Answer a ping. A server measures with one echo at a time, so what waits to be sent stays small."""
        if behind and self._channel.unsent_bytes > MAX_ECHO_BYTES:
            self.end(f"it asks for more than {MAX_ECHO_BYTES:,} bytes of echoes at once")
            return
        self._channel.send(Pong(sent_s), [behind])

    def _open(self, command: OpenDevice, behind: memoryview) -> None:
        """Open a device. An earlier opening of it is given up: it may hang."""
        if command.opening in self._opened:
            self.end(f"it uses the number {command.opening} twice")
            return
        try:
            emulated = EMULATED.decode(behind) if behind else None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.end(f"a profile can't be read: {error}")
            return
        for earlier in [each for each, device in self._opened.items() if device.device == command.device]:
            self._abandon(earlier)
        turns = self._shared.join(command.device, self.hello.server, command.slots)
        try:
            device = self._open_hosted(command, emulated, turns, partial(self._lose, command.opening))
        except DeviceUnavailable as error:
            turns.leave()
            failed = device_messages.FailedEvent(device_messages.OPENING, device_messages.SentError.of(error))
            self._channel.send(DeviceEnded(command.opening, failed))
            return
        self._opened[command.opening] = device
        device.share(is_shared=command.device in self._told_shared)
        self._channel.send(DeviceStarted(command.opening, self._expect(device)))

    def _lose(self, opening: int, event: device_messages.FailedEvent | device_messages.LostEvent) -> None:
        """A device cannot be opened, or is lost; only the first reason counts."""
        if opening in self._opened:
            self._channel.send(DeviceEnded(opening, event))
            self._abandon(opening)

    def _abandon(self, opening: int) -> None:
        """Give a device up at once, with the batches that run there."""
        if opening in self._opened:
            self._opened.pop(opening).abandon()

    async def _answer(self, digest: str, state: "Coroutine[Any, Any, ModelState]") -> None:
        try:
            answer = await state
        except Exception as error:  # noqa: BLE001 - it is sent to the server
            answer = ModelState(digest, [], is_whole=False, error=device_messages.SentError.logged(error))
        self._channel.send(answer)

    def _write(self, digest: str, state: "Coroutine[Any, Any, ModelState]") -> None:
        """Answer with a state. Writing a model goes on when the session ends: other sessions may write the same one."""
        task = asyncio.create_task(self._answer(digest, state))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def _take(self, piece: ModelPiece, content: memoryview) -> None:
        """Write a piece of a model, which takes memory until then."""
        if self._pieces[piece.digest] >= PIECES_ON_THE_WAY:
            self.end(f"it sends more than {PIECES_ON_THE_WAY} pieces of a model at once")
            return
        self._pieces[piece.digest] += 1
        self._write(piece.digest, self._taken(piece, content))

    async def _taken(self, piece: ModelPiece, content: memoryview) -> ModelState:
        try:
            return await self._offered.take(piece, content)
        finally:
            self._pieces -= Counter((piece.digest,))  # the server may send another one once it has the answer

    def _obey_measuring(self, command: MeasureDevices | AbandonMeasuring) -> None:
        number = command.number
        if isinstance(command, MeasureDevices) and number in self._measuring:
            self.end(f"it uses the number {number} twice")
        elif isinstance(command, MeasureDevices):
            task = self._measuring[number] = self._start(self._measure(command))
            task.add_done_callback(lambda _: self._measuring.pop(number))
        elif number in self._measuring:
            self._measuring[number].cancel()

    async def _measure(self, command: MeasureDevices) -> None:
        """Measure devices. Unless that is beside servers, open devices are given up first: they would disturb it."""
        if not command.options.beside_servers:
            for opening in list(self._opened):
                self._abandon(opening)
        number = command.number
        try:
            content = await self._measurer.measure(
                command,
                lambda: self._shared.open_devices,
                self._models.path_of,
                lambda line: self._channel.send(Measuring(number, line)),
            )
            self._channel.send(Measured(number), [content])
        except Exception as error:  # noqa: BLE001 - it is sent to the server
            self._channel.send(Measured(number, device_messages.SentError.logged(error)))

    def _start(self, work: "Coroutine[Any, Any, None]") -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
