"""The bench of a sharing study: devices that run *slices*, each in a process of its own or emulated.

In a slice a device runs a `Workload` for some tenths of a second. All devices begin at one moment of the clock that
their processes share. `ProcessBench` has the processes: each loads all engines first, then answers one command at a
time over a pipe. A process ends when its pipe is closed.
"""

import gc
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import numpy as np

from proteus_cli.backends.affinity import pin_this_thread
from proteus_cli.backends.base import BuildContext, SlottedRunner
from proteus_cli.backends.free_memory import within_free_memory
from proteus_cli.backends.registry import open_backend
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.interference import SharingModel
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import DeviceLost, DeviceUnavailable
from proteus_cli.serving.child_process import LIMITS_HINT, depend_on_parent, group_signals_blocked

MAX_BATCHES = 20_000
"""Maximum number of batches of a workload in a slice, so that an answer fits in memory."""
TURN_BYTES = 64 * 2**20
"""Bytes that a stream reads in a turn: more than the engines on a device read between two batches."""
STREAM_TURN_S = 0.01
"""Approximate length of a turn of a stream."""
LARGEST_BYTES = 2**30
WARM_UP_RUNS = 3
LEAD_S = 0.01
"""Seconds from a command to the begin of its slice, so that all processes have the command by then."""
LOAD_S = 600.0
"""Maximum time in which a device loads its engines; a GPU may have to build them."""
LATE_S = 60.0
"""Maximum time from the end of a slice to the end of its last batch."""
CLOSE_S = 5.0

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
_UNKNOWN_CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Work:
    """A batch of a variant; without a ``key``, a part of a stream of memory."""

    key: VariantKey | None
    batch: int


STREAM = Work(None, 0)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A batch of the work at place ``work`` arrives ``at_s`` seconds after the begin of the slice."""

    at_s: float
    work: int


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of a device in a slice: works in turn without a pause, or one for each of the sorted ``arrivals``."""

    works: tuple[Work, ...]
    arrivals: tuple[Arrival, ...] | None = None

    def part_of(self, slot: int, slots: int) -> "Workload":
        """The part of one of several slots: each takes every n-th arrival."""
        return self if self.arrivals is None else Workload(self.works, self.arrivals[slot::slots])


@dataclass(frozen=True, slots=True)
class Ran:
    """A batch of a workload: the place of its work, and its arrival, begin and end, counted from the slice's begin.

    ``batch_s`` is its time without the time in which other programs had the core of the device.
    """

    work: int
    arrived_s: float
    began_s: float
    ended_s: float
    batch_s: float

    @property
    def latency_s(self) -> float:
        return self.ended_s - self.arrived_s


@dataclass(frozen=True, slots=True)
class SliceClock:
    """``now_s`` is 0 at the begin of the slice. ``busy_s`` stands while the device has no core."""

    now_s: Callable[[], float]
    busy_s: Callable[[], float]
    sleep_until: Callable[[float], object]


def run_workload(
    workload: Workload, run: Callable[[Work], object], length_s: float, clock: SliceClock, *, first: int = 0
) -> list[Ran]:
    """Run the batches of a workload that begin before ``length_s``. ``first`` is the place of the first work."""
    in_turn = (Arrival(0.0, (first + turn) % len(workload.works)) for turn in count())
    done: list[Ran] = []
    for arrival in islice(in_turn if workload.arrivals is None else workload.arrivals, MAX_BATCHES):
        if arrival.at_s > 0:
            clock.sleep_until(arrival.at_s)
        began_s, busy_s = clock.now_s(), clock.busy_s()
        if began_s >= length_s:
            break
        run(workload.works[arrival.work])
        took_s, ended_s = clock.busy_s() - busy_s, clock.now_s()
        arrived_s = began_s if workload.arrivals is None else arrival.at_s
        done.append(Ran(arrival.work, arrived_s, began_s, ended_s, took_s))
    return done


class Bench(Protocol):
    """Devices that are alike. Each runs ``slots`` batches at once."""

    @property
    def slots(self) -> int: ...

    def run(self, workloads: Sequence[Workload], length_s: float) -> list[list[Ran]]:
        """Run a workload on each of the first devices, all from the same moment; the batches by device.

        Raises `EngineError`.
        """
        ...


# --- emulated devices


