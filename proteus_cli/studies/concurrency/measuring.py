"""Cells of a concurrency study: the levels of each way, and samples of a closed loop in rounds."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Sequence
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
from proteus_cli.serving.devices.executor import Batch, BatchResult, Executor
from proteus_cli.serving.devices.hardware import Hardware, emulated_devices, local_devices
from proteus_cli.studies.concurrency.knee import ScatterSample, fit_knee
from proteus_cli.studies.frame import JobTurn
from proteus_cli.studies.results import ConcurrencyResult, StudiedWay

BESIDE_SLOTS = 2
"""Batches in flight beyond the slots: they wait in the device's process, so that it never waits for the server."""
MAX_IN_FLIGHT = 16
MAX_SPLITS = 8  # each is a process with a copy of the model
AHEAD = 2  # batches in flight on each device where something else varies: one runs, one waits
USUAL_ROUNDS, FEWEST_ROUNDS = 12, 5
SAMPLE_S, LONGEST_SAMPLE_S = 0.1, 5.0
BATCHES = 6  # minimum number of batches of each in flight in a sample
FEWEST_ENDS = 8
"""Minimum number of batches of a device in a sample, after the first ones."""
OPENING_S = 1.0  # about, for each device with its process

_WAYS: dict[StudiedWay, str] = {
    "thread": "in flight in a thread", "process": "in flight in a process", "emulated": "in flight, emulated",
    "threads": "threads", "split": "devices of the same cores",
}  # fmt: skip


# --- what varies


@dataclass(frozen=True, slots=True)
class StudiedLevel:
    """One value of what varies: these devices, and the number of batches in flight on each."""

    number: int
    devices: tuple[Device, ...]
    in_flight: int

    def sample_s(self, batch_s: float) -> float:
        """The length of a sample, where a batch takes ``batch_s`` alone."""
        return min(max(SAMPLE_S, BATCHES * self.in_flight * batch_s), LONGEST_SAMPLE_S)


@dataclass(frozen=True, slots=True)
class ConcurrencyCell:
    """A variant with a batch size, and what varies."""

    key: VariantKey
    batch: int
    way: StudiedWay

    def name(self, label: str) -> str:
        """The name within the study: ``"digits-l ×8, in flight in a process"``."""
        return f"{label} ×{self.batch}, {_WAYS[self.way]}"


def ways_of(device: Device, *, emulated: bool) -> tuple[StudiedWay, ...]:
    """The quantities that can vary on a device. A GPU always has a process; one core cannot be divided."""
    if emulated:
        return ("emulated",)
    if device.kind == "gpu":
        return ("process",)
    return ("thread", "process", *(("threads", "split") if len(device.cores) > 1 else ()))


