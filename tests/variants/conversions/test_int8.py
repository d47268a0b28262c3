"""What is quantised of a model, and what that costs."""

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from networks import conv_net
from onnx import helper
from tiny import save_model, tensor

from proteus_cli.backends.base import NamedArrays
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.device import Device
from proteus_cli.profiling.answers import predicted_classes
from proteus_cli.variants.conversions.calibration import BATCH, MAX_ROWS
from proteus_cli.variants.conversions.int8 import needs_rows, reduces_range, to_int8

CPU = OnnxRuntime(Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,)))
CLASSES = 10


def noise(rows: int, seed: int) -> NamedArrays:
    return {"image": np.random.default_rng(seed).random((rows, 3, 16, 16)).astype(np.float32)}


def random_filters(path: Path) -> Path:
    """Random convolutions with a residual, whose last layer is set so that all classes of noise are as likely.

    Images of noise have features that hardly differ, and the scores of a class say by how much they do.
    """
    rng = np.random.default_rng(1)
    weights: dict[str, npt.NDArray[np.float32]] = {
        f"w{layer}": (rng.standard_normal((24, channels, 3, 3)) * (2 / (9 * channels)) ** 0.5).astype(np.float32)
        for layer, channels in enumerate((3, 24, 24))
    }
    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["c0"], **conv),
        helper.make_node("Relu", ["c0"], ["a0"]),
        helper.make_node("Conv", ["a0", "w1"], ["c1"], **conv),
        helper.make_node("Relu", ["c1"], ["a1"]),
        helper.make_node("Add", ["a0", "a1"], ["sum"]),
        helper.make_node("Conv", ["sum", "w2"], ["c2"], **conv),
        helper.make_node("Relu", ["c2"], ["a2"]),
        helper.make_node("GlobalAveragePool", ["a2"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["features"]),
    ]
    ends = [tensor("image", ["n", 3, 16, 16])], [tensor("features", ["n", 24])]
    with CPU.runner(save_model(path, nodes, inputs=ends[0], outputs=ends[1], weights=weights)) as runner:
        features = runner.infer(noise(256, seed=2))["features"]
    last = np.linalg.pinv(features - features.mean(axis=0))[:, :CLASSES].astype(np.float32)
    weights |= {"last": last, "bias": -(features.mean(axis=0) @ last)}
    nodes.append(helper.make_node("Gemm", ["features", "last", "bias"], ["scores"]))
    return save_model(path, nodes, inputs=ends[0], outputs=[tensor("scores", ["n", CLASSES])], weights=weights)


def agreement(model: Path, other: Path, rows: NamedArrays) -> float:
    with CPU.runner(model) as first, CPU.runner(other) as second:
        return float(np.mean(predicted_classes(first, rows) == predicted_classes(second, rows)))


def quantised(model: Path) -> Counter[str]:
    """The operators of an INT8 model whose results are quantised."""
    graph = onnx.load(model).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    return Counter(made_by.get(node.input[0], "input") for node in graph.node if node.op_type == "QuantizeLinear")


@pytest.fixture
def converted(tmp_path: Path) -> tuple[Path, Path]:
    """A model of random filters, and the same in INT8."""
    model, int8 = random_filters(tmp_path / "m.onnx"), tmp_path / "int8.onnx"
    int8.write_bytes(to_int8(onnx, model, noise(64, seed=3)))
    return model, int8


def test_scores_that_hardly_differ_survive(converted: tuple[Path, Path]) -> None:
    """With the mean, the last layer and the scores in 8 bits, two rows of three have another class.

    Three of four keep theirs, or half of them on a processor whose weights have 7 bits.
    """
    assert agreement(*converted, noise(512, seed=4)) > 0.45


def test_what_is_behind_the_last_convolution_stays_in_floating_point(converted: tuple[Path, Path]) -> None:
    """A `Relu` is part of the convolution before it, whose zero point does its work."""
    assert quantised(converted[1]) == {"input": 1, "Conv": 3, "Add": 1}


def test_a_model_with_more_products_than_convolutions_is_quantised_by_batch(tmp_path: Path) -> None:
    """Its convolution, as of the patches of a vision transformer, stays in floating point."""
    model = conv_net(tmp_path / "m.onnx")
    loaded = onnx.load(model)
    loaded.graph.node[-1].output[0] = "hidden"
    loaded.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "square"))
    loaded.graph.node.append(helper.make_node("MatMul", ["hidden", "square"], ["scores"]))
    onnx.save(loaded, model)
    assert not needs_rows(onnx, model)
    model.write_bytes(to_int8(onnx, model, None))
    operators = Counter(node.op_type for node in onnx.load(model).graph.node)
    assert (operators["Conv"], operators["ConvInteger"], operators["MatMulInteger"]) == (1, 0, 2)


@pytest.mark.parametrize(
    ("machine", "flags", "reduced"),
    [
        ("x86_64", {"avx2"}, True),
        ("x86_64", {"avx2", "avx512_vnni"}, False),
        ("x86_64", {"avx2", "avx_vnni"}, False),
        ("aarch64", set(), False),
    ],
)
def test_weights_have_7_bits_where_products_may_saturate(machine: str, flags: set[str], *, reduced: bool) -> None:
    assert reduces_range(machine, flags) is reduced


def test_int8_answers_nearly_as_before(tmp_path: Path) -> None:
    model, int8 = conv_net(tmp_path / "m.onnx"), tmp_path / "int8.onnx"
    rows = np.random.default_rng(0).random((64, 3, 8, 8)).astype(np.float32)
    int8.write_bytes(to_int8(onnx, model, {"image": rows}))
    with CPU.runner(model) as before, CPU.runner(int8) as after:
        assert before.signature == after.signature
        expected, found = (runner.infer({"image": rows})["scores"] for runner in (before, after))
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    assert not np.array_equal(found, expected)


def test_only_the_first_rows_calibrate(tmp_path: Path) -> None:
    """A row behind them may be as large as it likes."""
    model = conv_net(tmp_path / "m.onnx")
    rows = np.random.default_rng(0).random((MAX_ROWS + BATCH, 3, 8, 8)).astype(np.float32)
    rows[MAX_ROWS:] *= 1e6
    assert to_int8(onnx, model, {"image": rows}) == to_int8(onnx, model, {"image": rows[:MAX_ROWS]})
