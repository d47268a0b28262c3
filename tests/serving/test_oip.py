"""Bytes of the Open Inference Protocol: what is right comes through as it is, anything else is a bad request."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proteus_cli.backends.base import Arrays, Signature, TensorSpec
from proteus_cli.errors import BadRequest
from proteus_cli.serving import oip
from proteus_cli.serving.oip import DATATYPE_OF, DATATYPES, InferRequest

FLOAT, LONG = np.dtype(np.float32), np.dtype(np.int64)
TWO = Signature(
    (TensorSpec("x", FLOAT, (4,)), TensorSpec("k", LONG, (2,))),
    (TensorSpec("y", FLOAT, (3,)), TensorSpec("z", LONG, ())),
)
X: dict[str, Any] = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2.5, -3, 4e5]}
K: dict[str, Any] = {"name": "k", "shape": [1, 2], "datatype": "INT64", "data": [7, -8]}
Json = Mapping[str, Any]


def body(*inputs: Json, **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def decoded(*inputs: Json, **more: Any) -> InferRequest:
    return oip.decode(body(*inputs, **more), None, TWO)


def with_binary(*tensors: tuple[Json, bytes], **more: Any) -> tuple[bytes, int]:
    """A body whose tensors follow its JSON, and the length of that."""
    described = []
    for tensor, content in tensors:
        without_data = {name: value for name, value in tensor.items() if name != "data"}
        described.append({**without_data, "parameters": {"binary_data_size": len(content)}})
    head = body(*described, **more)
    return head + b"".join(content for _, content in tensors), len(head)


XS, KS = np.array([[1, 2.5, -3, 4e5]], FLOAT), np.array([[7, -8]], LONG)


def require_xk(request: InferRequest) -> None:
    np.testing.assert_array_equal(request.inputs["x"], XS)
    np.testing.assert_array_equal(request.inputs["k"], KS)
    assert (request.inputs["x"].dtype, request.inputs["k"].dtype) == (FLOAT, LONG)


# --- what is right


@pytest.mark.parametrize("data", [[1, 2.5, -3, 4e5], [[1, 2.5, -3, 4e5]], [[[1], [2.5]], [[-3], [4e5]]]])
def test_data_may_be_flat_or_nested(data: Any) -> None:
    require_xk(decoded({**X, "data": data}, K))


def test_inputs_may_come_in_any_order() -> None:
    request = decoded(K, X)
    require_xk(request)
    assert list(request.inputs) == ["x", "k"]


def test_tensors_may_follow_in_binary_in_the_order_of_the_request() -> None:
    content, length = with_binary((K, KS.tobytes()), (X, XS.tobytes()))
    require_xk(oip.decode(content, length, TWO))


def test_json_and_binary_tensors_may_be_mixed() -> None:
    binary = {**X, "parameters": {"binary_data_size": 16}}
    del binary["data"]
    head = body(K, binary)
    require_xk(oip.decode(head + XS.tobytes(), len(head), TWO))


def test_several_rows_stay_in_order() -> None:
    request = decoded({**X, "shape": [2, 4], "data": [*range(8)]}, {**K, "shape": [2, 2], "data": [[1, 2], [3, 4]]})
    assert request.rows == 2
    assert request.inputs["x"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert request.inputs["k"].tolist() == [[1, 2], [3, 4]]


def test_id_and_parameters_come_through() -> None:
    request = decoded(X, K, id="a-1", parameters={"timeout": 5, "other": [1]})
    assert request.id == "a-1"
    assert request.parameters == {"timeout": 5, "other": [1]}
    assert decoded(X, K).id is None


def test_fields_that_the_protocol_may_get_one_day_are_passed_over() -> None:
    require_xk(decoded({**X, "new": {"a": [1]}}, K, model_version="1", new=None))


@pytest.mark.parametrize(
    ("outputs", "parameters", "wanted"),
    [
        (None, {}, [("y", False), ("z", False)]),
        (None, {"binary_data_output": True}, [("y", True), ("z", True)]),
        ([{"name": "z"}], {}, [("z", False)]),
        ([{"name": "z"}, {"name": "y", "parameters": {"binary_data": True}}], {}, [("z", False), ("y", True)]),
        ([{"name": "z", "parameters": {"binary_data": False}}], {"binary_data_output": True}, [("z", False)]),
    ],
)
def test_outputs_are_as_the_request_wants_them(outputs: Any, parameters: Json, wanted: list[tuple[str, bool]]) -> None:
    assert list(decoded(X, K, outputs=outputs, parameters=parameters).outputs) == wanted


# --- what is wrong

NO_DATA = {name: value for name, value in X.items() if name != "data"}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"null", b"[]", b"3", b'"inputs"', b"{}", b'{"inputs": 3}', b'{"inputs": [3]}', b"\xff\xfe",
        b'{"inputs": []}\x00', b"NaN", b'{"inputs": [{}]}',
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(content: bytes) -> None:
    with pytest.raises(BadRequest):
        oip.decode(content, None, TWO)


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        ({**X, "datatype": "FP64"}, "datatype FP32; got FP64"),
        ({**X, "datatype": "float32"}, "datatype FP32"),
        ({**X, "datatype": "BYTES"}, "datatype FP32"),
        ({**X, "shape": [4]}, r"shape \[rows, 4\]"),
        ({**X, "shape": [1, 5]}, r"shape \[rows, 4\]"),
        ({**X, "shape": [1, 4, 1]}, r"shape \[rows, 4\]"),
        ({**X, "shape": []}, r"shape \[rows, 4\]"),
        ({**X, "shape": [0, 4], "data": []}, "rows ≥ 1"),
        ({**X, "shape": [-1, 4]}, "rows ≥ 1"),
        ({**X, "shape": [1, -4]}, r"shape \[rows, 4\]"),
        ({**X, "shape": [-1, -4]}, r"shape \[rows, 4\]"),
        ({**X, "shape": [2, 4]}, "4 values"),
        ({**X, "shape": [2**62, 4]}, "4 values"),
        ({**X, "shape": [10**20, 4]}, "shape"),
        ({**X, "shape": [10**4000, 4]}, "shape"),
        ({**X, "shape": [1e18, 4]}, "shape"),
        ({**X, "shape": [1.5, 4]}, "shape"),
        ({**X, "shape": ["1", 4]}, "shape"),
        ({**X, "shape": [None, 4]}, "shape"),
        ({**X, "shape": 4}, "shape"),
        ({**X, "data": [1, 2, 3]}, "3 values"),
        ({**X, "data": [1, 2, 3, 4, 5]}, "5 values"),
        ({**X, "data": []}, "0 values"),
        ({**X, "data": [[1, 2], [3]]}, "evenly nested"),
        ({**X, "data": [[1, 2, 3, 4], 5]}, "evenly nested"),
        ({**X, "data": ["1", "2", "3", "4"]}, "must hold FP32"),
        ({**X, "data": [1, 2, 3, "4"]}, "must hold FP32"),
        ({**X, "data": [1, 2, 3, None]}, "must hold FP32"),
        ({**X, "data": [True, False, True, True]}, "must hold FP32"),
        ({**X, "data": [{"a": 1}, 2, 3, 4]}, "must hold FP32"),
        ({**X, "data": [10**40, 2, 3, 4]}, "must hold FP32"),
        ({**X, "data": {"0": 1}}, "needs `data`"),
        ({**X, "data": "AAAA"}, "needs `data`"),
        ({**X, "data": 3}, "needs `data`"),
        ({**X, "data": None}, "needs `data`"),
        (NO_DATA, "needs `data`"),
        ({**X, "name": "w"}, "inputs must be x, k; got w, k"),
        ({**X, "name": "k"}, "inputs must be x, k; got k, k"),
        ({**X, "name": 3}, "name"),
        ({"shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}, "name"),
        ({**X, "parameters": {"binary_data_size": 16}}, "binary_data_size"),
        ({**NO_DATA, "parameters": {"binary_data_size": 16}}, "claims 16 bytes of binary data; 0 are left"),
        ({**NO_DATA, "parameters": {"binary_data_size": -16}}, "claims -16 bytes"),
        ({**NO_DATA, "parameters": {"binary_data_size": "16"}}, "whole number"),
        ({**NO_DATA, "parameters": {"binary_data_size": True}}, "whole number"),
        ({**NO_DATA, "parameters": {"binary_data_size": 1e40}}, "whole number"),
        ({**NO_DATA, "parameters": {"binary_data_size": 10**30}}, "claims"),
        ({**X, "parameters": []}, "parameters"),
    ],
    ids=str,
)
def test_a_tensor_that_makes_no_sense_is_refused(tensor: Json, problem: str) -> None:
    with pytest.raises(BadRequest, match=problem):
        decoded(tensor, K)


@pytest.mark.parametrize("data", [[2**63, 0], [-(2**63) - 1, 0], [2**64, 0], [10**100, 0], [0.5, 0], [1e3, 0]])
def test_whole_numbers_that_do_not_fit_are_refused(data: list[Any]) -> None:
    with pytest.raises(BadRequest, match="`k`"):
        decoded(X, {**K, "data": data})


def test_the_ends_of_the_range_fit() -> None:
    assert decoded(X, {**K, "data": [2**63 - 1, -(2**63)]}).inputs["k"].tolist() == [[2**63 - 1, -(2**63)]]


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ([X], "inputs must be x, k; got x"),
        ([], "got none"),
        ([X, K, K], "got x, k, k"),
        ([X, {**K, "shape": [2, 2], "data": [1, 2, 3, 4]}], "as many rows"),
    ],
)
def test_inputs_that_do_not_belong_together_are_refused(inputs: list[Json], problem: str) -> None:
    with pytest.raises(BadRequest, match=problem):
        decoded(*inputs)


@pytest.mark.parametrize(
    "more",
    [
        {"id": 3}, {"id": ["a"]}, {"parameters": []}, {"parameters": "a"}, {"outputs": 3}, {"outputs": [{}]},
        {"outputs": [{"name": "nothing"}]},
        {"outputs": [{"name": "y"}, {"name": "y"}]}, {"outputs": ["y"]}, {"outputs": [{"name": "y", "parameters": 1}]},
    ],
    ids=str,
)  # fmt: skip
def test_the_rest_of_a_request_is_checked_too(more: Json) -> None:
    with pytest.raises(BadRequest):
        decoded(X, K, **more)


@pytest.mark.parametrize("length", [-1, 10**6, 10**30, 0, 5])
def test_a_length_of_the_json_that_is_wrong_is_refused(length: int) -> None:
    content, _ = with_binary((X, XS.tobytes()), (K, KS.tobytes()))
    with pytest.raises(BadRequest):
        oip.decode(content, length, TWO)


@pytest.mark.parametrize("extra", [b"\x00", b"0" * 16])
def test_binary_data_that_is_too_long_is_refused(extra: bytes) -> None:
    content, length = with_binary((X, XS.tobytes()), (K, KS.tobytes()))
    with pytest.raises(BadRequest, match="belong to no input"):
        oip.decode(content + extra, length, TWO)


@pytest.mark.parametrize("size", [0, 1, 15, 17, 32])
def test_binary_data_of_another_size_than_the_shape_is_refused(size: int) -> None:
    content, length = with_binary((X, bytes(size)), (K, KS.tobytes()))
    with pytest.raises(BadRequest, match="`x`"):
        oip.decode(content, length, TWO)


def test_binary_data_that_was_cut_off_is_refused() -> None:
    content, length = with_binary((X, XS.tobytes()), (K, KS.tobytes()))
    with pytest.raises(BadRequest, match="are left"):
        oip.decode(content[:-1], length, TWO)


# --- whatever comes

DEEP = 100_000


@given(st.binary(max_size=200), st.none() | st.integers(-5, 250))
@example(b"[" * DEEP, None)
@example(b'{"a":' * DEEP, None)
@example(b'{"inputs":' + b"[" * DEEP, None)
@example(b'{"inputs":[{"data":' + b"[" * DEEP, None)
@example(b'{"parameters":' + b'{"a":' * DEEP, None)
@example(b'{"new":' + b"[" * DEEP, None)
@example(b'{"inputs":[' + b'{"name":"x","shape":[' + b"9" * 5000 + b"]}]}", None)
def test_garbage_is_a_bad_request_and_never_a_crash(content: bytes, length: int | None) -> None:
    with pytest.raises(BadRequest):
        oip.decode(content, length, TWO)


VALID, VALID_LENGTH = with_binary((X, XS.tobytes()), (K, KS.tobytes()), id="a", outputs=[{"name": "y"}])
VALID_JSON = body({**X, "data": [[1, 2.5, -3, 4e5]]}, K, id="a", parameters={"timeout": 1000})


@st.composite
def mutated(draw: st.DrawFn) -> tuple[bytes, int | None]:
    """A valid request with some of its bytes replaced, left out, repeated or put in."""
    is_binary = draw(st.booleans())
    content = bytearray(VALID if is_binary else VALID_JSON)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        until = draw(st.integers(at, min(len(content), at + 6)))
        content[at:until] = draw(
            st.binary(max_size=6) | st.sampled_from([b"-", b"9" * 30, b"null", b"[", b'"', b"1e999"])
        )
    return bytes(content), draw(st.sampled_from([VALID_LENGTH, len(content), 0])) if is_binary else None


@given(mutated())
def test_a_request_with_wrong_bytes_is_decoded_or_refused(request: tuple[bytes, int | None]) -> None:
    content, length = request
    try:
        found = oip.decode(content, length, TWO)
    except BadRequest:
        return
    assert {name: (value.dtype, value.shape) for name, value in found.inputs.items()} == {
        "x": (FLOAT, (found.rows, 4)),
        "k": (LONG, (found.rows, 2)),
    }


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner))


@given(st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), ANYTHING)
def test_a_field_of_any_type_is_decoded_or_refused(field: str, value: Any) -> None:
    content = body({**X, field: value}, K)
    try:
        found = oip.decode(content, None, TWO)
    except BadRequest:
        return
    assert found.inputs["x"].shape == (1, 4)


# --- there and back


@pytest.mark.parametrize("data", [[0, 2**63], [2**64 - 1, 0], [[2**63], [1]]])
def test_large_whole_numbers_may_stand_beside_small_ones(data: list[Any]) -> None:
    signature = Signature((TensorSpec("u", np.dtype(np.uint64), (2,)),), ())
    content = body({"name": "u", "shape": [1, 2], "datatype": "UINT64", "data": data})
    assert (
        oip.decode(content, None, signature).inputs["u"].ravel().tolist() == np.ravel(np.array(data, object)).tolist()
    )


@pytest.mark.parametrize("data", [[2**63, -1], [2**63, 0.5], [2**64, 0], [2**63, 1.0], [-1, 0]])
def test_large_whole_numbers_that_do_not_fit_are_refused(data: list[Any]) -> None:
    signature = Signature((TensorSpec("u", np.dtype(np.uint64), (2,)),), ())
    with pytest.raises(BadRequest, match="`u`"):
        oip.decode(body({"name": "u", "shape": [1, 2], "datatype": "UINT64", "data": data}), None, signature)


@st.composite
def tensors(draw: st.DrawFn) -> npt.NDArray[Any]:
    """Some rows of any numeric type, with every value that it has."""
    dtype = np.dtype(draw(st.sampled_from(sorted(DATATYPES.values(), key=str))))
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    size = math.prod(shape) * dtype.itemsize
    content = draw(st.binary(min_size=size, max_size=size))
    if dtype.kind == "b":
        return (np.frombuffer(content, np.uint8).reshape(shape) % 2).astype(dtype)
    return np.frombuffer(content, dtype).reshape(shape)


def there_and_back(values: npt.NDArray[Any], *, as_binary: bool) -> Arrays:
    """An answer with ``values``, taken for a request."""
    signature = Signature((TensorSpec("t", values.dtype, values.shape[1:]),), ())
    asked = InferRequest(None, {}, len(values), {}, (("t", as_binary),))
    content, length = oip.encode("m", asked, {"t": values}, {})
    head = json.loads(content[:length])
    head["inputs"] = head.pop("outputs")
    request = json.dumps(head).encode()
    if length is None:
        return oip.decode(request, None, signature).inputs
    return oip.decode(request + content[length:], len(request), signature).inputs


@given(tensors())
def test_binary_tensors_come_back_to_the_bit(values: npt.NDArray[Any]) -> None:
    found = there_and_back(values, as_binary=True)["t"]
    assert found.dtype == values.dtype
    assert found.shape == values.shape
    assert found.tobytes() == values.tobytes()


@given(tensors())
def test_json_tensors_come_back_as_they_were_where_they_are_finite(values: npt.NDArray[Any]) -> None:
    if values.dtype.kind == "f":
        values = np.where(np.isfinite(values), values, 0).astype(values.dtype)
    found = there_and_back(values, as_binary=False)["t"]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def test_every_type_has_one_name() -> None:
    assert {DATATYPE_OF[np.dtype(dtype)]: dtype for dtype in DATATYPES.values()} == DATATYPES


def test_tensors_that_are_not_in_order_in_memory_are_sent_in_order() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4).T
    assert there_and_back(values, as_binary=True)["t"].tolist() == values.tolist()
    assert there_and_back(values, as_binary=False)["t"].tolist() == values.tolist()


def test_an_answer_says_who_gave_it() -> None:
    asked = InferRequest("a-1", {}, 1, {}, (("z", False), ("y", True)))
    outputs: Arrays = {"y": np.array([[1, 2, 3]], FLOAT), "z": np.array([9], LONG)}
    content, length = oip.encode("digits", asked, outputs, {"variant": "digits-s", "accuracy": 0.9})
    assert length is not None
    assert json.loads(content[:length]) == {
        "model_name": "digits",
        "model_version": "1",
        "id": "a-1",
        "parameters": {"variant": "digits-s", "accuracy": 0.9},
        "outputs": [
            {"name": "z", "datatype": "INT64", "shape": [1], "data": [9]},
            {"name": "y", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}},
        ],
    }
    assert content[length:] == outputs["y"].tobytes()


def test_metadata_names_what_varies_with_minus_one() -> None:
    signature = Signature(TWO.inputs, (TensorSpec("y", FLOAT, (None, 3)),))
    found = oip.metadata("digits", "onnxruntime", signature)
    assert found["inputs"][1] == {"name": "k", "datatype": "INT64", "shape": [-1, 2]}
    assert found["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, -1, 3]}]
    assert (found["name"], found["versions"], found["platform"]) == ("digits", ["1"], "onnxruntime")
