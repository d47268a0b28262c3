"""A workspace with models of our own making: four variants of one family, whose rows take 5 to 25 ms on a core.

They are stacks of convolutions with random weights, so that a batch costs about as much per row as one row; how many
layers each has is found by measuring on this machine.
"""

import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.adaptation.lab import Lab, proteus
from proteus_cli.backends.affinity import usable_cores
from proteus_cli.backends.onnxruntime import open_session

FAMILY, SLO_S = "images", 0.150
VARIANTS = {"s": (0.698, 0.005), "m": (0.733, 0.009), "l": (0.761, 0.015), "xl": (0.774, 0.025)}
"""The accuracy of each, as ResNets of 18, 34, 50 and 101 layers have on ImageNet (torchvision), and seconds per row."""
SIDE, CHANNELS, SCORES = 56, 24, 10
PROBED_LAYERS, PROBES, SEED = 20, 15, 57


def own_models_lab(root: Path, budget: str) -> Lab:
    """The family in a new workspace, profiled for so long on all cores; client and front end share them."""
    root.mkdir(parents=True)
    layer_s = _seconds_per_layer(root)
    files = []
    for name, (_, row_s) in VARIANTS.items():
        files.append(root / f"{name}.onnx")
        _save_net(files[-1], max(round(row_s / layer_s), 1))
    accuracies = ",".join(f"{name}={accuracy}" for name, (accuracy, _) in VARIANTS.items())
    at = ("--workspace", str(root))
    proteus("catalog", "add", FAMILY, *map(str, files), "--slo", f"{SLO_S:g}s", "--accuracy", accuracies, *at)
    proteus("profile", "--budget", budget, *at)
    return Lab(root, tuple(usable_cores()))


def _seconds_per_layer(directory: Path) -> float:
    path = directory / "probe.onnx"
    _save_net(path, PROBED_LAYERS)
    session, row = open_session(path), {"x": np.ones((1, 3, SIDE, SIDE), np.float32)}
    took_s = []
    for _ in range(PROBES):
        start_s = time.perf_counter()
        session.run(None, row)
        took_s.append(time.perf_counter() - start_s)
    path.unlink()
    return min(took_s) / PROBED_LAYERS


def _save_net(path: Path, layers: int) -> None:
    """``x`` [batch, 3, 56, 56] → so many convolutions of 24 channels → ``scores`` [batch, 10]."""
    rng, weights = np.random.default_rng(SEED), {}
    nodes, last, inputs = [], "x", 3
    for i in range(layers):
        scale = np.sqrt(2 / (9 * inputs))
        weights[f"k{i}"] = (scale * rng.standard_normal((CHANNELS, inputs, 3, 3))).astype(np.float32)
        nodes.append(helper.make_node("Conv", [last, f"k{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"a{i}"]))
        last, inputs = f"a{i}", CHANNELS
    weights["w"] = rng.standard_normal((CHANNELS, SCORES)).astype(np.float32)
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "w"], ["scores"]))
    shapes = {"x": ["batch", 3, SIDE, SIDE], "scores": ["batch", SCORES]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    kept = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], kept)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
