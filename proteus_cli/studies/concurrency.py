"""``proteus study concurrency``: how many batches at once a device should have.

A *cell* is a variant with a batch size, on a device that is opened as a server opens it, with its hand-overs, slots and
emulated times. A *sample* keeps a number of batches in flight for some tenths of a second: as one ends, the next is
submitted. Samples of all numbers are taken in rounds, in random order, so that drift is alike for all.

The *knee* is the smallest number whose throughput is that of the plateau, within `TOLERANCE_FRAC`. It is read from the
curve nearest to the samples that rises, then falls: noise on a plateau is no peak. Its confidence comes from resamples
(bootstrap).
"""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Literal
from zlib import crc32

import msgspec
import numpy as np
from scipy.optimize import isotonic_regression

from proteus_cli.backends.discovery import discover
from proteus_cli.control.slot_tuner import TOLERANCE_FRAC
from proteus_cli.domain.base import Amount, PositiveAmount, PositiveCount, Value
from proteus_cli.domain.capacity import points_in_time, slo_fraction
from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import UsageError
from proteus_cli.profiling.slots import MAX_SLOTS
from proteus_cli.serving.devices.executor import Batch, BatchResult, Executor
from proteus_cli.serving.devices.hardware import Hardware, emulated_devices, local_devices
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace
from proteus_cli.studies.frame import Job, JobTurn, StudyDraft, default_name
from proteus_cli.studies.profiled import mean_batch_s, measured_variant, models_of, profiled_here
from proteus_cli.studies.study import Cell

KIND = "concurrency"
WITHOUT_NAMES = 3
"""Number of variants where the user names none: the most accurate one of each of the first families."""
BESIDE_SLOTS = 2
"""Batches in flight beyond the slots: they wait in the device's process, so that it never waits for the server."""
MAX_IN_FLIGHT = 16
ALL_LEVELS = 8
"""Up to here each number in flight is measured; beyond, powers of two."""
USUAL_ROUNDS, FEWEST_ROUNDS = 12, 5
SAMPLE_S, LONGEST_SAMPLE_S = 0.1, 5.0
BATCHES = 6
"""Minimum number of batches of each in flight in a sample."""
FEWEST_ENDS = 8
"""Minimum number of batches in a sample, after the first ones."""
OPENING_S = 1.0
"""Approximate time to open a device with its process."""
RESAMPLES = 400
"""The confidence is then known to about ± 2 points."""
INTERVAL = (5.0, 95.0)
"""Percentiles of the resamples: an interval of 90 %."""

StudiedWay = Literal["thread", "process", "emulated"]
"""How the device is opened: in a thread of the server, in a process of its own, or emulated."""
_WAYS: dict[StudiedWay, str] = {
    "thread": "in flight in a thread", "process": "in flight in a process", "emulated": "in flight, emulated",
}  # fmt: skip


# --- results


class ScatterSample(Value, frozen=True):
    """One measurement with a constant number in flight: the throughput, and the mean seconds of one item."""

    in_flight: PositiveCount
    throughput: Amount
    service_s: PositiveAmount


class ConcurrencyLevel(Value, frozen=True):
    """All samples with one number in flight: means, the interval of the mean throughput, and the fitted throughput."""

    in_flight: int
    throughput: float
    low: float
    high: float
    fitted: float
    service_s: float
    samples: int


class Knee(Value, frozen=True):
    """The smallest number in flight with the ``throughput`` of the plateau, within `TOLERANCE_FRAC`.

    It lies from ``low`` to ``high`` in 90 % of the resamples, and is the same in the fraction ``confidence`` of them.
    Unless the plateau ``is_seen``, throughput still rises at the largest number that was measured.
    """

    in_flight: int
    low: int
    high: int
    confidence: float
    throughput: float
    is_seen: bool
    levels: tuple[ConcurrencyLevel, ...]


class ConcurrencyResult(Value, frozen=True):
    """The ``samples`` of a variant with a batch size, by batches in flight; rows per second.

    The device runs ``slots`` batches at once.
    """

    family: str
    variant: str
    batch: int
    way: StudiedWay
    slots: int
    knee: Knee
    samples: tuple[ScatterSample, ...]


