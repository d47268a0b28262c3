"""A fixed batch is made dynamic where rows have the same answers in any batch."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import conv_net, mixing_rows
from onnx import helper
from tiny import CLASSES, mlp, save_model, tensor

from proteus_cli.backends.onnxruntime import OnnxRuntime, open_session
from proteus_cli.domain.device import Device
from proteus_cli.errors import ArtefactError
from proteus_cli.variants.conversions.batch_axis import fixed_batch, require_same_answers, with_dynamic_batch

CPU = OnnxRuntime(Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,)))


def made_dynamic(model: Path) -> Path:
    rows = fixed_batch(model)
    assert rows is not None
    changed = model.with_name("changed.onnx")
    changed.write_bytes(with_dynamic_batch(model, rows))
    require_same_answers(model, rows, changed, CPU)
    return changed


def test_a_dynamic_batch_needs_no_change(tmp_path: Path) -> None:
    assert fixed_batch(mlp(tmp_path / "m.onnx")) is None


@pytest.mark.parametrize("batch", [1, 4])
def test_each_row_is_answered_as_before_in_a_batch_of_any_size(tmp_path: Path, batch: int) -> None:
    model = conv_net(tmp_path / "m.onnx", batch=batch)
    images = np.random.default_rng(1).random((3 * batch, 3, 8, 8)).astype(np.float32)
    session = open_session(model)
    expected = [session.run(None, {"image": images[i : i + batch]})[0] for i in range(0, len(images), batch)]
    with CPU.runner(made_dynamic(model)) as runner:
        assert runner.infer({"image": images})["scores"] == pytest.approx(np.concatenate(expected), abs=1e-4)
        assert runner.infer({"image": images[:1]})["scores"].shape == (1, CLASSES)


def test_weights_that_old_files_list_as_inputs_keep_their_shapes(tmp_path: Path) -> None:
    model = conv_net(tmp_path / "m.onnx", batch=1)
    loaded = onnx.load(model)
    loaded.graph.input.append(tensor("filters", [8, 3, 3, 3]))
    model.write_bytes(loaded.SerializeToString())
    changed = onnx.load(made_dynamic(model))
    assert [dim.dim_value for dim in changed.graph.input[1].type.tensor_type.shape.dim] == [8, 3, 3, 3]


def test_a_shape_in_a_constant_node_is_freed_too(tmp_path: Path) -> None:
    """`[1, 2, -1]` keeps its first axis, as what is left belongs to the last one."""
    shape = helper.make_tensor("value", onnx.TensorProto.INT64, [3], [1, 2, -1])
    nodes = [
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("Reshape", ["x", "shape"], ["scores"]),
    ]
    model = save_model(tmp_path / "m.onnx", nodes, inputs=[tensor("x", [1, 6])], outputs=[tensor("scores", [1, 2, 3])])
    with CPU.runner(made_dynamic(model)) as runner:
        assert runner.infer({"x": np.zeros((5, 6), np.float32)})["scores"].shape == (5, 2, 3)


def test_a_reshape_with_its_shape_as_an_attribute_is_refused(tmp_path: Path) -> None:
    model = conv_net(tmp_path / "m.onnx", batch=1)
    loaded = onnx.load(model)
    reshape = next(node for node in loaded.graph.node if node.op_type == "Reshape")
    del reshape.input[1]
    reshape.attribute.append(helper.make_attribute("shape", [1, 8]))
    loaded.opset_import[0].version = 4
    model.write_bytes(loaded.SerializeToString())
    with pytest.raises(ArtefactError, match=r"takes just 1 at a time.*as in opset 4 and older"):
        with_dynamic_batch(model, 1)


def test_a_model_whose_rows_depend_on_each_other_is_refused(tmp_path: Path) -> None:
    model = mixing_rows(tmp_path / "m.onnx", batch=2)
    with pytest.raises(ArtefactError, match="`scores` of a row would depend on the other rows"):
        made_dynamic(model)


def test_a_model_that_fails_with_more_rows_is_refused(tmp_path: Path) -> None:
    """It adds a constant for each of its two rows."""
    rows = np.ones((2, 3), np.float32)
    model = save_model(
        tmp_path / "m.onnx",
        [helper.make_node("Add", ["x", "rows"], ["scores"])],
        inputs=[tensor("x", [2, 3])],
        outputs=[tensor("scores", [2, 3])],
        weights={"rows": rows},
    )
    with pytest.raises(
        ArtefactError, match=r"takes just 2 at a time.*`scores` of .*m\.onnx` has no dynamic batch axis"
    ):
        made_dynamic(model)


def test_two_sizes_of_axis_0_are_no_batch(tmp_path: Path) -> None:
    model = save_model(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["a"]), helper.make_node("Identity", ["z"], ["b"])],
        inputs=[tensor("x", [1, 3]), tensor("z", [7, 3])],
        outputs=[tensor("a", [1, 3]), tensor("b", [7, 3])],
    )
    with pytest.raises(ArtefactError, match="has axis 0 with the sizes 1 and 7, so it is no batch"):
        fixed_batch(model)
