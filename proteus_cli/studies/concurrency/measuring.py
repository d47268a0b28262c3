"""Cells of a concurrency study, measured in rounds of closed-loop samples."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from zlib import crc32

import msgspec
import numpy as np

from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import DeviceLost
from proteus_cli.serving.devices.executor import Batch, BatchResult, Executor
from proteus_cli.serving.devices.hardware import Hardware, emulated_devices, local_devices
from proteus_cli.studies.concurrency.knee import ScatterSample, fit_knee
from proteus_cli.studies.frame import JobTurn
from proteus_cli.studies.results import ConcurrencyResult, StudiedWay

BESIDE_SLOTS = 2
"""More batches in flight than slots: those wait in the device's process, so that it never waits for the server."""
MAX_IN_FLIGHT = 16
MAX_SPLITS = 8  # each is a process with a copy of the model
AHEAD = 2  # batches in flight on each device where something else varies: one runs, one waits


@dataclass(frozen=True, slots=True)
class StudiedLevel:
    """One value of what varies: these devices, and on each so many batches in flight."""

    number: int
    devices: tuple[Device, ...]
    in_flight: int


@dataclass(frozen=True, slots=True)
class ConcurrencyCell:
    """A variant with a batch size, and what varies."""

    key: VariantKey
    batch: int
    way: StudiedWay

    def name(self, label: str) -> str:
        """What it is called within the study: ``"digits-l ×8, in flight in a process"``."""
        return f"{label} ×{self.batch}, {_WAYS[self.way]}"


_WAYS: dict[StudiedWay, str] = {
    "thread": "in flight in a thread", "process": "in flight in a process", "emulated": "in flight, emulated",
    "threads": "threads", "split": "devices of the same cores",
}  # fmt: skip


def ways_of(device: Device, *, emulated: bool) -> tuple[StudiedWay, ...]:
    """What can vary on a device: a GPU always has a process; one core has nothing to divide."""
    if emulated:
        return ("emulated",)
    if device.kind == "gpu":
        return ("process",)
    return ("thread", "process", *(("threads", "split") if len(device.cores) > 1 else ()))


def levels_of(way: StudiedWay, device: Device, slots: int, max_in_flight: int | None) -> list[StudiedLevel]:
    """The steps of what varies; ``max_in_flight`` batches in flight, else a few more than the device has slots."""
    match way:
        case "threads":
            steps = _doubling(len(device.cores))
            return [StudiedLevel(n, (_part(device, f"t{n}", device.cores[:n]),), AHEAD) for n in steps]
        case "split":
            return [
                StudiedLevel(n, tuple(_parts(device, n)), AHEAD) for n in _doubling(min(len(device.cores), MAX_SPLITS))
            ]
        case _:
            last = max_in_flight if max_in_flight is not None else slots + BESIDE_SLOTS
            steps = list(range(1, last + 1)) if last <= MAX_SPLITS else _doubling(last)
            return [StudiedLevel(n, (device,), n) for n in steps]


def _doubling(last: int) -> list[int]:
    """1, 2, 4 … and the largest."""
    steps = [2**power for power in range(last.bit_length()) if 2**power <= last]
    return steps if steps[-1] == last else [*steps, last]


def _parts(device: Device, number: int) -> Iterator[Device]:
    """So many devices with an equal part of the cores each; cores that are left over are not used."""
    cores = len(device.cores) // number
    for place in range(number):
        yield _part(device, f"s{number}.{place}", device.cores[place * cores : (place + 1) * cores])


def _part(device: Device, name: str, cores: tuple[int, ...]) -> Device:
    return msgspec.structs.replace(device, id=f"{device.id}-{name}", cores=cores)


@dataclass(frozen=True, slots=True)
class DeviceSetup:
    """What devices are opened with: the ``catalog``, the file of each model, the directory of engines for GPUs.

    ``slots`` are those to open a GPU with; an emulated device has those of its ``profile``.
    """

    catalog: Catalog
    models: dict[VariantKey, Path]
    built: Path
    profile: Profile
    slots: int


@asynccontextmanager
async def opened(
    setup: DeviceSetup, devices: Iterable[Device], key: VariantKey, batch: int, way: StudiedWay
) -> AsyncIterator[tuple[dict[str, Executor], Batch]]:
    """The executors of these devices by id, with the variant loaded, and a batch for each of them.

    Raises `EngineError`, `BackendUnavailable` and `DeviceUnavailable`.
    """
    by_id = {device.id: device for device in devices}
    async with AsyncExitStack() as stack:
        hardware = await _hardware(stack, setup, by_id, key, way)
        executors = dict[str, Executor]()
        for device in by_id:
            executor = executors[device] = hardware.open_device(device, _lost)
            stack.callback(executor.close)
            await executor.load(key, hardware.models[key], batch)
        part = hardware.signatures[key.family].sample_part(batch, np.random.default_rng(0))
        yield executors, Batch(key, [part], batch)


async def _hardware(
    stack: AsyncExitStack, setup: DeviceSetup, devices: dict[str, Device], key: VariantKey, way: StudiedWay
) -> Hardware:
    catalog = _only(setup.catalog, key)
    if way == "emulated":
        return stack.enter_context(emulated_devices({setup.profile.device.id: setup.profile}, catalog, {}))
    models = {key: setup.models[key]}
    slots = dict.fromkeys(devices, setup.slots)
    return await stack.enter_async_context(
        local_devices(devices, catalog, models, setup.built, slots, in_processes=way != "thread")
    )


