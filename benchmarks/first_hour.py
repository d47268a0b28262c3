"""The first hour with a model of one's own: from one ONNX file to a server that carries a burst, step by step.

`python -m benchmarks.first_hour` fits a small image classifier to made-up images and runs the commands of the README on
it: add, derive, profile, plan, serve, replay. It prints what each step took, and exits with 1 where a step fails, where
no derived variant is worth keeping, or where a burst beyond the model's own capacity is not carried.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from benchmarks.machine import machine
from benchmarks.tables import Aim, Table, aim_line, rich_table

FAMILY, VARIANT, SLO = "things", "thing", "200ms"
CLASSES, COARSE, NOISE, RIDGE = 8, 6, 1.1, 10.0
CALM, BURST = 0.5, 1.5  # demand, in multiples of what the model itself carries
MAX_VIOLATIONS, MIN_ACCURACY = 0.01, 90.0

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Size:
    """Pixels of a side, channels of each convolution, rows of each split, and how long is measured and replayed."""

    side: int
    channels: tuple[int, ...]
    rows: int
    budget: str
    trace_s: float


FULL = Size(side=96, channels=(96, 192, 384), rows=400, budget="10s", trace_s=30.0)
QUICK = Size(side=64, channels=(128, 256), rows=96, budget="3s", trace_s=4.0)


@dataclass(frozen=True, slots=True)
class Step:
    """A command, what it took, and what it said."""

    command: str
    seconds: float
    said: Any


@dataclass(frozen=True, slots=True)
class Hour:
    """Runs the commands in one directory. Raises `subprocess.CalledProcessError` where one fails."""

    place: Path
    steps: list[Step] = field(default_factory=list)

    def proteus(self, *arguments: str, says: Callable[[bytes], Any] = json.loads) -> Any:
        """Run a command; what it prints with ``--json``, or else as ``says`` reads it."""
        start_s = time.monotonic()
        command = [sys.executable, "-m", "proteus_cli", *arguments, *(["--json"] if says is json.loads else [])]
        done = subprocess.run(command, cwd=self.place, check=True, capture_output=True)
        said = says(done.stdout)
        self.steps.append(Step(" ".join(("proteus", *arguments)), time.monotonic() - start_s, said))
        return said


def main() -> None:
    """Run the hour, print its steps, and exit with 1 where an aim is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.first_hour",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a smaller model and shorter runs")
    size = QUICK if parser.parse_args().quick else FULL
    console = Console(width=None if sys.stdout.isatty() else 110)
    with TemporaryDirectory() as directory:
        hour = Hour(Path(directory))
        try:
            aims = run(hour, size)
        except subprocess.CalledProcessError as error:
            console.print(error.stderr.decode(), f"exit code {error.returncode}: {' '.join(error.cmd[1:])}")
            raise SystemExit(1) from None
    rows = tuple((step.command, f"{step.seconds:.1f}") for step in hour.steps)
    total_s = sum(step.seconds for step in hour.steps)
    console.print(
        rich_table(Table("From a model to a server", ("command", "seconds"), (*rows, ("all", f"{total_s:.1f}")), ""))
    )
    for aim in aims:
        console.print(aim_line(aim), style="green" if aim.is_reached else "red")
    console.print(machine())
    raise SystemExit(0 if all(aim.is_reached for aim in aims) else 1)


