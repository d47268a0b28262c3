"""Reads ONNX files to change them, which takes the package `onnx`. To run a model it isn't needed."""

from pathlib import Path
from typing import Any

from proteus_cli.errors import ArtefactError, BackendUnavailable


def onnx_package(to: str) -> Any:
    """The module `onnx`. Raises `BackendUnavailable` that says what it is needed ``to`` do."""
    try:
        import onnx  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"The package `{error.name}` is needed to {to}, and is not installed.",
            hint="pip install 'proteus-serving[derive]'",
        ) from error
    return onnx


def read_graph(onnx: Any, model: Path, *, with_weights: bool = False) -> Any:
    """The `ModelProto` of an ONNX file, with its external data if asked for. Raises `ArtefactError`."""
    try:
        return onnx.load(str(model), load_external_data=with_weights)
    except Exception as error:  # of protobuf, of onnx, or of the system: they share no base class
        raise ArtefactError(
            f"Can't read `{model}`: {error}", hint="is it a complete ONNX file? `python -m onnx.checker` tells more"
        ) from error


def constants(graph: Any) -> dict[str, Any]:
    """The constant tensors of a graph by name: initializers, and values of `Constant` nodes."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found |= {name: each.t for each in node.attribute if each.name == "value" for name in node.output}
    return found
