"""The process of one device: ``python -m proteus_cli.serving.devices.process.child DESCRIPTOR`` (its socket end)."""

import asyncio
import gc
import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import uvloop

from proteus_cli.backends import emulated
from proteus_cli.backends.affinity import pin_this_thread
from proteus_cli.backends.base import BuildContext, OnBuildProgress
from proteus_cli.backends.registry import open_backend
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import DeviceLost
from proteus_cli.serving.child_process import depend_on_parent
from proteus_cli.serving.devices.cpu import CpuExecutor
from proteus_cli.serving.devices.emulated import EmulatedExecutor, TimerThread
from proteus_cli.serving.devices.executor import Executor, OnLost
from proteus_cli.serving.devices.process import messages
from proteus_cli.serving.devices.process.channel import Channel
from proteus_cli.serving.devices.process.device_server import DeviceServer, MemoryLink, Turns
from proteus_cli.serving.devices.remote.channel.handing_over import ServedConnection, model_of, served_over
from proteus_cli.serving.devices.remote.channel.tls import cluster_tls
from proteus_cli.serving.logs import fields

EVERY_S = 10.0


@contextmanager
def log_build(name: str, clock: Callable[[], float] = time.monotonic) -> Iterator[OnBuildProgress]:
    """Log the progress of a build every `EVERY_S`. Never cancels the build."""
    due_s = clock() + EVERY_S

    def follow(now: str, done_frac: float) -> bool:
        nonlocal due_s
        if clock() >= due_s:
            due_s = clock() + EVERY_S
            log.info(
                "building %s: %.0f%%, %s", name, done_frac * 100, now,
                extra=fields(engine=name, done_frac=round(done_frac, 3)),
            )  # fmt: skip
        return True

    yield follow


log = logging.getLogger("proteus.process")