def _only(catalog: Catalog, key: VariantKey) -> Catalog:
    """The catalog with that variant alone: no other model need be there."""
    family = catalog.family(key.family)
    alone = msgspec.structs.replace(family, variants=(family.variant(key.variant),))
    return msgspec.structs.replace(catalog, families=(alone,))


def _lost(loss: DeviceLost) -> None:
    """The batches that run there fail with the loss, which ends the cell."""


FEWEST_ENDS = 8
"""Of a device in a sample, after the first batches."""


class _Loop:
    """The batches in flight on one device; ``ended`` has when each began and ended, by the loop."""

    def __init__(self, executor: Executor, batch: Batch, in_flight: int, stop_s: float) -> None:
        self._executor, self._batch, self._in_flight, self._stop_s = executor, batch, in_flight, stop_s
        self._left, self._now_s = in_flight, asyncio.get_running_loop().time
        self.ended: list[tuple[float, float]] = []
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        for _ in range(self._in_flight):
            self._submit()

    def _submit(self) -> None:
        began_s = self._now_s()
        self._executor.submit(self._batch, lambda result: self._done(began_s, result))

    def _done(self, began_s: float, result: BatchResult | Exception) -> None:
        now_s = self._now_s()
        if isinstance(result, Exception):
            if not self.is_over.done():
                self.is_over.set_exception(result)
            return
        self.ended.append((began_s, now_s))
        if not self.is_over.done() and (now_s < self._stop_s or len(self.ended) < self._in_flight + FEWEST_ENDS):
            self._submit()
            return
        self._left -= 1
        if not self._left and not self.is_over.done():
            self.is_over.set_result(None)

    def counted(self) -> tuple[float, list[float]]:
        """Batches per second, and the seconds that each took, while all were in flight."""
        from_s, until_s = self.ended[self._in_flight - 1][1], self.ended[-self._in_flight][1]
        took_s = [end_s - began_s for began_s, end_s in self.ended if from_s < end_s <= until_s]
        return len(took_s) / (until_s - from_s), took_s


async def sample(
    executors: Sequence[Executor], batch: Batch, in_flight: int, length_s: float, number: int
) -> ScatterSample:
    """A sample with so many batches in flight on each device; ``number`` is what varies.

    Raises `EngineError` and `DeviceLost` as batches do, once no device has more to begin.
    """
    stop_s = asyncio.get_running_loop().time() + length_s
    loops = [_Loop(executor, batch, in_flight, stop_s) for executor in executors]
    for each in loops:
        each.start()
    ends = await asyncio.gather(*(each.is_over for each in loops), return_exceptions=True)
    for failure in filter(None, ends):
        raise failure
    counted = [each.counted() for each in loops]
    took_s = [seconds for _, each in counted for seconds in each]
    return ScatterSample(number, sum(rate for rate, _ in counted) * batch.rows, sum(took_s) / len(took_s))


USUAL_ROUNDS, FEWEST_ROUNDS = 12, 5
SAMPLE_S, LONGEST_SAMPLE_S = 0.1, 5.0
BATCHES = 6  # a sample lasts for so many batches of each in flight at least
OPENING_S = 1.0  # about, for each device with its process


def sample_s(level: StudiedLevel, batch_s: float) -> float:
    """The length of a sample, where a batch takes ``batch_s`` alone."""
    return min(max(SAMPLE_S, BATCHES * level.in_flight * batch_s), LONGEST_SAMPLE_S)


def wanted_s(levels: Sequence[StudiedLevel], batch_s: float, rounds: int) -> float:
    """About how long so many rounds of a cell take."""
    return OPENING_S * sum(len(level.devices) for level in levels) + rounds * sum(
        sample_s(level, batch_s) for level in levels
    )


def measured(
    setup: DeviceSetup, cell: ConcurrencyCell, levels: Sequence[StudiedLevel], batch_s: float, turn: JobTurn
) -> ConcurrencyResult:
    """The scatter of a cell and its knee, in the time that is allowed. Raises `ProteusError`."""
    stop_s = monotonic() + turn.allowed_s
    samples = asyncio.run(_samples(setup, cell, levels, batch_s, stop_s, turn))
    rng = np.random.default_rng(_seed(cell))
    device = setup.profile.device
    return ConcurrencyResult(
        cell.key.family, cell.key.variant, cell.batch, cell.way, len(device.cores), setup.slots,
        fit_knee(samples, rng), tuple(samples),
    )  # fmt: skip


async def _samples(
    setup: DeviceSetup,
    cell: ConcurrencyCell,
    levels: Sequence[StudiedLevel],
    batch_s: float,
    stop_s: float,
    turn: JobTurn,
) -> list[ScatterSample]:
    devices = {device.id: device for level in levels for device in level.devices}
    rng, samples = np.random.default_rng(_seed(cell)), list[ScatterSample]()
    async with opened(setup, devices.values(), cell.key, cell.batch, cell.way) as (executors, batch):
        for done in range(USUAL_ROUNDS):
            begun_s = monotonic()
            for level in (levels[each] for each in rng.permutation(len(levels))):
                on = [executors[device.id] for device in level.devices]
                samples.append(await sample(on, batch, level.in_flight, sample_s(level, batch_s), level.number))
            rounds = done + 1
            turn.advance(f"round {rounds}", rounds / USUAL_ROUNDS)
            if rounds >= FEWEST_ROUNDS and math.isfinite(stop_s) and 2 * monotonic() - begun_s > stop_s:
                break
    return samples


def _seed(cell: ConcurrencyCell) -> int:
    return crc32(f"{cell.key.family}/{cell.key.variant}/{cell.batch}/{cell.way}".encode())
