"""A device's process as the process that has started it sees it: a server on this machine, or an agent."""

import asyncio
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from proteus_cli.errors import DeviceLost, DeviceUnavailable
from proteus_cli.serving.child_process import LIMITS_HINT, start_process
from proteus_cli.serving.devices.process import messages
from proteus_cli.serving.devices.process.channel import Channel, UnreadableMessage
from proteus_cli.serving.devices.process.shared_memory import CAN_SHARE
from proteus_cli.serving.logs import fields

if TYPE_CHECKING:
    import subprocess

CLOSE_S = 10.0
"""Seconds of silence after which a process that was told to close is killed."""

REAP_S = 1.0
"""How long closing waits for a process that was killed: it may be in the driver."""

log = logging.getLogger("proteus.process")

OnEvent = Callable[[messages.DeviceEvent, Sequence[int]], None]


class StartedProcess:
    """The process of a device, which ends when this one does, however that ends.

    Commands are sent without waiting; events are read on the running loop. ``on_event`` gets them with the descriptors
    that came along. ``on_lost`` is called when the process ends by itself, reads no more commands, or says nonsense.
    """

    def __init__(
        self,
        spec: messages.DeviceSpec,
        on_event: OnEvent,
        on_lost: Callable[[DeviceLost], None],
        remote: messages.RemoteUse | None = None,
    ) -> None:
        """Raises `DeviceUnavailable` where no process can be started."""
        self._device, self._on_event, self._on_lost = spec.device.id, on_event, on_lost
        self._loop = asyncio.get_running_loop()
        self._is_released = False
        self._process, end = _start_process(self._device)
        self.pid = self._process.pid
        self.channel: Channel[messages.DeviceEvent] = Channel(end, messages.EVENTS)
        self._reaper = threading.Thread(target=self._reap, name=f"{self._device}-reap", daemon=True)
        self._loop.add_reader(self.channel.fileno(), self._read)
        level = logging.getLogger("proteus").getEffectiveLevel()
        self.send(messages.OpenCommand(spec, level, sys.getswitchinterval(), remote))

    def send(self, command: messages.DeviceCommand, descriptors: Sequence[int] = ()) -> None:
        """Send a command, and descriptors, which are closed here; nothing once released."""
        if self._is_released:
            return
        try:
            self.channel.send(command, descriptors, wait=False)
        except BlockingIOError:  # hundreds of commands are unread
            loss = DeviceLost(f"{self._device} is lost: its process {self.pid} takes no more messages")
            self._loop.call_soon(self._on_lost, loss)
        except ConnectionError:
            pass  # the process has ended, as `_read` finds out next

    def close(self) -> None:
        """Wait until the process has ended, which was told to, and have the loop handle what it sent until then."""
        self._loop.remove_reader(self.channel.fileno())
        self.channel.set_timeout(CLOSE_S)
        try:
            while (received := self.channel.receive(wait=True)) is not None:
                self._loop.call_soon(self._handle, *received)
        except (TimeoutError, UnreadableMessage):
            log.warning(
                "the process of %s does not end as it should, and is killed", self._device,
                extra=fields(device=self._device, pid=self.pid),
            )  # fmt: skip

    def release(self) -> None:
        """Kill the process, also where it hangs or is stopped, without waiting; harmless a second time."""
        if self._is_released:
            return
        self._is_released = True
        self._loop.remove_reader(self.channel.fileno())
        self._process.kill()
        self.channel.close()
        self._reaper.start()

    def join(self) -> None:
        """Wait for the end of a process that was released, for `REAP_S` at most."""
        self._reaper.join(REAP_S)

    def _read(self) -> None:
        try:
            received = self.channel.receive(wait=False)
        except BlockingIOError:
            return
        except UnreadableMessage as error:
            self._on_lost(DeviceLost(f"{self._device} is lost: {error}", hint=LIMITS_HINT))
            return
        if received is not None:
            self._handle(*received)
            return
        loss = DeviceLost(
            f"{self._device} is lost: its process {self.pid} has ended",
            hint="the log says how; `dmesg` tells of processes that were killed for memory",
        )
        self._on_lost(loss)

    def _handle(self, event: messages.DeviceEvent, descriptors: Sequence[int]) -> None:
        if isinstance(event, messages.LogEvent):
            named = {"device": self._device, **event.fields}
            logging.getLogger(event.logger).log(event.level, "%s", event.message, extra=fields(**named))
        else:
            self._on_event(event, descriptors)

    def _reap(self) -> None:
        code = self._process.wait()
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        log.info("its process has ended: %s", how, extra=fields(device=self._device, pid=self.pid))


def _start_process(device: str) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """A process, and our end of the socket to it. Raises `DeviceUnavailable` where none can be started."""
    if not CAN_SHARE:
        raise DeviceUnavailable(f"{device} can't have a process of its own on this system.", hint="that takes Linux")
    try:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise _no_process(device, error) from error
    try:
        process = start_process("proteus_cli.serving.devices.process.child", its.fileno())
    except OSError as error:
        ours.close()
        raise _no_process(device, error) from error
    finally:
        its.close()
    return process, ours


def _no_process(device: str, error: OSError) -> DeviceUnavailable:
    return DeviceUnavailable(f"No process can be started for {device}: {error}", hint=LIMITS_HINT)
