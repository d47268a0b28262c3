"""Emulated devices: batches end when the profile says that they would, and cost next to nothing meanwhile."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from heapq import heappop, heappush, heapreplace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self
from zlib import crc32

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.backends import emulated
from proteus_cli.backends.base import Signature
from proteus_cli.backends.emulated import EmulatedEngine, notes_of
from proteus_cli.domain.batch_times import beside
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import EngineError
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult, ExecutorBase, OnLost, settle

MAX_SLOWED = 64
"""Variants beside sets of others that a device keeps the times of: plans change, and with them the sets."""


class TimerThread:
    """One thread that has the running loop make calls at given times, for all emulated devices.

    uvloop's own timers count whole milliseconds, and many batches take less. Leaving waits for all calls that are set.
    ``clock`` tells the time in seconds, as ``at`` has it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop, self._clock = asyncio.get_running_loop(), clock
        self._set: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._is_closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="emulated-devices", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def at(self, due_s: float, call: Callable[[], None]) -> None:
        """Have the loop make a call at a time of the clock, or soon after; calls of one time in order."""
        entry = (due_s, next(self._numbers), call)
        with self._changed:
            heappush(self._set, entry)
            if self._set[0] is entry:  # else the thread wakes early enough anyway
                self._changed.notify()

    def _work(self) -> None:
        while (call := self._next()) is not None:
            self._loop.call_soon_threadsafe(call)

    def _next(self) -> Callable[[], None] | None:
        """Wait until a call is due, and take it; None once closing, when no call is left."""
        with self._changed:
            while self._set or not self._is_closing:
                wait_s = self._set[0][0] - self._clock() if self._set else None
                if wait_s is not None and wait_s <= 0:
                    return heappop(self._set)[2]
                self._changed.wait(wait_s)
        return None