class ConcurrencyConclusion(Value, frozen=True):
    """The recommended number of slots: the largest that a variant needs; 0 without a measurement."""

    slots: int


def concluded(results: Iterable[ConcurrencyResult]) -> ConcurrencyConclusion:
    """The recommendation of all cells."""
    return ConcurrencyConclusion(max((min(each.knee.in_flight, each.slots) for each in results), default=0))


# --- the draft


@dataclass(frozen=True, slots=True)
class ConcurrencyQuestion:
    """The device and variants of a study. None: the batch size of plans, a few more in flight than there are slots.

    ``emulated``: on the emulated device of its profile. Raises `UsageError` where it makes no sense.
    """

    device: str
    variants: tuple[VariantKey, ...]
    batch: int | None = None
    in_flight: int | None = None
    emulated: bool = False

    def __post_init__(self) -> None:
        if not self.variants:
            raise UsageError(
                f"Nothing was profiled on `{self.device}` that the catalog has.",
                hint=f"run `proteus profile --device {self.device}`",
            )
        if self.in_flight is not None and not 1 < self.in_flight <= MAX_IN_FLIGHT:
            raise UsageError(
                f"From 2 to {MAX_IN_FLIGHT} batches can be in flight.", hint="leave out `--in-flight`, or give 8"
            )

    def levels(self, slots: int) -> list[int]:
        """The numbers of batches in flight to measure on a device with ``slots``."""
        last = self.in_flight if self.in_flight is not None else slots + BESIDE_SLOTS
        if last <= ALL_LEVELS:
            return list(range(1, last + 1))
        return [*(2**power for power in range((last - 1).bit_length())), last]


def best_of_families(catalog: Catalog, profile: Profile) -> tuple[VariantKey, ...]:
    """The most accurate profiled variant of each of the first families."""
    best: dict[str, VariantProfile] = {}
    for each in profile.variants:
        if each.key in catalog.keys and each.points:
            best[each.family] = max(best.get(each.family, each), each, key=lambda variant: variant.accuracy)
    return tuple(each.key for each in list(best.values())[:WITHOUT_NAMES])


def workspace_draft(workspace: Workspace) -> StudyDraft | str:
    """A study of the first device of this machine that has a profile; a text where there is none."""
    here = {device.id for device in discover(read_settings(workspace.root).devices)}
    for device, profile in workspace.profiles().items():
        if device in here and (variants := best_of_families(workspace.catalog(), profile)):
            return concurrency_draft(workspace, ConcurrencyQuestion(device, variants))
    return "no device of this machine has a profile"


def concurrency_draft(workspace: Workspace, question: ConcurrencyQuestion, name: str | None = None) -> StudyDraft:
    """The draft of a study. Raises `ProteusError` where the device, a profile or a model is missing."""
    catalog, profile = workspace.catalog(), workspace.profile(question.device)
    device, models, is_emulated = profile.device, dict[VariantKey, Path](), question.emulated
    if not is_emulated:
        device = profiled_here(profile, discover(read_settings(workspace.root).devices))
        models = models_of(workspace, catalog, profile, question.variants, to="run", hint="`--emulate` needs no models")
    is_gpu = device.kind == "gpu" and not is_emulated  # with as many slots as are worth a try
    slots = MAX_SLOTS if is_gpu else profile.slots
    setup = DeviceSetup(catalog, models, workspace.built_dir, profile, device, slots)
    found = {key: measured_variant(profile, key) for key in question.variants}
    batches = {key: question.batch or _planned_batch(catalog, each) for key, each in found.items()}
    ways: tuple[StudiedWay, ...] = ("emulated",) if is_emulated else ("process",) if is_gpu else ("thread", "process")
    cells = [ConcurrencyCell(key, batch, way) for key, batch in batches.items() for way in ways]
    digests = {f"{key.family}/{key.variant}": each.model_digest or "" for key, each in found.items()}
    times = workspace.profile_paths({profile.device.id: profile}) if is_emulated else []
    variants = ", ".join(f"{catalog.label(key)} ×{batch}" for key, batch in batches.items())
    return StudyDraft(
        kind=KIND,
        name=name or default_name(KIND, question.device, mode="emulated" if is_emulated else "measured"),
        subject={"device": f"{device.id}, {profile.device.name}", "variants": variants},
        options={
            "device": question.device,
            "variants": ",".join(digests),
            "batches": ",".join(map(str, batches.values())),
            "in_flight": question.in_flight,
            "slots": slots,
            "emulated": is_emulated,
        },
        inputs=digests | workspace.digests(times),
        jobs=[_job(setup, cell, question.levels(slots)) for cell in cells],
        devices=[device] if is_gpu else [],
        conclude=_conclude,
    )


