"""A batch runs in slices of a few rows where the engine is faster so, as it finds when it is loaded."""

from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from proteus_cli.backends.base import NamedArrays, Signature, TensorSpec
from proteus_cli.serving.devices import cpu
from proteus_cli.serving.devices.cpu import CpuEngine

ROWS = 8


class DoublingRunner:
    """Doubles its input; a batch takes ``row_s`` for each row by its size, and 0.1 ms. Notes the rows of each batch."""

    memory_bytes = 0

    def __init__(self, small_row_s: float, large_row_s: float, out: int | None = 1) -> None:
        self.signature = Signature(
            (TensorSpec("x", np.dtype(np.float32), (1,)),), (TensorSpec("y", np.dtype(np.float32), (out,)),)
        )
        self._row_s, self.now_s, self.ran = (small_row_s, large_row_s), 0.0, list[int]()

    def infer(self, inputs: NamedArrays) -> NamedArrays:
        rows = len(inputs["x"])
        self.ran.append(rows)
        self.now_s += 1e-4 + rows * self._row_s[rows > 4]
        return {"y": 2 * inputs["x"]}


def batches_of(runner: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of the runs that a batch of 7 requests takes; its answer is right."""
    monkeypatch.setattr(cpu, "perf_counter", lambda: runner.now_s)
    engine = CpuEngine(runner, ExitStack(), ROWS)
    engine.tune()
    runner.ran.clear()
    parts = [(1, (np.array([number], np.float32).tobytes(),)) for number in range(7)]
    (outputs,) = engine.run(parts, 7).outputs
    assert outputs.ravel().tolist() == [0, 2, 4, 6, 8, 10, 12]
    return list(runner.ran)


def test_a_model_that_is_faster_with_few_rows_runs_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of slices of two and of four, those of four are faster: each has its 0.1 ms."""
    assert batches_of(DoublingRunner(1e-3, 2e-3), monkeypatch) == [4, 3]


def test_a_model_that_gains_by_many_rows_runs_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches_of(DoublingRunner(1e-3, 1e-3), monkeypatch) == [7]


def test_a_difference_within_the_scatter_of_times_makes_no_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches_of(DoublingRunner(1e-3, 1.03e-3), monkeypatch) == [7]


def test_outputs_whose_sizes_vary_are_not_put_together_from_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches_of(DoublingRunner(1e-3, 2e-3, out=None), monkeypatch) == [7]


def test_a_slow_model_is_run_once_at_its_load(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = DoublingRunner(1.0, 2.0)
    monkeypatch.setattr(cpu, "perf_counter", lambda: runner.now_s)
    CpuEngine(runner, ExitStack(), ROWS).tune()
    assert runner.ran == [ROWS]
