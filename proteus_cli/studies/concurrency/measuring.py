"""A cell is measured: samples of all levels in rounds, in random order."""

import asyncio
import math
from collections.abc import Sequence
from time import monotonic
from zlib import crc32

import numpy as np

from proteus_cli.studies.concurrency.cells import ConcurrencyCell, StudiedLevel
from proteus_cli.studies.concurrency.closed_loop import sample
from proteus_cli.studies.concurrency.knee import ScatterSample, fit_knee
from proteus_cli.studies.concurrency.opening import DeviceSetup, opened
from proteus_cli.studies.draft import JobTurn
from proteus_cli.studies.results import ConcurrencyResult

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
