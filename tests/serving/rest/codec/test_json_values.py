"""Values in JSON: what is decoded is what a slow reference decodes, in bounded memory, in any slices."""

import json
import math
import tracemalloc
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
        return JsonValues(TensorSpec("x", dtype, (count,))).read(memoryview(text), 1)
    except BadRequest:
        return None


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
    is_too_deep = text.startswith(b"[" * (json_values.MAX_DEPTH + 1))
    expected = None if is_too_deep or not text.startswith(b"[") else reference(text, dtype, count)
    assert decoded(text, dtype, count) == expected


@pytest.mark.parametrize("nested", [False, True])
def test_too_many_values_are_refused_before_they_are_decoded(*, nested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    values = JsonValues(TensorSpec("x", np.dtype(np.float32), (4,)))
    text = b"[%b]" % b",".join([b"[]" if nested else b"1"] * 50_000)
    monkeypatch.setattr(json_values, "_decoder", lambda *_: pytest.fail("the values were decoded"))
    with pytest.raises(BadRequest, match=r"has 50000 values; its shape \[1, 4\] needs 4"):
        values.read(memoryview(text), 1)


def test_too_many_lists_are_refused() -> None:
    text = b"[%b]" % b",".join([b"[1]"] * json_values.MAX_LISTS)
    with pytest.raises(BadRequest, match="has more than 131072 lists; send it flat, or as a binary tensor"):
        JsonValues(TensorSpec("x", np.dtype(np.float32), ())).read(memoryview(text), json_values.MAX_LISTS)


# --- memory

WIDE = TensorSpec("x", np.dtype(np.float64), (8,))
_VALUES = 2**17
MAX_MEMORY_BYTES = 64 * 2**20 * _VALUES // MAX_JSON_VALUES
"""docs/security.md states it for the most values that a request may have."""
BODIES = {
    "short numbers": b",".join([b"0"] * _VALUES),
    "long numbers": b",".join([b"0.12345678901234567"] * _VALUES),
    "uneven lists": b",".join([b"[0]", b"[0,0]"] * _VALUES),
    "an open list": b"[" * _VALUES * 4,
    "a long number": b"0." + b"1" * _VALUES * 4,
    "a long string": b'"' + b"a" * _VALUES * 4 + b'"',
    "objects": b",".join([b"{}"] * _VALUES),
    "data in data": b'{"data":[' * _VALUES,
    "deep lists": b",".join([b"[" * 60 + b"0" + b"]" * 60] * (_VALUES // 4 // 60)),
    "empty lists": b",".join([b"[]"] * (_VALUES // 4)),
}


@pytest.mark.parametrize("values", BODIES.values(), ids=BODIES.keys())
def test_a_decode_takes_bounded_memory(values: bytes) -> None:
    assert memory_of_decode(values) < MAX_MEMORY_BYTES


def memory_of_decode(values: bytes) -> int:
    """The most bytes that a decode took at once."""
    rows = (values.count(b",") + 1) // 8
    head = b'{"inputs":[{"name":"x","shape":[%d,8],"datatype":"FP64","data":['
    body = head % max(rows, 1) + values + b"]}]}"
    codec = RestCodec("m", Signature((WIDE,), (WIDE,)), MAX_ROWS)
    tracemalloc.start()
    try:
        inputs_of(codec.decode(body, None)[1])
    except BadRequest:
        pass
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak_bytes


# --- the rest of a request

ONE = Signature((TensorSpec("x", np.dtype(np.float32), (4,)),), (TensorSpec("y", np.dtype(np.float32), (3,)),))


TENSOR = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}


def read(text: str, codec: RestCodec | None = None) -> tuple[str | None, list[float]]:
    """The id and the values of a request."""
    query, read_inputs = (codec or RestCodec("m", ONE, 8)).decode(text.encode(), None)
    return query.id, np.frombuffer(inputs_of(read_inputs)[0], np.float32).tolist()


@pytest.mark.parametrize("ascii_only", [False, True])
def test_an_id_is_read_as_it_is_written(*, ascii_only: bool) -> None:
    codec = RestCodec("m", ONE, 8)
    for identity in ("a", "", 'a"b', "ä", "\\", "data", '"data":[1]', "}]", "\U0001f600", "a\n\x7f", "b"):
        text = json.dumps({"inputs": [TENSOR], "id": identity}, ensure_ascii=ascii_only)
        assert read(text, codec) == (identity, [1, 2, 3, 4])


@given(st.permutations(["data", "id", "name", "shape", "new"]), st.sampled_from(["", " ", "\n "]), st.booleans())
def test_a_request_may_be_written_in_any_order(order: list[str], space: str, nested: bool) -> None:  # noqa: FBT001
    fields = TENSOR | {"data": [[1, 2, 3, 4]] if nested else [1, 2, 3, 4], "new": {"data": [1], "id": ":"}}
    tensor = {name: fields[name] for name in [*order, "datatype"] if name != "id"}
    tensors, identity = ("inputs", [tensor]), ("id", "a")
    document = dict([tensors, identity] if order.index("id") > 1 else [identity, tensors])
    text = json.dumps(document, separators=(f"{space},{space}", f"{space}:{space}"))
    assert read(text) == ("a", [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (",".join(["{}"] * 40_000), "at most 1024 objects"),
        (",".join(["1"] * 40_000), "at most 65536 bytes besides the values"),
    ],
    ids=["objects", "numbers"],
)
def test_what_is_large_besides_the_values_is_refused(more: str, problem: str) -> None:
    with pytest.raises(BadRequest, match=problem):
        RestCodec("m", ONE, 4096).decode(f'{{"new":[{more}],"inputs":{json.dumps([TENSOR])}}}'.encode(), None)
