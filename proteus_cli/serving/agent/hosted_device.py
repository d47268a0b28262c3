"""A device that a server has open at an agent: a process, which gets the server's connection, or an emulated one."""

import asyncio
import socket
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from proteus_cli.backends import emulated
from proteus_cli.errors import DeviceLost
from proteus_cli.serving.agent.sharing import DeviceTurn, SharedOpening
from proteus_cli.serving.devices.emulated import EmulatedExecutor, TimerThread
from proteus_cli.serving.devices.process import messages
from proteus_cli.serving.devices.process.device_server import Turns
from proteus_cli.serving.devices.process.starting import StartedProcess
from proteus_cli.serving.devices.remote.channel.handing_over import ServedConnection, served_over

Tell = Callable[[messages.FailedEvent | messages.LostEvent], object]


class HostedDevice(ABC):
    """One opening of a device for one server. Its batches take turns with the batches of other servers.

    ``tell`` is called with the reason when the device cannot be opened, or is lost.
    """

    def __init__(self, device: str, opening: SharedOpening, tell: Tell) -> None:
        self.device, self._opening, self._tell = device, opening, tell

    @abstractmethod
    def connect(self, connection: socket.socket) -> None:
        """The server has connected to this device."""

    @abstractmethod
    def share(self, *, is_shared: bool) -> None:
        """Other servers have the device open, too, or no longer."""

    def abandon(self) -> None:
        """Give the device up at once, with the batches that run there; harmless a second time."""
        self._opening.leave()


class HostedProcess(HostedDevice):
    """A device in a process of its own. Raises `DeviceUnavailable` where none can be started."""

    def __init__(
        self, spec: messages.DeviceSpec, remote: messages.RemoteUse, opening: SharedOpening, tell: Tell
    ) -> None:
        super().__init__(spec.device.id, opening, tell)
        self._turns: dict[int, DeviceTurn] = {}
        self._numbers = count()
        self.process = StartedProcess(spec, self._received, self._lost, remote)

    def connect(self, connection: socket.socket) -> None:
        self.process.send(messages.ConnectCommand(), [connection.detach()])

    def share(self, *, is_shared: bool) -> None:
        self.process.send(messages.ShareCommand(is_shared))

    def abandon(self) -> None:
        super().abandon()
        self.process.release()

    def _received(self, event: messages.DeviceEvent, _descriptors: Sequence[int]) -> None:
        match event:
            case messages.FailedEvent() | messages.LostEvent():
                self._tell(event)
            case messages.TurnWantedEvent():
                self._opening.submit(self._give_turn)
            case messages.TurnEndedEvent(number=number):
                self._turns.pop(number).end()

    def _give_turn(self, turn: DeviceTurn) -> None:
        number = next(self._numbers)
        self._turns[number] = turn
        self.process.send(messages.TurnCommand(number, turn.waited_s))

    def _lost(self, loss: DeviceLost) -> None:
        self._tell(messages.LostEvent(messages.SentError.of(loss)))


class HostedEmulation(HostedDevice):
    """An emulated device, which runs on the agent's own loop, and costs it next to nothing."""

    def __init__(
        self,
        device: str,
        spec: messages.EmulatedSpec,
        timer: TimerThread,
        tls: ssl.SSLContext | None,
        opening: SharedOpening,
        tell: Tell,
    ) -> None:
        super().__init__(device, opening, tell)
        self._tls = tls
        self._executor = EmulatedExecutor(spec.profile, spec.signatures, time.monotonic, timer.at, self._lost)
        self._turns = Turns(lambda: opening.submit(lambda turn: self._turns.give(turn.waited_s, turn.end)))
        self._serving: asyncio.Task[None] | None = None

    def connect(self, connection: socket.socket) -> None:
        self._serving = asyncio.create_task(served_over(self.served(), connection, self._tls))
        self._serving.add_done_callback(lambda serving: serving.cancelled() or serving.exception())

    def served(self) -> ServedConnection:
        """The device's end of the server's connection."""
        return ServedConnection(self._executor, messages.OpenedEvent(emulated.NAME), Path, self._turns)

    def share(self, *, is_shared: bool) -> None:
        self._turns.is_shared = is_shared

    def abandon(self) -> None:
        super().abandon()
        self._executor.abandon()
        if self._serving is not None:
            self._serving.cancel()

    def _lost(self, loss: DeviceLost) -> None:
        self._tell(messages.LostEvent(messages.SentError.of(loss)))
