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
from contract.runtime.drivers import DEVICE, FAKE, REAL, plan_of
from contract.runtime.drivers import device as driver
from exit_nets import exit_stages, stages_that_hand_on
from onnx import helper
from short_forms import parse_condition
from tiny import INPUTS, looking_up, mlp, save_model, tensor

from proteus_cli.backends.base import NamedArrays, Part
from proteus_cli.backends.exits.runner import CONFIDENCE_NOTE, EXIT_NOTE, HostExitRunner
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.backends.tensorrt.chain import ChainPlans
from proteus_cli.backends.tensorrt.cuda import primary_context
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.errors import DeviceLost
from proteus_cli.serving.devices.executor import Batch, BatchResult, LeavingCallback
from proteus_cli.serving.devices.gpu import GpuExecutor

MAX_ROWS = 16
SMALL: VariantKey = VariantKey("shapes", "small")
LARGE: VariantKey = VariantKey("shapes", "large")
TABLE: VariantKey = VariantKey("shapes", "table")
WIDE: VariantKey = VariantKey("shapes", "wide")
CHAIN: VariantKey = VariantKey("shapes", "chain")  # rows stop at each of three exits
WHOLE: VariantKey = VariantKey("shapes", "whole")  # the same stages, in which all rows get to the last exit
HANDING: VariantKey = VariantKey("shapes", "handing")  # its second stage hands on what it takes
EXITS = 3
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
        self.stages = exit_stages(directory, EXITS)
        stages = [OnnxRuntime(CPU).runner(path).__enter__() for path in self.stages]
        whole = HostExitRunner(stages, parse_condition(f"exit >= {EXITS}"), "margin")
        self.rows_for_exits, threshold = _rows_and_threshold(whole)
        self.conditions = {CHAIN: f"confidence >= {threshold}", WHOLE: f"exit >= {EXITS}"}
        self._chains = {
            key: HostExitRunner(stages, parse_condition(stop_when), "margin")
            for key, stop_when in self.conditions.items()
        }
        if DEVICE == FAKE:
            self._add_handing(directory / "handing")
        self.replaced: dict[VariantKey, ChainPlans] = {}
        self._whole = whole
        self.paths |= dict.fromkeys(self.conditions, directory / "none.exits")  # `plan` knows the stages

    def _add_handing(self, directory: Path) -> None:
        self.handing = stages_that_hand_on(directory)
        stages = [OnnxRuntime(CPU).runner(path).__enter__() for path in self.handing]
        self.conditions[HANDING] = self.conditions[CHAIN]
        self._chains[HANDING] = HostExitRunner(stages, parse_condition(self.conditions[HANDING]), "margin")

    def plan(self, key: VariantKey, model: Path) -> bytes | ChainPlans:
        if key in self.replaced:
            return self.replaced[key]
        if key not in self.conditions:
            return plan_of(model, MAX_ROWS)
        stages = tuple(plan_of(stage, MAX_ROWS) for stage in (self.handing if key == HANDING else self.stages))
        return ChainPlans(stages, parse_condition(self.conditions[key]), "margin", str(key))

    def answer(self, key: VariantKey, rows: Rows) -> Rows:
        return self.answers(key, rows)["scores"]

    def first_exit(self, rows: Rows) -> Rows:
        return next(self._whole.passed({"x": rows})).outputs["scores"]

    def answers(self, key: VariantKey, rows: Rows) -> NamedArrays:
        """With the notes of a multi-exit model."""
        return (self._chains.get(key) or self._runners[key]).infer({"x": rows})


def _rows_and_threshold(whole: HostExitRunner) -> tuple[Rows, float]:
    """Few rows, and a confidence that none of them is near to at any exit: whatever computes, the same rows stop."""
    rows = np.random.default_rng(5).standard_normal((40, INPUTS)).astype(np.float32)
    *before, _ = (passed.confidence for passed in whole.passed({"x": rows}))
    known = np.sort(np.concatenate(before))
    middle = known[len(known) // 3 : 2 * len(known) // 3]
    gap = int(np.argmax(np.diff(middle)))
    return rows, float(middle[gap : gap + 2].mean())


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
        if key in self.models.conditions:
            known = self.models.rows_for_exits
            return known[self.rng.integers(0, len(known), int(self.rng.integers(1, MAX_ROWS + 1)))]
        inputs = WIDE_INPUTS if key == WIDE else INPUTS
        return self.rng.random((int(self.rng.integers(1, MAX_ROWS + 1)), inputs), dtype=np.float32)

    def submit(
        self,
        key: VariantKey,
        parts: Sequence[Part],
        bounds: ExitBounds | None = None,
        leaving: LeavingCallback | None = None,
    ) -> "asyncio.Future[BatchResult]":
        """What comes of a batch; also where it is refused at once."""
        future: asyncio.Future[BatchResult] = asyncio.get_running_loop().create_future()

        def done(result: BatchResult | Exception) -> None:
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        rows = sum(rows for rows, _ in parts)
        self.executor.submit(Batch(key, parts, rows, bounds, leaving=leaving), done)
        return future

    async def check(self, key: VariantKey, batches: int) -> None:
        """Submit batches of all sizes at once; each must be answered as on the CPU."""
        asked = [self.rows(key) for _ in range(batches)]
        results = await asyncio.gather(*(self.submit(key, parts_of(rows)) for rows in asked))
        answered = zip(results, asked, strict=True)
        wrong = sum(not same(result.outputs[0], self.models.answer(key, rows)) for result, rows in answered)
        assert not wrong, f"wrong answers: {wrong} of {batches}"

    async def check_exits(self, key: VariantKey, batches: int) -> list[npt.NDArray[np.uint8]]:
        """As `check`, for a multi-exit model: also each row's exit and confidence; returns the exits by batch."""
        asked = [self.rows(key) for _ in range(batches)]
        results = await asyncio.gather(*(self.submit(key, parts_of(rows)) for rows in asked))
        wrong, exits = 0, []
        for result, rows in zip(results, asked, strict=True):
            wanted = self.models.answers(key, rows)
            wrong += not (
                same(result.outputs[0], wanted["scores"])
                and np.array_equal(result.notes[0], wanted[EXIT_NOTE])
                and same(result.notes[1], wanted[CONFIDENCE_NOTE])
            )
            exits.append(wanted[EXIT_NOTE])
        assert not wrong, f"wrong answers: {wrong} of {batches}"
        return exits


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
        driver.check_clean(before)


async def _use_once(models: Models) -> None:
    executor = GpuExecutor(primary_context(0), models.plan, print, slots=1)
    try:
        await executor.load(SMALL, models.paths[SMALL], MAX_ROWS)
    finally:
        executor.close()
