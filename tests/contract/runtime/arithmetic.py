"""The few operators of the scenarios' models, on numpy or whatever offers the same: CuPy, on a GPU."""

from collections.abc import Callable, Mapping
from typing import Any

import onnx
from onnx import numpy_helper


class Network:
    """An ONNX model whose weights lie where ``arrays`` (`numpy` or `cupy`) has them."""

    def __init__(self, model: bytes, arrays: Any) -> None:
        """Raises `KeyError` on an operator that the scenarios don't use."""
        graph = onnx.load_from_string(model).graph
        self._weights = {each.name: arrays.asarray(numpy_helper.to_array(each)) for each in graph.initializer}
        self._steps = [(OPERATORS[node.op_type], list(node.input), node.output[0]) for node in graph.node]
        self._arrays = arrays

    def compute(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """All that is computed on the way, by name."""
        values = {**self._weights, **inputs}
        for operator, names, into in self._steps:
            values[into] = operator(self._arrays, *(values[name] for name in names))
        return values


OPERATORS: Mapping[str, Callable[..., Any]] = {
    "MatMul": lambda arrays, a, b: arrays.matmul(a, b),
    "Relu": lambda arrays, a: arrays.maximum(a, 0),
}
