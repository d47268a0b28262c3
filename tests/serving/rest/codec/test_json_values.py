"""Values in JSON: what is decoded is what a slow reference decodes, in bounded memory, in any slices."""

import json
import math
import tracemalloc
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reading import inputs_of

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.errors import BadRequest
from proteus_cli.serving.oip.tensors import DATATYPES, MAX_JSON_VALUES
from proteus_cli.serving.rest.codec import json_values
from proteus_cli.serving.rest.codec.codec import RestCodec
from proteus_cli.serving.rest.codec.json_values import JsonValues

MAX_ROWS = 2**17
dtypes = st.sampled_from(sorted(DATATYPES))


# --- the reference: json, then each leaf by itself


def reference(text: bytes, dtype: "np.dtype[Any]", count: int) -> bytes | None:
    """The values of an array; None where it must be refused."""
    try:
        array = json.loads(text, parse_constant=lambda _: "no JSON")
    except (ValueError, RecursionError):
        return None
    if not isinstance(array, list):
        return None
    shape = even_shape(array)
    if shape is None or math.prod(shape) != count:
        return None
    leaves = [array]
    for _ in shape:
        leaves = [entry for entries in leaves for entry in entries]
    values = [leaf_value(leaf, dtype) for leaf in leaves]
    if any(value is None for value in values):
        return None
    return b"".join(value.tobytes() for value in values if value is not None)


def even_shape(array: Any) -> tuple[int, ...] | None:
    if not isinstance(array, list):
        return ()
    shapes = {even_shape(entry) for entry in array}
    if len(shapes) > 1 or None in shapes:
        return None
    return (len(array), *(shapes.pop() or ())) if shapes else (0,)


def leaf_value(leaf: Any, dtype: "np.dtype[Any]") -> Any:
    if dtype.kind == "b":
        return np.bool_(leaf) if isinstance(leaf, bool) else None
    if isinstance(leaf, bool) or not isinstance(leaf, int | float):
        return None
    if dtype.kind == "f":
        try:
            number = float(leaf)
        except OverflowError:
            return None
        with np.errstate(over="ignore"):
            return None if math.isinf(number) else np.float64(number).astype(dtype)
    limits = np.iinfo(dtype)
    return dtype.type(leaf) if isinstance(leaf, int) and limits.min <= leaf <= limits.max else None


def decoded(text: bytes, dtype: "np.dtype[Any]", count: int) -> bytes | None:
    """The same, by the codec."""
    try:
        (found,) = JsonValues(TensorSpec("x", dtype, (count,))).read(text, 0, len(text), 1)
    except BadRequest:
        return None
    return found


numbers = st.one_of(
    st.integers(-300, 300), st.integers(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False),
    st.floats(width=32, allow_nan=False), st.sampled_from([0, 1, -0.0, 2**63, 2**64 - 1, -(2**63), 10**400, 65520.0]),
).map(json.dumps)  # fmt: skip
texts = st.sampled_from(
    ["1e400", "-1e999999", "1E-999999", "1e5", "0.1e1", "-0", "01", "1.", ".5", "+1", "0x1", "NaN", "Infinity", "tru"]
)
leaves = numbers | numbers | st.sampled_from(["true", "false", "null", '"a"', '"1"', "{}", '{"a":[1,2]}', "[]"]) | texts


@st.composite
def arrays(draw: st.DrawFn) -> tuple[bytes, int]:
    """An array that is even and of one kind, mostly; and how many values it should have."""
    kind = draw(st.sampled_from([numbers, st.sampled_from(["true", "false"]), st.integers(0, 100).map(str), leaves]))
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    space = draw(st.sampled_from(["", " ", "\n\t"]))
    found = [draw(kind) for _ in range(math.prod(shape))]
    for size in [*reversed(shape[1:]), len(found)]:
        groups = [found[first : first + size] for first in range(0, len(found), size)] if found else []
        found = [f"[{space}{f'{space},{space}'.join(group)}{space}]" for group in groups]
    text = found[0] if len(found) == 1 else f"[{','.join(found)}]"
    for _ in range(draw(st.integers(0, 2)) if draw(st.booleans()) else 0):
        at = draw(st.integers(0, len(text)))
        until = draw(st.integers(at, min(len(text), at + 3)))
        text = text[:at] + draw(st.sampled_from(["", "[", "]", ",", "1", "[]", " ", "e", "-", '"'])) + text[until:]
    return text.encode(), math.prod(shape)


def depth(text: bytes) -> int:
    """How many brackets are open at once, at most."""
    opened = (1 if byte == b"["[0] else -1 if byte == b"]"[0] else 0 for byte in text)
    return max(accumulate(opened), default=0)