class ChildProcess:
    """Reads what its parent sends, on the running loop: a server's commands, or the agent's, which hands one over."""

    def __init__(
        self,
        channel: Channel[messages.DeviceCommand],
        executor: Executor,
        opened: messages.OpenedEvent,
        remote: messages.RemoteUse | None,
    ) -> None:
        self._channel, self._executor, self._opened, self._remote = channel, executor, opened, remote
        self._link = MemoryLink(channel)
        self._turns = Turns(lambda: channel.send(messages.TurnWantedEvent(), wait=True))
        self._has_ended = asyncio.Event()
        self._server = DeviceServer(executor, self._link, self._has_ended.set)
        self._connection: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until the server closes the device and all batches have ended; engines go with the process."""
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._read)
        if self._remote is None:
            self._link.send(self._opened)
        await self._has_ended.wait()

    def _read(self) -> None:
        try:
            received = self._channel.receive(wait=False)
            if received is None:
                os._exit(0)  # the parent is gone
            self._obey(*received)
        except BlockingIOError:  # nothing was sent
            return
        except Exception:
            log.exception("a bug in the process of a device, which ends")
            os._exit(1)  # so that the server hears that its commands will have no answer

    def _obey(self, command: messages.DeviceCommand, descriptors: Sequence[int]) -> None:
        match command:
            case messages.RunCommand():
                self._server.obey(command, self._link.inputs(command, descriptors))
            case messages.ConnectCommand():
                self._connection = asyncio.create_task(self._serve(socket.socket(fileno=descriptors[0])))
            case messages.ShareCommand(is_shared=is_shared):
                self._turns.is_shared = is_shared
            case messages.TurnCommand(number=number, waited_s=waited_s):
                ended = partial(self._channel.send, messages.TurnEndedEvent(number), wait=True)
                self._turns.give(waited_s, ended)
            case messages.OpenCommand():
                raise RuntimeError("it is open")
            case _:
                self._server.obey(command, memoryview(b""))

    async def _serve(self, connection: socket.socket) -> None:
        """Serve a server on another machine, until its connection ends."""
        assert self._remote is not None  # noqa: S101 - else nobody hands a connection over
        try:
            tls = cluster_tls(Path(self._remote.key), listens=True) if self._remote.key is not None else None
            find_model = partial(model_of, Path(self._remote.models))
            served = ServedConnection(self._executor, self._opened, find_model, self._turns)
            await served_over(served, connection, tls)
        except OSError as error:
            log.warning("the server does not connect: %s", error)
        finally:
            self._has_ended.set()


class LogForwarder(logging.Handler):
    """Has the server log what is logged here."""

    def __init__(self, channel: Channel[messages.DeviceCommand]) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        named = dict(getattr(record, "fields", {}))
        if record.exc_info:
            named["exception"] = "".join(traceback.format_exception(*record.exc_info))
        try:
            self._channel.send(messages.LogEvent(record.levelno, record.name, record.getMessage(), named), wait=True)
        except ConnectionError:
            os._exit(0)  # the server is gone


def main(descriptor: int) -> None:
    """Open the device that the first message names, and carry out the commands that follow."""
    depend_on_parent()
    channel: Channel[messages.DeviceCommand] = Channel(socket.socket(fileno=descriptor), messages.COMMANDS)
    received = channel.receive(wait=True)
    if received is None or not isinstance(received[0], messages.OpenCommand):
        return
    opening = received[0]
    logging.basicConfig(handlers=[LogForwarder(channel)], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("proteus").setLevel(opening.log_level)
    sys.setswitchinterval(opening.switch_interval_s)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(channel, opening))


async def _serve(channel: Channel[messages.DeviceCommand], opening: messages.OpenCommand) -> None:
    with ExitStack() as stack:
        try:
            pin_this_thread(opening.spec.device.cores)
            executor, platform = _open_device(opening.spec, stack, partial(_end_lost, channel))
        except Exception as error:  # noqa: BLE001 - it is sent to the server
            channel.send(messages.FailedEvent(messages.OPENING, messages.SentError.logged(error)), wait=True)
            return
        process = ChildProcess(channel, executor, messages.OpenedEvent(platform, executor.can_give_way), opening.remote)
        gc.freeze()  # what was imported stays
        await process.run()


def _end_lost(channel: Channel[messages.DeviceCommand], loss: DeviceLost) -> None:
    """Tell the server that the device is lost, and end.

    To free anything would only fail, and only another process can use the device again.
    """
    channel.send(messages.LostEvent(messages.SentError.of(loss)), wait=True)
    os._exit(1)


def _open_device(spec: messages.DeviceSpec, stack: ExitStack, on_lost: OnLost) -> tuple[Executor, str]:
    """The executor of the device and the name of its backend. Only what the device needs is imported.

    Raises `BackendUnavailable`, `DeviceUnavailable`.
    """
    match spec:
        case messages.CpuSpec(device=device):
            backend = open_backend(device)
            return CpuExecutor(device, backend, on_lost), backend.versions.name
        case messages.GpuSpec(device=device, slots=slots):
            from proteus_cli.backends.tensorrt.backend import TensorRT  # noqa: PLC0415 - an extra
            from proteus_cli.backends.tensorrt.chain import ChainPlans  # noqa: PLC0415 - an extra
            from proteus_cli.serving.devices.gpu import GpuExecutor  # noqa: PLC0415 - an extra

            tensorrt = TensorRT(device, BuildContext(Path(spec.built), say=log.info, watch=log_build))

            def read_plan(key: VariantKey, model: Path) -> bytes | ChainPlans:
                return tensorrt.plan(model, key)

            return GpuExecutor(tensorrt.context, read_plan, on_lost, slots=slots), tensorrt.versions.name
        case messages.EmulatedSpec(profile=profile, signatures=signatures):
            timer = stack.enter_context(TimerThread())
            return EmulatedExecutor(profile, signatures, time.monotonic, timer.at, on_lost), emulated.NAME


if __name__ == "__main__":
    main(int(sys.argv[1]))
    os._exit(0)  # at once, also where a model is being loaded
