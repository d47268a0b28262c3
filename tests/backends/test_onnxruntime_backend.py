"""ONNX Runtime on the CPU: what it takes, gives and refuses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tiny import mlp, passing_on, save_model, tensor

from proteus_cli.backends.base import TensorSpec
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.device import Device
from proteus_cli.errors import EngineError

CPU = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))
TYPES = {
    TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64", TensorProto.FLOAT16: "float16",
    TensorProto.INT8: "int8", TensorProto.INT16: "int16", TensorProto.INT32: "int32", TensorProto.INT64: "int64",
    TensorProto.UINT8: "uint8", TensorProto.UINT16: "uint16", TensorProto.UINT32: "uint32",
    TensorProto.UINT64: "uint64", TensorProto.BOOL: "bool",
}  # fmt: skip


def identity(path: Path, shape: Sequence[Any], dtype: int = TensorProto.FLOAT) -> Path:
    node = helper.make_node("Identity", ["x"], ["y"])
    return save_model(path, [node], inputs=[tensor("x", shape, dtype)], outputs=[tensor("y", shape, dtype)])


@pytest.mark.parametrize("dtype", TYPES, ids=TYPES.values())
def test_every_numeric_type_comes_back_as_it_went_in(tmp_path: Path, dtype: int) -> None:
    model = identity(tmp_path / "m.onnx", ["n", 3], dtype)
    with OnnxRuntime(CPU).runner(model) as runner:
        assert runner.signature.inputs == (TensorSpec("x", np.dtype(TYPES[dtype]), (3,)),)
        sample = runner.signature.sample(5, np.random.default_rng(0))
        (given,) = runner.infer(sample).values()
    assert given.dtype == TYPES[dtype]
    np.testing.assert_array_equal(given, sample["x"])


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_one_model_takes_any_number_of_rows(tmp_path: Path, rows: int) -> None:
    with OnnxRuntime(CPU).runner(mlp(tmp_path / "m.onnx")) as runner:
        assert runner.memory_bytes > 0
        assert runner.infer(runner.signature.sample(rows, np.random.default_rng(0)))["scores"].shape == (rows, 3)


def test_a_row_is_answered_alike_alone_and_in_a_batch(tmp_path: Path) -> None:
    with OnnxRuntime(CPU).runner(mlp(tmp_path / "m.onnx")) as runner:
        batch = runner.signature.sample(6, np.random.default_rng(0))["x"]
        together = runner.infer({"x": batch})["scores"]
        alone = [runner.infer({"x": batch[row : row + 1]})["scores"][0] for row in range(6)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_a_model_may_have_rows_of_any_shape(tmp_path: Path) -> None:
    for number, row in enumerate([[], [2, 3, 4]]):
        model = identity(tmp_path / f"{number}.onnx", ["n", *row])
        with OnnxRuntime(CPU).runner(model) as runner:
            assert runner.signature.outputs[0].shape == tuple(row)
            assert runner.infer({"x": np.zeros((2, *row), np.float32)})["y"].shape == (2, *row)


def test_sizes_of_outputs_may_vary(tmp_path: Path) -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    model = save_model(tmp_path / "m.onnx", nodes, inputs=[tensor("x", ["n", 4])], outputs=[tensor("y", ["n", "k"])])
    with OnnxRuntime(CPU).runner(model) as runner:
        assert runner.signature.outputs[0].shape == (None,)


@pytest.mark.parametrize(
    ("shape", "dtype", "problem"),
    [
        ([], TensorProto.FLOAT, "no dynamic batch axis"),
        ([1, 4], TensorProto.FLOAT, "no dynamic batch axis"),
        (["n", "m"], TensorProto.FLOAT, "a dynamic axis besides the batch"),
        (["n", None], TensorProto.FLOAT, "a dynamic axis besides the batch"),
        (["n", 4], TensorProto.STRING, "can't be served"),
        (["n", 4], TensorProto.COMPLEX64, ""),
        (["n", 4], TensorProto.BFLOAT16, ""),
    ],
)
def test_a_model_that_cannot_be_batched_is_refused(
    tmp_path: Path, shape: Sequence[Any], dtype: int, problem: str
) -> None:
    model = identity(tmp_path / "m.onnx", shape, dtype)
    with pytest.raises(EngineError) as refused, OnnxRuntime(CPU).runner(model):
        pass
    assert problem in refused.value.message
    assert "m.onnx" in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08", bytes(1000)])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(content)
    with pytest.raises(EngineError) as refused, OnnxRuntime(CPU).runner(model):
        pass
    assert "m.onnx" in refused.value.message
    assert "\n" not in refused.value.message


def test_a_batch_that_the_model_fails_on_is_an_engine_error(tmp_path: Path) -> None:
    with OnnxRuntime(CPU).runner(passing_on(tmp_path / "m.onnx")) as runner:
        with pytest.raises(EngineError, match="the model failed"):
            runner.infer({"x": np.zeros((1, 5), np.float32)})
        assert runner.infer({"x": np.zeros((1, 4), np.float32)})["scores"].shape == (1, 4)


def test_the_runtime_keeps_no_record_of_its_use() -> None:
    """It would have its database open in each process that has imported it."""
    files = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
    assert [file for file in files if "onnxruntime.db" in file.name] == []
