"""``/openapi.json``: what REST offers, as an OpenAPI 3.1 document.

`OPERATIONS` has the paths of `pages`' routes; a test compares them. Source: the OpenAPI Specification 3.1.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from proteus_cli import __version__
from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.rest.schemas import SCHEMAS, Json, ref
from proteus_cli.serving.rest.site import AT, FILES
from proteus_cli.serving.telemetry.sampler import CURSOR

LARGEST_EXAMPLE = 64  # values; families with larger rows have no example
_JSON = "application/json"
_OCTETS = "application/octet-stream"
_LENGTH_HEADER = "Inference-Header-Content-Length"

_ABOUT = """\
Inference by the Open Inference Protocol v2, with its binary tensor extension. A model is a family of variants; which of
them answered is in the answer's `parameters`. Pages take HEAD where they take GET. What the server takes bodies for
does not depend on their Content-Type. A path that is not here is answered 404, another verb 405 with `Allow`.
"""
_BINARY_REQUEST = """\
JSON, or JSON and binary tensors behind it: then `Inference-Header-Content-Length` is the length of the JSON, each input
whose values follow has `parameters.binary_data_size` instead of `data`, and the values follow in the order of the
inputs: row-major, little-endian, without gaps, BOOL as one byte. The body may be compressed, with `Content-Encoding:
gzip` or `deflate`. It may be no larger than the family's largest request needs: 64 bytes for each value of its most
rows, and 64 KiB.
"""
_BINARY_ANSWER = """\
The JSON of an answer, as long as `Inference-Header-Content-Length` says, and behind it, in the order of the outputs,
the values of those that have `parameters.binary_data_size`.
"""


@dataclass(frozen=True, slots=True)
class Operation:
    """One verb of a path; ``answers`` are by status, beside those of `_EVERYWHERE`. ``is_open``: needs no token."""

    summary: str
    answers: Mapping[int, Json]
    parameters: tuple[Json, ...] = ()
    body: Json | None = None
    is_open: bool = False


def _answer(text: str, schema: str = "", **headers: Json) -> Json:
    """A response: JSON of that schema, or without a body."""
    found: Json = {"description": text}
    if schema:
        found["content"] = {_JSON: {"schema": ref(schema)}}
    if headers:
        found["headers"] = {name.replace("_", "-"): header for name, header in headers.items()}
    return found


def _header(text: str, schema: Json, *, required: bool = True) -> Json:
    return {"description": text, "required": required, "schema": schema}


_SECONDS = _header("Seconds after which asking again may help.", {"type": "integer", "minimum": 1})
_LENGTH: Json = {"type": "integer", "minimum": 0}
_LENGTH_TEXT = "Where binary tensors follow: the length of the JSON."

_RESPONSES: dict[str, Json] = {
    "BadRequest": _answer(
        "Malformed; or no variant that is planned is as accurate as is asked for, and the error names those there are.",
        "Error",
        proteus_outcome=_header(
            "`rejected` in the second case.", {"type": "string", "enum": ["rejected"]}, required=False
        ),
    ),
    "NoToken": _answer(
        "This server asks for a bearer token.", "Error", WWW_Authenticate=_header("`Bearer`", {"type": "string"})
    ),
    "NotFound": _answer("There is no such model, version of it, or file.", "Error"),
    "TooSlow": _answer("The request took too long to come in; the connection closes.", "Error"),
    "TooLarge": _answer("The body is larger than the server takes, or than any request for this family.", "Error"),
    "Expectation": _answer("An `Expect` other than `100-continue`.", "Error"),
    "HeadersTooLarge": _answer("The headers are too many, or too large; the connection closes.", "Error"),
    "NoSuchEncoding": _answer("A transfer encoding other than `chunked`; the connection closes.", "Error"),
    "NoSuchVersion": _answer("An HTTP version other than 1.0 and 1.1; the connection closes.", "Error"),
    "Overloaded": _answer("More queries than the plan can carry.", "Error", Retry_After=_SECONDS),
    "Failed": _answer("The model failed on this request, or the server has a bug.", "Error"),
    "NotReady": _answer(
        "Starting, draining, out of connections or of memory for bodies; or the model was unloaded.",
        "Error",
        Retry_After=_SECONDS,
    ),
    "Deadline": _answer(
        "The deadline passed, in the queue or while it ran, or can't be met.",
        "Error",
        proteus_outcome=_header(
            "`late`: it ran; `dropped`: it did not.", {"type": "string", "enum": ["late", "dropped"]}
        ),
    ),
}  # fmt: skip
_EVERYWHERE = {
    400: "BadRequest", 408: "TooSlow", 413: "TooLarge", 417: "Expectation", 431: "HeadersTooLarge", 500: "Failed",
    501: "NoSuchEncoding", 503: "NotReady", 505: "NoSuchVersion",
}  # fmt: skip


def _response(name: str) -> Json:
    return {"$ref": f"#/components/responses/{name}"}


_INFERRED: Json = {
    "description": "What the model says.",
    "headers": {_LENGTH_HEADER: _header(_LENGTH_TEXT, _LENGTH, required=False)},
    "content": {
        _JSON: {"schema": ref("InferAnswer")},
        _OCTETS: {"schema": {"description": _BINARY_ANSWER}},
    },
}  # fmt: skip
_INFER = Operation(
    "Infer",
    {200: _INFERRED, 429: _response("Overloaded"), 504: _response("Deadline")},
    parameters=(
        {
            "name": _LENGTH_HEADER,
            "in": "header",
            "description": _LENGTH_TEXT,
            "schema": _LENGTH,
        },
    ),
    body={
        "required": True,
        "description": _BINARY_REQUEST,
        "content": {
            _JSON: {"schema": ref("InferRequest")},
            _OCTETS: {"schema": {"description": "JSON and binary tensors."}},
        },
    },
)
_METADATA = Operation("What a model takes and gives", {200: _answer("Its metadata.", "ModelMetadata")})
_READY = Operation(
    "Whether a model is ready",
    {
        200: _answer("It is.", "ModelReady"),
        503: _answer("No variant of it is hosted, or it was unloaded; or the server is not ready.", "ModelReady"),
    },
)

_FILE = Operation(
    "The page that people watch, and what it needs",
    {
        200: {
            "description": "The same for every server of this version: it holds no data.",
            "headers": {"ETag": _header("For `If-None-Match`.", {"type": "string"})},
            "content": {kind.partition(";")[0]: {"schema": {"type": "string"}} for kind in sorted(set(FILES.values()))},
        },
        304: {"description": "It is what `If-None-Match` names."},
    },
    is_open=True,
)
_CONFIG = Operation("A model's configuration", {200: _answer("In Triton's words.", "ModelConfig")})
_STATISTICS = Operation("What was counted of a model", {200: _answer("In Triton's words.", "Statistics")})


def _body(schema: str) -> Json:
    return {"required": False, "content": {_JSON: {"schema": ref(schema)}}}


OPERATIONS: dict[str, dict[str, Operation]] = {
    "/v2": {
        "GET": Operation("What the server is", {200: _answer("Its name, version and extensions.", "ServerMetadata")})
    },
    "/v2/health/live": {
        "GET": Operation("Whether the server runs", {200: _answer("It does.", "ServerLive")}, is_open=True)
    },
    "/v2/health/ready": {
        "GET": Operation(
            "Whether the server is ready",
            {
                200: _answer("It takes requests.", "ServerReady"),
                503: _answer("It starts or drains.", "ServerReady"),
            },
            is_open=True,
        )
    },
    "/v2/models/{model}": {"GET": _METADATA},
    "/v2/models/{model}/versions/{version}": {"GET": _METADATA},
    "/v2/models/{model}/ready": {"GET": _READY},
    "/v2/models/{model}/versions/{version}/ready": {"GET": _READY},
    "/v2/models/{model}/infer": {"POST": _INFER},
    "/v2/models/{model}/versions/{version}/infer": {"POST": _INFER},
    "/v2/models/{model}/config": {"GET": _CONFIG},
    "/v2/models/{model}/versions/{version}/config": {"GET": _CONFIG},
    "/v2/models/{model}/stats": {"GET": _STATISTICS},
    "/v2/models/{model}/versions/{version}/stats": {"GET": _STATISTICS},
    "/v2/models/stats": {
        "GET": Operation("What was counted of all models", {200: _answer("In Triton's words.", "Statistics")})
    },
    "/v2/repository/index": {
        "POST": Operation(
            "All models, and whether they take requests",
            {
                200: {
                    "description": "They are.",
                    "content": {_JSON: {"schema": {"type": "array", "items": ref("ModelIndex")}}},
                }
            },
            body=_body("IndexRequest"),
        )
    },
    "/v2/repository/models/{model}/load": {
        "POST": Operation("Let a model take requests again", {200: _answer("It does.")}, body=_body("LoadRequest"))
    },
    "/v2/repository/models/{model}/unload": {
        "POST": Operation(
            "Let a model take no more requests", {200: _answer("Those inside are answered, others get 503.")}
        )
    },
    "/metrics": {
        "GET": Operation(
            "Counters and histograms",
            {200: {"description": "Prometheus' text.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
        )
    },
    "/v2/proteus/status": {
        "GET": Operation("What runs now, and how the plan changed", {200: _answer("The status.", "ServerStatus")})
    },
    "/v2/proteus/plan": {
        "GET": Operation("The plan in force", {200: _answer("As in a plan file.", "Plan")}),
        "POST": Operation(
            "Put a plan in force",
            {
                200: _answer("It is in force.", "PlanChange"),
                403: _answer("This server asks for no tokens, and so takes no plans.", "Error"),
                409: _answer("What the plan was made from has changed since.", "Error"),
                422: _answer("The plan does not fit what is served here, or can't be loaded.", "Error"),
            },
            body={"required": True, "content": {_JSON: {"schema": ref("Plan")}}},
        ),
    },
    "/v2/proteus/history": {
        "GET": Operation(
            "The last 15 minutes, a sample a second",
            {200: _answer("What came after `since`, and what is now.", "History")},
            parameters=(
                {
                    "name": "since",
                    "in": "query",
                    "description": "The `cursor` of an earlier answer; without it, all that is kept is told.",
                    "schema": {"type": "string", "pattern": f"^{CURSOR}$"},
                },
            ),
        )
    },
    "/": {"GET": _FILE},
    f"{AT}{{file}}": {"GET": _FILE},
    "/openapi.json": {"GET": Operation("This document", {200: _answer("OpenAPI 3.1.", "Document")})},
}


def document(signatures: Mapping[str, Signature], *, needs_token: bool = False) -> Json:
    """The document of a server with these families; ``needs_token``: it asks for a bearer token."""
    found: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Proteus",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            path: {
                verb.lower(): _operation(path, verb, operation, signatures, needs_token=needs_token)
                for verb, operation in verbs.items()
            }
            for path, verbs in OPERATIONS.items()
        },
        "components": {"schemas": SCHEMAS, "responses": _RESPONSES},
    }
    if needs_token:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
    return found


def _operation(
    path: str, verb: str, operation: Operation, signatures: Mapping[str, Signature], *, needs_token: bool
) -> Json:
    answers = {status: _response(name) for status, name in _EVERYWHERE.items()}
    in_path = re.findall(r"{(\w+)}", path)
    if in_path and not path.startswith("/v2/repository/"):
        answers[404] = _response("NotFound")
    if needs_token and not operation.is_open:
        answers[401] = _response("NoToken")
    answers |= operation.answers
    found: Json = {
        "operationId": "_".join([verb.lower(), *re.findall(r"\w+", path)]),
        "summary": operation.summary,
        "responses": {str(status): answer for status, answer in sorted(answers.items())},
    }
    parameters = [_in_path(name, signatures) for name in in_path] + list(operation.parameters)
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None:
        found["requestBody"] = _with_examples(operation.body, signatures) if operation is _INFER else operation.body
    if needs_token and operation.is_open:
        found["security"] = []
    return found


def _in_path(name: str, signatures: Mapping[str, Signature]) -> Json:
    known = {"model": list(signatures), "version": [oip.VERSION], "file": list(FILES)}
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": known[name]}}


def _with_examples(body: Json, signatures: Mapping[str, Signature]) -> Json:
    """Of each family whose rows are small, a request of one row."""
    examples = {
        family: {
            "summary": f"One row for `{family}`",
            "value": {"inputs": [_example(spec) for spec in signature.inputs]},
        }
        for family, signature in signatures.items()
        if sum(_count(spec) for spec in signature.inputs) <= LARGEST_EXAMPLE
    }
    return body | {"content": body["content"] | {_JSON: body["content"][_JSON] | {"examples": examples}}}


def _example(spec: TensorSpec) -> Json:
    zero = False if spec.dtype.kind == "b" else 0
    shape = [1, *(size or 0 for size in spec.shape)]  # inputs have fixed shapes
    return {"name": spec.name, "shape": shape, "datatype": oip.DATATYPE_OF[spec.dtype], "data": [zero] * _count(spec)}


def _count(spec: TensorSpec) -> int:
    return math.prod(size or 0 for size in spec.shape)
