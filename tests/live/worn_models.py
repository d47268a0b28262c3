"""A model whose weights lie in a file of their own, which the process that runs it only maps."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from tiny import CLASSES, INPUTS, save_model, tensor

PLACES = 2**14
NOWHERE = 10**6


def weights_of(model: Path) -> Path:
    return model.with_name(f"{model.name}.data")


def looking_up_twice(path: Path) -> Path:
    """A model that looks up in a table of `PLACES` numbers, which is a file, where to look in a table of ten rows.

    Fails on inputs for which there is no number, and on all once the numbers point nowhere.
    """
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], axes=[1], keepdims=0),
        helper.make_node("Cast", ["most"], ["number"], to=TensorProto.INT64),
        helper.make_node("Gather", ["places", "number"], ["place"]),
        helper.make_node("Gather", ["table", "place"], ["scores"]),
    ]
    places = (np.arange(PLACES) % 10).astype(np.int64)
    table = np.arange(10 * CLASSES, dtype=np.float32).reshape(10, CLASSES)
    save_model(
        path, nodes, inputs=[tensor("x", ["n", INPUTS])], outputs=[tensor("scores", ["n", CLASSES])],
        weights={"places": places, "table": table},
    )  # fmt: skip
    model: Any = onnx.load(path)
    onnx.save(
        model, path, save_as_external_data=True, location=weights_of(path).name, size_threshold=places.nbytes
    )  # fmt: skip
    assert weights_of(path).stat().st_size >= places.nbytes
    return path


def overwrite(weights: Path, place: int = NOWHERE) -> None:
    """Write over the numbers, as a copy to the same file does."""
    with weights.open("r+b") as file:
        file.write(np.full(PLACES, place, np.int64).tobytes())
