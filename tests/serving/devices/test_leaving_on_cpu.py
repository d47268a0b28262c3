"""Parts of a batch that are due before its next stage ends are told on the loop, before the batch itself."""

import asyncio
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from exit_nets import CPU, exit_stages, inputs_of, loaded

from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.serving.devices.cpu import CpuEngine, CpuExecutor
from proteus_cli.serving.devices.executor import Batch, BatchResult

KEY = VariantKey("f", "v")
HOUR_S = 3600.0


def test_parts_are_told_in_order_with_their_rows(tmp_path: Path) -> None:
    """Three parts of two rows: the second has no time for the last stage, by a profile where that takes an hour."""
    told = list[tuple[Any, ...]]()
    quick, slow = ((StagePoint(1, s, s), StagePoint(6, s, s)) for s in (1e-9, HOUR_S))
    exits = [ExitProfile(points=quick), ExitProfile(points=quick), ExitProfile(points=slow)]
    content = [inputs_of(6)["x"][first : first + 2].tobytes() for first in (0, 2, 4)]

    async def run() -> None:
        executor = CpuExecutor(CPU, OnnxRuntime(CPU), print)
        with loaded(exit_stages(tmp_path), "exit >= 3") as runner:
            executor._engines[KEY] = CpuEngine(runner, ExitStack(), 6)
            now_s, ended = monotonic(), asyncio.Event()
            bounds = ExitBounds([now_s + each * HOUR_S for each in (2, 0.5, 3)], [2, 2, 2], exits)

            def done(result: BatchResult | Exception) -> None:
                told.append(((0, 1, 2), result))
                ended.set()

            batch = Batch(KEY, [(2, (each,)) for each in content], 6, bounds, leaving=lambda *each: told.append(each))
            executor.submit(batch, done)
            await asyncio.wait_for(ended.wait(), 30.0)
            executor.close()

    asyncio.run(run())
    (places, of_part), (_, whole) = told
    assert places == (1,)
    assert whole.notes[0].tolist() == [3, 3, 2, 2, 3, 3]
    assert 0 < of_part.ended_s <= whole.ended_s
    for values, of_all in zip(of_part.given, whole.given, strict=True):
        np.testing.assert_array_equal(values, of_all[2:4])
