"""Bytes of the Open Inference Protocol: what is right comes through as it is, anything else is a bad request."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from builders import hosted
from hypothesis import example, given
from hypothesis import strategies as st
from reading import inputs_of

from proteus_cli.backends.base import NamedArrays, Signature, TensorSpec
from proteus_cli.errors import BadRequest, BodyTooLarge
from proteus_cli.serving.oip.tensors import DATATYPES
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch
from proteus_cli.serving.requests.query import Form, Query, RequestOptions
from proteus_cli.serving.rest.codec.codec import RestCodec

FLOAT, LONG = np.dtype(np.float32), np.dtype(np.int64)
TWO = Signature(
    (TensorSpec("x", FLOAT, (4,)), TensorSpec("k", LONG, (2,))),
    (TensorSpec("y", FLOAT, (3,)), TensorSpec("z", LONG, ())),
)
X: dict[str, Any] = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2.5, -3, 4e5]}
K: dict[str, Any] = {"name": "k", "shape": [1, 2], "datatype": "INT64", "data": [7, -8]}
MAX_ROWS = 4096
Json = Mapping[str, Any]


@dataclass
class Seen:
    """A decoded request as a test looks at it: its inputs as arrays, its outputs by name."""

    inputs: NamedArrays
    query: Query
    outputs: list[tuple[str, Form]]

    @property
    def rows(self) -> int:
        return self.query.rows


def decode(content: bytes, length: int | None, signature: Signature) -> Seen:
    query, read_inputs = RestCodec("m", signature, MAX_ROWS).decode(content, length)
    inputs = {
        spec.name: np.frombuffer(values, spec.dtype).reshape(query.rows, *(size or 0 for size in spec.shape))
        for spec, values in zip(signature.inputs, inputs_of(read_inputs), strict=True)
    }
    return Seen(inputs, query, [(signature.outputs[place].name, as_binary) for place, as_binary in query.outputs])


def body(*inputs: Json, **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def decoded(*inputs: Json, **more: Any) -> Seen:
    return decode(body(*inputs, **more), None, TWO)


def with_binary(*tensors: tuple[Json, bytes], **more: Any) -> tuple[bytes, int]:
    """A body whose tensors follow its JSON, and the length of that."""
    described = []
    for tensor, content in tensors:
        without_data = {name: value for name, value in tensor.items() if name != "data"}
        described.append({**without_data, "parameters": {"binary_data_size": len(content)}})
    head = body(*described, **more)
    return head + b"".join(content for _, content in tensors), len(head)


XS, KS = np.array([[1, 2.5, -3, 4e5]], FLOAT), np.array([[7, -8]], LONG)


def check_xk(request: Seen) -> None:
    np.testing.assert_array_equal(request.inputs["x"], XS)
    np.testing.assert_array_equal(request.inputs["k"], KS)
    assert (request.inputs["x"].dtype, request.inputs["k"].dtype) == (FLOAT, LONG)


# --- what is right


@pytest.mark.parametrize("data", [[1, 2.5, -3, 4e5], [[1, 2.5, -3, 4e5]], [[[1], [2.5]], [[-3], [4e5]]]])
def test_data_may_be_flat_or_nested(data: Any) -> None:
    check_xk(decoded({**X, "data": data}, K))


def test_tensors_may_follow_in_binary_in_the_order_of_the_request() -> None:
    content, length = with_binary((K, KS.tobytes()), (X, XS.tobytes()))
    check_xk(decode(content, length, TWO))


def test_json_and_binary_tensors_may_be_mixed() -> None:
    binary = {**X, "parameters": {"binary_data_size": 16}}
    del binary["data"]
    head = body(K, binary)
    check_xk(decode(head + XS.tobytes(), len(head), TWO))


def test_several_rows_stay_in_order() -> None:
    request = decoded({**X, "shape": [2, 4], "data": [*range(8)]}, {**K, "shape": [2, 2], "data": [[1, 2], [3, 4]]})
    assert request.rows == 2
    assert request.inputs["x"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert request.inputs["k"].tolist() == [[1, 2], [3, 4]]


def test_id_and_parameters_come_through() -> None:
    request = decoded(X, K, id="a-1", parameters={"timeout": 5})
    assert request.query.id == "a-1"
    assert request.query.options == RequestOptions(timeout_s=5e-6)
    assert decoded(X, K).query.id is None


def test_fields_that_the_protocol_may_get_one_day_are_passed_over() -> None:
    check_xk(decoded({**X, "new": {"a": [1]}}, K, model_version="1", new=None))


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
        decode(content, None, TWO)


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        ({**X, "datatype": "FP64"}, "datatype FP32; got FP64"),
        ({**X, "datatype": "BYTES"}, "datatype FP32"),
        ({**X, "shape": [4]}, r"shape \[rows, 4\]"),
        ({**X, "shape": [1, 5]}, r"shape \[rows, 4\]"),
        ({**X, "shape": [0, 4], "data": []}, "rows ≥ 1"),
        ({**X, "shape": [-1, -4]}, r"shape \[rows, 4\]"),
        ({**X, "shape": [2, 4]}, "as many rows"),
        ({**X, "shape": [10**4000, 4]}, "shape"),
        ({**X, "shape": [1.5, 4]}, "shape"),
        ({**X, "shape": 4}, "shape"),
        ({**X, "data": [1, 2, 3]}, "3 values"),
        ({**X, "data": [1, 2, 3, 4, 5]}, "5 values"),
        ({**X, "data": [[1, 2], [3]]}, "evenly nested"),
        ({**X, "data": [1, 2, 3, "4"]}, "must hold FP32"),
        ({**X, "data": [True, False, True, True]}, "must hold FP32"),
        ({**X, "data": [{"a": 1}, 2, 3, 4]}, "must hold FP32"),
        ({**X, "data": [10**400, 2, 3, 4]}, "must hold FP32"),
        ({**X, "data": "AAAA"}, "needs `data`"),
        ({**X, "data": None}, "needs `data`"),
        (NO_DATA, "needs `data`"),
        ({**X, "name": "w"}, "inputs must be x, k; got w, k"),
        ({**X, "name": "k"}, "inputs must be x, k; got k, k"),
        ({"shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}, "name"),
        ({**X, "parameters": {"binary_data_size": 16}}, "claims 16 bytes"),
        ({**NO_DATA, "parameters": {"binary_data_size": 16}}, "claims 16 bytes of binary data; 0 are left"),
        ({**NO_DATA, "parameters": {"binary_data_size": -16}}, "Expected `int` >= 0 - at .*binary_data_size"),
        ({**NO_DATA, "parameters": {"binary_data_size": 1e40}}, "got `float` - at .*binary_data_size"),
        ({**X, "parameters": []}, "parameters"),
    ],
    ids=str,
)
def test_a_tensor_that_makes_no_sense_is_refused(tensor: Json, problem: str) -> None:
    with pytest.raises(BadRequest, match=problem):
        decoded(tensor, K)


def test_a_tensor_has_its_values_in_one_place() -> None:
    binary = {**X, "parameters": {"binary_data_size": 16}}
    head = body(K, binary)
    with pytest.raises(BadRequest, match="has both `data` and `binary_data_size`"):
        decode(head + XS.tobytes(), len(head), TWO)


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
        decode(content, length, TWO)


@pytest.mark.parametrize("extra", [b"\x00", b"0" * 16])
def test_binary_data_that_is_too_long_is_refused(extra: bytes) -> None:
    content, length = with_binary((X, XS.tobytes()), (K, KS.tobytes()))
    with pytest.raises(BadRequest, match="belong to no input"):
        decode(content + extra, length, TWO)


@pytest.mark.parametrize("size", [0, 1, 15, 17, 32])
def test_binary_data_of_another_size_than_the_shape_is_refused(size: int) -> None:
    content, length = with_binary((X, bytes(size)), (K, KS.tobytes()))
    with pytest.raises(BadRequest, match="`x`"):
        decode(content, length, TWO)


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
        decode(content, length, TWO)


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
        found = decode(content, length, TWO)
    except BadRequest:
        return
    assert {name: (value.dtype, value.shape) for name, value in found.inputs.items()} == {
        "x": (FLOAT, (found.rows, 4)),
        "k": (LONG, (found.rows, 2)),
    }


# --- there and back


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


HOSTED = hosted("cpu0", "digits", "digits-s", latency_s={1: 0.01}, max_batch=8)


def encoded(
    signature: Signature, outputs: tuple[npt.NDArray[Any], ...], wanted: tuple[tuple[int, bool], ...], name: str | None
) -> tuple[Any, bytes]:
    """The JSON of an answer with all rows of a batch, and what follows it."""
    batch = AnsweredBatch(HOSTED, len(outputs[0]), outputs, compute_s=0.002)
    query = Query("digits", batch.rows, wanted, id=name)
    head, blobs = RestCodec("digits", signature, MAX_ROWS).encode(query, Answered(batch, 0, batch.rows, queue_s=0.001))
    return json.loads(head), b"".join(blobs)


def there_and_back(values: npt.NDArray[Any], *, as_binary: bool) -> NamedArrays:
    """An answer with ``values``, taken for a request."""
    spec = TensorSpec("t", values.dtype, values.shape[1:])
    signature = Signature((spec,), (spec,))
    head, blobs = encoded(signature, (values,), ((0, as_binary),), None)
    head["inputs"] = head.pop("outputs")
    head["parameters"] = {}
    request = json.dumps(head).encode()
    return decode(request + blobs, len(request) if as_binary else None, signature).inputs


@given(tensors())
def test_binary_tensors_come_back_to_the_bit(values: npt.NDArray[Any]) -> None:
    found = there_and_back(values, as_binary=True)["t"]
    assert found.dtype == values.dtype
    assert found.shape == values.shape
    assert found.tobytes() == values.tobytes()


def test_tensors_that_are_not_in_order_in_memory_are_sent_in_order() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4).T
    assert there_and_back(values, as_binary=True)["t"].tolist() == values.tolist()
    assert there_and_back(values, as_binary=False)["t"].tolist() == values.tolist()


def test_an_answer_says_who_gave_it() -> None:
    y, z = np.array([[1, 2, 3]], FLOAT), np.array([9], LONG)
    head, blobs = encoded(TWO, (y, z), ((1, False), (0, True)), "a-1")
    assert head == {
        "model_name": "digits",
        "model_version": "1",
        "id": "a-1",
        "parameters": {
            "variant": "digits-s", "accuracy": 0.9, "device": "cpu0", "batch_size": 1, "compute_us": 2000,
            "queue_us": 1000,
        },
        "outputs": [
            {"name": "z", "datatype": "INT64", "shape": [1], "data": [9]},
            {"name": "y", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}},
        ],
    }  # fmt: skip
    assert blobs == y.tobytes()


@pytest.mark.parametrize("as_binary", [True, False])
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5), data=st.data())
def test_each_request_of_a_batch_gets_its_own_rows(*, sizes: list[int], as_binary: bool, data: st.DataObject) -> None:
    """Answers of one batch share what they have in common, and nothing else."""
    values = np.random.default_rng(0).random((sum(sizes), 3), np.float32)
    spec = TensorSpec("100%s", FLOAT, (3,))
    codec = RestCodec("digits", Signature((spec,), (spec,)), MAX_ROWS)
    batch = AnsweredBatch(HOSTED, sum(sizes), (values,), 0.0)
    first = 0
    for size in sizes:
        name = data.draw(st.none() | st.text(max_size=5))
        head, blobs = codec.encode(Query("digits", size, ((0, as_binary),), id=name), Answered(batch, first, size, 0.0))
        found, (output,) = json.loads(head), json.loads(head)["outputs"]
        assert (found.get("id"), output["name"], output["shape"]) == (name, "100%s", [size, 3])
        got = np.frombuffer(b"".join(blobs), FLOAT) if as_binary else np.array(output["data"], FLOAT)
        np.testing.assert_array_equal(got.reshape(size, 3), values[first : first + size])
        first += size


ONE = Signature((TensorSpec("x", FLOAT, (4,)),), (TensorSpec("y", FLOAT, (3,)),))


def test_a_head_that_is_known_is_checked_against_what_follows_it() -> None:
    codec = RestCodec("m", TWO, MAX_ROWS)
    content, length = with_binary((K, KS.tobytes()), (X, XS.tobytes()), id="a")
    for _ in range(2):
        query, read_inputs = codec.decode(content, length)
        assert [bytes(values) for values in inputs_of(read_inputs)] == [XS.tobytes(), KS.tobytes()]
        assert query.id == "a"
        for wrong in (content[:-1], content + b"0"):
            with pytest.raises(BadRequest):
                codec.decode(wrong, length)


def test_binary_requests_of_one_size_are_told_apart() -> None:
    codec = RestCodec("m", TWO, MAX_ROWS)
    tensors = (K, KS.tobytes()), (X, XS.tobytes())
    first, length = with_binary(*tensors, outputs=[{"name": "y"}])
    second, _ = with_binary(*tensors, outputs=[{"name": "z"}])
    assert len(first) == len(second)
    for content, wanted in [(first, 0), (first, 0), (second, 1), (second, 1), (first, 0)]:
        query, read_inputs = codec.decode(content, length)
        assert query.outputs == ((wanted, False),)
        assert [bytes(values) for values in inputs_of(read_inputs)] == [XS.tobytes(), KS.tobytes()]
        with pytest.raises(BadRequest):
            codec.decode(content, length - 1)


@pytest.mark.parametrize("has_length", [False, True])
def test_a_body_that_is_larger_than_any_request_is_refused_unread(has_length: bool) -> None:  # noqa: FBT001
    codec = RestCodec("m", ONE, MAX_ROWS)
    values = b",".join([b"0".ljust(63)] * (4 * MAX_ROWS))
    largest = body({**X, "shape": [MAX_ROWS, 4], "data": []}).replace(b"[]", b"[%b]" % values).ljust(codec.max_bytes)
    assert codec.max_bytes == MAX_ROWS * 4 * 64 + 65536
    query, _ = codec.decode(largest, len(largest) if has_length else None)
    assert query.rows == MAX_ROWS
    with pytest.raises(BodyTooLarge, match="send binary tensors, which are smaller"):
        codec.decode(b"[" * (codec.max_bytes + 1), 10**9 if has_length else None)
