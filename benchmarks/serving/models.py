"""The models, made from a seed, and rows with the scores that ONNX Runtime gives them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.serving.programs.models import SCORES, SHAPES, Floats, Model

SEED = 64
SAMPLES = 16  # different rows of each family, so that answers that were mixed up are noticed
CNN_WIDTHS, CNN_KERNEL = (1, 16, 48, 96), 3  # 0.35–0.6 ms a row
WIDE_WIDTHS = (1, 32, 80, 160)  # 1 ms
PIXELS = 224  # of a side of an image


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """``rows`` of a family, [16, …], and their ``scores``, [16, 10]."""

    rows: Floats
    scores: Floats


def make_models(directory: Path) -> None:
    """Write ``tiny.onnx`` (MLP 64→32→10), ``cnn.onnx``, ``wide.onnx`` (64×64 in) and ``image.onnx`` (3×224×224 in)."""
    rng = np.random.default_rng(SEED)
    cnn, wide = partial(_cnn, CNN_WIDTHS), partial(_cnn, WIDE_WIDTHS)
    for family, layers in (("tiny", _tiny), ("cnn", cnn), ("image", _image), ("wide", wide)):
        onnx.save(_model(family, *layers(rng)), directory / f"{family}.onnx")


def make_samples(family: str) -> Samples:
    """Rows from a seed, through the model in ``$BENCH_MODELS`` one at a time."""
    rng = np.random.default_rng(SEED)
    rows = rng.standard_normal((SAMPLES, *SHAPES[family]), np.float32)
    model = Model(family)
    return Samples(rows, np.concatenate([model(row[None]) for row in rows]))


Layers = tuple[Sequence[onnx.NodeProto], dict[str, Floats]]


def _tiny(rng: np.random.Generator) -> Layers:
    weights = {"w1": _weights(rng, 64, 32), "b1": _weights(rng, 32), "w2": _weights(rng, 32, SCORES)}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "w2"], ["y"]),
    ]
    return nodes, weights


def _cnn(widths: Sequence[int], rng: np.random.Generator) -> Layers:
    """Three convolutions at 64×64, 32×32 and 16×16."""
    kernels = (_weights(rng, wide, narrow, CNN_KERNEL, CNN_KERNEL) for narrow, wide in pairwise(widths))
    weights = {f"k{i}": kernel for i, kernel in enumerate(kernels)} | {"w": _weights(rng, widths[-1], SCORES)}
    nodes, last = [], "x"
    for i in range(3):
        nodes += [
            helper.make_node("Conv", [last, f"k{i}"], [f"c{i}"], pads=[1, 1, 1, 1], strides=[2, 2] if i else [1, 1]),
            helper.make_node("Relu", [f"c{i}"], [f"a{i}"]),
        ]
        last = f"a{i}"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["y"]),
    ]
    return nodes, weights


def _image(rng: np.random.Generator) -> Layers:
    """The mean of each line of pixels, and scores of these: every byte is read, and little else is done."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[3], keepdims=0),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["y"]),
    ]
    return nodes, {"w": np.float32(np.sqrt(PIXELS)) * _weights(rng, 3 * PIXELS, SCORES)}


def _weights(rng: np.random.Generator, *shape: int) -> Floats:
    """Scaled so that scores are about as large whatever the depth."""
    fan_in = np.prod(shape[1:]) if len(shape) == 4 else shape[0]
    return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))


def _model(family: str, nodes: Sequence[onnx.NodeProto], weights: dict[str, Floats]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        family,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *SHAPES[family]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", SCORES])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model