class EmulatedBench:
    """Devices that take the times of a profile with all slots busy, times the costs of sharing.

    ``sleep`` is called with the length of each slice.
    """

    def __init__(self, profile: Profile, sharing: SharingModel, sleep: Callable[[float], object]) -> None:
        self.slots = profile.slots
        self._tables = {
            measured.key: LatencyTable(points, of=lambda point: point.mean_s)
            for measured in profile.variants
            if (points := profile.points_of(measured) or measured.points)
        }
        self._sharing, self._sleep = sharing, sleep

    def run(self, workloads: Sequence[Workload], length_s: float) -> list[list[Ran]]:
        done = []
        for place, workload in enumerate(workloads):
            near = [work for each in (*workloads[:place], *workloads[place + 1 :]) for work in each.works]
            seconds = {work: self._batch_s(work, workload.works, near) for work in workload.works}
            slots = range(self.slots if workload.works else 0)
            parts = (_emulated(workload.part_of(slot, self.slots), slot, seconds, length_s) for slot in slots)
            done.append(list(chain.from_iterable(parts)))
        self._sleep(length_s)
        return done

    def _batch_s(self, work: Work, on_device: Sequence[Work], near: Sequence[Work]) -> float:
        if work.key is None:
            return STREAM_TURN_S
        beside = [other.key for other in on_device if other.key is not None and other != work]
        neighbours = [other.key for other in near if other.key is not None]
        return (
            self._tables[work.key](work.batch)
            * self._sharing.factor(work.key, beside, batch=work.batch)
            * self._sharing.factor(work.key, neighbours, batch=work.batch, where="neighbour")
        )


def _emulated(workload: Workload, slot: int, seconds: Mapping[Work, float], length_s: float) -> list[Ran]:
    """The batches of one slot, on a clock that moves with them. Each slot begins with another work."""
    now_s = 0.0

    def run(work: Work) -> None:
        nonlocal now_s
        now_s += seconds[work]

    def sleep_until(at_s: float) -> None:
        nonlocal now_s
        now_s = max(now_s, at_s)

    return run_workload(workload, run, length_s, SliceClock(lambda: now_s, lambda: now_s, sleep_until), first=slot)


# --- the process of a device


@dataclass(frozen=True, slots=True)
class Engine:
    """A variant to load, from the file ``model``, with its batch sizes."""

    key: VariantKey
    model: Path
    batches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Opening:
    """A device, its engines, which are built in the directory ``built``, and the size of its stream; 0: no stream."""

    device: Device
    built: Path
    slots: int
    engines: tuple[Engine, ...]
    stream_bytes: int


@dataclass(frozen=True, slots=True)
class Slice:
    """A workload for each slot, from ``begin_s`` on, by `time.monotonic`, which all processes share."""

    workload: Workload
    begin_s: float
    length_s: float


