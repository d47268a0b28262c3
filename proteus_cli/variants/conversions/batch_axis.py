"""Makes the batch of a model dynamic: axis 0 of all its inputs and outputs.

A model that was exported for a fixed number of rows says so in its inputs and outputs, and its `Reshape` nodes repeat
the number. Both are changed; all else stays. The result is checked by running it: each row must have the same answer in
the batch that the model was exported for, and in one of twice the size.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proteus_cli.backends.base import Backend
from proteus_cli.backends.onnxruntime import open_session
from proteus_cli.errors import ArtefactError, EngineError
from proteus_cli.store.models.onnx_files import constants, content_of, inputs_of, onnx_package, read_graph

AXIS = "batch"
HINT = "export the model with axis 0 of all inputs and outputs dynamic"
_TOLERANCE = 1e-3  # of answers, in parts of the largest: a batch of another size may be summed in another order


def fixed_batch(model: Path) -> int | None:
    """The number of rows that an ONNX file takes, where axis 0 is fixed. Raises `EngineError`, `ArtefactError`."""
    session = open_session(model)
    shapes = [value.shape for value in (*session.get_inputs(), *session.get_outputs())]
    sizes = {shape[0] for shape in shapes if shape and isinstance(shape[0], int) and shape[0] > 0}
    if len(sizes) > 1:
        listed = " and ".join(str(size) for size in sorted(sizes))
        raise ArtefactError(f"`{model}` has axis 0 with the sizes {listed}, so it is no batch.", hint=HINT)
    return sizes.pop() if sizes else None


def with_dynamic_batch(model: Path, rows: int) -> bytes:
    """The content of an ONNX file whose axis 0 has a size of ``rows``, with that axis dynamic.

    Raises `ArtefactError`, and `BackendUnavailable` without the package `onnx`.
    """
    onnx = onnx_package(f"make the batch of `{model}` dynamic (it takes just {rows} at a time)")
    loaded = read_graph(onnx, model)
    for value in (*inputs_of(loaded.graph), *loaded.graph.output):
        if sizes := value.type.tensor_type.shape.dim:
            sizes[0].dim_param = AXIS
    del loaded.graph.value_info[:]  # they repeat the number, and are inferred anew
    if any(node.op_type == "Reshape" and len(node.input) == 1 for node in loaded.graph.node):
        raise _cannot(model, rows, "its `Reshape` has the shape as an attribute, as in opset 4 and older")
    _free_reshapes(onnx, loaded.graph, rows)
    return content_of(loaded, model)


def _free_reshapes(onnx: Any, graph: Any, rows: int) -> None:
    """Let each `Reshape` to a constant shape of ``rows`` rows take any number of them."""
    shapes = constants(graph)
    for node in graph.node:
        tensor = shapes.get(node.input[1]) if node.op_type == "Reshape" else None
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            continue
        shape = onnx.numpy_helper.to_array(tensor).tolist()
        if shape and shape[0] == rows:
            shape[0] = 0 if -1 in shape else -1  # as many as come in, or as many as there are values for
            freed = onnx.numpy_helper.from_array(np.array(shape, np.int64), f"{node.output[0]}/any_batch")
            graph.initializer.append(freed)
            node.input[1] = freed.name


def require_same_answers(model: Path, rows: int, changed: Path, backend: Backend) -> None:
    """Run a model with ``rows`` fixed, and the file with what `with_dynamic_batch` made of it.

    Raises `ArtefactError` where a row has another answer, or the changed model doesn't load or run.
    """
    try:
        with backend.runner(changed) as runner:
            inputs = runner.signature.sample(2 * rows, np.random.default_rng(0))
            found = runner.infer(inputs)
    except EngineError as error:
        raise _cannot(model, rows, error.message.replace(str(changed), str(model)).rstrip(".")) from error
    session = open_session(model)
    halves = [
        session.run(list(found), {name: values[part] for name, values in inputs.items()})
        for part in (slice(0, rows), slice(rows, 2 * rows))
    ]
    for name, *parts in zip(found, *halves, strict=True):
        if not _are_same(found[name], np.concatenate(parts)):
            raise _cannot(model, rows, f"`{name}` of a row would depend on the other rows")


def _are_same(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
    tolerance = _TOLERANCE * float(np.max(np.abs(expected[np.isfinite(expected)]), initial=0.0))
    return found.shape == expected.shape and np.allclose(found, expected, rtol=0.0, atol=tolerance, equal_nan=True)


def _cannot(model: Path, rows: int, why: str) -> ArtefactError:
    return ArtefactError(f"`{model}` takes just {rows} at a time, and can't be made to take more: {why}.", hint=HINT)
