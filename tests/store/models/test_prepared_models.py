"""What a prepared model computes from pixels is what its description says, worked out here without ONNX."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny import keep_apart, tensor

from proteus_cli.domain.base import checked
from proteus_cli.domain.catalog import ImageInput
from proteus_cli.errors import ArtefactError, BackendUnavailable
from proteus_cli.store import model_digest
from proteus_cli.store.models.prepared_models import Preparation, prepared, prepared_digest

MEAN, STD = (0.5, 0.25, 0.125), (0.5, 0.25, 2.0)
PIXELS = np.random.default_rng(7).integers(0, 256, (2, 8, 6, 3), np.uint8)
PLAIN = ImageInput(size=(8, 6))
SCALED = ImageInput(size=(8, 6), scale=1 / 255, mean=MEAN, std=STD)
Sizes = Sequence[int | str | None]


def seeing(
    path: Path,
    shape: Sizes = ("n", 3, 8, 6),
    kind: int = TensorProto.FLOAT,
    *,
    name: str = "x",
    opset: int = 17,
    nodes: Sequence[Any] = (),
    weights: Mapping[str, npt.NDArray[Any]] | None = None,
    more_inputs: Sequence[Any] = (),
    ir_version: int = 8,
) -> Path:
    """A model whose scores are the tensor that it sees; ``nodes`` may take ``x`` and give ``seen`` instead."""
    made = [*nodes, helper.make_node("Flatten", ["seen" if nodes else name], ["scores"])]
    constants = [numpy_helper.from_array(value, each) for each, value in (weights or {}).items()]
    inputs = [tensor(name, shape, kind), *more_inputs]
    graph = helper.make_graph(made, "seeing", inputs, [tensor("scores", ["n", None], kind)], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    path.write_bytes(model.SerializeToString())
    return path


def seen(model: Path, image: ImageInput, pixels: npt.NDArray[np.uint8] = PIXELS) -> npt.NDArray[Any]:
    """What the model itself sees of pixels, flat by row."""
    session = ort.InferenceSession(str(prepared(model, Preparation(image), model.parent / "prepared")))
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape[1:]) == (image.name, "tensor(uint8)", list(image.shape))
    (found,) = session.run(["scores"], {image.name: pixels})
    return np.asarray(found)


def flat(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = values.reshape(len(values), -1)
    return found


def channels_first(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def normalised(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray((images / 255 - np.array(MEAN)) / np.array(STD))


def resized(images: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    """Bilinear between the centres of pixels."""

    def along(values: npt.NDArray[Any], axis: int, to: int) -> npt.NDArray[Any]:
        size = values.shape[axis]
        at = np.clip((np.arange(to) + 0.5) * size / to - 0.5, 0, size - 1)
        low = np.floor(at).astype(int)
        part = (at - low).reshape([-1 if each == axis else 1 for each in range(values.ndim)])
        high = np.minimum(low + 1, size - 1)
        return np.asarray(values.take(low, axis) * (1 - part) + values.take(high, axis) * part)

    return along(along(images.astype(np.float64), 1, height), 2, width)


# --- what the model sees


def test_pixels_are_cast_and_transposed(tmp_path: Path) -> None:
    np.testing.assert_array_equal(seen(seeing(tmp_path / "m.onnx"), PLAIN), flat(channels_first(PIXELS)))


def test_values_are_scaled_by_channel_in_either_layout(tmp_path: Path) -> None:
    expected = normalised(PIXELS)
    first = seen(seeing(tmp_path / "a.onnx"), SCALED)
    np.testing.assert_allclose(first, flat(channels_first(expected)), rtol=1e-5, atol=1e-6)
    last = seen(seeing(tmp_path / "b.onnx", ("n", 8, 6, 3)), SCALED)
    np.testing.assert_allclose(last, flat(expected), rtol=1e-5, atol=1e-6)


def test_clients_may_send_channels_first(tmp_path: Path) -> None:
    image = ImageInput(size=(8, 6), layout="NCHW")
    pixels = channels_first(PIXELS)
    np.testing.assert_array_equal(seen(seeing(tmp_path / "a.onnx"), image, pixels), flat(pixels))
    np.testing.assert_array_equal(seen(seeing(tmp_path / "b.onnx", ("n", 8, 6, 3)), image, pixels), flat(PIXELS))


@pytest.mark.parametrize("size", [(4, 3), (16, 12), (7, 9), (1, 1), (8, 5)], ids=str)
@pytest.mark.parametrize("opset", [11, 13, 17, 19])
def test_images_are_resized_to_the_models_own_size(tmp_path: Path, size: tuple[int, int], opset: int) -> None:
    expected = normalised(resized(PIXELS, *size))
    first = seen(seeing(tmp_path / "a.onnx", ("n", 3, *size), opset=opset), SCALED)
    np.testing.assert_allclose(first, flat(channels_first(expected)), rtol=1e-4, atol=1e-4)
    last = seen(seeing(tmp_path / "b.onnx", ("n", *size, 3), opset=opset), SCALED)
    np.testing.assert_allclose(last, flat(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "to"), [(224, 240), (240, 224), (224, 160), (299, 224), (512, 513), (8, 16_384)])
def test_resized_images_have_the_size_that_the_model_takes(tmp_path: Path, size: int, to: int) -> None:
    image = ImageInput(size=(size, 1), channels=1)
    model = seeing(tmp_path / "m.onnx", ("n", 1, to, 1))
    assert seen(model, image, np.zeros((1, size, 1, 1), np.uint8)).shape == (1, to)


def test_a_model_in_fp16_gets_what_it_takes(tmp_path: Path) -> None:
    found = seen(seeing(tmp_path / "m.onnx", kind=TensorProto.FLOAT16), SCALED)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, flat(channels_first(normalised(PIXELS))), rtol=2e-3, atol=2e-3)


def test_a_model_that_takes_pixels_gets_whole_ones(tmp_path: Path) -> None:
    same = seen(seeing(tmp_path / "a.onnx", ("n", 8, 6, 3), TensorProto.UINT8), PLAIN)
    np.testing.assert_array_equal(same, flat(PIXELS))
    smaller = seen(seeing(tmp_path / "b.onnx", ("n", 4, 3, 3), TensorProto.UINT8), PLAIN)
    assert smaller.dtype == np.uint8
    assert np.abs(smaller - flat(resized(PIXELS, 4, 3))).max() <= 0.5 + 1e-3


def test_a_model_of_any_size_gets_images_as_they_are(tmp_path: Path) -> None:
    model = seeing(tmp_path / "m.onnx", ("n", 3, "height", "width"))
    np.testing.assert_array_equal(seen(model, PLAIN), flat(channels_first(PIXELS)))


def test_the_models_own_input_may_have_the_same_name(tmp_path: Path) -> None:
    model = seeing(tmp_path / "m.onnx", name="image")
    np.testing.assert_array_equal(seen(model, PLAIN), flat(channels_first(PIXELS)))


def test_graphs_within_nodes_see_the_prepared_tensor(tmp_path: Path) -> None:
    both = [
        helper.make_graph([helper.make_node(op, ["x"], [op])], op, [], [tensor(op, ["n", 3, 8, 6])])
        for op in ("Neg", "Abs")
    ]
    nodes = [helper.make_node("If", ["is_negative"], ["seen"], then_branch=both[0], else_branch=both[1])]
    model = seeing(tmp_path / "m.onnx", nodes=nodes, weights={"is_negative": np.array(True)})
    np.testing.assert_array_equal(seen(model, PLAIN), -flat(channels_first(PIXELS)).astype(np.float32))


def test_external_data_is_part_of_the_prepared_file(tmp_path: Path) -> None:
    model = seeing(
        tmp_path / "m.onnx", nodes=[helper.make_node("Mul", ["x", "w"], ["seen"])],
        weights={"w": np.full((3, 8, 6), 2, np.float32)},
    )  # fmt: skip
    keep_apart(model, "weights/m.bin")
    path = prepared(model, Preparation(PLAIN), tmp_path / "prepared")
    (tmp_path / "weights" / "m.bin").unlink()
    (found,) = ort.InferenceSession(str(path)).run(["scores"], {"image": PIXELS})
    np.testing.assert_array_equal(found, 2.0 * flat(channels_first(PIXELS)))


def test_names_within_the_model_are_avoided(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["prepared/0"]), helper.make_node("Neg", ["prepared/0"], ["seen"])]
    model = seeing(tmp_path / "m.onnx", nodes=nodes)
    np.testing.assert_array_equal(seen(model, PLAIN), flat(channels_first(PIXELS)))


# --- the file


def test_a_file_is_made_once_for_the_same_model_and_description(tmp_path: Path) -> None:
    model, directory = seeing(tmp_path / "m.onnx"), tmp_path / "a" / "prepared"
    path = prepared(model, Preparation(PLAIN), directory)
    content, stamp = path.read_bytes(), path.stat().st_mtime_ns
    assert prepared(model, Preparation(ImageInput(size=(8, 6))), directory) == path
    assert path.stat().st_mtime_ns == stamp
    path.unlink()
    assert prepared(model, Preparation(PLAIN), directory).read_bytes() == content
    assert prepared(model, Preparation(SCALED), directory) != path
    seeing(model, opset=18)
    assert prepared(model, Preparation(PLAIN), directory) != path
    assert len(list(directory.iterdir())) == 3


def test_onnx_is_needed_only_to_make_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeing(tmp_path / "m.onnx")
    path = prepared(model, Preparation(PLAIN), tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert prepared(model, Preparation(PLAIN), tmp_path) == path
    with pytest.raises(BackendUnavailable, match=r"`onnx` is needed to let `.*` take its family's input") as missing:
        prepared(model, Preparation(SCALED), tmp_path)
    assert missing.value.hint == "pip install onnx"


def test_a_file_that_is_in_any_of_the_directories_is_used_and_a_new_one_is_made_in_the_last(tmp_path: Path) -> None:
    model, first, last = seeing(tmp_path / "m.onnx"), tmp_path / "ws", tmp_path / "state"
    there = prepared(model, Preparation(PLAIN), first)
    assert prepared(model, Preparation(PLAIN), first, last) == there
    assert prepared(model, Preparation(SCALED), first, last).parent == last
    assert list(first.iterdir()) == [there]


def test_the_digest_of_a_file_needs_no_file(tmp_path: Path) -> None:
    model, directory = seeing(tmp_path / "m.onnx"), tmp_path / "prepared"
    found = prepared_digest(model, Preparation(SCALED), directory)
    assert not directory.exists()
    assert (
        found
        == model_digest(prepared(model, Preparation(SCALED), directory))
        == prepared_digest(model, Preparation(SCALED), directory)
    )


# --- models that do not fit


@pytest.mark.parametrize(
    ("shape", "more", "image", "problem"),
    [
        (("n", 3, 8), {}, PLAIN, r"has shape \[0, 3, 8\] \(0: dynamic\); it takes no images of 3 channels"),
        (("n", 1, 8, 6), {}, PLAIN, "takes no images of 3 channels"),
        (("n", 3, 8, 6), {"kind": TensorProto.DOUBLE}, PLAIN, "none of the types FP32, FP16 and UINT8"),
        (("n", 3, 8, 6), {"kind": TensorProto.UINT8}, SCALED, "must be left out"),
        (("n", 3, 8, 6), {"more_inputs": [tensor("k", ["n", 2])]}, PLAIN, "it has 2 inputs"),
        (("n", 3, 8, 6), {}, ImageInput(size=(8, 6), name="scores"), "a tensor `scores` within"),
        (("n", 3, 9, 6), {"opset": 10}, PLAIN, "opset 10; 11 or later is needed"),
        (("n", 3, 8, 6), {"opset": 6}, PLAIN, "opset 6; 7 or later"),
    ],
)  # fmt: skip
def test_a_model_that_can_not_take_the_input_is_refused(
    tmp_path: Path, shape: Sizes, more: Mapping[str, Any], image: ImageInput, problem: str
) -> None:
    with pytest.raises(ArtefactError, match=problem):
        prepared(seeing(tmp_path / "m.onnx", shape, **more), Preparation(image), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"hello")
    with pytest.raises(ArtefactError, match="Can't read"):
        prepared(tmp_path / "m.onnx", Preparation(PLAIN), tmp_path / "prepared")


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": (0, 6)}, {"size": (8, 16_385)}, {"channels": 0}, {"channels": 65}, {"mean": (1.0,)}, {"std": (1.0,)},
        {"std": (1.0, 1.0, 0.0)}, {"scale": 0.0}, {"scale": float("nan")}, {"mean": (1.0, 1.0, float("inf"))},
        {"name": "a b"}, {"name": ""},
    ],
    ids=str,
)  # fmt: skip
def test_a_description_that_makes_no_sense_is_refused(wrong: Mapping[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        checked(ImageInput(**{"size": (8, 6), **wrong}))


def test_prepared_models_pass_the_checker(tmp_path: Path) -> None:
    for shape in (("n", 3, 8, 6), ("n", 4, 4, 3)):
        onnx.checker.check_model(
            onnx.load(prepared(seeing(tmp_path / "m.onnx", shape), Preparation(SCALED), tmp_path)), full_check=True
        )