class Stream:
    """Reads memory over and over, `TURN_BYTES` at a time."""

    def __init__(self, size_bytes: int) -> None:
        self._words = np.ones(max(size_bytes, 8) // 8, np.int64)  # ones, as zeros may be one page of the system
        self._at = 0

    def read_on(self) -> int:
        """Read the next part; returns the sum of its words."""
        if self._at >= len(self._words):
            self._at = 0
        part = self._words[self._at : self._at + TURN_BYTES // 8]
        self._at += len(part)
        return int(part.sum())


def stream_bytes(free_bytes: int, caches: Path = _CACHES) -> int:
    """The size of a stream: twice the largest cache of the first core, at most 1 GiB or an eighth of what is free.

    The cache is taken to have 64 MiB where the system does not say.
    """
    texts = (path.read_text(encoding="ascii").strip() for path in caches.glob("index*/size"))
    sizes = [int(text[:-1]) * _UNITS[text[-1]] for text in texts if text[:-1].isdigit() and text[-1] in _UNITS]
    return max(min(2 * max(sizes, default=_UNKNOWN_CACHE_BYTES), LARGEST_BYTES, free_bytes // 8), 2**20)


def run_slice(
    command: Slice, runs: Mapping[Work, Callable[[], object]], slots: int, busy_s: Callable[[], float]
) -> list[Ran]:
    """Run the workload in each slot at once; ``runs`` has a function for each work. Each slot begins with another work.

    Raises `EngineError`.
    """

    def now_s() -> float:
        return time.monotonic() - command.begin_s

    def sleep_until(at_s: float) -> None:
        time.sleep(max(at_s - now_s(), 0.0))

    def in_slot(slot: int) -> list[Ran]:
        sleep_until(0.0)
        workload, clock = command.workload.part_of(slot, slots), SliceClock(now_s, busy_s, sleep_until)
        return run_workload(workload, lambda work: runs[work](), command.length_s, clock, first=slot)

    if slots == 1:
        return in_slot(0)
    with ThreadPoolExecutor(slots) as pool:
        return list(chain.from_iterable(pool.map(in_slot, range(slots))))


def busy_clock(device: Device) -> Callable[[], float]:
    """The clock of a batch's time: on one core, the time in which its thread has the core.

    Several cores work on a batch at once, and a GPU by itself. There all of the time counts.
    """
    return time.thread_time if device.kind == "cpu" and len(device.cores) == 1 else time.monotonic


def loaded(opening: Opening, stack: ExitStack) -> dict[Work, Callable[[], object]]:
    """Load the engines, and run each batch size a few times in each slot. Raises `ProteusError`."""
    pin_this_thread(opening.device.cores)
    backend = open_backend(opening.device, BuildContext(opening.built))
    runs: dict[Work, Callable[[], object]] = {}
    rng = np.random.default_rng(0)
    for engine in opening.engines:
        with within_free_memory(f"`{engine.model}`") if opening.device.kind == "cpu" else nullcontext():
            backend.prepare(engine.model, engine.key)
            runner = stack.enter_context(backend.runner(engine.model, engine.key))
        while isinstance(runner, SlottedRunner) and runner.slots < opening.slots:
            runner.add_slot()
        for batch in engine.batches:
            runs[Work(engine.key, batch)] = partial(runner.infer, runner.signature.sample(batch, rng))
    for run in runs.values():
        for _ in range(WARM_UP_RUNS * opening.slots):
            run()
    if opening.stream_bytes:
        runs[STREAM] = Stream(opening.stream_bytes).read_on
    gc.freeze()
    return runs


def serve_device(connection: Connection, opening: Opening) -> None:
    """The process of a device: open it, then run slices until the other end closes."""
    depend_on_parent()
    os.dup2(2, 1)  # stdout is for the study's data
    with ExitStack() as stack, suppress(EOFError, OSError):  # the study has ended
        try:
            runs = loaded(opening, stack)
        except Exception as error:  # noqa: BLE001 - the study raises it
            connection.send(_noted(error))
            return
        connection.send([])
        while True:
            command: Slice = connection.recv()
            try:
                answer: list[Ran] | Exception = run_slice(command, runs, opening.slots, busy_clock(opening.device))
            except Exception as error:  # noqa: BLE001 - the study raises it
                answer = _noted(error)
            connection.send(answer)


def _noted(error: Exception) -> Exception:
    """The error with its traceback as a note: a traceback itself does not cross to another process."""
    error.add_note("".join(traceback.format_exception(error)))
    return error


# --- the processes of all devices


class ProcessBench:
    """The open devices, by the connections to their processes. Once a device is lost, its slices raise `DeviceLost`."""

    def __init__(self, connections: Mapping[str, "Connection"], slots: int) -> None:
        self._connections, self.slots = connections, slots
        self._losses: dict[str, DeviceLost] = {}

    def run(self, workloads: Sequence[Workload], length_s: float) -> list[list[Ran]]:
        begin_s = time.monotonic() + LEAD_S
        devices = dict(zip(self._connections, workloads, strict=False))
        busy = {device: workload for device, workload in devices.items() if workload.works}
        for device, workload in busy.items():
            try:
                self._connections[device].send(Slice(workload, begin_s, length_s))
            except OSError:
                self._lose(device, "its process has ended")
        answers = self.answers(busy, length_s + LATE_S)
        return [answers.get(device, []) for device in devices]

    def answers(self, devices: Iterable[str], timeout_s: float) -> dict[str, list[Ran]]:
        """The answers of devices. Raises the first error once all have answered: none is left for the next slice."""
        found = {device: self._answer(device, timeout_s) for device in devices}
        answers = {}
        for device, answer in found.items():
            if isinstance(answer, Exception):
                raise answer
            answers[device] = answer
        return answers

    def _answer(self, device: str, timeout_s: float) -> list[Ran] | Exception:
        if device not in self._losses:
            try:
                if self._connections[device].poll(timeout_s):
                    answer: list[Ran] | Exception = self._connections[device].recv()
                    return answer
                self._lose(device, f"it does not answer for {timeout_s:.0f} s")
            except (EOFError, OSError):
                self._lose(device, "its process has ended")
        return self._losses[device]

    def _lose(self, device: str, why: str) -> None:
        hint = "`dmesg` tells of processes that were killed for memory; other programs may hold its cores"
        self._losses[device] = DeviceLost(f"{device} is lost: {why}.", hint=hint)


@contextmanager
def opened_bench(openings: Sequence[Opening]) -> Iterator[ProcessBench]:
    """Open all devices at once, and end their processes when left. Raises `DeviceUnavailable`, `EngineError`."""
    with ExitStack() as stack:
        connections = {opening.device.id: stack.enter_context(_started(opening)) for opening in openings}
        bench = ProcessBench(connections, openings[0].slots)
        bench.answers(connections, LOAD_S)
        yield bench


@contextmanager
def _started(opening: Opening) -> Iterator["Connection"]:
    context = get_context("spawn")
    try:
        ours, its = context.Pipe()
        process = context.Process(target=serve_device, args=(its, opening), daemon=True)
        with group_signals_blocked():
            process.start()
    except OSError as error:
        raise DeviceUnavailable(
            f"No process can be started for {opening.device.id}: {error}", hint=LIMITS_HINT
        ) from error
    its.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join(CLOSE_S)
        process.kill()
        process.join()
