"""The bench of a sharing study: measures variants alone and together in *rounds*, on a device in a process of its own.

A round has one *slice* for each variant alone and one for all together, in random order, one straight after another.
Drift of the clock or of the machine's load is then alike for all of them, and cancels out in the ratio of a round,
together over alone. The centre of all ratios and its interval come from the signed-rank statistic, which a few
disturbed rounds do not move.

In a slice the device runs batches without a pause for some tenths of a second. Batches of several variants take turns,
as in a server with a queue for each. The study's own process sleeps meanwhile. A GPU runs as many batches at once as it
has slots, each in a thread. The process of the device is pinned to its cores and has all engines loaded. It ends when
its pipe is closed.
"""

import gc
import math
import os
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from proteus_cli.backends.affinity import pin_this_thread
from proteus_cli.backends.base import BuildContext, SlottedRunner
from proteus_cli.backends.free_memory import within_free_memory
from proteus_cli.backends.registry import open_backend
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.errors import DeviceLost, DeviceUnavailable, EngineError
from proteus_cli.intervals import hodges_lehmann
from proteus_cli.progress import Advance
from proteus_cli.serving.child_process import LIMITS_HINT, depend_on_parent, group_signals_blocked
from proteus_cli.units import format_duration

FEWEST_ROUNDS = 6
"""Minimum for an interval of 95 %."""
MAX_ROUNDS = 20
MAX_TRIES = 5
"""Maximum number of tries of a round or of a trial, each twice as long as the one before."""
PRECISE_FRAC = 0.01
"""Half the width of an interval that is narrow enough, as a part of the ratio."""
BATCHES = 12
"""Approximate number of batches of each variant in a slice."""
TRIAL_BATCHES = 5
SHORTEST_SLICE_S = 0.04
MAX_BATCHES = 20_000
"""Maximum number of batches of a slot in a slice, so that an answer fits in memory."""
WARM_UP_RUNS = 3
LOAD_S = 600.0
"""Maximum time in which a device loads its engines; a GPU may have to build them."""
LATE_S = 60.0
"""Maximum time from the end of a slice to the end of its last batch."""
CLOSE_S = 5.0
_MIDDLE = 4  # a quarter of the batches at either end has no part in the midmean


class Work(NamedTuple):
    """A batch of a variant."""

    key: VariantKey
    batch: int


@dataclass(frozen=True, slots=True)
class Ran:
    """A batch of ``work`` that ran from ``began_s`` to ``ended_s``, counted from the begin of the slice.

    ``batch_s`` is its time without the time in which other programs had the core of the device.
    """

    work: Work
    began_s: float
    ended_s: float
    batch_s: float


class Bench(Protocol):
    """A device that runs ``slots`` batches at once."""

    @property
    def slots(self) -> int: ...

    def run(self, works: Sequence[Work], length_s: float) -> list[Ran]:
        """Run the works in turn for a time. Raises `EngineError`."""
        ...


# --- rounds


@dataclass(frozen=True, slots=True)
class Sight:
    """One variant in one slice: the ``batches`` that count, and all its ``rows`` that ran in ``span_s``."""

    batches: Sequence[Ran]
    rows: int
    span_s: float

    @property
    def centre_s(self) -> float:
        return midmean([each.batch_s for each in self.batches])


def sight_of(work: Work, ran: Sequence[Ran], length_s: float, slots: int) -> Sight:
    """The batches of a work that count, on a device with ``slots`` slots.

    The first batch of each slot does not count: it finds the caches as the last slice left them. Batches that ended
    after the slice do not count either: others may have stopped.
    """
    of_work = sorted((each for each in ran if each.work == work), key=lambda each: each.began_s)
    counted = [each for each in of_work[slots:] if each.ended_s <= length_s]
    began_s, ended_s = min((each.began_s for each in ran), default=0.0), max((each.ended_s for each in ran), default=0)
    return Sight(counted, work.batch * len(of_work), ended_s - began_s)


