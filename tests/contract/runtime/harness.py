"""A device of the fake driver with models that are easy to check, for the scenarios."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from contract.runtime.drivers import DEVICE, REAL, plan_of
from contract.runtime.drivers import device as driver
from onnx import helper
from tiny import INPUTS, looking_up, mlp, save_model, tensor

from proteus_cli.backends.base import Part
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.backends.tensorrt.cuda import primary_context
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.errors import DeviceLost
from proteus_cli.serving.devices.executor import Batch, BatchResult
from proteus_cli.serving.devices.gpu import GpuExecutor

MAX_ROWS = 16
SMALL: VariantKey = VariantKey("shapes", "small")
LARGE: VariantKey = VariantKey("shapes", "large")
TABLE: VariantKey = VariantKey("shapes", "table")
WIDE: VariantKey = VariantKey("shapes", "wide")
WIDE_INPUTS = 65_536  # a batch of them takes longer to copy than to compute
Rows = npt.NDArray[np.float32]

CPU = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))


class Models:
    """ONNX files, plans of them, and what they answer on the CPU."""

    def __init__(self, directory: Path) -> None:
        self.paths = {
            SMALL: mlp(directory / "small.onnx", hidden=8, seed=0),
            LARGE: mlp(directory / "large.onnx", hidden=16, seed=1),
            TABLE: looking_up(directory / "table.onnx"),
        }
        if DEVICE == REAL:
            self.paths[WIDE] = mlp(directory / "wide.onnx", inputs=WIDE_INPUTS, seed=2)
        self._runners = {key: OnnxRuntime(CPU).runner(path).__enter__() for key, path in self.paths.items()}

    def plan(self, key: VariantKey, model: Path) -> bytes:
        return plan_of(model, MAX_ROWS)

    def answer(self, key: VariantKey, rows: Rows) -> Rows:
        return self._runners[key].infer({"x": rows})["scores"]


@dataclass
class Harness:
    executor: GpuExecutor
    models: Models
    told: list[DeviceLost] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    async def load(self, key: VariantKey) -> None:
        await self.executor.load(key, self.models.paths[key], MAX_ROWS)

    def rows(self, key: VariantKey = SMALL) -> Rows:
        """A batch of any size."""
        inputs = WIDE_INPUTS if key == WIDE else INPUTS
        return self.rng.random((int(self.rng.integers(1, MAX_ROWS + 1)), inputs), dtype=np.float32)

    def submit(self, key: VariantKey, parts: Sequence[Part]) -> "asyncio.Future[BatchResult]":
        """What comes of a batch; also where it is refused at once."""
        future: asyncio.Future[BatchResult] = asyncio.get_running_loop().create_future()

        def done(result: BatchResult | Exception) -> None:
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.executor.submit(Batch(key, parts, sum(rows for rows, _ in parts)), done)
        return future

    async def check(self, key: VariantKey, batches: int) -> None:
        """Submit batches of all sizes at once; each must be answered as on the CPU."""
        asked = [self.rows(key) for _ in range(batches)]
        results = await asyncio.gather(*(self.submit(key, parts_of(rows)) for rows in asked))
        answered = zip(results, asked, strict=True)
        wrong = sum(not same(result.outputs[0], self.models.answer(key, rows)) for result, rows in answered)
        assert not wrong, f"wrong answers: {wrong} of {batches}"


def same(found: npt.NDArray[Any], wanted: Rows) -> bool:
    return found.shape == wanted.shape and np.allclose(found, wanted, atol=driver.TOLERANCE)


def parts_of(rows: Rows) -> list[Part]:
    """The rows as one request for each two of them."""
    return [(len(some), (some.tobytes(),)) for some in np.split(rows, range(2, len(rows), 2))]


def with_fixed_batch(path: Path) -> Path:
    """A model that always takes two rows."""
    ends = ([tensor(name, [2, INPUTS])] for name in ("x", "scores"))
    return save_model(path, [helper.make_node("Identity", ["x"], ["scores"])], inputs=next(ends), outputs=next(ends))


@asynccontextmanager
async def opened(*, slots: int = 2, leaves_nothing: bool = True) -> AsyncIterator[Harness]:
    """An executor of the one device; nothing of it may be left over."""
    told: list[DeviceLost] = []
    with tempfile.TemporaryDirectory() as directory:
        models = Models(Path(directory))
        if DEVICE == REAL:  # libraries load what they then keep
            await _use_once(models)
        before = driver.census()
        executor = GpuExecutor(primary_context(0), models.plan, told.append, slots=slots)
        try:
            yield Harness(executor, models, told)
        finally:
            executor.close()
    if leaves_nothing:
        driver.require_clean(before)


async def _use_once(models: Models) -> None:
    executor = GpuExecutor(primary_context(0), models.plan, print, slots=1)
    try:
        await executor.load(SMALL, models.paths[SMALL], MAX_ROWS)
    finally:
        executor.close()
