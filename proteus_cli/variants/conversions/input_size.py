"""Lets a model compute on smaller or larger images than it is given: a `Resize` inside, before anything else.

Its input keeps its size, so the variants of a family still take the same tensor. The model must work for any size of
image, as convolutions followed by a mean over the image do; whether it does is found out by loading and running it.
"""

from pathlib import Path
from typing import Any

import numpy as np

from proteus_cli.errors import UsageError
from proteus_cli.store.models.onnx_files import content_of, inputs_of, read_graph

_CHANNELS = {1, 3, 4}
_MIN_OPSET = 11  # `Resize` takes sizes since then


def image_axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The axes of height and width of an image, without its batch axis; None if ``shape`` is no image."""
    if len(shape) != 3:  # noqa: PLR2004
        return None
    if shape[0] in _CHANNELS:
        return 1, 2
    return (0, 1) if shape[2] in _CHANNELS else None


def with_input_size(onnx: Any, model: Path, size: int) -> bytes:
    """The content of an ONNX file that first resizes its images to ``size`` × ``size``.

    Raises `ArtefactError` where it can't be read or is too large, `UsageError` where its only input is no image of
    another size.
    """
    loaded = read_graph(onnx, model, with_weights=True)
    graph = loaded.graph
    image = _image(model, graph)
    shape = [dim.dim_value for dim in image.type.tensor_type.shape.dim][1:]
    axes = image_axes(tuple(shape))
    if axes is None or all(shape[axis] == size for axis in axes):
        taken = "images of that size already" if axes is not None else "no images of 1, 3 or 4 channels"
        raise UsageError(f"`{model}` takes {taken}: `{image.name}` is {shape}.", hint="leave that size out")
    opset = next(each.version for each in loaded.opset_import if each.domain in {"", "ai.onnx"})
    if opset < _MIN_OPSET:
        raise UsageError(
            f"`{model}` has opset {opset}; resizing needs {_MIN_OPSET}.", hint="export it with a newer opset"
        )
    for axis in axes:
        shape[axis] = size
    _insert_resize(onnx, graph, image.name, shape)
    return content_of(loaded, model)


def _image(model: Path, graph: Any) -> Any:
    inputs = inputs_of(graph)
    if len(inputs) > 1:
        listed = ", ".join(f"`{value.name}`" for value in inputs)
        raise UsageError(f"`{model}` has several inputs ({listed}), so which to resize?", hint="leave out `--sizes`")
    return inputs[0]


def _insert_resize(onnx: Any, graph: Any, image: str, row: list[int]) -> None:
    """Have all nodes take the resized image instead; ``row`` is its shape, without the batch axis."""
    resized, made = f"{image}/resized", onnx.helper.make_node
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == image:
                node.input[place] = resized
    constants = {"from": [0], "to": [1], "row": row}
    for name, values in constants.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, np.int64), f"{resized}/{name}"))
    first = (
        made("Shape", [image], [f"{resized}/shape"]),
        made("Slice", [f"{resized}/shape", f"{resized}/from", f"{resized}/to"], [f"{resized}/batch"]),
        made("Concat", [f"{resized}/batch", f"{resized}/row"], [f"{resized}/sizes"], axis=0),
        made("Resize", [image, "", "", f"{resized}/sizes"], [resized], mode="linear"),
    )
    for node in reversed(first):
        graph.node.insert(0, node)
    del graph.value_info[:]  # the sizes within the model are others now, and are inferred anew
