"""Devices of this machine, each in a process of its own."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import msgspec

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.errors import DeviceLost, DeviceUnavailable, ProteusError
from proteus_cli.serving.child_process import LIMITS_HINT, start_process
from proteus_cli.serving.devices.process.channel import Channel, UnreadableMessage
from proteus_cli.serving.devices.process.messages import SentError
from proteus_cli.studies.sharing.slices import Ran, Workload


class Engine(msgspec.Struct, frozen=True):
    """A variant to load, from the file ``model``, for batches of these sizes."""

    key: VariantKey
    model: str
    batches: tuple[int, ...]


class Open(msgspec.Struct, frozen=True, tag=True):
    """The first message. Engines are built, if they must be, in the directory ``built``."""

    device: Device
    built: str
    slots: int
    engines: tuple[Engine, ...]
    stream_bytes: int


class RunSlice(msgspec.Struct, frozen=True, tag=True):
    """Run a workload in each slot. The slice begins at ``begin_s`` by `time.monotonic`, which all processes share."""

    workload: Workload
    begin_s: float
    length_s: float


class Opened(msgspec.Struct, frozen=True, tag=True):
    """All engines are loaded."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """The batches of all slots."""

    ran: list[Ran]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Something failed in the process; it ends."""

    error: SentError


BenchCommand = Open | RunSlice
BenchEvent = Opened | Done | Failed
COMMANDS = msgspec.msgpack.Decoder(BenchCommand)
EVENTS = msgspec.msgpack.Decoder(BenchEvent)


LEAD_S = 0.01
"""Until a slice begins, so that all processes have the command by then."""

LOAD_S = 600.0
"""The longest that a device may take to load its engines; those of GPUs may have to be built."""

LATE_S = 60.0
"""How long after a slice its last batch may end."""

CLOSE_S = 5.0
_ENDED_HINT = "`dmesg` tells of processes that were killed for memory"


@dataclass(slots=True)
class DeviceChannel:
    """The way to a device's process. Once it is lost, whatever is asked of it raises that loss."""

    device: str
    channel: Channel[BenchEvent]
    loss: DeviceLost | None = None

    def send(self, command: BenchCommand) -> None:
        """Raises `DeviceLost`."""
        if self.loss is not None:
            raise DeviceLost(self.loss.message, hint=self.loss.hint)
        try:
            self.channel.send(command, wait=True)
        except ConnectionError:
            raise self._lost("its process has ended", _ENDED_HINT) from None

    def receive(self, timeout_s: float) -> BenchEvent:
        """The answer to what was sent. Raises what the process sent, and `DeviceLost`."""
        self.channel.set_timeout(timeout_s)
        try:
            received = self.channel.receive(wait=True)
        except TimeoutError:
            raise self._lost(f"it does not answer for {timeout_s:.0f} s", "other programs may hold its cores") from None
        except UnreadableMessage as error:
            raise self._lost(str(error), LIMITS_HINT) from error
        if received is None:
            raise self._lost("its process has ended", _ENDED_HINT)
        event, _ = received
        if isinstance(event, Failed):
            raise event.error.error()
        return event

    def _lost(self, why: str, hint: str) -> DeviceLost:
        self.loss = DeviceLost(f"{self.device} is lost: {why}.", hint=hint)
        return self.loss


class ProcessBench:
    """The processes of devices that are open."""

    def __init__(self, processes: Sequence[DeviceChannel], slots: int) -> None:
        self._processes, self.slots = processes, slots

    def run(self, workloads: Sequence[Workload], length_s: float) -> list[list[Ran]]:
        begin_s = time.monotonic() + LEAD_S
        busy = [
            (process, workload) for process, workload in zip(self._processes, workloads, strict=False) if workload.works
        ]
        unsent = {process.device: _unsent(process, RunSlice(workload, begin_s, length_s)) for process, workload in busy}
        answers = {process.device: unsent[process.device] or _answer(process, length_s + LATE_S) for process, _ in busy}
        for answer in answers.values():
            if isinstance(answer, ProteusError):  # once all have answered, so that none is taken for the next slice's
                raise answer
        found = (answers.get(process.device) for process in self._processes[: len(workloads)])
        return [answer.ran if isinstance(answer, Done) else [] for answer in found]


def _unsent(process: DeviceChannel, command: BenchCommand) -> DeviceLost | None:
    """Send a command; why it could not be sent."""
    try:
        process.send(command)
    except DeviceLost as loss:
        return loss
    return None


def _answer(process: DeviceChannel, timeout_s: float) -> BenchEvent | ProteusError:
    try:
        return process.receive(timeout_s)
    except ProteusError as error:
        return error


@contextmanager
def opened_bench(openings: Sequence[Open]) -> Iterator[ProcessBench]:
    """Open devices at once, and end their processes when left. Raises `DeviceUnavailable`, `EngineError`."""
    with ExitStack() as stack:
        processes = [stack.enter_context(_started(opening.device.id)) for opening in openings]
        for process, opening in zip(processes, openings, strict=True):
            process.send(opening)
        for process in processes:
            event = process.receive(LOAD_S)
            assert isinstance(event, Opened)  # noqa: S101 - it has had one command
        yield ProcessBench(processes, openings[0].slots)


@contextmanager
def _started(device: str) -> Iterator[DeviceChannel]:
    try:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.closing(its):
            process = start_process("proteus_cli.studies.sharing.child", its.fileno())
    except OSError as error:
        raise DeviceUnavailable(f"No process can be started for {device}: {error}", hint=LIMITS_HINT) from error
    channel: Channel[BenchEvent] = Channel(ours, EVENTS)
    try:
        yield DeviceChannel(device, channel)
    finally:
        channel.close()  # at which the process ends
        try:
            process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
