"""Where batches run: one seam, ``submit(engine, parts) → future``, so that threads and others interchange."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Protocol

import numpy as np

from proteus_cli.backends.affinity import pin_this_thread
from proteus_cli.backends.base import Arrays, Backend, Runner, Signature
from proteus_cli.domain.device import Device
from proteus_cli.errors import EngineError

EngineKey = tuple[str, str]
"""(family, variant)"""


@dataclass(frozen=True, slots=True, eq=False)
class BatchResult:
    """``outputs`` of all rows in the order of the parts, and the seconds that the batch took."""

    outputs: Arrays
    compute_s: float


class Executor(Protocol):
    """Loads engines on one device and runs batches on them."""

    async def load(self, key: EngineKey, model: Path, warm_up_rows: int) -> Signature:
        """Load and warm up an engine beside those that are loaded. Raises `EngineError`."""
        ...

    def unload(self, key: EngineKey) -> None:
        """Free an engine once what was submitted before has run."""
        ...

    def submit(self, key: EngineKey, parts: Sequence[Arrays]) -> asyncio.Future[BatchResult]:
        """Run one batch made of the rows of all parts, in order."""
        ...

    def close(self) -> None:
        """Wait for what was submitted, then free everything."""
        ...


class ThreadExecutor:
    """One thread that runs and one that loads, both on the cores of the device.

    ONNX Runtime releases the GIL while it runs, so lanes run side by side.
    """

    def __init__(self, device: Device, backend: Backend) -> None:
        self._backend = backend
        self._engines: dict[EngineKey, tuple[Runner, ExitStack]] = {}
        self._run, self._load = (
            ThreadPoolExecutor(1, f"{device.id}-{role}", pin_this_thread, (device.cores,)) for role in ("run", "load")
        )

    async def load(self, key: EngineKey, model: Path, warm_up_rows: int) -> Signature:
        runner, stack = await asyncio.get_running_loop().run_in_executor(self._load, self._open, model, warm_up_rows)
        self._engines[key] = (runner, stack)
        return runner.signature

    def unload(self, key: EngineKey) -> None:
        _, stack = self._engines.pop(key)
        self._run.submit(stack.close)

    def submit(self, key: EngineKey, parts: Sequence[Arrays]) -> asyncio.Future[BatchResult]:
        runner = self._engines[key][0]
        return asyncio.get_running_loop().run_in_executor(self._run, _infer, runner, parts)

    def close(self) -> None:
        for key in list(self._engines):
            self.unload(key)
        self._load.shutdown()
        self._run.shutdown()

    def _open(self, model: Path, warm_up_rows: int) -> tuple[Runner, ExitStack]:
        with ExitStack() as stack:
            runner = stack.enter_context(self._backend.runner(model))
            rng = np.random.default_rng(0)
            for rows in sorted({1, 2, warm_up_rows}):
                outputs = runner.infer(runner.signature.sample(rows, rng))
                _require_rows(model, outputs, rows)
            return runner, stack.pop_all()


def _require_rows(model: Path, outputs: Arrays, rows: int) -> None:
    """Each row of a batch must have its row in every output, or its answer couldn't be told from the others'."""
    for name, values in outputs.items():
        if len(values) != rows:
            raise EngineError(
                f"`{name}` of `{model}` has {len(values)} rows for {rows} rows of input.",
                hint="export the model with axis 0 of every input and output as the batch",
            )


def _infer(runner: Runner, parts: Sequence[Arrays]) -> BatchResult:
    start_s = perf_counter()
    inputs = parts[0] if len(parts) == 1 else {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    outputs = runner.infer(inputs)
    rows = len(next(iter(inputs.values())))
    if any(len(values) != rows for values in outputs.values()):
        raise EngineError(f"the model gave other rows than the {rows} that it got")
    return BatchResult(outputs, perf_counter() - start_s)
