"""What a request asks for by parameters is done or refused, over REST and gRPC alike; nothing is passed over."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from small_plane import FLOAT, LONG, TWO, SmallPlane
from tritonclient.grpc import service_pb2

from proteus_cli.errors import BadRequest
from proteus_cli.serving.grpc.codec import GrpcCodec
from proteus_cli.serving.oip.parameters import InputParameters, OutputParameters, RequestParameters
from proteus_cli.serving.requests.query import Classes, Query, RequestOptions
from proteus_cli.serving.rest.codec.codec import RestCodec

X, K = np.zeros((1, 2), FLOAT), np.zeros((1, 1), LONG)
Parameters = Mapping[str, Any]
_KINDS = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}


def over_rest(request: Parameters, of_input: Parameters, of_output: Parameters) -> Query:
    tensors = [
        {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0, 0], "parameters": of_input},
        {"name": "k", "datatype": "INT64", "shape": [1, 1], "data": [0]},
    ]
    document = {"inputs": tensors, "outputs": [{"name": "y", "parameters": of_output}], "parameters": request}
    query, _ = RestCodec("two", TWO, 8).decode(json.dumps(document).encode(), None)
    return query


def over_grpc(request: Parameters, of_input: Parameters, of_output: Parameters) -> Query:
    message = service_pb2.ModelInferRequest(model_name="two")
    x = message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    message.inputs.add(name="k", datatype="INT64", shape=[1, 1])
    y = message.outputs.add(name="y")
    message.raw_input_contents.extend([X.tobytes(), K.tobytes()])
    for place, parameters in ((message, request), (x, of_input), (y, of_output)):
        for name, value in parameters.items():
            setattr(place.parameters[name], _KINDS[type(value)], value)
    query, _ = GrpcCodec(SmallPlane()).decode(message.SerializeToString(), None)  # type: ignore[arg-type]
    return query


by_each_protocol = pytest.mark.parametrize("decode", [over_rest, over_grpc])
Decode = Callable[[Parameters, Parameters, Parameters], Query]
UNKNOWN = [
    {"sequence_id": 7}, {"sequence_start": True}, {"sequence_end": True}, {"a`b": "c"},
    {"shared_memory_region": "r"}, {"shared_memory_offset": 0}, {"shared_memory_byte_size": 8}, {"content_type": "np"},
    {"triton_enable_empty_final_response": True}, {"Timeout": 1000}, {"": 1},
]  # fmt: skip


@by_each_protocol
@pytest.mark.parametrize(
    ("place", "parameters"),
    [
        *((place, each) for place in range(3) for each in UNKNOWN),
        (0, {"classification": 1}),
        (1, {"classification": 1}),
    ],
    ids=str,
)
def test_what_would_have_no_effect_is_refused(decode: Decode, parameters: Parameters, place: int) -> None:
    given: list[Parameters] = [{}, {}, {}]
    given[place] = parameters
    (name,) = parameters
    with pytest.raises(BadRequest) as refused:
        decode(*given)
    assert refused.value.message == f"the parameter `{name}` is not supported"


@by_each_protocol
@pytest.mark.parametrize(
    "given",
    [
        ({"timeout": -1}, {}, {}), ({"timeout": "soon"}, {}, {}), ({"priority": 0.5}, {}, {}),
        ({"priority": True}, {}, {}), ({"min_accuracy": 2}, {}, {}),
        ({"min_confidence": "high"}, {}, {}), ({"min_confidence": 1e39}, {}, {}),
        ({"min_expected_accuracy": 1.1}, {}, {}), ({"max_energy_j": 0}, {}, {}), ({"max_energy_j": -1.0}, {}, {}),
        ({"max_energy_j": 1e13}, {}, {}),
        ({"binary_data_output": 1}, {}, {}), ({}, {"binary_data_size": -1}, {}),
        ({}, {}, {"binary_data": "yes"}), ({}, {}, {"classification": 0}), ({}, {}, {"classification": -1}),
        ({}, {}, {"classification": 1001}), ({}, {}, {"classification": "1"}), ({}, {}, {"classification": 1.5}),
        ({}, {}, {"classification": True}),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_refused(
    decode: Decode, given: tuple[Parameters, Parameters, Parameters]
) -> None:
    with pytest.raises(BadRequest, match="not a valid inference request"):
        decode(*given)


@by_each_protocol
def test_what_is_supported_is_read(decode: Decode) -> None:
    asked = {"timeout": 250_000, "priority": 1, "min_accuracy": 0.5, "binary_data_output": True}
    query = decode(asked, {}, {"binary_data": True})
    assert query.options == RequestOptions(0.25, 1, 0.5)
    assert query.outputs == ((0, True),)


@pytest.mark.parametrize(("place", "kind"), [*enumerate((RequestParameters, InputParameters, OutputParameters))])
def test_a_parameter_that_is_null_is_as_one_that_is_absent(place: int, kind: type[msgspec.Struct]) -> None:
    given: list[Parameters] = [{}, {}, {}]
    given[place] = dict.fromkeys(kind.__struct_fields__)
    query = over_rest(*given)
    assert (query.options, query.outputs) == (RequestOptions(), ((0, False),))


@by_each_protocol
def test_a_request_that_asks_for_nothing_has_no_bounds(decode: Decode) -> None:
    assert decode({"min_expected_accuracy": 0.0, "min_accuracy": 0.5}, {}, {}).options.bounds is None


def test_what_is_no_number_is_no_minimum_of_confidence() -> None:
    """JSON has no such number."""
    with pytest.raises(BadRequest, match="min_confidence"):
        over_grpc({"min_confidence": float("nan")}, {}, {})


@by_each_protocol
def test_classes_are_wanted_in_the_form_of_their_protocol(decode: Decode) -> None:
    (found,) = decode({}, {}, {"classification": 2}).outputs
    assert found == (0, Classes(2, as_binary=decode is over_grpc))
    with pytest.raises(BadRequest, match="output `y` has 2 classes; got `classification` 3"):
        decode({}, {}, {"classification": 3})


def test_what_other_clients_say_of_tensors_over_grpc_changes_nothing() -> None:
    """A client that also speaks HTTP may send the same parameters."""
    assert over_grpc({}, {"binary_data_size": 8}, {}).rows == 1


# --- what Triton's clients send
