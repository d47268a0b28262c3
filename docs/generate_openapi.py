"""Write ``proteus_cli/serving/rest/openapi.json``, an OpenAPI 3.1 document of the REST API.

The paths come from the table of routes, the schemas from the types of the bodies. ``--check`` fails where the file is
out of date.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

import proteus_cli
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.rollouts import RolloutStatus
from proteus_cli.serving.adaptation.catalog_reading import CatalogStatus
from proteus_cli.serving.adaptation.conditions import ConditionChange, FamilyConditions
from proteus_cli.serving.adaptation.feedback import FeedbackBatch, FeedbackStatus, FeedbackTaken
from proteus_cli.serving.adaptation.plan_journal import PlanChange
from proteus_cli.serving.adaptation.rollout_requests import (
    RolloutAbortion,
    RolloutPromotion,
    RolloutsStatus,
    RolloutStart,
)
from proteus_cli.serving.oip import documents
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.rest.codec.bodies import (
    VALUES_SCHEMA,
    Error,
    IndexRequest,
    InferRequest,
    InferResponse,
    RepositoryRequest,
)
from proteus_cli.serving.rest.endpoints import FILES, ROUTES
from proteus_cli.serving.rest.routing import Route
from proteus_cli.serving.telemetry.state import History, ServerStatus
from proteus_cli.serving.telemetry.telemetry import CURSOR

Json = dict[str, Any]

DOCUMENT = Path(proteus_cli.__file__).parent / "serving" / "rest" / "openapi.json"

_JSON = "application/json"
_ABOUT = """\
Inference by the Open Inference Protocol v2, with its binary tensor extension. A model is a family of variants; which of
them answered is in the answer's `parameters`. GET endpoints take HEAD as well. Unknown paths are answered 404,
other methods 405 with `Allow`. A server with `--auth-tokens` asks for a bearer token.
"""
_EXAMPLE = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}


@dataclass(frozen=True, slots=True)
class Content:
    """A body or an answer: a text, the types of its JSON (any of them), the rest as it stands."""

    text: str
    json: tuple[Any, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """A route. ``answers`` are by status; a text stands for one of `RESPONSES`. ``parameters`` are not of the path."""

    summary: str
    answers: Mapping[int, Content | str]
    body: Content | None = None
    parameters: tuple[Mapping[str, Any], ...] = ()


def _header(text: str, schema: Mapping[str, Any], *, required: bool = True) -> Json:
    return {"description": text, "required": required, "schema": schema}


def _text(*media_types: str) -> Mapping[str, Any]:
    return {"content": {media_type: {"schema": {"type": "string"}} for media_type in media_types}}


_RETRY_AFTER = {
    "headers": {"Retry-After": _header("Seconds after which asking again may help.", {"type": "integer", "minimum": 1})}
}


def _outcome(text: str, *outcomes: str, required: bool) -> Json:
    return {"headers": {"proteus-outcome": _header(text, {"type": "string", "enum": outcomes}, required=required)}}


RESPONSES: Mapping[str, Content] = {
    "BadRequest": Content(
        "Malformed; or no variant that is planned is as accurate as is asked for, or of that version, and the error"
        " names those there are.",
        (Error,),
        _outcome("`rejected` in the second case.", "rejected", required=False),
    ),
    "NoToken": Content(
        "The server has tokens, and the request has none of them.",
        (Error,),
        {"headers": {"WWW-Authenticate": _header("`Bearer`", {"type": "string"})}},
    ),
    "Foreign": Content(
        "The server has no tokens, and the request names a host that it is not known by, comes from a page of another"
        " site, or changes what is served.",
        (Error,),
    ),
    "NotJson": Content("The Content-Type is not that of JSON.", (Error,)),
    "NotFound": Content("There is no such model, version of it, or file.", (Error,)),
    "TooSlow": Content("The request took too long to come in; the connection closes.", (Error,)),
    "TooLarge": Content("The body is larger than the server takes, or than any request for this family.", (Error,)),
    "Expectation": Content("An `Expect` other than `100-continue`.", (Error,)),
    "HeadersTooLarge": Content("The headers are too many, or too large; the connection closes.", (Error,)),
    "NoSuchEncoding": Content("A transfer encoding other than `chunked`; the connection closes.", (Error,)),
    "NoSuchVersion": Content("An HTTP version other than 1.0 and 1.1; the connection closes.", (Error,)),
    "Overloaded": Content("More queries than the plan can carry.", (Error,), _RETRY_AFTER),
    "Failed": Content("The model failed on this request, or the server has a bug.", (Error,)),
    "NotReady": Content(
        "Starting, draining, too many connections or large bodies; or the model was unloaded.", (Error,), _RETRY_AFTER
    ),
    "Deadline": Content(
        "The deadline passed, in the queue or while the request ran, or can't be met.",
        (Error,),
        _outcome("`late`: it ran; `dropped`: it did not.", "late", "dropped", required=True),
    ),
}
_VERSION = {
    "type": "string",
    "description": "One of the `versions` in the metadata of the model; `1` is any variant.",
    "examples": [oip.VERSION],
}
_ALWAYS = {
    400: "BadRequest", 403: "Foreign", 408: "TooSlow", 413: "TooLarge", 417: "Expectation",
    431: "HeadersTooLarge", 500: "Failed", 501: "NoSuchEncoding", 503: "NotReady", 505: "NoSuchVersion",
}  # fmt: skip
"""Answers that each operation may have."""

_OCTETS = "application/octet-stream"
_LENGTH_HEADER = "Inference-Header-Content-Length"
_LENGTH: Mapping[str, Any] = {"type": "integer", "minimum": 0}
_LENGTH_TEXT = "The length of the JSON, where binary tensors follow it."
_INFER_TEXT = """\
JSON, or JSON and binary tensors behind it: then `Inference-Header-Content-Length` is the length of the JSON, each input
whose values follow has `parameters.binary_data_size` instead of `data`, and the values follow in the order of the
inputs: row-major, little-endian, without gaps, BOOL as one byte. The body may be compressed, with `Content-Encoding:
gzip` or `deflate`. It may be no larger than the family's largest request needs: 64 bytes for each value of its most
rows, and 64 KiB. For a family that takes images, the body may be one JPEG or PNG file with its `Content-Type`: one row.
"""
_BINARY_ANSWER_TEXT = """\
The JSON of an answer, as long as `Inference-Header-Content-Length` says, and behind it, in the order of the outputs,
the values of those that have `parameters.binary_data_size`.
"""
_PAGE = Operation(
    "The page for people, and its files",
    {
        200: Content(
            "The same for every server of this version: it holds no data.",
            more={
                **_text(*sorted({media_type.partition(";")[0] for media_type in FILES.values()})),
            },
        ),
    },
)
_OTHER_STEP = Content("The roll-out is not at a step where that is possible.", (Error,))

OPERATIONS: Mapping[str, Operation] = {
    # The protocol
    "GET /v2": Operation(
        "Server metadata",
        {200: Content("Name, version, extensions.", (documents.ServerMetadata,))},
    ),
    "GET /v2/health/live": Operation(
        "Whether the server runs",
        {200: Content("It does.", (documents.ServerLive,))},
    ),
    "GET /v2/health/ready": Operation(
        "Whether the server takes requests",
        {
            200: Content("It does.", (documents.ServerReady,)),
            503: Content("It starts or drains, or has too many connections.", (documents.ServerReady, Error)),
        },
    ),
    "GET /v2/models/stats": Operation(
        "Statistics of all models",
        {200: Content("Counts since the start.", (documents.Statistics,))},
    ),
    "GET /v2/models/{model}": Operation(
        "Model metadata",
        {200: Content("What the model takes and gives.", (documents.ModelMetadata,))},
    ),
    "GET /v2/models/{model}/ready": Operation(
        "Whether a model takes requests",
        {
            200: Content("It does.", (documents.ModelReady,)),
            503: Content(
                "It is unloaded or leaves, no variant of it is hosted, or the server is not ready.",
                (documents.ModelReady, Error),
            ),
        },
    ),
    "POST /v2/models/{model}/infer": Operation(
        "Inference",
        {
            200: Content(
                "The outputs of the model.", (InferResponse,),
                {
                    "headers": {_LENGTH_HEADER: _header(_LENGTH_TEXT, _LENGTH, required=False)},
                    "content": {_OCTETS: {"schema": {"description": _BINARY_ANSWER_TEXT}}},
                },
            ),
            429: "Overloaded",
            504: "Deadline",
        },
        body=Content(
            _INFER_TEXT, (InferRequest,),
            {"required": True, "content": {_OCTETS: {"schema": {"description": "JSON and binary tensors."}}}},
        ),
        parameters=({"name": _LENGTH_HEADER, "in": "header", "description": _LENGTH_TEXT, "schema": _LENGTH},),
    ),
    # Triton's extensions
    "GET /v2/models/{model}/config": Operation(
        "Model configuration",
        {200: Content("As Triton's `ModelConfig`.", (documents.ModelConfig,))},
    ),
    "GET /v2/models/{model}/stats": Operation(
        "Statistics of a model",
        {200: Content("Counts since the start.", (documents.Statistics,))},
    ),
    "POST /v2/repository/index": Operation(
        "All models, and whether they take requests",
        {200: Content("The models.", (list[documents.ModelIndex],))},
        body=Content("", (IndexRequest,)),
    ),
    "POST /v2/repository/models/{model}/load": Operation(
        "Let a model take requests again",
        {
            200: Content("It does. The catalog was read anew, and is followed."),
            409: Content("What the catalog changes needs a new start of the server.", (Error,)),
            422: Content("The catalog is wrong, or can't be followed.", (Error,)),
        },
        body=Content("", (RepositoryRequest,)),
    ),
    "POST /v2/repository/models/{model}/unload": Operation(
        "Let a model take no more requests",
        {200: Content("Requests in flight are answered, others get 503.")},
    ),
    # Our own
    "GET /metrics": Operation(
        "Counters and histograms",
        {200: Content("Prometheus' text format.", more=_text("text/plain"))},
    ),
    "GET /v2/proteus/status": Operation(
        "What runs now, and how the plan changed",
        {200: Content("The status.", (ServerStatus,))},
    ),
    "GET /v2/proteus/history": Operation(
        "The last 15 minutes, a sample a second",
        {200: Content("The samples after `since`, and the state now.", (History,))},
        parameters=(
            {
                "name": "since", "in": "query", "description": "The `cursor` of an earlier answer; without it: all.",
                "schema": {"type": "string", "pattern": f"^{CURSOR}$"},
            },
        ),
    ),
    "GET /v2/proteus/plan": Operation(
        "The plan in force",
        {200: Content("As in a plan file.", (Plan,))},
    ),
    "POST /v2/proteus/plan": Operation(
        "Put a plan in force",
        {
            200: Content("It is in force.", (PlanChange,)),
            409: Content("What the plan was made from has changed since.", (Error,)),
            422: Content("The plan does not fit what is served here, or can't be loaded.", (Error,)),
        },
        body=Content("", (Plan,), {"required": True}),
    ),
    "GET /v2/proteus/catalog": Operation(
        "What is served of the catalog",
        {200: Content("What is served, and what becomes of the last reading.", (CatalogStatus,))},
    ),
    "POST /v2/proteus/catalog": Operation(
        "Read the catalog anew, and follow it",
        {
            200: Content("It was read. What is new is measured first, where that is needed.", (CatalogStatus,)),
            409: Content("The change needs a new start of the server.", (Error,)),
            422: Content("The catalog is wrong, or a model is missing or of another signature.", (Error,)),
        },
    ),
    "GET /v2/proteus/feedback": Operation(
        "How accurate answers are, by feedback",
        {
            200: Content("By family and variant.", (FeedbackStatus,)),
            409: Content("This server keeps no answers for feedback.", (Error,)),
        },
    ),
    "POST /v2/proteus/feedback": Operation(
        "Tell the labels of requests that were answered",
        {
            200: Content("What became of the items; a wrong one keeps no other from counting.", (FeedbackTaken,)),
            409: Content("This server keeps no answers for feedback.", (Error,)),
        },
        body=Content("", (FeedbackBatch,), {"required": True}),
    ),
    "GET /v2/proteus/rollouts": Operation(
        "The last version roll-out of each family that had one",
        {200: Content("How far they are, and what is known of the new versions.", (RolloutsStatus,))},
    ),
    "POST /v2/proteus/rollouts": Operation(
        "Roll out a new version of a variant",
        {
            200: Content("It begins: the new version is measured first.", (RolloutStatus,)),
            409: Content("The family has a roll-out, or the catalog has changed and was not read.", (Error,)),
            422: Content("There is no such version, it does not fit, or the catalog can't be written.", (Error,)),
        },
        body=Content("", (RolloutStart,), {"required": True}),
    ),
    "POST /v2/proteus/rollouts/{family}/promote": Operation(
        "Go on with a version roll-out",
        {200: Content("It goes on.", (RolloutStatus,)), 409: _OTHER_STEP},
        body=Content("", (RolloutPromotion,)),
    ),
    "POST /v2/proteus/rollouts/{family}/abort": Operation(
        "End a version roll-out",
        {200: Content("The old version serves.", (RolloutStatus,)), 409: _OTHER_STEP},
        body=Content("", (RolloutAbortion,)),
    ),
    "GET /v2/proteus/families/{family}": Operation(
        "The conditions of a family's multi-exit variants",
        {200: Content("What counts now.", (FamilyConditions,))},
    ),
    "PATCH /v2/proteus/families/{family}": Operation(
        "Change the condition of a family",
        {
            200: Content("It counts from the next batch on.", (FamilyConditions,)),
            409: Content("The family has no multi-exit variants, or none that would follow the condition.", (Error,)),
            422: Content("The plan can't be put in force anew.", (Error,)),
        },
        body=Content("", (ConditionChange,), {"required": True}),
    ),
    "GET /openapi.json": Operation(
        "This document", {200: Content("OpenAPI 3.1.", (dict[str, Any],))},
    ),
    "GET /": _PAGE,
    "GET /ui/{file}": _PAGE,
}  # fmt: skip
"""Descriptions of the routes, by method and path. A path with a version is described as the one without."""


def main() -> int:
    """Returns the exit code."""
    text = msgspec.json.format(msgspec.json.encode(document()), indent=1).decode() + "\n"
    if "--check" not in sys.argv[1:]:
        DOCUMENT.write_text(text, encoding="utf-8")
        return 0
    if DOCUMENT.is_file() and DOCUMENT.read_text(encoding="utf-8") == text:
        return 0
    print("proteus_cli/serving/rest/openapi.json is out of date: run `make docs`", file=sys.stderr)
    return 1


def document() -> Json:
    """The document. Raises `KeyError` where a route has no description."""
    schema_of, components = _schemas(OPERATIONS.values())
    paths: dict[str, Json] = {}
    for route in ROUTES:
        key = f"{route.method} {route.path.replace('/versions/{version}', '')}"
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, OPERATIONS[key], schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Proteus",
            "version": proteus_cli.__version__,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {name: _content(content, schema_of) for name, content in RESPONSES.items()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas(operations: Iterable[Operation]) -> tuple[dict[Any, Json], Json]:
    """The schema of each type that a body or an answer has, and the components that these schemas refer to."""
    contents = [*RESPONSES.values()]
    for each in operations:
        contents += [content for content in (each.body, *each.answers.values()) if isinstance(content, Content)]
    types = list(dict.fromkeys(json for content in contents for json in content.json))
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return dict(zip(types, schemas, strict=True)), _plain({**components, "Values": VALUES_SCHEMA})


def _plain(schema: Any) -> Any:
    """A schema whose descriptions, which are docstrings, are one paragraph without marks of reStructuredText."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: " ".join(value.replace("``", "`").split()) if key == "description" and isinstance(value, str)
        else _plain(value)
        for key, value in schema.items()
    }  # fmt: skip


def _content(content: Content, schema_of: Mapping[Any, Json]) -> Json:
    found: Json = {"description": content.text, **content.more}
    if content.json:
        schemas = [schema_of[json] for json in content.json]
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        found["content"] = {_JSON: {"schema": schema}, **content.more.get("content", {})}
    return found


def _response(name: str) -> Json:
    return {"$ref": f"#/components/responses/{name}"}


def _operation(route: Route, described: Operation, schema_of: Mapping[Any, Json]) -> Json:
    answers = {status: _response(name) for status, name in _ALWAYS.items()}
    in_path = re.findall(r"{(\w+)}", route.path)
    if in_path and not route.path.startswith("/v2/repository/"):
        answers[404] = _response("NotFound")
    if route.needs_token:
        answers[401] = _response("NoToken")
    if route.changes_state:
        answers[415] = _response("NotJson")
    for status, answer in described.answers.items():
        answers[status] = _content(answer, schema_of) if isinstance(answer, Content) else _response(answer)
    found: Json = {
        "operationId": "_".join([route.method.lower(), *re.findall(r"\w+", route.path)]),
        "summary": described.summary,
        "responses": {str(status): answer for status, answer in sorted(answers.items())},
    }
    parameters = [_in_path(name) for name in in_path] + list(described.parameters)
    if parameters:
        found["parameters"] = parameters
    if described.body is not None:
        found["requestBody"] = _content(described.body, schema_of)
        if InferRequest in described.body.json:
            example = {"summary": "One row of four numbers", "value": _EXAMPLE}
            found["requestBody"]["content"][_JSON]["examples"] = {"row": example}
    if not route.needs_token:
        found["security"] = []
    return found


def _in_path(name: str) -> Json:
    schema: Json = {"type": "string"}
    match name:
        case "model" | "family":
            schema["description"] = "A family that is served, as in `POST /v2/repository/index`."
        case "file":
            schema["enum"] = list(FILES)
        case _:
            schema = _VERSION
    return {"name": name, "in": "path", "required": True, "schema": schema}


if __name__ == "__main__":
    sys.exit(main())
