"""A model with a discriminator behind it answers as before, and tells what the discriminator says of its answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from exit_nets import exit_stages
from onnx import TensorProto, helper
from short_forms import parse_condition
from tiny import CLASSES, INPUTS, Tiny, make_workspace, mlp, save_model, tensor

from proteus_cli.backends.exits.loading import WithExits
from proteus_cli.backends.exits.runner import CONFIDENCE_NOTE
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.catalog import ImageInput
from proteus_cli.domain.device import Device
from proteus_cli.domain.stages.cascade import DISCRIMINATOR_OUTPUT
from proteus_cli.errors import ArtefactError
from proteus_cli.store.models.exit_chains import ExitChain, chain_file
from proteus_cli.store.models.prepared_models import Preparation, prepared, prepared_digest

CPU = Device("cpu0", "cpu", "cpu", "a CPU", memory_bytes=0, cores=(0,))
ROWS = np.random.default_rng(3).standard_normal((5, INPUTS)).astype(np.float32)
Taken = Mapping[str, int]


def discriminator(
    path: Path, taken: Taken, *, opset: int = 17, given: Sequence[str] = ("sure",), kind: int = TensorProto.FLOAT
) -> Path:
    """Sums, over all that it takes, the means of a row, in the first output; ``taken`` has widths by name."""
    sums = [helper.make_node("ReduceMean", [name], [f"h{name}"], axes=[1], keepdims=1) for name in taken]
    nodes = [*sums, helper.make_node("Sum", [f"h{name}" for name in taken], [given[0]])]
    nodes += [helper.make_node("Identity", [given[0]], [name]) for name in given[1:]]
    inputs = [tensor(name, ["n", width], kind) for name, width in taken.items()]
    outputs = [tensor(name, ["n", 1], kind) for name in given]
    graph = helper.make_graph(nodes, "sure", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def computed(model: Path, rows: npt.NDArray[Any], *outputs: str) -> list[npt.NDArray[Any]]:
    session = ort.InferenceSession(str(model))
    return [np.asarray(each) for each in session.run(list(outputs), {session.get_inputs()[0].name: rows})]


@pytest.mark.parametrize(
    ("taken", "opset"),
    [({"scores": CLASSES}, 17), ({"logits": CLASSES}, 17), ({"x": INPUTS, "scores": CLASSES}, 17), ({"x": INPUTS}, 13)],
    ids=["output", "first output by another name", "input and output", "input, of an older opset"],
)
def test_it_takes_tensors_of_the_model_by_name(tmp_path: Path, taken: Taken, opset: int) -> None:
    model = mlp(tmp_path / "m.onnx")
    behind = discriminator(tmp_path / "sure.onnx", taken, opset=opset)
    joined = prepared(model, Preparation(discriminator=behind), tmp_path / "prepared")
    onnx.checker.check_model(onnx.load(joined), full_check=True)
    (before,) = computed(model, ROWS, "scores")
    scores, sure = computed(joined, ROWS, "scores", DISCRIMINATOR_OUTPUT)
    assert np.array_equal(scores, before)
    sums = [(ROWS if name == "x" else before).mean(axis=1, keepdims=True) for name in taken]
    assert np.allclose(sure, np.sum(sums, axis=0), atol=1e-6)
    assert [each.name for each in ort.InferenceSession(str(joined)).get_outputs()] == ["scores", DISCRIMINATOR_OUTPUT]


def test_its_own_names_and_those_of_the_model_stay_apart(tmp_path: Path) -> None:
    """A model that has tensors `h`, `w`, and even one with the prefix; so has the discriminator."""
    weights = {"w": np.eye(INPUTS, dtype=np.float32), "discriminator/w": np.ones((INPUTS, CLASSES), np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "discriminator/w"], ["s"])]
    ends = [tensor("x", ["n", INPUTS])], [tensor("s", ["n", CLASSES])]
    model = save_model(tmp_path / "m.onnx", nodes, inputs=ends[0], outputs=ends[1], weights=weights)
    own = {"w": np.full((CLASSES, 1), 2, np.float32)}
    inputs, outputs = [tensor("s", ["n", CLASSES])], [tensor("w2", ["n", 1])]
    nodes = [helper.make_node("MatMul", ["s", "w"], ["h"]), helper.make_node("Relu", ["h"], ["w2"])]
    behind = save_model(tmp_path / "sure.onnx", nodes, inputs=inputs, outputs=outputs, weights=own)
    joined = prepared(model, Preparation(discriminator=behind), tmp_path / "prepared")
    scores, sure = computed(joined, ROWS, "s", DISCRIMINATOR_OUTPUT)
    assert np.allclose(scores, np.repeat(ROWS.sum(axis=1, keepdims=True), CLASSES, axis=1), atol=1e-6)
    assert np.allclose(sure, np.maximum(0, 2 * scores.sum(axis=1, keepdims=True)), atol=1e-5)


def test_it_sees_what_the_model_sees_of_an_image(tmp_path: Path) -> None:
    nodes = [helper.make_node("Flatten", ["x"], ["scores"])]
    ends = [tensor("x", ["n", 3, 2, 2])], [tensor("scores", ["n", 12])]
    model = save_model(tmp_path / "m.onnx", nodes, inputs=ends[0], outputs=ends[1])
    behind = discriminator(tmp_path / "sure.onnx", {"scores": 12})
    image = ImageInput(size=(2, 2), scale=0.5)
    pixels = np.random.default_rng(7).integers(0, 256, (4, 2, 2, 3), np.uint8)
    joined = prepared(model, Preparation(image, behind), tmp_path / "prepared")
    scores, sure = computed(joined, pixels, "scores", DISCRIMINATOR_OUTPUT)
    assert np.allclose(scores.mean(axis=1), pixels.reshape(4, -1).mean(axis=1) * 0.5, atol=1e-4)
    assert np.allclose(sure[:, 0], scores.mean(axis=1), atol=1e-4)


def test_another_discriminator_makes_another_model(tmp_path: Path) -> None:
    """So variants are measured anew, and a running server takes them for other versions."""
    model, directory = mlp(tmp_path / "m.onnx"), tmp_path / "prepared"
    behind = discriminator(tmp_path / "sure.onnx", {"scores": CLASSES})
    first = prepared(model, Preparation(discriminator=behind), directory)
    assert prepared(model, Preparation(discriminator=behind), directory) == first
    before = prepared_digest(model, Preparation(discriminator=behind), directory)
    discriminator(behind, {"x": INPUTS})
    assert prepared(model, Preparation(discriminator=behind), directory) != first
    assert prepared_digest(model, Preparation(discriminator=behind), directory) != before


def test_all_stages_of_a_multi_exit_model_have_it(tmp_path: Path) -> None:
    stages = exit_stages(tmp_path)
    behind = discriminator(tmp_path / "sure.onnx", {"scores": CLASSES})
    condition = parse_condition("exit >= 2")
    chain = ExitChain(tuple(stages), condition, "discriminator:sure.onnx", Preparation(discriminator=behind))
    assert chain.name != ExitChain(tuple(stages), condition, "discriminator:sure.onnx").name
    with WithExits(OnnxRuntime(CPU)).runner(chain_file(chain, tmp_path / "made")) as runner:
        outputs = runner.infer({"x": ROWS})
    assert np.allclose(outputs[CONFIDENCE_NOTE], outputs["scores"].mean(axis=1), atol=1e-6)


def named(made: Tiny, confidence: str) -> None:
    path = made.place.catalog_path
    text = path.read_text()
    path.write_text(text.replace('name = "shapes"\n', f'name = "shapes"\nconfidence = "{confidence}"\n', 1))


def test_all_variants_of_a_family_are_loaded_with_it(tmp_path: Path) -> None:
    made = make_workspace(tmp_path)
    named(made, "discriminator:models/sure.onnx")
    plain = {path.name for path in made.root.glob("engines/models/*/*.onnx")}
    with pytest.raises(ArtefactError, match=r"models/sure\.onnx"):
        made.place.loaded_paths()
    discriminator(made.root / "engines" / "models" / "sure.onnx", {"scores": CLASSES})
    loaded = made.place.loaded_paths()
    others = {key.variant for key, path in loaded.items() if path.name in plain}
    assert others == {"tones-s", "tones-l"}
    assert {path.parent.name for key, path in loaded.items() if key.family == "shapes"} == {"prepared"}
    assert made.place.unused_prepared() == []


@pytest.mark.parametrize(
    ("taken", "more", "problem"),
    [
        ({"scores": CLASSES, "y": 2}, {}, r"it takes `y`; the model's inputs and outputs are x, scores"),
        ({"scores": CLASSES}, {"given": ("a", "b")}, "it has 2 outputs; there must be one, with a number for each row"),
        (
            {"scores": CLASSES},
            {"kind": TensorProto.DOUBLE},
            "its input `scores` is DOUBLE; `scores` of the model is FLOAT",
        ),
    ],
    ids=["unknown tensor", "two outputs", "another type"],
)
def test_one_that_does_not_fit_is_refused(tmp_path: Path, taken: Taken, more: dict[str, Any], problem: str) -> None:
    model = mlp(tmp_path / "m.onnx")
    behind = discriminator(tmp_path / "sure.onnx", taken, **more)
    with pytest.raises(ArtefactError, match=rf"sure\.onnx` can't be put behind `.*m\.onnx`: {problem}"):
        prepared(model, Preparation(discriminator=behind), tmp_path / "prepared")


def test_a_model_that_has_such_a_tensor_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], [DISCRIMINATOR_OUTPUT])]
    ends = [tensor("x", ["n", INPUTS])], [tensor(DISCRIMINATOR_OUTPUT, ["n", INPUTS])]
    model = save_model(tmp_path / "m.onnx", nodes, inputs=ends[0], outputs=ends[1])
    behind = discriminator(tmp_path / "sure.onnx", {"scores": INPUTS})
    with pytest.raises(ArtefactError, match="has a tensor `discriminator` already"):
        prepared(model, Preparation(discriminator=behind), tmp_path)
