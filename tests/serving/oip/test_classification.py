"""The highest classes of an output are those that a plain sort finds, and say so as Triton's texts do."""

import json
import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_plane import HOSTED, TWO, SmallPlane
from tritonclient.grpc import service_pb2

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.errors import BadRequest
from proteus_cli.serving.grpc.codec import GrpcCodec
from proteus_cli.serving.oip import tensors as classification
from proteus_cli.serving.oip.tensors import highest_classes, outputs_by_name, require_encodable
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch
from proteus_cli.serving.requests.query import Classes, Form, Query
from proteus_cli.serving.rest.codec.codec import RestCodec

FLOAT = np.dtype(np.float32)
LABELS = ("cat", "dög", "a:b")
Y, M = np.array([[1.5, 3], [0.25, -1], [7, 8]], FLOAT), np.array([[4], [5], [6]], np.int64)


def texts(values: npt.ArrayLike, count: int, *labels: str) -> list[str]:
    return highest_classes(np.array(values), count, labels)


def packed(texts: list[str]) -> bytes:
    return classification.packed(texts)


def test_the_highest_come_first_with_their_index_and_label() -> None:
    assert texts(np.array([[0.5, 2, -1]], FLOAT), 2, *LABELS) == ["2.0:1:dög", "0.5:0:cat"]


def test_of_equal_values_the_lower_index_comes_first_and_nan_last() -> None:
    values = np.array([[math.nan, 1, math.inf, 1, -math.inf]], FLOAT)
    assert texts(values, 5) == ["inf:2", "1.0:1", "1.0:3", "nan:0", "-inf:4"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_value_has_as_few_digits_as_tell_it_from_others_of_its_datatype(dtype: Any) -> None:
    assert texts(np.array([[0.1]], dtype), 1) == ["0.1:0"]


def test_classes_without_a_label_end_with_their_index() -> None:
    assert texts([[1, 2, 3, 4]], 4, *LABELS) == ["4:3", "3:2:a:b", "2:1:dög", "1:0:cat"]


def test_large_whole_numbers_keep_their_order() -> None:
    assert texts(np.array([[2**64 - 2, 2**64 - 1, 0]], np.uint64), 2) == [f"{2**64 - 1}:1", f"{2**64 - 2}:0"]


def test_all_axes_of_a_row_are_its_classes() -> None:
    assert texts([[[1, 2], [4, 3]]], 2) == ["4:2", "3:3"]


@given(st.data())
def test_equal_values_keep_their_order(data: st.DataObject) -> None:
    rows, classes = (data.draw(st.integers(1, most)) for most in (5, 12))
    values = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=rows * classes, max_size=rows * classes)))
    values = values.reshape(rows, classes).astype(data.draw(st.sampled_from([np.float32, np.int8])))
    count = data.draw(st.integers(1, classes))
    expected = [
        f"{row[index]}:{index}"
        for row in values
        for index in sorted(range(classes), key=lambda index, row=row: (-row[index], index))[:count]  # type: ignore[misc]
    ]
    assert texts(values, count) == expected


@pytest.mark.parametrize(
    ("shape", "form", "rows", "problem"),
    [
        ((2**18,), False, 3, "786,432 values as JSON or to find classes"),
        ((2**19 + 1,), Classes(1, True), 1, "524,289 values as JSON or to find classes"),
        ((2**16,), Classes(2**15, False), 3, "98,304 classes"),
    ],
)
def test_an_answer_that_takes_too_long_to_encode_is_refused(
    shape: tuple[int, ...], form: Form, rows: int, problem: str
) -> None:
    with pytest.raises(BadRequest, match=problem):
        require_encodable(signature_of(shape), [(0, form)], rows)


def signature_of(output: tuple[int, ...]) -> Signature:
    return Signature((), (TensorSpec("y", FLOAT, output),))


# --- answers


def outputs(*forms: tuple[int, bool | Classes], **of_query: Any) -> tuple[Query, Answered]:
    """Rows 1 and 2 of a batch of three."""
    return Query("two", 2, forms, **of_query), Answered(AnsweredBatch(HOSTED, 3, (Y, M), 0.25), 1, 2, 0.001)


def test_classes_over_rest_are_texts_and_other_outputs_stay_values() -> None:
    codec = RestCodec("two", TWO, 8, ("no", "yes"))
    head, tensors = codec.encode(*outputs((1, False), (0, Classes(1, as_binary=False)), id="a"))
    answer = json.loads(head)
    assert answer["outputs"] == [
        {"name": "m", "datatype": "INT64", "shape": [2, 1], "data": [5, 6]},
        {"name": "y", "datatype": "BYTES", "shape": [2, 1], "data": ["0.25:0:no", "8.0:1:yes"]},
    ]
    assert (answer["id"], answer["parameters"]["batch_size"], tensors) == ("a", 3, [])


def test_classes_over_grpc_are_raw_bytes() -> None:
    plane = SmallPlane()
    plane.by_name["two"].labels = ("no", "yes")
    codec = GrpcCodec(plane)  # type: ignore[arg-type]
    query, answered = outputs((1, True), (0, Classes(1, as_binary=True)), id="a")
    encoded = codec.encode(query, answered)
    answer = service_pb2.ModelInferResponse.FromString(encoded)
    assert [(each.name, each.datatype, list(each.shape)) for each in answer.outputs] == [
        ("m", "INT64", [2, 1]), ("y", "BYTES", [2, 1]),
    ]  # fmt: skip
    assert list(answer.raw_output_contents) == [M[1:].tobytes(), packed(["0.25:0:no", "8.0:1:yes"])]
    assert (answer.id, answer.parameters["batch_size"].int64_param) == ("a", 3)


def test_who_asks_for_values_gets_them_beside_who_asks_for_classes() -> None:
    codec, (query, answered) = RestCodec("two", TWO, 8), outputs((0, False))
    for form in (False, Classes(1, as_binary=False), False):
        head, _ = codec.encode(Query("two", 2, ((0, form),)), answered)
        assert json.loads(head)["outputs"][0]["datatype"] == ("BYTES" if form else "FP32")
    assert query.outputs in {key[0] for key in answered.batch.memo}


def test_packed_texts_are_behind_their_lengths_in_bytes() -> None:
    assert packed(["ö", ""]) == struct.pack("<I", 2) + "ö".encode() + struct.pack("<I", 0)


# --- refusals


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (TensorSpec("y", FLOAT, (3,)), "has 3 classes; got `classification` 4"),
        (TensorSpec("y", FLOAT, (1, 3)), "has 3 classes"),
        (TensorSpec("y", FLOAT, ()), "has 1 classes"),
        (TensorSpec("y", np.dtype(np.bool_), (9,)), "are true or false, so they are no classes"),
        (TensorSpec("y", FLOAT, (9, None)), "vary in number, so they are no classes"),
    ],
    ids=str,
)
def test_an_output_without_so_many_classes_is_refused(spec: TensorSpec, problem: str) -> None:
    with pytest.raises(BadRequest) as refused:
        outputs_by_name(Signature((), (spec,)), [("y", Classes(4, as_binary=True))])
    assert problem in refused.value.message
