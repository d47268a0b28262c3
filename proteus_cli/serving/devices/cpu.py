"""Runs batches on CPU cores: in a thread, or inline."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter

import numpy as np

from proteus_cli.backends.base import Backend, OutputArrays, Part, Runner, Signature, gather
from proteus_cli.backends.exits.runner import ExitRunner
from proteus_cli.backends.free_memory import within_free_memory
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.errors import EngineError
from proteus_cli.serving.devices.bisection import Left, leave_by, run_with_bisection
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult, LeavingCallback, OnLost
from proteus_cli.serving.devices.threaded import ThreadedExecutor
from proteus_cli.units import counted


class CpuEngine:
    """A loaded model and the buffers in which its batches are gathered; these are made once and used again."""

    def __init__(self, runner: Runner, stack: ExitStack, rows: int) -> None:
        self._runner, self._stack = runner, stack
        self.signature: Signature = runner.signature
        self._known_good = self.signature.sample_part(1, np.random.default_rng(0))
        self._reserve(rows)

    def close(self) -> None:
        """Free the model."""
        self._stack.close()

    def run(
        self,
        parts: Sequence[Part],
        rows: int,
        bounds: ExitBounds | None = None,
        leaving: LeavingCallback | None = None,
    ) -> BatchResult:
        """Run parts as one batch, a multi-exit model within ``bounds``. Raises `EngineError` where all parts fail.

        ``leaving`` as `Batch` has it, but on the calling thread.
        """
        start_s = perf_counter()
        if rows > self._max_rows:
            self._reserve(rows)

        left = leaving and partial(self._left, leaving, start_s)
        return self._result(*run_with_bisection(parts, self._run, self._known_good, bounds, left), start_s)

    def _left(self, leaving: LeavingCallback, start_s: float, places: Sequence[int], given: OutputArrays) -> None:
        leaving(places, self._result(given, {}, start_s))

    def _result(self, given: OutputArrays, failures: Mapping[int, EngineError], start_s: float) -> BatchResult:
        outputs, notes = self.signature.told_apart(given)
        return BatchResult(outputs, perf_counter() - start_s, failures, notes=notes, ended_s=monotonic())

    def _run(self, parts: Sequence[Part], bounds: ExitBounds | None = None, left: Left | None = None) -> OutputArrays:
        rows = sum([rows for rows, _ in parts])
        inputs = {}
        for which, (spec, row_bytes, view, values) in enumerate(self._inputs):
            gather(parts, which, view, row_bytes)
            inputs[spec.name] = values[:rows]
        if isinstance(self._runner, ExitRunner) and bounds is not None:
            outputs = tuple(self._runner.infer(inputs, bounds, leave=leave_by(left)).values())
        else:
            outputs = tuple(self._runner.infer(inputs).values())
        for values in outputs:
            if len(values) != rows:
                raise EngineError(f"the model gave {counted(len(values), 'row')} for the {rows} that it got")
        return outputs

    def _reserve(self, rows: int) -> None:
        """Make buffers for batches of up to ``rows`` rows."""
        self._max_rows = rows
        self._inputs = []
        for spec in self.signature.inputs:
            values = np.zeros((rows, *spec.sizes), spec.dtype)
            self._inputs.append((spec, spec.row_bytes, values.reshape(-1).view(np.uint8).data, values))


class CpuExecutor(ThreadedExecutor[CpuEngine]):
    """An `Executor` of a group of cores: one batch at a time, and loads beside it.

    ONNX Runtime releases the GIL while it runs and while it loads, so devices run side by side. On one core it has no
    threads of its own.
    """

    runs_inline = True

    def __init__(self, device: Device, backend: Backend, on_lost: OnLost) -> None:
        self._backend = backend
        super().__init__(device.id, on_lost, device.cores, loads_give_way=len(device.cores) == 1)

    def run(self, batch: Batch) -> BatchResult:
        self._require_open()
        return self._engines[batch.key].run(batch.parts, batch.rows, batch.bounds, batch.leaving)

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        self._require_open()
        engine = self._engines[batch.key]
        number = self._register(done)
        leaving = batch.leaving and partial(self._on_loop, self._part_left, number, batch.leaving)

        def run_batch() -> None:
            if self.is_lost:
                return
            try:
                result: BatchResult | Exception = engine.run(batch.parts, batch.rows, batch.bounds, leaving)
            except Exception as error:  # noqa: BLE001 - the batch's callback gets it
                result = error
            self._on_loop(self._complete, number, result)

        self._jobs.put(run_batch)

    def _load(self, key: VariantKey, model: Path, warm_up_rows: int) -> CpuEngine:
        with within_free_memory(f"`{model}`"), ExitStack() as stack:
            runner = stack.enter_context(self._backend.runner(model, key))
            rng = np.random.default_rng(0)
            for rows in sorted({1, 2, warm_up_rows}):
                for name, values in runner.infer(runner.signature.sample(rows, rng)).items():
                    if len(values) != rows:
                        raise EngineError(
                            f"`{name}` of `{model}` has {counted(len(values), 'row')} for {rows} of input.",
                            hint="export the model with axis 0 of every input and output as the batch",
                        )
            return CpuEngine(runner, stack.pop_all(), warm_up_rows)
