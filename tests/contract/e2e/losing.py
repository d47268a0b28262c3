"""Loses the context of `gpu0`, twice: ``python -m contract.e2e.losing DIRECTORY``, where the doubles are.

A kernel goes astray for a poisoned input. That ends the process of the device, and no other: a fresh one has to answer.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tiny import CLASSES, INPUTS, looking_up

from proteus_cli.backends.discovery import gpu_devices
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import DeviceLost
from proteus_cli.serving.devices.executor import Batch, BatchResult
from proteus_cli.serving.devices.process.executor import ProcessExecutor
from proteus_cli.serving.devices.process.messages import GpuSpec

KEY: VariantKey = VariantKey("shapes", "table")
POISON = 99.0
PATIENCE_S = 60.0


def batch(value: float) -> Batch:
    return Batch(KEY, [(1, (np.full(INPUTS, value, np.float32).tobytes(),))], 1)


async def lose(spec: GpuSpec, model: Path) -> int | None:
    """Answer a batch, then lose the device; the process that it had."""
    told, all_told = list[tuple[str, Any]](), asyncio.Event()

    def lost(loss: DeviceLost) -> None:
        told.append(("owner", loss))

    def done(result: BatchResult | Exception) -> None:
        told.append(("batch", result))
        all_told.set()

    executor = ProcessExecutor(spec, lost)
    assert await executor.opened() == "tensorrt-double"
    await executor.load(KEY, model, 4)
    executor.submit(batch(2.0), done)
    await all_told.wait()
    assert told[0][1].outputs[0].tolist() == [[2 * CLASSES + place for place in range(CLASSES)]]
    all_told.clear()
    executor.submit(batch(POISON), done)
    await all_told.wait()
    assert [who for who, _ in told] == ["batch", "owner", "batch"]
    for _, loss in told[1:]:
        assert isinstance(loss, DeviceLost), loss
        assert "illegal memory access" in str(loss), loss
    while (Path("/proc") / str(executor.pid)).exists():
        await asyncio.sleep(0.01)
    return executor.pid


async def main(directory: Path) -> None:
    (gpu,) = gpu_devices()
    model = looking_up(directory / "table.onnx")
    spec = GpuSpec(gpu, str(directory / "built"), slots=2)
    async with asyncio.timeout(PATIENCE_S):
        assert await lose(spec, model) != await lose(spec, model)
    assert not {"pycuda", "tensorrt"} & sys.modules.keys(), "CUDA was used by the process that must survive"


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
