"""Reads ONNX files to change them, which takes the package `onnx`. To run a model it isn't needed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proteus_cli.errors import ArtefactError, BackendUnavailable
from proteus_cli.input_files import MODEL
from proteus_cli.units import format_size

TOLD_BY_CHECK = "`check-model FILE`, a command of the package `onnx`, tells more"


def onnx_package(to: str) -> Any:
    """The module `onnx`. Raises `BackendUnavailable` that says what it is needed ``to`` do."""
    try:
        import onnx  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"The package `{error.name}` is needed to {to}, and is not installed.",
            hint="pip install onnx",
        ) from error
    return onnx


def read_graph(onnx: Any, model: Path, *, with_weights: bool = False) -> Any:
    """The `ModelProto` of an ONNX file, with its external data if asked for. Raises `ArtefactError`."""
    try:
        return onnx.load(str(model), load_external_data=with_weights)
    except Exception as error:  # of protobuf, of onnx, or of the system: they share no base class
        raise ArtefactError(
            f"Can't read `{model}`: {error}", hint=f"is it a complete ONNX file? {TOLD_BY_CHECK}"
        ) from error


def content_of(loaded: Any, model: Path) -> bytes:
    """The content of an ONNX file for what was made of ``model``; the same for the same.

    Raises `ArtefactError` where it is too large.
    """
    try:
        return bytes(loaded.SerializeToString(deterministic=True))
    except Exception as error:  # of protobuf, whose errors share no base class
        raise ArtefactError(
            f"Can't write what was made of `{model}` into one file: {error}",
            hint=f"with its weights it must have less than {format_size(MODEL.max_bytes)}",
        ) from error


def inputs_of(graph: Any) -> list[Any]:
    """The inputs of a graph, without the weights that old files list as inputs, too."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def constants(graph: Any) -> dict[str, Any]:
    """The constant tensors of a graph by name: initializers, and values of `Constant` nodes."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found |= {name: each.t for each in node.attribute if each.name == "value" for name in node.output}
    return found


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those within its nodes, at any depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _graphs(inner)


def tensor_names(graph: Any) -> Iterator[str]:
    """All tensors of a graph and those within it."""
    for each in _graphs(graph):
        for node in each.node:
            yield from (*node.input, *node.output)
        yield from (value.name for value in (*each.input, *each.output, *each.initializer))


def rename_tensor(graph: Any, old: str, new: str) -> None:
    """Have all nodes take ``new`` in place of ``old``. A graph within another names no tensor of its own like that."""
    for each in _graphs(graph):
        for node in each.node:
            for place, name in enumerate(node.input):
                if name == old:
                    node.input[place] = new
