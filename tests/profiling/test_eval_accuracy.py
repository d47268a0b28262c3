"""Accuracy is what a model gets right on its eval split."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper
from tiny import INPUTS, passing_on, save_eval, save_model, tensor

from proteus_cli.backends.base import NamedArrays, Signature, TensorSpec
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.catalog import Family, Variant
from proteus_cli.domain.device import Device
from proteus_cli.errors import ArtefactError, EngineError
from proteus_cli.profiling.answers import confidence_output, measure_accuracy, measure_answers

CPU = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))


def accuracy(model: Path, split: Path) -> float:
    with OnnxRuntime(CPU).runner(model) as runner:
        return measure_accuracy(runner, split)


@pytest.mark.parametrize(("rows", "right"), [(1, 0), (1, 1), (64, 48), (65, 1), (200, 133)])
def test_accuracy_is_the_fraction_that_is_right(tmp_path: Path, rows: int, right: int) -> None:
    """Also where the rows are more than one batch, or not a whole number of them."""
    model, split = passing_on(tmp_path / "m.onnx"), save_eval(tmp_path / "e.npz", rows=rows, right=right)
    assert accuracy(model, split) == right / rows


def test_the_arrays_of_a_model_with_two_inputs_go_by_name(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["a", "b"], ["scores"])
    model = save_model(
        tmp_path / "m.onnx",
        [node],
        inputs=[tensor("a", ["n", 3]), tensor("b", ["n", 3])],
        outputs=[tensor("scores", ["n", 3])],
    )
    a = np.eye(3, dtype=np.float32)
    np.savez(tmp_path / "e.npz", a=a, b=2 * np.roll(a, 1, axis=1), y=[1, 2, 1])
    assert accuracy(model, tmp_path / "e.npz") == pytest.approx(2 / 3)


def test_values_of_another_type_are_converted(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["k"], ["scores"])
    ends = [[tensor(name, ["n", 2], TensorProto.INT64)] for name in ("k", "scores")]
    model = save_model(tmp_path / "m.onnx", [node], inputs=ends[0], outputs=ends[1])
    np.savez(tmp_path / "e.npz", x=np.array([[1.0, 2.0], [4.0, 3.0]]), y=np.array([1.0, 0.0]))
    assert accuracy(model, tmp_path / "e.npz") == 1.0


def two_outputs(path: Path) -> Path:
    """Scores are the inputs; ``sure`` is their sum, one number for a row."""
    nodes = [
        helper.make_node("Identity", ["x"], ["scores"]),
        helper.make_node("ReduceSum", ["x", "axes"], ["sure"], keepdims=0),
    ]
    ends = [tensor("x", ["n", INPUTS])], [tensor("scores", ["n", INPUTS]), tensor("sure", ["n"])]
    return save_model(path, nodes, inputs=ends[0], outputs=ends[1], weights={"axes": np.array([1])})


def test_confidence_is_the_margin_or_the_output_that_the_family_names(tmp_path: Path) -> None:
    """Over more than one batch of rows."""
    model, split = two_outputs(tmp_path / "m.onnx"), save_eval(tmp_path / "e.npz", rows=100, right=60)
    x = np.load(split)["x"]
    ranked = np.sort(x, axis=1)
    families = [Family("f", "1s", (Variant("m", 0.5),), confidence=each) for each in ("margin", "output:sure")]
    with OnnxRuntime(CPU).runner(model) as runner:
        by_margin, by_output = (
            measure_answers(runner, split, confidence_output(family, runner.signature)) for family in families
        )
    assert by_margin.correct.tolist() == by_output.correct.tolist() == [True] * 60 + [False] * 40
    assert by_margin.confidences == pytest.approx(ranked[:, -1] - ranked[:, -2])
    assert by_margin.classes.tolist() == by_output.classes.tolist() == x.argmax(axis=1).tolist()
    assert by_output.confidences == pytest.approx(x.sum(axis=1))


GOOD_X = np.zeros((2, INPUTS), np.float32)


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": GOOD_X},
        {"y": [0, 1]},
        {"inputs": GOOD_X, "y": [0, 1]},
        {"x": GOOD_X[:, 1:], "y": [0, 1]},
        {"x": GOOD_X, "y": [0, 1, 2]},
        {"x": GOOD_X[:0], "y": np.zeros(0)},
        {"x": GOOD_X, "y": ["cat", "dog"]},
        {"x": np.array([["1", "a", "b", "c"]] * 2), "y": [0, 1]},
        {"x": GOOD_X, "y": 1},
        {"x": GOOD_X, "y": [[0], [1]]},
        {"x": np.array([{"pickled": 1}] * 2, dtype=object), "y": [0, 1]},
    ],
    ids=lambda arrays: " ".join(f"{name}{np.shape(value)}" for name, value in arrays.items()),
)
def test_an_eval_split_that_does_not_fit_is_refused(
    tmp_path: Path, arrays: Mapping[str, npt.NDArray[Any] | list[Any]]
) -> None:
    model, split = passing_on(tmp_path / "m.onnx"), tmp_path / "e.npz"
    np.savez(split, allow_pickle=True, **{name: np.asarray(value) for name, value in arrays.items()})
    with pytest.raises(ArtefactError) as refused:
        accuracy(model, split)
    assert str(split) in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize(
    ("y", "said"),
    [
        ([0.0, np.nan], "`y` must have whole numbers: the classes, from 0"),
        ([0.0, np.inf], "`y` must have whole numbers"),
        ([0.9, 1.9], "`y` must have whole numbers"),
        ([0, 2**63], "`y` must have whole numbers"),
        ([0, -2], "labels must be from 0"),
        ([0, -1], "labels must be from 0; 1 row of -1 (`proteus samples export --labelled-only` leaves them out)"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, y: list[float], said: str) -> None:
    """Cast, each would be a class that no model answers, or another one than is meant."""
    model, split = passing_on(tmp_path / "m.onnx"), tmp_path / "e.npz"
    np.savez(split, x=GOOD_X, y=np.array(y))
    with pytest.raises(ArtefactError) as refused:
        accuracy(model, split)
    assert f"Can't use the eval split in `{split}`: {said}" in refused.value.message


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", b"\x93NUMPY\x01\x00"])
def test_what_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    model, split = passing_on(tmp_path / "m.onnx"), tmp_path / "e.npz"
    split.write_bytes(content)
    with pytest.raises(ArtefactError):
        accuracy(model, split)


def npz(path: Path, **members: bytes) -> Path:
    """A ZIP file of these members, under the names of arrays."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(f"{name}.npy", content)
    return path


