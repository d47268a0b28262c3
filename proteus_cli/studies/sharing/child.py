"""The process of one device: ``python -m proteus_cli.studies.sharing.child DESCRIPTOR`` (of its socket)."""

import gc
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path

import numpy as np

from proteus_cli.backends.affinity import pin_this_thread
from proteus_cli.backends.base import BuildContext, NamedArrays, Runner, SlottedRunner
from proteus_cli.backends.free_memory import within_free_memory
from proteus_cli.backends.registry import open_backend
from proteus_cli.domain.device import Device
from proteus_cli.serving.child_process import depend_on_parent
from proteus_cli.serving.devices.process.channel import Channel
from proteus_cli.serving.devices.process.messages import SentError
from proteus_cli.studies.sharing.processes import COMMANDS, BenchCommand, Done, Failed, Open, Opened, RunSlice
from proteus_cli.studies.sharing.slices import STREAM, Ran, SliceClock, Stream, Work, run_workload

WARM_UP_RUNS = 3


class MeasuredDevice:
    """Engines that are loaded, with inputs of each batch size, and a stream; runs slices."""

    def __init__(
        self,
        runners: Mapping[Work, tuple[Runner, NamedArrays]],
        stream: Stream | None,
        slots: int,
        busy_s: Callable[[], float],
    ) -> None:
        self._runners, self._stream, self._slots, self._busy_s = runners, stream, slots, busy_s

    def run(self, work: Work) -> None:
        """Run one batch, or read a part of the memory. Raises `EngineError`."""
        if work == STREAM and self._stream is not None:
            self._stream.read_on()
        else:
            runner, inputs = self._runners[work]
            runner.infer(inputs)

    def slice(self, command: RunSlice) -> list[Ran]:
        """Run the workload in each slot at once; with several, each begins with the next work. Raises `EngineError`."""

        def now_s() -> float:
            return time.monotonic() - command.begin_s

        def sleep_until(at_s: float) -> None:
            time.sleep(max(at_s - now_s(), 0.0))

        clock = SliceClock(now_s, self._busy_s, sleep_until)

        def in_slot(slot: int) -> list[Ran]:
            sleep_until(0.0)
            workload = command.workload.part_of(slot, self._slots)
            return run_workload(workload, self.run, command.length_s, clock, first=slot)

        if self._slots == 1:
            return in_slot(0)
        with ThreadPoolExecutor(self._slots) as pool:
            return [ran for of_slot in pool.map(in_slot, range(self._slots)) for ran in of_slot]


def busy_clock(device: Device) -> Callable[[], float]:
    """What a batch's time is measured by: on one core, the time that its thread has the core.

    Several cores work on a batch at once, and a GPU by itself; there all of the time counts.
    """
    return time.thread_time if device.kind == "cpu" and len(device.cores) == 1 else time.monotonic


def opened_device(opening: Open, stack: ExitStack) -> MeasuredDevice:
    """Load the engines, and run each batch size a few times. Raises `ProteusError`."""
    backend = open_backend(opening.device, BuildContext(Path(opening.built)))
    runners: dict[Work, tuple[Runner, NamedArrays]] = {}
    rng = np.random.default_rng(0)
    for engine in opening.engines:
        model = Path(engine.model)
        with within_free_memory(f"`{model}`") if opening.device.kind == "cpu" else nullcontext():
            backend.prepare(model, engine.key)
            runner = stack.enter_context(backend.runner(model, engine.key))
        while isinstance(runner, SlottedRunner) and runner.slots < opening.slots:
            runner.add_slot()
        for batch in engine.batches:
            runners[Work(engine.key, batch)] = runner, runner.signature.sample(batch, rng)
    stream = Stream(opening.stream_bytes) if opening.stream_bytes else None
    device = MeasuredDevice(runners, stream, opening.slots, busy_clock(opening.device))
    for work in runners:
        for _ in range(WARM_UP_RUNS * opening.slots):  # each slot has its turn
            device.run(work)
    return device


def main(descriptor: int) -> None:
    """Open the device that the first message names, and run slices until the other end closes."""
    depend_on_parent()
    channel: Channel[BenchCommand] = Channel(socket.socket(fileno=descriptor), COMMANDS)
    send = partial(channel.send, wait=True)
    device: MeasuredDevice | None = None
    with ExitStack() as stack:
        while (received := channel.receive(wait=True)) is not None:
            try:
                match received[0]:
                    case Open() as opening:
                        pin_this_thread(opening.device.cores)
                        device = opened_device(opening, stack)
                        gc.freeze()  # what was loaded stays
                        send(Opened())
                    case RunSlice() as command:
                        assert device is not None  # noqa: S101 - the first message opens it
                        send(Done(device.slice(command)))
            except ConnectionError:  # the study has ended
                return
            except Exception as error:  # noqa: BLE001 - it is sent to the study
                send(Failed(SentError.of(error)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
    os._exit(0)  # at once: nothing is left to be written