def midmean(values: Sequence[float]) -> float:
    """The mean of the middle half: it follows a shift of all values, and outliers do not move it."""
    left_out = len(values) // _MIDDLE
    return float(np.mean(sorted(values)[left_out : len(values) - left_out]))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Times of a work in all rounds, together over alone: the centre with its 95 % interval; and the slices."""

    centre: float
    low: float
    high: float
    alone: Sequence[Sight]
    together: Sequence[Sight]


def measured_ratios(
    bench: Bench,
    works: Sequence[Work],
    expected_s: Sequence[float],
    allowed_s: float,
    advance: Advance,
    rng: np.random.Generator,
) -> list[Ratio]:
    """Rounds until the ratios of all works are precise, or the time is over.

    ``expected_s`` is the time of a batch of each work. Raises `EngineError`.
    """
    begun_s = time.monotonic()
    length_s = slice_s([_trial_s(bench, work, each_s) for work, each_s in zip(works, expected_s, strict=True)])
    seen: dict[tuple[bool, int], list[Sight]] = defaultdict(list)
    ratios: list[Ratio] = []
    for rounds in range(1, MAX_ROUNDS + 1):
        for each, sight in _round(bench, works, length_s, rng).items():
            seen[each].append(sight)
        passed_s = time.monotonic() - begun_s
        advance(f"round {rounds}", max(rounds / MAX_ROUNDS, passed_s / allowed_s))
        ratios = [_ratio(seen[False, place], seen[True, place]) for place in range(len(works))]
        is_precise = all((each.high - each.low) / 2 <= PRECISE_FRAC * each.centre for each in ratios)
        if rounds >= FEWEST_ROUNDS and (is_precise or passed_s * (rounds + 1) / rounds > allowed_s):
            break
    return ratios


def _trial_s(bench: Bench, work: Work, expected_s: float) -> float:
    """The time of a batch on this machine now, with the time in which other programs have the core."""
    for length_s in _tries(max(SHORTEST_SLICE_S, TRIAL_BATCHES * expected_s)):
        ran = bench.run([work], length_s)
        if ran:
            return sum(each.ended_s - each.began_s for each in ran) / len(ran)
    raise AssertionError("the last try raises")


def _round(
    bench: Bench, works: Sequence[Work], length_s: float, rng: np.random.Generator
) -> dict[tuple[bool, int], Sight]:
    """Sights by whether all run together, and by place. A try in which some work has no batch is repeated."""
    combinations = [*((False, [place]) for place in range(len(works))), (True, [*range(len(works))])]
    for try_s in _tries(length_s):
        sights: dict[tuple[bool, int], Sight] = {}
        for which in rng.permutation(len(combinations)):
            together, places = combinations[which]
            chosen = [places[each] for each in rng.permutation(len(places))]
            ran = bench.run([works[place] for place in chosen], try_s)
            for place in chosen:
                sights[together, place] = sight_of(works[place], ran, try_s, bench.slots)
        if all(sight.batches for sight in sights.values()):
            return sights
    raise AssertionError("the last try raises")


def _ratio(alone: Sequence[Sight], together: Sequence[Sight]) -> Ratio:
    pairs = zip(together, alone, strict=True)
    centre, low, high = map(math.exp, hodges_lehmann([math.log(t.centre_s / a.centre_s) for t, a in pairs]))
    return Ratio(centre, min(low, centre), max(high, centre), alone, together)


def _tries(length_s: float) -> Iterator[float]:
    """The lengths of the tries of a slice. Raises `EngineError` after the last one."""
    for tried in range(MAX_TRIES):
        yield length_s * 2**tried
    raise EngineError(
        f"No batch of some variant ended within {format_duration(length_s * 2 ** (MAX_TRIES - 1))}.",
        hint="other programs hold the cores; stop them first",
    )


def slice_s(took_s: Sequence[float]) -> float:
    """The length of a slice with `BATCHES` batches of each work, also together."""
    return max(SHORTEST_SLICE_S, BATCHES * sum(took_s))


def wanted_s(expected_s: Sequence[float], rounds: int) -> float:
    """The approximate time of a number of rounds."""
    trials_s = sum(max(SHORTEST_SLICE_S, TRIAL_BATCHES * each_s) for each_s in expected_s)
    return trials_s + rounds * (len(expected_s) + 1) * slice_s(expected_s)


# --- the process of a device


@dataclass(frozen=True, slots=True)
class Engine:
    """A variant to load, from the file ``model``, with its batch sizes."""

    key: VariantKey
    model: Path
    batches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Opening:
    """A device and its engines, which are built in the directory ``built``."""

    device: Device
    built: Path
    slots: int
    engines: tuple[Engine, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """Works in turn in each slot."""

    works: Sequence[Work]
    length_s: float


def run_slice(
    command: Slice, runs: Mapping[Work, Callable[[], object]], slots: int, busy_s: Callable[[], float]
) -> list[Ran]:
    """Run a slice in each slot at once; ``runs`` has a function for each work. Each slot begins with another work.

    ``busy_s`` is the clock of a batch's own time. Raises `EngineError`.
    """
    begin_s = time.monotonic()

    def in_slot(first: int) -> list[Ran]:
        done: list[Ran] = []
        for turn in range(first, first + MAX_BATCHES):
            began_s, busy_before_s = time.monotonic() - begin_s, busy_s()
            if began_s >= command.length_s:
                break
            work = command.works[turn % len(command.works)]
            runs[work]()
            batch_s = busy_s() - busy_before_s
            done.append(Ran(work, began_s, time.monotonic() - begin_s, batch_s))
        return done

    if slots == 1:
        return in_slot(0)
    with ThreadPoolExecutor(slots) as pool:
        return list(chain.from_iterable(pool.map(in_slot, range(slots))))


def busy_clock(device: Device) -> Callable[[], float]:
    """The clock of a batch's time: on one core, the time in which its thread has the core.

    Several cores work on a batch at once, and a GPU by itself. There all of the time counts.
    """
    return time.thread_time if device.kind == "cpu" and len(device.cores) == 1 else time.monotonic


def _loaded(opening: Opening, stack: ExitStack) -> dict[Work, Callable[[], object]]:
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
    gc.freeze()
    return runs


def serve_device(connection: Connection, opening: Opening) -> None:
    """The process of a device: open it, then run slices until the other end closes. Errors are sent as answers."""
    depend_on_parent()
    os.dup2(2, 1)  # stdout is for the study's data
    with ExitStack() as stack, suppress(EOFError, OSError):  # the study has ended
        try:
            runs = _loaded(opening, stack)
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


class ProcessBench:
    """An open device, by the connection to its process. Slices of a lost device raise `DeviceLost`."""

    def __init__(self, device: str, connection: Connection, slots: int) -> None:
        self._device, self._connection, self.slots = device, connection, slots

    def run(self, works: Sequence[Work], length_s: float) -> list[Ran]:
        with suppress(OSError):  # the answer tells that the process has ended
            self._connection.send(Slice(works, length_s))
        return self.answer(length_s + LATE_S)

    def answer(self, timeout_s: float) -> list[Ran]:
        """The next answer of the process. Raises the error that it sends."""
        why = "its process has ended"
        with suppress(EOFError, OSError):
            if self._connection.poll(timeout_s):
                answer: list[Ran] | Exception = self._connection.recv()
                if isinstance(answer, Exception):
                    raise answer
                return answer
            self._connection.close()  # a late answer must not be taken for the next one
            why = f"it does not answer for {timeout_s:.0f} s"
        hint = "`dmesg` tells of processes that were killed for memory; other programs may hold its cores"
        raise DeviceLost(f"{self._device} is lost: {why}.", hint=hint)


@contextmanager
def opened_bench(opening: Opening) -> Iterator[ProcessBench]:
    """Open the device, and end its process when left. Raises `DeviceUnavailable`, `EngineError`."""
    device, context = opening.device.id, get_context("spawn")
    try:
        ours, its = context.Pipe()
        process = context.Process(target=serve_device, args=(its, opening), daemon=True)
        with group_signals_blocked():
            process.start()
    except OSError as error:
        raise DeviceUnavailable(f"No process can be started for {device}: {error}", hint=LIMITS_HINT) from error
    its.close()
    try:
        bench = ProcessBench(device, ours, opening.slots)
        bench.answer(LOAD_S)
        yield bench
    finally:
        ours.close()
        process.join(CLOSE_S)
        process.kill()
        process.join()