@given(arrays(), dtypes)
@example((b"[1,]", 1), "FP32")
@example((b"[1,,2]", 2), "FP32")
@example((b"[,1]", 1), "FP32")
@example((b"[[1[,]2]]", 2), "FP32")
@example((b"[[1],2]", 2), "FP32")
@example((b"[[1,2],[3]]", 3), "FP32")
@example((b"[[1,2],[3,4],]", 4), "FP32")
@example((b"[[1],[2]][3]", 3), "FP32")
@example((b"[1],[2]", 2), "FP32")
@example((b"[[[1,2],[3,4]],[[5,6]]]", 6), "INT8")
@example((b"[[1,2],[],[3,4]]", 4), "INT8")
@example((b"[[[1],[2]],[[3,4]]]", 4), "INT8")
@example((b"[" * 70 + b"1" + b"]" * 70, 1), "INT8")
@example((b"[%b]" % b",".join([b"[1]"] * 70), 70), "FP16")
def test_values_are_those_of_the_reference(array: tuple[bytes, int], datatype: str) -> None:
    (text, count), dtype = array, np.dtype(DATATYPES[datatype])
    expected = (
        None if depth(text) > json_values.MAX_DEPTH or not text.startswith(b"[") else reference(text, dtype, count)
    )
    assert decoded(text, dtype, count) == expected


