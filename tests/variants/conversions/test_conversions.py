"""What conversions make of a model's file."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import conv_net
from onnx import TensorProto, helper
from tiny import save_model, tensor

from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.device import Device
from proteus_cli.errors import UsageError
from proteus_cli.variants.conversions.input_size import image_axes, with_input_size

CPU = OnnxRuntime(Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,)))


# --- sizes


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((3, 224, 160), (1, 2)), ((224, 160, 3), (0, 1)), ((1, 8, 8), (1, 2)), ((8, 8, 8), None), ((3, 8), None)],
)
def test_height_and_width_are_beside_the_channels(shape: tuple[int, ...], axes: tuple[int, int] | None) -> None:
    assert image_axes(shape) == axes


def test_the_model_sees_the_smaller_image(tmp_path: Path) -> None:
    """Half the size by linear interpolation: each pixel is the mean of four."""
    model, small = conv_net(tmp_path / "m.onnx", size=16), conv_net(tmp_path / "s.onnx", size=8)
    resized = tmp_path / "r.onnx"
    resized.write_bytes(with_input_size(onnx, model, 8))
    x = np.random.default_rng(0).random((5, 3, 16, 16)).astype(np.float32)
    means = x.reshape(5, 3, 8, 2, 8, 2).mean(axis=(3, 5))
    with CPU.runner(resized) as ours, CPU.runner(small) as theirs, CPU.runner(model) as original:
        assert ours.signature == original.signature
        assert ours.infer({"image": x})["scores"] == pytest.approx(theirs.infer({"image": means})["scores"], rel=1e-4)


def test_bytes_with_their_channels_last_are_resized_too(tmp_path: Path) -> None:
    ends = [tensor("image", ["n", 8, 8, 3], TensorProto.UINT8)], [tensor("y", ["n", 3], TensorProto.FLOAT)]
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["f", "axes"], ["y"], keepdims=0),
    ]
    model = save_model(
        tmp_path / "m.onnx", nodes, inputs=ends[0], outputs=ends[1], weights={"axes": np.array([1, 2], np.int64)}
    )
    model.write_bytes(with_input_size(onnx, model, 4))
    with CPU.runner(model) as runner:
        assert runner.infer({"image": np.full((2, 8, 8, 3), 7, np.uint8)})["y"].tolist() == [[112.0] * 3] * 2


def test_a_model_with_several_inputs_does_not_say_which_to_resize(tmp_path: Path) -> None:
    model = save_model(
        tmp_path / "m.onnx",
        [helper.make_node("Add", ["a", "b"], ["y"])],
        inputs=[tensor("a", ["n", 3, 8, 8]), tensor("b", ["n", 3, 8, 8])],
        outputs=[tensor("y", ["n", 3, 8, 8])],
    )
    with pytest.raises(UsageError, match=r"has several inputs \(`a`, `b`\)"):
        with_input_size(onnx, model, 4)


def test_an_opset_without_sizes_is_refused(tmp_path: Path) -> None:
    model = conv_net(tmp_path / "m.onnx")
    loaded = onnx.load(model)
    loaded.opset_import[0].version = 9
    model.write_bytes(loaded.SerializeToString())
    with pytest.raises(UsageError, match="has opset 9; resizing needs 11"):
        with_input_size(onnx, model, 4)