class EmulatedExecutor(ExecutorBase):
    """The device of ``profile``: as many batches at once as it has slots, each for the profile's mean time.

    A batch begins when it is submitted, or when the batch before it in its slot should have ended. A late event loop
    therefore does not make the device slower. ``at`` has the loop make a call at a time of ``clock``, in seconds.

    ``ranks`` draws how sure multi-exit models are of rows, as in `ProfiledChain`; None: evenly, by device.
    """

    def __init__(
        self,
        profile: Profile,
        signatures: Mapping[str, Signature],
        clock: Callable[[], float],
        at: Callable[[float, Callable[[], None]], object],
        on_lost: OnLost,
        ranks: Callable[[int], Floats] | None = None,
    ) -> None:
        super().__init__(profile.device.id, on_lost)
        self._profile, self._signatures = profile, signatures
        self._clock, self._at = clock, at
        self._ranks = ranks or np.random.default_rng(crc32(profile.device.id.encode())).random
        self._engines: dict[VariantKey, EmulatedEngine] = {}
        self._slowed: dict[tuple[VariantKey, frozenset[VariantKey]], EmulatedEngine] = {}
        self._one_load = asyncio.Lock()
        self._loads_until_s = -math.inf  # by the loop's clock
        self._slots_free_s = [0.0] * profile.slots  # a heap
        self._running = 0

    def learn(self, profile: Profile) -> None:
        """Engines that are loaded from now on take the times of that profile, which has more variants."""
        self._profile = profile

    async def opened(self) -> str:
        """The name of the backend; such a device is open at once."""
        return emulated.NAME

    async def load(
        self,
        key: VariantKey,
        model: Path,  # noqa: ARG002 - no model, no warm-up, no core to leave to others
        warm_up_rows: int,  # noqa: ARG002
        *,
        gives_way: bool = False,  # noqa: ARG002
    ) -> Signature:
        """Take the profile's load time, once earlier loads are done, also one that was cancelled after it had begun.

        Raises `EngineError`, `DeviceLost`.
        """
        engine = self._engine(key)
        loop = asyncio.get_running_loop()
        async with self._one_load:
            self._require_open()
            if (busy_s := self._loads_until_s - loop.time()) > 0:
                await self._passed(busy_s)
            self._loads_until_s = loop.time() + engine.load_s
            await self._passed(engine.load_s)
            self._engines[key] = engine
        return engine.signature

    async def _passed(self, seconds: float) -> None:
        """Wait for a part of a load. Raises `DeviceLost` when the device is lost meanwhile."""
        loop = asyncio.get_running_loop()
        passed: asyncio.Future[None] = loop.create_future()
        loop.call_later(seconds, settle, passed, None)
        await self._until_loaded(passed)

    def _engine(self, key: VariantKey, others: frozenset[VariantKey] = frozenset()) -> EmulatedEngine:
        """The engine of a variant, with the times that it has while others are active on the device."""
        measured = self._profile.of(*key)
        if measured is None:
            raise EngineError(f"`{key.variant}` was never profiled on a `{self._profile.device.type}`.")
        among = beside(self._profile, measured, others)
        exits = self._profile.exits_of(among) if self._profile.has_stages(measured) else ()
        return EmulatedEngine(among, self._signatures[key.family], self._profile.slots, exits)

    def _among(self, key: VariantKey, others: frozenset[VariantKey]) -> EmulatedEngine:
        """A loaded engine; slowed, where others are active that cost it time."""
        alone = self._engines[key]
        if not others:
            return alone
        if (key, others) not in self._slowed:
            if len(self._slowed) >= MAX_SLOWED:
                del self._slowed[next(iter(self._slowed))]
            self._slowed[key, others] = self._engine(key, others)
        return self._slowed[key, others]

    def unload(self, key: VariantKey) -> None:
        if not self.is_lost:
            del self._engines[key]  # the batches that were submitted before have their results
            self._slowed = {place: engine for place, engine in self._slowed.items() if place[0] != key}

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        now_s = self._clock()
        self._require_open()
        start_s = max(now_s, self._slots_free_s[0])
        result, left = self._result(batch, start_s)
        end_s = start_s + result.compute_s
        heapreplace(self._slots_free_s, end_s)
        self._running += 1
        number = self._register(done)
        if batch.leaving is not None:
            for after_s, parts, of_rows in left:
                self._at(start_s + after_s, partial(self._part_left, number, batch.leaving, parts, of_rows))
        self._at(end_s, partial(self._ended, number, result))

    def close(self) -> None:
        """Take no more batches; submitted ones end at their time."""
        self._is_closed = True
        self._engines.clear()
        self._slowed.clear()

    def abandon(self) -> None:
        self._forget_pending()
        self.close()

    def _ended(self, number: int, result: BatchResult) -> None:
        self._running -= 1
        self._complete(number, result)

    def _result(
        self, batch: Batch, start_s: float
    ) -> tuple[BatchResult, Sequence[tuple[float, Sequence[int], BatchResult]]]:
        """That of a batch, and of the parts that leave it: after how long, and which.

        Profiles of other machines include the way to them in the times of whole batches, but not of stages.
        """
        engine = self._among(batch.key, batch.others)
        walk = engine.walk(batch.rows, batch.bounds, start_s, self._ranks)
        others = min(self._running, len(self._slots_free_s) - 1)
        took_s = engine.latency_s(batch.rows, others) if walk is None else walk.took_s
        network = None if walk is None or batch.bounds is None else self._profile.network
        way_s = 0.0 if network is None else network.transfer_s(batch.key.family, batch.rows)
        result = BatchResult(engine.scores(batch.parts), took_s + way_s, notes=notes_of(walk), ended_s=start_s + took_s)
        left = () if walk is None else walk.left
        return result, [
            (after_s + way_s, each.parts, _of_rows(result, each.rows, after_s, start_s)) for after_s, each in left
        ]


def _of_rows(result: BatchResult, rows: Ints, after_s: float, start_s: float) -> BatchResult:
    """The result of rows that have left a batch, and their time since its start."""
    outputs, notes = (tuple(values[rows] for values in each) for each in (result.outputs, result.notes))
    return BatchResult(outputs, after_s, notes=notes, ended_s=start_s + after_s)