@pytest.mark.parametrize("nested", [False, True])
def test_too_many_values_are_refused_before_they_are_decoded(*, nested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    values = JsonValues(TensorSpec("x", np.dtype(np.float32), (4,)))
    text = b"[%b]" % b",".join([b"[]" if nested else b"1"] * 50_000)
    monkeypatch.setattr(json_values, "_decoder", lambda *_: pytest.fail("the values were decoded"))
    with pytest.raises(BadRequest, match=r"has 50000 values; its shape \[1, 4\] needs 4"):
        values.read(text, 0, len(text), 1)


def test_too_many_lists_are_refused() -> None:
    text = b"[%b]" % b",".join([b"[1]"] * json_values.MAX_LISTS)
    with pytest.raises(BadRequest, match="has more than 131072 lists; send it flat, or as a binary tensor"):
        JsonValues(TensorSpec("x", np.dtype(np.float32), ())).read(text, 0, len(text), json_values.MAX_LISTS)


# --- memory

WIDE = [TensorSpec("x", np.dtype(np.float64), (8,)), TensorSpec("x", np.dtype(np.int8), (8,))]
_VALUES = 2**17
MAX_MEMORY_BYTES = 64 * 2**20 * _VALUES // MAX_JSON_VALUES
"""docs/security.md states it for the most values that a request may have."""
BODIES = {
    "short numbers": b",".join([b"0"] * _VALUES),
    "long numbers": b",".join([b"0.12345678901234567"] * _VALUES),
    "uneven lists": b",".join([b"[0]", b"[0,0]"] * _VALUES),
    "an open list": b"[" * _VALUES * 4,
    "digits": b"9" * _VALUES * 4,
    "a long number": b"0." + b"1" * _VALUES * 4,
    "spaces": b" " * _VALUES * 4,
    "booleans": b",".join([b"true"] * _VALUES),
    "a string among numbers": b",".join([b"0"] * 65_000) + b',"' + b"a" * 20_000 + b'"',
    "a long string": b'"' + b"a" * _VALUES * 4 + b'"',
    "strings": b",".join([b'"a"'] * _VALUES),
    "short strings": b",".join([b'"a"'] * 10_000),
    "objects": b",".join([b"{}"] * _VALUES),
    "few objects": b",".join([b"{}"] * 15_000),
    "data in data": b'{"data":[' * _VALUES,
    "nulls": b",".join([b"null"] * _VALUES),
}
LISTS = {
    "lists of one": b",".join([b"[0]"] * (_VALUES // 4)),
    "deep lists": b",".join([b"[" * 60 + b"0" + b"]" * 60] * (_VALUES // 4 // 60)),
    "empty lists": b",".join([b"[]"] * (_VALUES // 4)),
}


@pytest.mark.parametrize("spec", WIDE, ids=lambda spec: str(spec.dtype))
@pytest.mark.parametrize("values", (BODIES | LISTS).values(), ids=(BODIES | LISTS).keys())
def test_a_decode_takes_bounded_memory(values: bytes, spec: TensorSpec) -> None:
    assert memory_of_decode(values, spec) < MAX_MEMORY_BYTES


def memory_of_decode(values: bytes, spec: TensorSpec) -> int:
    """The most bytes that a decode took at once."""
    rows = (values.count(b",") + 1) // 8
    head = b'{"inputs":[{"name":"x","shape":[%d,8],"datatype":"%b","data":['
    body = head % (max(rows, 1), b"FP64" if spec.dtype.kind == "f" else b"INT8") + values + b"]}]}"
    codec = RestCodec("m", Signature((spec,), (spec,)), MAX_ROWS)
    tracemalloc.start()
    try:
        inputs_of(codec.decode(body, None)[1])
    except BadRequest:
        pass
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak_bytes


# --- names that are repeated

REQUEST = (
    '{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}],"id":"a",'
    '"outputs":[{"name":"y","parameters":{"binary_data":true}}],"parameters":{"timeout":5,"priority":1}}'
)
ONE = Signature((TensorSpec("x", np.dtype(np.float32), (4,)),), (TensorSpec("y", np.dtype(np.float32), (3,)),))


def decode(text: str) -> Any:
    codec = RestCodec("m", ONE, 8)
    codec.decode(text.encode(), None)  # the second time the outline is known
    query, read = codec.decode(text.encode(), None)
    return query, np.frombuffer(inputs_of(read)[0], np.float32).tolist()


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ('"inputs":', '"inputs":[],'), ('"id":', '"id":"b",'), ('"id":', '"id":null,'), ('"id":', '"\\u0069d":"b",'),
        ('"outputs":', '"outputs":null,'), ('"parameters":{"t', '"parameters":null,'), ('"timeout":', '"timeout":6,'),
        ('"priority":', '"priority":0,'), ('"name":"x"', '"name":"x",'), ('"shape":', '"shape":[2,4],'),
        ('"datatype":', '"datatype":"FP32",'), ('"data":', '"data":[5,6,7,8],'), ('"data":', '"data":null,'),
        ('"data":', '"d\\u0061ta":[5,6,7,8],'), ('"binary_data":', '"binary_data":false,'),
        ('"id":', '"new":1,"new":2,'), ('"id":', '"new":{"a":1,"a":1},'), ('"id":', '"a:b":"c:d","a:b":1,'),
    ],
)  # fmt: skip
def test_a_name_that_is_repeated_is_refused(name: str, again: str) -> None:
    assert name in REQUEST
    with pytest.raises(BadRequest):
        decode(REQUEST.replace(name, again + name))


@pytest.mark.parametrize(
    "more",
    ['"new":1,', '"new":{"a":[1,{"a":2}]},', '"a:b":"c:d",', '"new":":",', '"new":"\\u003a",', '"data":[1,2],', ""],
)
def test_other_names_are_no_repetition(more: str) -> None:
    query, values = decode(REQUEST.replace('"id":', more + '"id":'))
    assert (query.id, values, query.options.priority) == ("a", [1, 2, 3, 4], 1)
    assert query.options.timeout_s == pytest.approx(5e-6)


# --- outlines


@pytest.mark.parametrize("identity", ["a", "", 'a"b', "ä", "\\", "data", '"data":[1]', "}]", "\U0001f600", "a\n\x7f"])
@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("is_first", [False, True])
def test_an_id_is_read_as_it_is_written(*, identity: str, ascii_only: bool, is_first: bool) -> None:
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    document: dict[str, Any] = (
        {"id": identity, "inputs": [tensor]} if is_first else {"inputs": [tensor], "id": identity}
    )
    codec = RestCodec("m", ONE, 8)
    for before in ("b", identity, "c", identity):
        document["id"] = before
        query, read = codec.decode(json.dumps(document, ensure_ascii=ascii_only).encode(), None)
        assert (query.id, np.frombuffer(inputs_of(read)[0], np.float32).tolist()) == (before, [1, 2, 3, 4])


def test_what_is_like_the_last_request_and_yet_another_is_read_as_what_it_is() -> None:
    """Between the same head and tail there may be more than values."""
    codec = RestCodec("m", ONE, 8)
    like = '{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":%s}]}'
    codec.decode((like % "[1,2,3,4]").encode(), None)
    other = like % '[5,6,7,8]}],"id":"b","parameters":{"priority":3},"new":[{"a":[]'
    query, read = codec.decode(other.encode(), None)
    assert (query.id, query.options.priority) == ("b", 3)
    assert np.frombuffer(inputs_of(read)[0], np.float32).tolist() == [5, 6, 7, 8]
    for wrong in (
        "[1,2,3,4]}],[{[1]",
        "[1,2,3,4],[5]",
        "[1,2,3,4",
        "1,2,3,4]",
        "",
        "[[1,2,3,4]",
        "[1,2,3,4]]",
        "[1 2]",
    ):
        with pytest.raises(BadRequest):
            inputs_of(codec.decode((like % wrong).encode(), None)[1])


@given(st.permutations(["data", "id", "name", "shape"]), st.sampled_from(["", " ", "\n "]), st.booleans())
def test_a_request_may_be_written_in_any_order(order: list[str], space: str, nested: bool) -> None:  # noqa: FBT001
    fields = {"data": [[1, 2, 3, 4]] if nested else [1, 2, 3, 4], "name": "x", "shape": [1, 4], "datatype": "FP32"}
    tensor = {name: fields[name] for name in [*order, "datatype"] if name != "id"}
    tensors, identity = ("inputs", [tensor]), ("id", "a")
    document = dict([tensors, identity] if order.index("id") > 1 else [identity, tensors])
    text = json.dumps(document, separators=(f"{space},{space}", f"{space}:{space}"))
    query, values = decode(text)
    assert (query.id, values) == ("a", [1, 2, 3, 4])
