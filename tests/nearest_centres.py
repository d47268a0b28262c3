"""Models that find the nearest of some centres. Users' own commands train them in tests, so it imports little."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INPUT, OUTPUT = "x", "scores"


def save_centres(path: Path | str, centres: Any) -> None:
    """The scores are 2 x·c - c·c, which is highest for the nearest."""
    c = np.asarray(centres, np.float32)
    weights, bias = numpy_helper.from_array(2 * c.T.copy(), "w"), numpy_helper.from_array(-(c**2).sum(1), "b")
    nodes = [helper.make_node("MatMul", [INPUT, "w"], ["product"]), helper.make_node("Add", ["product", "b"], [OUTPUT])]
    given, taken = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in ((OUTPUT, len(c)), (INPUT, c.shape[1]))
    )
    graph = helper.make_graph(nodes, "centres", [taken], [given], [weights, bias])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