def npy(header: str) -> bytes:
    """An array's bytes with this header, and no values."""
    padded = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


@pytest.mark.parametrize(
    "y",
    [
        b"no array",
        b"",
        npy("{'descr': '<i8', 'fortran_order': False, 'shape': (2,"),
        npy("{'descr': '<i8', 'fortran_order': False, 'shape': (9, 9, 9)}"),
        npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000000,)}"),
        npy("{'descr': [('a', '<i8'), ('b', '<i8')], 'fortran_order': False, 'shape': (0,)}"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
        npy("  {'descr': '<i8'\n }"),
    ],
)
def test_an_eval_split_with_a_damaged_array_is_refused(tmp_path: Path, y: bytes) -> None:
    model = passing_on(tmp_path / "m.onnx")
    with pytest.raises(ArtefactError, match="Can't use the eval split"):
        accuracy(model, npz(tmp_path / "e.npz", y=y, x=y))


@pytest.mark.parametrize("is_hidden", [False, True])
def test_an_eval_split_is_bounded_by_its_unpacked_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_hidden: bool
) -> None:
    """Zeros are packed to a thousandth of their size; a member without the end `.npy` goes by the same name."""
    monkeypatch.setattr("proteus_cli.store.eval_splits.MIN_UNPACKED_BYTES", 50_000)
    model, split, rows = passing_on(tmp_path / "m.onnx"), tmp_path / "e.npz", 10_000
    np.savez_compressed(split, x=np.zeros((rows, INPUTS), np.float32), y=np.zeros(rows, np.int64))
    assert split.stat().st_size < 2_000
    if is_hidden:
        small = tmp_path / "small.npz"
        np.savez_compressed(small, x=GOOD_X, y=[0, 0])
        with zipfile.ZipFile(split) as large, zipfile.ZipFile(small, "a", zipfile.ZIP_DEFLATED) as both:
            both.writestr("x", large.read("x.npy"))
            both.writestr("y", large.read("y.npy"))
        assert accuracy(model, small) == 1.0
    else:
        with pytest.raises(ArtefactError, match="far more than its size"):
            accuracy(model, split)


class Scoreless:
    """A runner whose output has no score for any row, as outputs of varying size may."""

    signature = Signature(
        (TensorSpec("x", np.dtype(np.float32), (INPUTS,)),), (TensorSpec("scores", np.dtype(np.float32), (None,)),)
    )
    memory_bytes = 0

    def infer(self, inputs: NamedArrays) -> NamedArrays:
        return {"scores": np.empty((len(inputs["x"]), 0), np.float32)}


def test_answers_without_any_score_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="The output `scores` has no scores"):
        measure_accuracy(Scoreless(), save_eval(tmp_path / "e.npz"))
