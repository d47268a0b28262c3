"""From a model that nobody here has seen to a server that answers a burst, by the commands of the README."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = [pytest.mark.live, pytest.mark.extended]

FAMILY, VARIANT = "things", "thing"
CLASSES, COARSE, NOISE, RIDGE = 8, 6, 1.1, 10.0
SIDE, CHANNELS, ROWS = 64, (128, 256), 96  # pixels of a side, channels of each convolution, rows of each split
CALM, BURST = 0.5, 1.5  # demand, in multiples of what the model itself carries

Array = npt.NDArray[Any]


def test_the_first_hour(tmp_path: Path) -> None:
    def proteus(*arguments: str) -> Any:
        command = [sys.executable, "-m", "proteus_cli", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout

    def told(*arguments: str) -> Any:
        return json.loads(proteus(*arguments, "--json"))

    make_files(tmp_path)
    added = told("catalog", "add", FAMILY, f"{VARIANT}.onnx", "--slo", "200ms", "--eval", "eval.npz")
    derived = told("catalog", "derive", VARIANT, "--int8", "--calibration", "calibration.npz")
    profiles = told("profile", "--budget", "3s")
    own_qps = _capacity_qps(tmp_path)
    plan = told("plan", "--demand", f"{CALM * own_qps:.0f}qps", "-o", "plans/p.json")
    rates = ("--rate", f"{CALM * own_qps:.0f}qps", "--peak", f"{BURST * own_qps:.0f}qps")
    proteus("trace", "make", "burst", *rates, "--duration", "4s", "--families", FAMILY, "-o", "burst.csv")
    report = told("replay", "burst.csv", "--serve", "plans/p.json")
    assert [each["variant"] for each in added["variants"]] == [VARIANT]
    assert added["variants"][0]["basis"] == "measured on the eval split"
    kept = {each["variant"] for each in derived["derived"] if each["kept"]}
    assert all(each["why"] for each in derived["derived"])
    assert all({VARIANT, *kept} == {each["variant"] for each in profile["variants"]} for profile in profiles)
    assert {each["variant"] for each in plan["placements"]} <= {VARIANT, *kept}
    with (tmp_path / "burst.csv").open(encoding="utf-8") as trace:
        assert report["requests"] == sum(1 for _ in trace) - 1
    assert report["served"] > 0
    assert report["failed"] == 0
    outcomes = ("served", "late", "dropped", "rejected", "failed")
    assert sum(report[outcome] for outcome in outcomes) == report["requests"]
    assert json.loads((tmp_path / "plans" / "p.json").read_text(encoding="utf-8")) == plan
    assert list(report["families"]) == [FAMILY]


def _capacity_qps(place: Path) -> float:
    """The rate that the model that was added carries, on all devices together."""
    profiles = [json.loads(path.read_text(encoding="utf-8")) for path in (place / "profiles").glob("*.json")]
    variants = [each for profile in profiles for each in profile["variants"] if each["variant"] == VARIANT]
    return sum(max(float(point["qps"]) for point in variant["points"]) for variant in variants)


# --- the model, and rows to measure it with


def make_files(place: Path) -> None:
    """A model of ``image`` [n, 3, side, side] → ``scores``; ``eval.npz`` with labels, ``calibration.npz`` without."""
    rng = np.random.default_rng(7)
    patterns = rng.standard_normal((CLASSES, 3, COARSE, COARSE)).astype(np.float32)
    nodes, weights = _features(rng)
    (train, labels), (held_out, y), (more, _) = (_images(patterns, rng) for _ in range(3))
    seen = _run(_model(nodes, weights, "features"), train)
    kernel = seen @ seen.T + RIDGE * np.eye(ROWS)  # ridge regression by its dual, as rows are few
    weights["last"] = (seen.T @ np.linalg.solve(kernel, np.eye(CLASSES)[labels])).astype(np.float32)
    nodes.append(helper.make_node("MatMul", ["features", "last"], ["scores"]))
    (place / f"{VARIANT}.onnx").write_bytes(_model(nodes, weights, "scores"))
    np.savez(place / "eval.npz", image=held_out, y=y)
    np.savez(place / "calibration.npz", image=more)


def _images(patterns: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Images of the coarse pattern of their class and noise, with their classes."""
    labels = rng.integers(CLASSES, size=ROWS)
    block = np.ones((1, 1, -(-SIDE // COARSE), -(-SIDE // COARSE)), np.float32)
    clear = np.kron(patterns[labels], block)[:, :, :SIDE, :SIDE]
    noise = NOISE * SIDE / COARSE * rng.standard_normal(clear.shape)
    return (clear + noise).astype(np.float32), labels


def _features(rng: np.random.Generator) -> tuple[list[Any], dict[str, Array]]:
    """Convolutions with random weights, each but the first on half the resolution: nodes and weights."""
    nodes, weights, last, before = list[Any](), dict[str, Array](), "image", 3
    for number, channels in enumerate(CHANNELS):
        filters, strides = f"filters{number}", [2, 2] if number else [1, 1]
        scale = np.sqrt(2 / (9 * before))
        weights[filters] = (scale * rng.standard_normal((channels, before, 3, 3))).astype(np.float32)
        nodes.append(helper.make_node("Conv", [last, filters], [f"c{number}"], pads=[1, 1, 1, 1], strides=strides))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"a{number}"]))
        last, before = f"a{number}", channels
    side = SIDE >> (len(CHANNELS) - 1)
    pool = side // COARSE
    nodes.append(helper.make_node("AveragePool", [last], ["pooled"], kernel_shape=[pool, pool], strides=[pool, pool]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["features"]))
    return nodes, weights


def _model(nodes: Sequence[Any], weights: dict[str, Array], output: str) -> bytes:
    shape = ["n", 3, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        VARIANT,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", None])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


def _run(model: bytes, images: Array) -> Array:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": images})[0], np.float64)