def _planned_batch(catalog: Catalog, each: VariantProfile) -> int:
    """The batch size that plans take by default."""
    in_time = points_in_time(each.points, slo_fraction(1) * catalog.family(each.family).slo_s)
    return max((point.batch for point in in_time), default=each.points[0].batch)


def _conclude(cells: Mapping[str, Cell]) -> ConcurrencyConclusion | None:
    results = [cell.read(ConcurrencyResult) for cell in cells.values()]
    return concluded(results) if results else None


# --- cells


@dataclass(frozen=True, slots=True)
class ConcurrencyCell:
    """A variant with a batch size, and how the device is opened."""

    key: VariantKey
    batch: int
    way: StudiedWay


@dataclass(frozen=True, slots=True)
class DeviceSetup:
    """The ``catalog``, the file of each model, and the directory of engines for GPUs, to open the device with.

    A GPU is opened with ``slots``. An emulated device has the slots of its ``profile``.
    """

    catalog: Catalog
    models: dict[VariantKey, Path]
    built: Path
    profile: Profile
    device: Device
    slots: int

    @asynccontextmanager
    async def opened(self, cell: ConcurrencyCell) -> AsyncIterator[tuple[Executor, Batch]]:
        """The device, opened as a server opens it with one variant, and a batch.

        Raises `EngineError`, `BackendUnavailable` and `DeviceUnavailable`.
        """
        key = cell.key
        async with AsyncExitStack() as stack:
            hardware = await self._hardware(stack, cell)
            executor = hardware.open_device(self.device.id, lambda _loss: None)  # it fails its batches
            stack.callback(executor.close)
            await executor.load(key, hardware.models[key], cell.batch)
            part = hardware.signatures[key.family].sample_part(cell.batch, np.random.default_rng(0))
            yield executor, Batch(key, [part], cell.batch)

    async def _hardware(self, stack: AsyncExitStack, cell: ConcurrencyCell) -> Hardware:
        family = self.catalog.family(cell.key.family)
        alone = msgspec.structs.replace(family, variants=(family.variant(cell.key.variant),))
        catalog = msgspec.structs.replace(self.catalog, families=(alone,))  # no other model need be there
        if cell.way == "emulated":
            return stack.enter_context(emulated_devices({self.profile.device.id: self.profile}, catalog, {}))
        devices, models = {self.device.id: self.device}, {cell.key: self.models[cell.key]}
        slots = {self.device.id: self.slots}
        return await stack.enter_async_context(
            local_devices(devices, catalog, models, self.built, slots, in_processes=cell.way != "thread")
        )


def _job(setup: DeviceSetup, cell: ConcurrencyCell, levels: Sequence[int]) -> Job:
    batch_s = mean_batch_s(setup.profile, cell.key, cell.batch)
    round_s = sum(_sample_s(level, batch_s) for level in levels)
    return Job(
        f"{setup.catalog.label(cell.key)} ×{cell.batch}, {_WAYS[cell.way]}",
        "emulated" if cell.way == "emulated" else "measured",
        OPENING_S + USUAL_ROUNDS * round_s,
        partial(_measured, setup, cell, levels, batch_s),
        min_s=OPENING_S + FEWEST_ROUNDS * round_s,
    )


def _sample_s(in_flight: int, batch_s: float) -> float:
    """The length of a sample, where a batch takes ``batch_s`` alone."""
    return min(max(SAMPLE_S, BATCHES * in_flight * batch_s), LONGEST_SAMPLE_S)