def levels_of(way: StudiedWay, device: Device, slots: int, max_in_flight: int | None) -> list[StudiedLevel]:
    """The levels of what varies, up to ``max_in_flight`` batches in flight; None: a few more than there are slots.

    Parts of a device have equal numbers of its cores; cores that are left over are not used.
    """
    cores = device.cores

    def part(name: str, first: int, number: int) -> Device:
        return msgspec.structs.replace(device, id=f"{device.id}-{name}", cores=cores[first : first + number])

    if way == "threads":
        return [StudiedLevel(n, (part(f"t{n}", 0, n),), AHEAD) for n in _doubling(len(cores))]
    if way == "split":
        return [
            StudiedLevel(n, tuple(part(f"s{n}.{k}", k * (len(cores) // n), len(cores) // n) for k in range(n)), AHEAD)
            for n in _doubling(min(len(cores), MAX_SPLITS))
        ]
    last = max_in_flight if max_in_flight is not None else slots + BESIDE_SLOTS
    return [StudiedLevel(n, (device,), n) for n in (range(1, last + 1) if last <= MAX_SPLITS else _doubling(last))]


def _doubling(last: int) -> list[int]:
    """1, 2, 4 … and the largest."""
    return [*(2**power for power in range((last - 1).bit_length())), last]


def wanted_s(levels: Sequence[StudiedLevel], batch_s: float, rounds: int) -> float:
    """The approximate time of a number of rounds."""
    opening_s = OPENING_S * sum(len(level.devices) for level in levels)
    return opening_s + rounds * sum(level.sample_s(batch_s) for level in levels)


# --- devices


@dataclass(frozen=True, slots=True)
class DeviceSetup:
    """The ``catalog``, the file of each model, and the directory of engines for GPUs, to open devices with.

    A GPU is opened with ``slots``. An emulated device has the slots of its ``profile``.
    """

    catalog: Catalog
    models: dict[VariantKey, Path]
    built: Path
    profile: Profile
    slots: int

    @asynccontextmanager
    async def opened(
        self, devices: Iterable[Device], cell: ConcurrencyCell
    ) -> AsyncIterator[tuple[dict[str, Executor], Batch]]:
        """The executors of devices by id, opened as a server opens them with one variant, and a batch for each.

        Raises `EngineError`, `BackendUnavailable` and `DeviceUnavailable`.
        """
        by_id, key = {device.id: device for device in devices}, cell.key
        async with AsyncExitStack() as stack:
            hardware = await self._hardware(stack, by_id, cell)
            executors = dict[str, Executor]()
            for device in by_id:
                executor = executors[device] = hardware.open_device(device, lambda _loss: None)  # it fails its batches
                stack.callback(executor.close)
                await executor.load(key, hardware.models[key], cell.batch)
            part = hardware.signatures[key.family].sample_part(cell.batch, np.random.default_rng(0))
            yield executors, Batch(key, [part], cell.batch)

    async def _hardware(self, stack: AsyncExitStack, devices: dict[str, Device], cell: ConcurrencyCell) -> Hardware:
        family = self.catalog.family(cell.key.family)
        alone = msgspec.structs.replace(family, variants=(family.variant(cell.key.variant),))
        catalog = msgspec.structs.replace(self.catalog, families=(alone,))  # no other model need be there
        if cell.way == "emulated":
            return stack.enter_context(emulated_devices({self.profile.device.id: self.profile}, catalog, {}))
        models, slots = {cell.key: self.models[cell.key]}, dict.fromkeys(devices, self.slots)
        return await stack.enter_async_context(
            local_devices(devices, catalog, models, self.built, slots, in_processes=cell.way != "thread")
        )


# --- samples


async def sample(
    executors: Sequence[Executor], batch: Batch, in_flight: int, length_s: float, number: int
) -> ScatterSample:
    """A sample with ``in_flight`` batches in flight on each device; ``number`` is the value of what varies.

    Raises `EngineError` and `DeviceLost` as batches do, once no device has more to begin.
    """
    stop_s = asyncio.get_running_loop().time() + length_s
    loops = [_closed_loop(executor, batch, in_flight, stop_s) for executor in executors]
    counted = list[tuple[float, list[float]]]()
    for found in await asyncio.gather(*loops, return_exceptions=True):
        if isinstance(found, BaseException):
            raise found
        counted.append(found)
    took_s = [seconds for _, each in counted for seconds in each]
    return ScatterSample(number, sum(rate for rate, _ in counted) * batch.rows, sum(took_s) / len(took_s))


async def _closed_loop(executor: Executor, batch: Batch, in_flight: int, stop_s: float) -> tuple[float, list[float]]:
    """Keep batches in flight: as one ends, the next is submitted.

    Returns batches per second, and the seconds that each took, while all were in flight.
    """
    loop = asyncio.get_running_loop()
    ended, running, is_over = list[tuple[float, float]](), in_flight, loop.create_future()

    def submit() -> None:
        began_s = loop.time()
        executor.submit(batch, lambda result: done(began_s, result))

    def done(began_s: float, result: BatchResult | Exception) -> None:
        nonlocal running
        now_s = loop.time()
        if is_over.done():
            return
        if isinstance(result, Exception):
            is_over.set_exception(result)
            return
        ended.append((began_s, now_s))
        if now_s < stop_s or len(ended) < in_flight + FEWEST_ENDS:
            submit()
            return
        running -= 1
        if not running:
            is_over.set_result(None)

    for _ in range(in_flight):
        submit()
    await is_over
    from_s, until_s = ended[in_flight - 1][1], ended[-in_flight][1]
    took_s = [end_s - began_s for began_s, end_s in ended if from_s < end_s <= until_s]
    return len(took_s) / (until_s - from_s), took_s


def measured(
    setup: DeviceSetup, cell: ConcurrencyCell, levels: Sequence[StudiedLevel], batch_s: float, turn: JobTurn
) -> ConcurrencyResult:
    """The scatter of a cell and its knee, in the allowed time. Raises `ProteusError`."""
    seed = crc32(f"{cell.key.family}/{cell.key.variant}/{cell.batch}/{cell.way}".encode())
    samples = asyncio.run(_samples(setup, cell, levels, batch_s, turn, np.random.default_rng(seed)))
    return ConcurrencyResult(
        cell.key.family, cell.key.variant, cell.batch, cell.way, len(setup.profile.device.cores), setup.slots,
        fit_knee(samples, np.random.default_rng(seed)), tuple(samples),
    )  # fmt: skip


async def _samples(
    setup: DeviceSetup, cell: ConcurrencyCell, levels: Sequence[StudiedLevel], batch_s: float, turn: JobTurn,
    rng: np.random.Generator,
) -> list[ScatterSample]:  # fmt: skip
    stop_s = monotonic() + turn.allowed_s
    devices = {device.id: device for level in levels for device in level.devices}
    samples = list[ScatterSample]()
    async with setup.opened(devices.values(), cell) as (executors, batch):
        for rounds in range(1, USUAL_ROUNDS + 1):
            begun_s = monotonic()
            for level in (levels[each] for each in rng.permutation(len(levels))):
                on = [executors[device.id] for device in level.devices]
                samples.append(await sample(on, batch, level.in_flight, level.sample_s(batch_s), level.number))
            turn.advance(f"round {rounds}", rounds / USUAL_ROUNDS)
            if rounds >= FEWEST_ROUNDS and math.isfinite(stop_s) and 2 * monotonic() - begun_s > stop_s:
                break
    return samples
