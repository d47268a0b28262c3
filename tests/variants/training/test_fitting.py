"""Models of the ladder by scikit-learn, as ONNX: whatever the rows are called."""

import io
from importlib.util import find_spec

import numpy as np
import onnxruntime
import pytest
from labelled import blobs

from proteus_cli.arrays import Singles
from proteus_cli.variants.training.arrays import LabelledRows
from proteus_cli.variants.training.fitting import OUTPUT, trained


def scores(kind: str, name: str) -> Singles:
    """Those that a model gives the rows that it was trained on."""
    x, y = blobs(10)
    model = onnxruntime.InferenceSession(trained(kind, name, x, y, 0), providers=["CPUExecutionProvider"])
    (found,) = model.run([OUTPUT], {name: x})
    return np.asarray(found)


@pytest.mark.skipif(find_spec("skl2onnx") is None, reason="trains, which needs skl2onnx")
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("kind", "names"),
    [("linear", "rows flat label probabilities variable"), ("mlp-2", "classes coefficient shape_tensor unity")],
)
def test_rows_may_have_the_name_of_a_tensor_within(kind: str, names: str) -> None:
    expected = scores(kind, "x")
    for name in names.split():
        np.testing.assert_array_equal(scores(kind, name), expected)


@pytest.mark.parametrize("name", ["x", "file", "allow_pickle", "args"])
def test_rows_of_any_name_are_kept_as_an_eval_split(name: str) -> None:
    x, y = blobs(10)
    with np.load(io.BytesIO(LabelledRows(name, x, y).npz())) as arrays:
        assert sorted(arrays) == sorted([name, "y"])
        np.testing.assert_array_equal(arrays[name], x)