def _measured(
    setup: DeviceSetup, cell: ConcurrencyCell, levels: Sequence[int], batch_s: float, turn: JobTurn
) -> ConcurrencyResult:
    """The scatter of a cell and its knee, in the allowed time. Raises `ProteusError`."""
    seed = crc32(f"{cell.key.family}/{cell.key.variant}/{cell.batch}/{cell.way}".encode())
    samples = asyncio.run(_samples(setup, cell, levels, batch_s, turn, np.random.default_rng(seed)))
    knee = fit_knee(samples, np.random.default_rng(seed))
    return ConcurrencyResult(*cell.key, cell.batch, cell.way, setup.slots, knee, tuple(samples))


async def _samples(
    setup: DeviceSetup, cell: ConcurrencyCell, levels: Sequence[int], batch_s: float, turn: JobTurn,
    rng: np.random.Generator,
) -> list[ScatterSample]:  # fmt: skip
    stop_s = monotonic() + turn.allowed_s
    samples = list[ScatterSample]()
    async with setup.opened(cell) as (executor, batch):
        for rounds in range(1, USUAL_ROUNDS + 1):
            begun_s = monotonic()
            for level in rng.permutation(levels).tolist():
                samples.append(await sample(executor, batch, level, _sample_s(level, batch_s)))
            turn.advance(f"round {rounds}", rounds / USUAL_ROUNDS)
            if rounds >= FEWEST_ROUNDS and math.isfinite(stop_s) and 2 * monotonic() - begun_s > stop_s:
                break
    return samples


async def sample(executor: Executor, batch: Batch, in_flight: int, length_s: float) -> ScatterSample:
    """Keep batches in flight: as one ends, the next is submitted. The time counts in which all are in flight.

    Raises `EngineError` and `DeviceLost` as batches do.
    """
    loop = asyncio.get_running_loop()
    stop_s = loop.time() + length_s
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
    return ScatterSample(in_flight, len(took_s) / (until_s - from_s) * batch.rows, sum(took_s) / len(took_s))


# --- the knee


def rise_and_fall(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The weighted least-squares fit to ``values`` that rises up to some place and falls from there on."""
    fits = []
    for split in range(1, len(values) + 1):
        fit = isotonic_regression(values[:split], weights=weights[:split]).x.tolist()
        if split < len(values):
            fit += isotonic_regression(values[split:], weights=weights[split:], increasing=False).x.tolist()
        fits.append(fit)
    return min(fits, key=lambda fit: float(np.dot(weights, np.subtract(values, fit) ** 2)))


def knee_place(fitted: Sequence[float]) -> int:
    """The place of the knee among fitted throughputs that are ordered by the number in flight."""
    least = (1 - TOLERANCE_FRAC) * max(fitted)
    return next(place for place, value in enumerate(fitted) if value >= least)


def fit_knee(samples: Sequence[ScatterSample], rng: np.random.Generator) -> Knee:
    """The knee of a scatter of samples of the same length, at least one."""
    numbers = sorted({sample.in_flight for sample in samples})
    by_level = [[sample for sample in samples if sample.in_flight == number] for number in numbers]
    measured = [np.array([sample.throughput for sample in each]) for each in by_level]
    weights = [float(len(each)) for each in measured]
    fitted = rise_and_fall([float(each.mean()) for each in measured], weights)
    place = knee_place(fitted)
    drawn = (each[rng.integers(len(each), size=(RESAMPLES, len(each)))] for each in measured)
    resampled = np.column_stack([each.mean(axis=1) for each in drawn])
    knees = [knee_place(rise_and_fall(row, weights)) for row in resampled.tolist()]
    low, high = (numbers[int(each)] for each in np.percentile(knees, INTERVAL, method="closest_observation"))
    levels = []
    for number, own, qps, fit, means in zip(numbers, by_level, measured, fitted, resampled.T, strict=True):
        mean, (least, most) = float(qps.mean()), np.percentile(means, INTERVAL).tolist()
        service_s = sum(sample.service_s for sample in own) / len(own)
        levels.append(ConcurrencyLevel(number, mean, min(least, mean), max(most, mean), fit, service_s, len(own)))
    return Knee(
        in_flight=numbers[place],
        low=min(low, numbers[place]),
        high=max(high, numbers[place]),
        confidence=knees.count(place) / RESAMPLES,
        throughput=max(fitted),
        is_seen=place < len(numbers) - 1,
        levels=tuple(levels),
    )
