"""Trains the kinds of models of the ladder: ``python -m … ROWS.npz OUT SEED KIND …`` writes ``OUT/KIND.onnx``.

Each file is whole when it has its name. Finished files are of use even if the process is killed. A line of
output names the kind that is trained next. Everything is seeded and runs in one thread: the same rows give the same
models on one machine.
"""

import math
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from proteus_cli.arrays import Singles

OPSETS = MappingProxyType({"": 17, "ai.onnx.ml": 3})
OUTPUT = "scores"
MLP_EPOCHS, MLP_ROWS = 200, 4_000_000
"""Maximum number of times that a network sees each row, and of rows that it sees in all."""
MAX_LEAVES = 4_096
"""Maximum number of leaves of a tree: a bound of the model's size."""


def main() -> None:
    """Fit the kinds of models named by the arguments to the rows of a file, and write each as ONNX."""
    rows_path, out, seed, *kinds = sys.argv[1:]
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - the extra `train`

    warnings.simplefilter("ignore", ConvergenceWarning)  # epochs are bounded; what that is worth is measured
    warnings.simplefilter("ignore", FutureWarning)
    with np.load(rows_path) as arrays:
        name = next(each for each in arrays.files if each != "y")
        x, y = arrays[name], arrays["y"]
    for kind in kinds:
        print(kind, flush=True)  # noqa: T201 - the lines of this program
        content = trained(kind, name, x, y, int(seed))
        temporary = Path(out) / f"{kind}.tmp"
        temporary.write_bytes(content)
        temporary.replace(Path(out) / f"{kind}.onnx")


def trained(kind: str, name: str, x: Singles, y: Any, seed: int) -> bytes:
    """An ONNX model with one input ``name``, [batch, …] as the rows are, and one output, a score for each class."""
    family, *sizes = kind.split("-")
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415 - the extra `train`
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    flat = x.reshape(len(x), -1)
    model = make_pipeline(StandardScaler(), BUILDERS[family](len(x), seed, *map(int, sizes)))
    model.fit(flat, y)
    return as_onnx(model, name, x.shape[1:])


def _linear(_rows: int, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    return LogisticRegression(max_iter=300, random_state=seed)


def _forest(_rows: int, seed: int, trees: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415

    return RandomForestClassifier(trees, max_leaf_nodes=MAX_LEAVES, n_jobs=1, random_state=seed)


def _boost(_rows: int, seed: int, stages: int) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier  # noqa: PLC0415

    return GradientBoostingClassifier(
        n_estimators=stages, learning_rate=0.2, max_features="sqrt", subsample=0.8, random_state=seed
    )


def _mlp(rows: int, seed: int, *widths: int) -> Any:
    from sklearn.neural_network import MLPClassifier  # noqa: PLC0415

    epochs = min(MLP_EPOCHS, max(1, math.ceil(MLP_ROWS / rows)))
    return MLPClassifier(widths, alpha=1e-3, max_iter=epochs, random_state=seed)


BUILDERS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "linear": _linear,
        "forest": _forest,
        "boost": _boost,
        "mlp": _mlp,
    }
)


def as_onnx(model: Any, name: str, shape: tuple[int, ...]) -> bytes:
    """A classifier as ONNX: its probabilities alone, without the label that would be a second output."""
    from onnx import TensorProto, checker, compose, helper  # noqa: PLC0415 - the extra `train`
    from skl2onnx import to_onnx  # noqa: PLC0415
    from skl2onnx.common.data_types import FloatTensorType  # noqa: PLC0415

    prefix = f"{name}/"  # so no tensor within has the name of the input
    options = {id(model): {"zipmap": False}}
    types = [("rows", FloatTensorType([None, math.prod(shape)]))]
    fitted = to_onnx(model, initial_types=types, options=options, target_opset=dict(OPSETS))
    made = compose.add_prefix(fitted, prefix)
    graph = made.graph
    _, probabilities = graph.output
    classes = len(model.classes_)
    nodes = _needed([*graph.node, helper.make_node("Identity", [probabilities.name], [OUTPUT])], OUTPUT)
    nodes = [helper.make_node("Flatten", [name], [f"{prefix}rows"], axis=1), *nodes]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes]))
    used = {each for node in nodes for each in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString(deterministic=True))


def _needed(nodes: list[Any], output: str) -> list[Any]:
    """The nodes that an output depends on, in topological order."""
    wanted, found = {output}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            found.append(node)
            wanted.update(node.input)
    return found[::-1]


if __name__ == "__main__":
    main()