def run(hour: Hour, size: Size) -> tuple[Aim, ...]:
    """All steps, and what they should reach."""
    make_files(hour.place, size)
    hour.proteus("catalog", "add", FAMILY, f"{VARIANT}.onnx", "--slo", SLO, "--eval", "eval.npz")
    derived = hour.proteus("catalog", "derive", VARIANT, "--int8", "--calibration", "calibration.npz")
    hour.proteus("profile", "--budget", size.budget)
    own_qps = _capacity_qps(hour.place)
    calm_qps, burst_qps = CALM * own_qps, BURST * own_qps
    hour.proteus("plan", "--demand", f"{calm_qps:.0f}qps", "-o", "plans/p.json")
    rates = ("--rate", f"{calm_qps:.0f}qps", "--peak", f"{burst_qps:.0f}qps")
    burst = ("--duration", f"{size.trace_s:g}s", "--families", FAMILY, "-o", "burst.csv")
    hour.proteus("trace", "make", "burst", *rates, *burst, says=bytes)
    report = hour.proteus("replay", "burst.csv", "--serve", "plans/p.json")
    kept = sum(each["kept"] for each in derived["derived"])
    violations, accuracy = 100 * report["slo_violation_ratio"], 100 * report["relative_accuracy"]
    burst_of = f"burst of {BURST:g} times what the model itself carries"
    return (
        Aim("derived variants that are worth keeping", kept, 1, "", is_most=False),
        Aim(f"{burst_of}: violations", violations, 100 * MAX_VIOLATIONS, "%", is_most=True),
        Aim(f"{burst_of}: relative accuracy", accuracy, MIN_ACCURACY, "%", is_most=False),
    )


def _capacity_qps(place: Path) -> float:
    """What the model that was added carries, on all devices together."""
    profiles = [json.loads(path.read_text(encoding="utf-8")) for path in (place / "profiles").glob("*.json")]
    variants = [each for profile in profiles for each in profile["variants"] if each["variant"] == VARIANT]
    return sum(max(float(point["qps"]) for point in variant["points"]) for variant in variants)


# --- the model, and rows to measure it with


def make_files(place: Path, size: Size) -> None:
    """A model of ``image`` [n, 3, side, side] → ``scores``; ``eval.npz`` with labels, ``calibration.npz`` without."""
    rng = np.random.default_rng(7)
    patterns = rng.standard_normal((CLASSES, 3, COARSE, COARSE)).astype(np.float32)
    nodes, weights = _features(size, rng)
    (train, labels), (held_out, y), (more, _) = (_images(patterns, size, rng) for _ in range(3))
    seen = _run(_model(nodes, weights, "features", size), train)
    kernel = seen @ seen.T + RIDGE * np.eye(size.rows)  # ridge regression by its dual, as rows are few
    weights["last"] = (seen.T @ np.linalg.solve(kernel, np.eye(CLASSES)[labels])).astype(np.float32)
    nodes.append(helper.make_node("MatMul", ["features", "last"], ["scores"]))
    (place / f"{VARIANT}.onnx").write_bytes(_model(nodes, weights, "scores", size))
    np.savez(place / "eval.npz", image=held_out, y=y)
    np.savez(place / "calibration.npz", image=more)


def _images(patterns: Array, size: Size, rng: np.random.Generator) -> tuple[Array, Array]:
    """Images of the coarse pattern of their class and noise, with their classes."""
    labels = rng.integers(CLASSES, size=size.rows)
    block = np.ones((1, 1, -(-size.side // COARSE), -(-size.side // COARSE)), np.float32)
    clear = np.kron(patterns[labels], block)[:, :, : size.side, : size.side]
    noise = NOISE * size.side / COARSE * rng.standard_normal(clear.shape)
    return (clear + noise).astype(np.float32), labels


def _features(size: Size, rng: np.random.Generator) -> tuple[list[Any], dict[str, Array]]:
    """Convolutions with random weights, each but the first on half the resolution: nodes and weights."""
    nodes, weights, last, before = list[Any](), dict[str, Array](), "image", 3
    for number, channels in enumerate(size.channels):
        filters, strides = f"filters{number}", [2, 2] if number else [1, 1]
        scale = np.sqrt(2 / (9 * before))
        weights[filters] = (scale * rng.standard_normal((channels, before, 3, 3))).astype(np.float32)
        nodes.append(helper.make_node("Conv", [last, filters], [f"c{number}"], pads=[1, 1, 1, 1], strides=strides))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"a{number}"]))
        last, before = f"a{number}", channels
    side = size.side >> (len(size.channels) - 1)
    pool = side // COARSE
    nodes.append(helper.make_node("AveragePool", [last], ["pooled"], kernel_shape=[pool, pool], strides=[pool, pool]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["features"]))
    return nodes, weights


def _model(nodes: Sequence[Any], weights: dict[str, Array], output: str, size: Size) -> bytes:
    shape = ["n", 3, size.side, size.side]
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


if __name__ == "__main__":
    main()
