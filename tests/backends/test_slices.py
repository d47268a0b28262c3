"""A batch runs in slices of a few rows where the model is faster so, as is found before its first batch."""

import numpy as np
import pytest

from proteus_cli.backends import slices
from proteus_cli.backends.base import NamedArrays, Signature, TensorSpec
from proteus_cli.backends.slices import (
    MAX_KNOWN,
    MAX_TRIED_BYTES,
    TRIED_ROWS,
    WHOLE,
    KnownSlices,
    SlicedInference,
    fastest_slice,
)
from proteus_cli.errors import EngineError


class DoublingModel:
    """Doubles its input; a batch takes ``row_s`` for each row by its size, and 0.1 ms. Notes the rows of each batch."""

    def __init__(
        self, small_row_s: float, large_row_s: float, *, out: int | None = 1, max_rows: int = 99, size: int = 1
    ) -> None:
        self.signature = Signature(
            (TensorSpec("x", np.dtype(np.float32), (size,)),), (TensorSpec("y", np.dtype(np.float32), (out,)),)
        )
        self._row_s, self._max_rows, self.now_s, self.ran = (small_row_s, large_row_s), max_rows, 0.0, list[int]()

    def infer(self, inputs: NamedArrays) -> NamedArrays:
        rows = len(inputs["x"])
        if rows > self._max_rows:
            raise EngineError("too many rows")
        self.ran.append(rows)
        self.now_s += 1e-4 + rows * self._row_s[rows > 4]
        return {"y": 2 * inputs["x"]}


def batches_of(model: DoublingModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of the runs that a batch of 7 rows takes; its answer is right."""
    monkeypatch.setattr(slices, "thread_time", lambda: model.now_s)
    infer = SlicedInference(model.infer, model.signature, fastest_slice)
    infer(model.signature.sample(1, np.random.default_rng(0)))
    model.ran.clear()
    outputs = infer({"x": np.arange(7, dtype=np.float32)[:, None]})
    assert outputs["y"].ravel().tolist() == [0, 2, 4, 6, 8, 10, 12]
    return list(model.ran)


def test_a_model_that_is_faster_with_few_rows_runs_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of slices of two and of four, those of four are faster: each has its 0.1 ms."""
    assert batches_of(DoublingModel(4e-4, 8e-4), monkeypatch) == [4, 3]


def test_a_model_that_gains_by_many_rows_runs_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches_of(DoublingModel(1e-3, 1e-3), monkeypatch) == [7]


def test_a_difference_within_the_scatter_of_times_makes_no_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches_of(DoublingModel(1e-3, 1.06e-3), monkeypatch) == [7]


def test_outputs_whose_sizes_vary_are_not_put_together_from_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches_of(DoublingModel(4e-4, 8e-4, out=None), monkeypatch) == [7]


def test_a_model_that_takes_no_large_batch_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches_of(DoublingModel(4e-4, 8e-4, max_rows=TRIED_ROWS - 1), monkeypatch) == [7]


def test_a_slow_model_is_tried_with_no_large_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = DoublingModel(1.0, 2.0)
    monkeypatch.setattr(slices, "thread_time", lambda: model.now_s)
    assert fastest_slice(model.infer, model.signature) == WHOLE
    assert set(model.ran) == {1}


def test_a_model_of_large_rows_is_not_tried() -> None:
    model = DoublingModel(4e-4, 8e-4, size=MAX_TRIED_BYTES // 4 // TRIED_ROWS + 1)
    assert fastest_slice(model.infer, model.signature) == WHOLE
    assert model.ran == []


def test_a_model_that_is_loaded_again_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    known, model = KnownSlices(), DoublingModel(4e-4, 8e-4)
    monkeypatch.setattr(slices, "thread_time", lambda: model.now_s)
    assert known.find("m", model.infer, model.signature) == 4
    model.ran.clear()
    assert known.find("m", model.infer, model.signature) == 4
    assert not model.ran
    known.find("another", model.infer, model.signature)
    assert model.ran


def test_only_so_many_models_are_remembered() -> None:
    known, model = KnownSlices(), DoublingModel(4e-4, 8e-4, out=None)  # which needs no tries
    for number in range(2 * MAX_KNOWN):
        assert known.find(number, model.infer, model.signature) == WHOLE
    assert len(known) == MAX_KNOWN


def test_a_model_that_is_loaded_again_and_again_stays_known(monkeypatch: pytest.MonkeyPatch) -> None:
    known, model = KnownSlices(), DoublingModel(4e-4, 8e-4, out=None)
    tried = list[object]()

    def find(infer: object, _signature: object) -> int:
        tried.append(infer)
        return WHOLE

    monkeypatch.setattr(slices, "fastest_slice", find)
    for number in range(2 * MAX_KNOWN):
        known.find(number, model.infer, model.signature)
        known.find("kept", model.infer, model.signature)
    assert len(tried) == 2 * MAX_KNOWN + 1
