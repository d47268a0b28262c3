"""`ModelInfer` messages: what is read here and what protobuf reads is the same; garbage is a bad request."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from hypothesis import given
from hypothesis import strategies as st
from reading import inputs_of as all_at_once
from small_plane import FLOAT, HOSTED, LONG, TWO, SmallPlane
from tritonclient.grpc import model_config_pb2, service_pb2

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.errors import BadRequest, BodyTooLarge, UnknownModel
from proteus_cli.serving.grpc import messages
from proteus_cli.serving.grpc.codec import GrpcCodec
from proteus_cli.serving.grpc.messages import integer_parameter, split_request, varint
from proteus_cli.serving.oip.tensors import MAX_TYPED_BYTES
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch, Staged
from proteus_cli.serving.requests.query import Query

names = st.text(max_size=6)
parameters = st.one_of(
    st.booleans().map(lambda value: ("bool_param", value)),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: ("int64_param", value)),
    st.text(max_size=5).map(lambda value: ("string_param", value)),
    st.floats(allow_nan=False).map(lambda value: ("double_param", value)),
)


@st.composite
def requests(draw: st.DrawFn) -> Any:
    """Any message of a client, most of them for a family that there is."""
    request = service_pb2.ModelInferRequest(
        model_name=draw(st.just("two") | names), model_version=draw(st.sampled_from(["", "1", "2"])), id=draw(names)
    )
    rows = draw(st.integers(1, 3))
    for name, datatype, width in draw(st.permutations([("x", "FP32", 2), ("k", "INT64", 1)])):
        shape = draw(st.just([rows, width]) | st.lists(st.integers(-1, 3), max_size=3))
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        size = rows * width * (4 if datatype == "FP32" else 8)
        request.raw_input_contents.append(draw(st.binary(min_size=size, max_size=size) | st.binary(max_size=200)))
    for name in draw(st.lists(st.sampled_from(["y", "m", "other"]), max_size=2)):
        request.outputs.add(name=name)
    for name, (kind, value) in draw(st.dictionaries(names, parameters, max_size=2)).items():
        setattr(request.parameters[name], kind, value)
    return request


def plane() -> Any:
    return SmallPlane()


def good_request(rows: int = 1, **more: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name="two", **more)
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 2])
    request.inputs.add(name="k", datatype="INT64", shape=[rows, 1])
    request.raw_input_contents.append(np.arange(2 * rows, dtype=FLOAT).tobytes())
    request.raw_input_contents.append(np.arange(rows, dtype=LONG).tobytes())
    return request


def decoded(message: bytes, *, timeout_s: float | None = None) -> Query:
    query, _ = GrpcCodec(plane()).decode(message, timeout_s)
    assert query.family == "two"
    return query


def inputs_of(codec: GrpcCodec, message: bytes) -> list[bytes]:
    _, read_inputs = codec.decode(message, None)
    return [bytes(values) for values in all_at_once(read_inputs)]


class OneInput(SmallPlane):
    """Two families of one input each."""

    def __init__(self) -> None:
        super().__init__()
        one = Signature((TensorSpec("x", FLOAT, (2,)),), (TensorSpec("y", FLOAT, (2,)),))
        self.by_name = {name: ServedFamily(name, one, 0.1, 8, 0.75) for name in ("a", "b")}


def one_input(family: str, values: Sequence[float], **more: Any) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=family, **more)
    request.inputs.add(name="x", datatype="FP32", shape=[len(values) // 2, 2])
    request.raw_input_contents.append(np.array(values, FLOAT).tobytes())
    return bytes(request.SerializeToString())


def test_a_request_that_starts_like_one_of_its_size_is_read_like_it() -> None:
    codec = GrpcCodec(cast("Any", OneInput()))
    for family, values, identity in (
        ("a", (1.0, 2.0), ""), ("a", (3.0, 4.0), ""), ("b", (5.0, 6.0), ""), ("a", (7.0, 8.0), "i"),
        ("b", (9.0, 1.0), "j"), ("a", (1.0, 2.0, 3.0, 4.0), ""), ("a", (1.0, 3.0), ""),
    ):  # fmt: skip
        message = one_input(family, values, id=identity)
        for form in (message, memoryview(message)):
            for timeout_s in (None, 5.0):
                query, read_inputs = codec.decode(form, timeout_s)
                assert (query.family, query.rows, query.id) == (family, len(values) // 2, identity or None)
                assert query.options.timeout_s == timeout_s
                assert [bytes(each) for each in all_at_once(read_inputs)] == [np.array(values, FLOAT).tobytes()]


# --- the wire format


@given(requests(), st.randoms(use_true_random=False))
def test_a_message_is_split_as_protobuf_reads_it(request: Any, random: Any) -> None:
    """In whatever order its fields come."""
    fields = []
    for descriptor, _ in request.ListFields():
        alone = service_pb2.ModelInferRequest()
        if descriptor.is_repeated and descriptor.message_type is None:
            for value in getattr(request, descriptor.name):
                alone = service_pb2.ModelInferRequest()
                getattr(alone, descriptor.name).append(value)
                fields.append(alone.SerializeToString())
        else:
            alone.MergeFrom(request)
            for other, _ in request.ListFields():
                if other.name != descriptor.name:
                    alone.ClearField(other.name)
            fields.append(alone.SerializeToString())
    order = list(range(len(fields)))
    random.shuffle(order)
    message = b"".join(fields[place] for place in order)
    reference = service_pb2.ModelInferRequest.FromString(message)
    for form in (message, bytearray(message), memoryview(message)):
        rest, request_id, raw, _ = split_request(form)
        assert (request_id or "") == reference.id
        assert [bytes(content) for content in raw] == list(reference.raw_input_contents)
        read = service_pb2.ModelInferRequest.FromString(b"".join(rest))
        assert not read.id
        assert not read.raw_input_contents
        read.id = reference.id
        read.raw_input_contents.extend(reference.raw_input_contents)
        assert read == reference


@given(st.permutations([b"\x0a\x03two", b"\x1a\x01a", b"\x3a\x04\0\0\0\0", b"\x3a\x02\0\0"]), st.integers(1, 4))
def test_a_tensor_that_ends_a_message_may_have_any_bytes(fields: Sequence[bytes], count: int) -> None:
    message = b"".join(fields[:count])
    rest, request_id, raw, tail = split_request(message)
    ends = count and fields[count - 1].startswith(b"\x3a") and len(raw) == 1
    assert (tail >= 0) == ends
    if ends:
        other = b"\x3a" * (len(message) - tail)  # would be fields, were it not in the tensor
        assert split_request(message[:tail] + other) == (rest, request_id, [other], tail)


@given(st.binary(max_size=80))
def test_garbage_is_a_bad_request(garbage: bytes) -> None:
    try:
        inputs_of(GrpcCodec(plane()), garbage)
    except (BadRequest, UnknownModel):
        pass
    else:
        pytest.fail("garbage was taken for a request")


@given(requests(), st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=4))
def test_a_message_with_mistakes_is_a_bad_request_or_one_that_protobuf_reads_too(
    request: Any, mistakes: Sequence[tuple[int, int]]
) -> None:
    message = bytearray(request.SerializeToString())
    for place, value in mistakes:
        message[place % len(message)] = value
    try:
        query, read_inputs = GrpcCodec(plane()).decode(bytes(message), None)
        inputs = all_at_once(read_inputs)
    except (BadRequest, UnknownModel):
        return
    read = service_pb2.ModelInferRequest.FromString(bytes(message))
    by_name = {given.name: read.raw_input_contents[place] for place, given in enumerate(read.inputs)}
    assert [bytes(content) for content in inputs] == [by_name["x"], by_name["k"]]
    assert (query.id or "") == read.id


def length_delimited(tag: bytes, content: bytes) -> bytes:
    return tag + varint(len(content)) + content


PARAMETER = length_delimited(b"\x22", b"\x0a\x01a")  # of a request, an input or an output
SHAPE = length_delimited(b"\x1a", b"\x01" * 70_000)  # of an input
TOO_MUCH = {
    "inputs": b"\x2a\x00" * 2_000,
    "outputs": b"\x32\x00" * 2_000,
    "tensors": b"\x3a\x00" * 2_000,
    "parameters": PARAMETER * 2_000,
    "parameters of inputs": length_delimited(b"\x2a", PARAMETER * 600) * 2,
    "parameters of an output": length_delimited(b"\x32", PARAMETER * 2_000),
    "ids": b"\x1a\x01a" * 2_000,
    "fields of other versions": b"\x98\x06\x05" * 2_000,
    "a shape": length_delimited(b"\x2a", SHAPE),
    "a name": length_delimited(b"\x0a", b"x" * 70_000),
    "an id": length_delimited(b"\x1a", b"x" * 70_000),
    "contents beside raw tensors": length_delimited(b"\x2a", length_delimited(b"\x2a", b"\x18\x01" * 40_000)),
}


@pytest.mark.parametrize("more", TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_message_that_is_large_besides_its_tensors_is_refused_before_protobuf_reads_it(
    more: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proteus_cli.serving.grpc.codec.parsed", None)
    with pytest.raises(BadRequest, match="more than"):
        GrpcCodec(plane()).decode(good_request().SerializeToString() + more, None)


def typed(*contents: bytes, datatype: bytes = b"INT64", rows: int = 20_000) -> bytes:
    """A request of one family of one input, whose contents are as they stand."""
    fields = (b"\x0a\x01k", length_delimited(b"\x12", datatype), length_delimited(b"\x1a", varint(rows) + b"\x01"))
    tensor = b"".join([*fields, *(length_delimited(b"\x2a", each) for each in contents)])
    floats = length_delimited(b"\x32", np.zeros((rows, 2), FLOAT).tobytes())
    shape = length_delimited(b"\x1a", varint(rows) + b"\x02")
    x = b"\x0a\x01x\x12\x04FP32" + shape + length_delimited(b"\x2a", floats)
    return b"\x0a\x03two" + length_delimited(b"\x2a", x) + length_delimited(b"\x2a", tensor)


def test_numbers_may_have_any_length() -> None:
    numbers = [0, 1, -1, 2**63 - 1, 300, -(2**63), 127, 128] * 2_500
    packed = service_pb2.InferTensorContents(int64_contents=numbers).SerializeToString()
    assert inputs_of(GrpcCodec(plane()), typed(packed))[1] == np.array(numbers, LONG).tobytes()


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        ((length_delimited(b"\x1a", b"\x01" * 20_001),), "has 20001 values"),
        ((length_delimited(b"\x1a", b"\x01" * 19_999),), "has 19999 values"),
        ((length_delimited(b"\x12", b"\x01" * 20_000),), "INT64 comes as int64_contents, not int_contents"),
        ((length_delimited(b"\x1a", b"\x80" * 20_000),), "not a ModelInferRequest"),
        ((length_delimited(b"\x1a", b"\x01" * 19_999 + b"\x80"),), "not a ModelInferRequest"),
        ((), "has 0 values"),
    ],
)
def test_contents_that_are_not_the_values_of_the_input_are_refused(contents: Sequence[bytes], problem: str) -> None:
    with pytest.raises(BadRequest, match=problem):
        inputs_of(GrpcCodec(plane()), typed(*contents))


def test_more_typed_numbers_than_are_read_in_time_are_refused() -> None:
    message = typed(length_delimited(b"\x1a", b"\x01" * (MAX_TYPED_BYTES + 1)), rows=MAX_TYPED_BYTES + 1)
    with pytest.raises(BodyTooLarge, match="send binary tensors, in raw_input_contents"):
        inputs_of(GrpcCodec(plane()), message)


@pytest.mark.parametrize("field", [b"\x7b\x7c", b"\xba\x00\x00", b"\x98\x06" + b"\xff" * 10])
def test_groups_and_numbers_with_too_many_bytes_are_refused(field: bytes) -> None:
    with pytest.raises(BadRequest):
        split_request(good_request().SerializeToString() + field)


@given(st.integers(0, 2**63 - 1))
def test_numbers_are_written_as_protobuf_writes_them(number: int) -> None:
    answer = service_pb2.ModelInferResponse()
    answer.parameters["queue_us"].int64_param = number
    assert integer_parameter("queue_us", number) == answer.SerializeToString()
    assert varint(number) == service_pb2.InferParameter(uint64_param=number).SerializeToString()[1:] or number == 0


# --- requests


def test_tensors_may_come_in_any_order() -> None:
    request = good_request(2)
    swapped = service_pb2.ModelInferRequest(model_name="two", inputs=reversed(request.inputs))
    swapped.raw_input_contents.extend(reversed(request.raw_input_contents))
    for message in (request, swapped):
        assert inputs_of(GrpcCodec(plane()), message.SerializeToString()) == list(request.raw_input_contents)


@pytest.mark.parametrize(
    ("rows", "count", "problem"), [(1, 1, "hold 2 tensors; got 1"), (1, 3, "hold 2 tensors; got 3"), (2, 2, "16")]
)
def test_raw_tensors_must_be_those_of_the_signature(rows: int, count: int, problem: str) -> None:
    request = good_request(rows)
    if rows == 2:
        request.raw_input_contents[0] = b"x" * 15
    while len(request.raw_input_contents) > count:
        request.raw_input_contents.pop()
    while len(request.raw_input_contents) < count:
        request.raw_input_contents.append(b"")
    codec = GrpcCodec(plane())
    inputs_of(codec, good_request(rows).SerializeToString())  # its head is known then
    with pytest.raises(BadRequest, match=problem):
        inputs_of(codec, request.SerializeToString())


def test_numbers_that_do_not_fit_are_refused() -> None:
    """The narrow types travel as 32 bits."""
    narrow = plane()
    narrow.by_name["two"].signature = Signature((TensorSpec("x", np.dtype(np.int8), (2,)),), TWO.outputs)
    request = service_pb2.ModelInferRequest(model_name="two")
    given_input = request.inputs.add(name="x", datatype="INT8", shape=[1, 2])
    given_input.contents.int_contents.extend([-128, 127])
    assert inputs_of(GrpcCodec(narrow), request.SerializeToString()) == [bytes([0x80, 0x7F])]
    given_input.contents.int_contents[0] = -129
    with pytest.raises(BadRequest, match="don't fit INT8"):
        inputs_of(GrpcCodec(narrow), request.SerializeToString())


# --- answers


@given(st.integers(1, 4), st.integers(0, 3), st.sampled_from([(0, 1), (1, 0), (1,)]), names)
def test_an_answer_is_what_protobuf_reads(rows: int, first: int, wanted: tuple[int, ...], request_id: str) -> None:
    y, m = np.random.default_rng(rows).random((8, 2)).astype(FLOAT), np.arange(8, dtype=LONG).reshape(8, 1)
    batch = AnsweredBatch(HOSTED, 8, (y, m), 0.5)
    query = Query("two", rows, tuple((place, True) for place in wanted), id=request_id or None)
    codec = GrpcCodec(plane())
    codec.encode(query, Answered(batch, 0, rows, 0.5))  # what they have in common is known then
    answer = service_pb2.ModelInferResponse.FromString(codec.encode(query, Answered(batch, first, rows, 1.5)))
    assert (answer.model_name, answer.model_version, answer.id) == ("two", "1", request_id)
    found = {name: getattr(p, p.WhichOneof("parameter_choice")) for name, p in answer.parameters.items()}
    assert found == {
        "variant": "two-s", "accuracy": 0.75, "device": "cpu0", "batch_size": 8, "queue_us": 1_500_000,
        "compute_us": 500_000,
    }  # fmt: skip
    values = [(y, m)[place][first : first + rows] for place in wanted]
    assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [
        (("y", "m")[place], ("FP32", "INT64")[place], [rows, 2 - place]) for place in wanted
    ]
    assert list(answer.raw_output_contents) == [array.tobytes() for array in values]


def test_the_answer_of_a_cascade_says_how_it_came_about() -> None:
    y, m = np.ones((1, 2), FLOAT), np.ones((1, 1), LONG)
    codec, query = GrpcCodec(plane()), Query("two", 1, ((0, True),))

    def parameters(staged: Staged | None) -> dict[str, Any]:
        batch = AnsweredBatch(HOSTED, 8, (y, m), 0.5, staged=staged)
        answer = service_pb2.ModelInferResponse.FromString(codec.encode(query, Answered(batch, 0, 1, 1.5)))
        found = {name: getattr(p, p.WhichOneof("parameter_choice")) for name, p in answer.parameters.items()}
        return {name: found.get(name) for name in ("accuracy", "stages", "confidence", "fallback")}

    plain = {"accuracy": 0.75, "stages": None, "confidence": None, "fallback": None}
    assert parameters(None) == plain
    assert parameters(Staged(2, 0.25, 0.95, is_fallback=False)) == plain | {
        "accuracy": 0.95,
        "stages": 2,
        "confidence": 0.25,
    }
    assert parameters(Staged(1, None, 0.6, is_fallback=True)) == plain | {
        "accuracy": 0.6,
        "stages": 1,
        "fallback": True,
    }


# --- the protocol


def test_the_descriptors_are_those_of_the_proto_files(tmp_path: Path) -> None:
    """``make proto`` writes them."""
    folder, written = messages.DESCRIPTORS.parent, tmp_path / "descriptors.binpb"
    sources = sorted(path.name for path in folder.glob("*.proto"))
    assert protoc.main(["protoc", f"--proto_path={folder}", f"--descriptor_set_out={written}", *sources]) == 0
    assert descriptor_pb2.FileDescriptorSet.FromString(written.read_bytes()).file == list(messages.FILES)


def fields(descriptor: Any) -> dict[str, tuple[int, int, bool, str | None]]:
    return {
        field.name: (field.number, field.type, field.is_repeated, field.message_type and field.message_type.full_name)
        for field in descriptor.fields
    }


def test_the_messages_are_those_of_triton() -> None:
    """Each field that is here has the number and type of theirs; of what comes with requests none is missing."""
    theirs = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}
    (ours,) = (file for file in messages.FILES if file.package == "inference")

    def compare(mine: Any, other: Any) -> None:
        assert fields(mine).items() <= fields(other).items(), mine.full_name
        for nested in mine.nested_types:
            compare(nested, other.nested_types_by_name[nested.name])

    for message in ours.message_type:
        compare(messages.message(f"inference.{message.name}").DESCRIPTOR, theirs[message.name])
    for name in ("ModelInferRequest", "ModelInferResponse", "InferTensorContents", "ModelStatistics"):
        assert fields(messages.message(f"inference.{name}").DESCRIPTOR) == fields(theirs[name])
