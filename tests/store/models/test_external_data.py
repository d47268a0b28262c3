"""Which files an ONNX file keeps its weights in, wherever in the model its tensors are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny import keep_apart, mlp, tensor

from proteus_cli.errors import ArtefactError
from proteus_cli.store.models.external_data import external_files

DATA = "weights.bin"


def apart(name: str) -> TensorProto:
    """A tensor whose values are elsewhere."""
    made = numpy_helper.from_array(np.ones(4, np.float32), name)
    made.ClearField("raw_data")
    made.data_location = TensorProto.EXTERNAL
    made.external_data.add(key="location", value=DATA)
    made.external_data.add(key="offset", value="0")
    return made


def graph(nodes: list[Any], initializers: list[TensorProto] | None = None) -> Any:
    return helper.make_graph(nodes, "g", [tensor("x", [4])], [tensor("y", [4])], initializers or [])


def in_an_initializer() -> Any:
    return helper.make_model(graph([helper.make_node("Add", ["x", "w"], ["y"])], [apart("w")]))


def in_a_node() -> Any:
    return helper.make_model(graph([helper.make_node("Constant", [], ["y"], value=apart("w"))]))


def in_a_branch() -> Any:
    branch = graph([helper.make_node("Identity", ["w"], ["y"])], [apart("w")])
    return helper.make_model(graph([helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]))


def in_a_function() -> Any:
    node = helper.make_node("Constant", [], ["y"], value=apart("w"))
    function = helper.make_function("own", "f", [], ["y"], [node], [helper.make_opsetid("", 17)])
    return helper.make_model(graph([helper.make_node("f", [], ["y"], domain="own")]), functions=[function])


def in_a_sparse_tensor() -> Any:
    indices = numpy_helper.from_array(np.arange(4), "i")
    made = graph([helper.make_node("Identity", ["w"], ["y"])])
    made.sparse_initializer.append(helper.make_sparse_tensor(apart("w"), indices, [8]))
    return helper.make_model(made)


@pytest.mark.parametrize("make", [in_an_initializer, in_a_node, in_a_branch, in_a_function, in_a_sparse_tensor])
def test_a_tensor_is_found_wherever_it_is(make: Callable[[], Any], tmp_path: Path) -> None:
    (tmp_path / DATA).write_bytes(b"\0" * 16)
    assert external_files(tmp_path / "m.onnx", make().SerializeToString()) == (tmp_path / DATA,)


def test_a_file_of_many_tensors_counts_once(tmp_path: Path) -> None:
    model = mlp(tmp_path / "m.onnx")
    keep_apart(model, DATA)
    assert len(onnx.load(model, load_external_data=False).graph.initializer) > 1
    assert external_files(model, model.read_bytes()) == (tmp_path / DATA,)


def test_a_model_that_only_speaks_of_a_location_has_no_other_files(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"], name="location", doc_string="location")
    model = helper.make_model(graph([node]))
    helper.set_model_props(model, {"location": DATA})
    assert external_files(tmp_path / "m.onnx", model.SerializeToString()) == ()


@pytest.mark.parametrize("content", [b"", b"location", b"\x3a\xff\xff\xff\x7f location", b"\0" * 64 + b"location"])
def test_what_is_no_model_has_no_other_files(content: bytes, tmp_path: Path) -> None:
    """Whoever loads it says what is wrong with it."""
    assert external_files(tmp_path / "m.onnx", content) == ()


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"m\.onnx` keeps weights in `weights\.bin`, and there is no file"):
        external_files(tmp_path / "m.onnx", in_an_initializer().SerializeToString())


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "a/../../b"])
def test_a_file_outside_of_the_model_s_directory_is_refused(location: str, tmp_path: Path) -> None:
    model = in_an_initializer()
    model.graph.initializer[0].external_data[0].value = location
    with pytest.raises(ArtefactError, match="outside of its own directory"):
        external_files(tmp_path / "m.onnx", model.SerializeToString())
