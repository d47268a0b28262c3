"""The closed loop of the GPU benchmark: always so many batches submitted, never more. It runs on a CPU here."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import INPUTS, mlp

from benchmarks.gpu.closed_loop import Loop
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.serving.devices.cpu import CpuExecutor
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult

CPU = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))
KEY = VariantKey("shapes", "s")
ROWS = np.ones((2, INPUTS), np.float32)


class Counting(CpuExecutor):
    """Knows how many batches were inside at most."""

    inside = most = 0

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)

        def landed(result: BatchResult | Exception) -> None:
            self.inside -= 1
            done(result)

        super().submit(batch, landed)


async def looped(model: Path, check: Callable[[BatchResult], None], batch: Batch) -> tuple[float, Counting]:
    executor = Counting(CPU, OnnxRuntime(CPU), print)
    try:
        await executor.load(KEY, model, 2)
        return await Loop(executor, batch, 3, check).batches_per_s(0.05, 0.1), executor
    finally:
        executor.close()


def test_batches_are_counted_and_so_many_are_inside(tmp_path: Path) -> None:
    seen: list[BatchResult] = []
    batch = Batch(KEY, [(2, (ROWS.tobytes(),))], 2)
    rate, executor = asyncio.run(looped(mlp(tmp_path / "m.onnx"), seen.append, batch))
    assert 0 < rate <= len(seen) / 0.1
    assert (executor.most, executor.inside) == (3, 0)
    assert all(result.outputs[0].shape == (2, 3) for result in seen)


def test_a_wrong_answer_ends_it(tmp_path: Path) -> None:
    def refuse(_result: BatchResult) -> None:
        raise RuntimeError("wrong")

    with pytest.raises(RuntimeError, match="wrong"):
        asyncio.run(looped(mlp(tmp_path / "m.onnx"), refuse, Batch(KEY, [(2, (ROWS.tobytes(),))], 2)))


def test_a_batch_that_fails_ends_it(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r".+"):
        asyncio.run(looped(mlp(tmp_path / "m.onnx"), lambda _: None, Batch(KEY, [(3, (ROWS.tobytes(),))], 3)))
