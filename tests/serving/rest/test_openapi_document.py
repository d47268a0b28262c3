"""The OpenAPI document describes the routes that there are, all of them, and refers to nothing that isn't there."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema_rs import validator_for
from openapi_file import openapi
from reading import inputs_of

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.errors import BadRequest
from proteus_cli.serving import http1
from proteus_cli.serving.oip.codes import HTTP_STATUS
from proteus_cli.serving.oip.tensors import DATATYPES, STRINGS
from proteus_cli.serving.rest.codec.codec import RestCodec
from proteus_cli.serving.rest.endpoints import ROUTES

FLOAT, BOOL = np.dtype(np.float32), np.dtype(np.bool_)
SMALL = Signature((TensorSpec("x", FLOAT, (4,)), TensorSpec("on", BOOL, ())), (TensorSpec("y", FLOAT, (3,)),))
DOCUMENT = openapi()
HTTP = Path(http1.__file__).parent


def operations() -> dict[tuple[str, str], Any]:
    return {(path, verb): operation for path, verbs in DOCUMENT["paths"].items() for verb, operation in verbs.items()}


def test_each_operation_of_the_document_is_a_route() -> None:
    described = {(path, verb.upper()) for path, verb in operations()}
    assert described == {(route.path, route.method) for route in ROUTES}
    assert len(described) == len(ROUTES)


def test_references_lead_somewhere_and_nothing_is_left_over() -> None:
    named = {
        f"#/components/{kind}/{name}"
        for kind, entries in DOCUMENT["components"].items()
        if kind != "securitySchemes"
        for name in entries
    }
    assert set(re.findall(r'"\$ref": "([^"]*)"', json.dumps(DOCUMENT))) == named
    ids = [operation["operationId"] for operation in operations().values()]
    assert len(set(ids)) == len(ids)


def test_each_error_of_a_request_has_its_status_described() -> None:
    described = {int(status) for operation in operations().values() for status in operation["responses"]}
    assert set(HTTP_STATUS.values()) - described == {405}  # which no request gets that the document has
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted(HTTP.glob("*.py")))
    refused = set(re.findall(r"Refusal\((\d+),", sources))
    assert {"408", "413", "431"} <= refused
    for operation in operations().values():  # 401 is described where a token is needed; 405 is of no operation
        assert refused - {"401", "405"} <= set(operation["responses"])


def test_operations_that_need_a_token_say_so() -> None:
    assert DOCUMENT["security"] == [{}, {"token": []}]
    for (path, _), operation in operations().items():
        is_open = path.startswith(("/v2/health/", "/ui/")) or path == "/"
        assert ("401" in operation["responses"]) != is_open
        assert (operation.get("security") == []) == is_open
        assert "403" in operation["responses"]
    assert "WWW-Authenticate" in DOCUMENT["components"]["responses"]["NoToken"]["headers"]


def test_what_changes_the_state_of_the_server_takes_json_only() -> None:
    changing = {(route.path, route.method.lower()) for route in ROUTES if route.changes_state}
    assert changing == {
        ("/v2/repository/models/{model}/load", "post"),
        ("/v2/repository/models/{model}/unload", "post"),
        ("/v2/proteus/plan", "post"),
        ("/v2/proteus/catalog", "post"),
        ("/v2/proteus/feedback", "post"),
        ("/v2/proteus/rollouts", "post"),
        ("/v2/proteus/rollouts/{family}/promote", "post"),
        ("/v2/proteus/rollouts/{family}/abort", "post"),
        ("/v2/proteus/families/{family}", "patch"),
    }
    assert {name for name, operation in operations().items() if "415" in operation["responses"]} == changing


def test_requests_may_have_all_datatypes_that_are_taken_images_among_them() -> None:
    datatypes = DOCUMENT["components"]["schemas"]["RequestTensor"]["properties"]["datatype"]["enum"]
    assert set(datatypes) == {*DATATYPES, STRINGS}


# --- a request with something in the place of one of its parts

RIGHT: dict[str, Any] = {
    "inputs": [
        {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2.5, 3, 4], "parameters": {}},
        {"name": "on", "shape": [1], "datatype": "BOOL", "data": [True]},
    ],
    "id": "a",
    "parameters": {
        "timeout": 1000,
        "priority": 1,
        "min_accuracy": 0.5,
        "min_confidence": 0.9,
        "min_expected_accuracy": 0.5,
        "max_energy_j": 2.5,
        "binary_data_output": True,
    },
    "outputs": [{"name": "y", "parameters": {"binary_data": False}}],
}
BOUNDS = "min_confidence", "min_expected_accuracy", "max_energy_j"
PLACES: list[tuple[str | int, ...]] = [
    (), ("inputs",), ("id",), ("parameters",), ("outputs",),
    *(("parameters", name) for name in ("timeout", "priority", "min_accuracy", *BOUNDS, "binary_data_output")),
    ("outputs", 0), ("outputs", 0, "name"), ("outputs", 0, "parameters"), ("outputs", 0, "parameters", "binary_data"),
    *(("inputs", 0, name) for name in ("name", "shape", "datatype", "data", "parameters")),
    ("inputs", 0), ("inputs", 0, "shape", 0), ("inputs", 0, "data", 0), ("inputs", 0, "parameters", "binary_data_size"),
]  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "data", "a"]), inner, max_size=2)
    ),
    max_leaves=4,
)
REQUESTS = validator_for({**DOCUMENT, "$ref": "#/components/schemas/InferRequest"})


def with_other(place: tuple[str | int, ...], value: Any) -> Any:
    if not place:
        return value
    request = copy.deepcopy(RIGHT)
    *way, last = place
    inside: Any = request
    for step in way:
        inside = inside[step]
    inside[last] = value
    return request


def test_a_right_request_is_right() -> None:
    assert REQUESTS.is_valid(RIGHT)
    query, _ = RestCodec("small", SMALL, 8).decode(json.dumps(RIGHT).encode(), None)
    assert query.rows == 1


@settings(max_examples=1000)
@given(st.sampled_from(PLACES), ANYTHING)
def test_what_the_document_does_not_allow_is_refused(place: tuple[str | int, ...], value: Any) -> None:
    request = with_other(place, value)
    content = json.dumps(request).encode()
    try:
        _, read_inputs = RestCodec("small", SMALL, 8).decode(content, None)
        inputs_of(read_inputs)
    except BadRequest:
        return
    assert REQUESTS.is_valid(json.loads(content)), request
