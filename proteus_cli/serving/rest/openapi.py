"""``/openapi.json``: the table of routes as an OpenAPI 3.1 document, with schemas that msgspec makes of the bodies."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from proteus_cli import __version__
from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.rest.codec.bodies import VALUES_SCHEMA, Error, InferRequest
from proteus_cli.serving.rest.routing import Content, Route
from proteus_cli.serving.rest.site import FILES

LARGEST_EXAMPLE = 64  # values; families with larger rows have no example
_JSON = "application/json"
_ABOUT = """\
Inference by the Open Inference Protocol v2, with its binary tensor extension. A model is a family of variants; which of
them answered is in the answer's `parameters`. GET endpoints take HEAD as well. Unknown paths are answered 404,
other methods 405 with `Allow`.
"""

Json = dict[str, Any]


def header(text: str, schema: Mapping[str, Any], *, required: bool = True) -> Json:
    """What OpenAPI says of a header."""
    return {"description": text, "required": required, "schema": schema}


_RETRY_AFTER = {
    "headers": {"Retry-After": header("Seconds after which asking again may help.", {"type": "integer", "minimum": 1})}
}


def _outcome(text: str, *outcomes: str, required: bool) -> Json:
    return {"headers": {"proteus-outcome": header(text, {"type": "string", "enum": outcomes}, required=required)}}


RESPONSES: Mapping[str, Content] = {
    "BadRequest": Content(
        "Malformed; or no variant that is planned is as accurate as is asked for, or of that version, and the error"
        " names those there are.",
        (Error,),
        _outcome("`rejected` in the second case.", "rejected", required=False),
    ),
    "NoToken": Content(
        "This server asks for a bearer token.",
        (Error,),
        {"headers": {"WWW-Authenticate": header("`Bearer`", {"type": "string"})}},
    ),
    "Foreign": Content(
        "The request names a host that this server is not known by, or a page of another site sent it; or it changes"
        " what is served, and this server asks for no tokens.",
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
    400: "BadRequest", 408: "TooSlow", 413: "TooLarge", 417: "Expectation", 431: "HeadersTooLarge", 500: "Failed",
    501: "NoSuchEncoding", 503: "NotReady", 505: "NoSuchVersion",
}  # fmt: skip


def document(routes: Sequence[Route], signatures: Mapping[str, Signature], *, needs_token: bool = False) -> Json:
    """The document of a server with these families; ``needs_token``: it asks for a bearer token."""
    schema_of, components = _schemas(routes)
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(
            route, schema_of, signatures, needs_token=needs_token
        )
    found: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Proteus",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {name: _content(content, schema_of) for name, content in RESPONSES.items()},
        },
    }
    if needs_token:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
    return found


def _schemas(routes: Iterable[Route]) -> tuple[dict[Any, Json], Json]:
    """The schema of each type that a body or an answer has, and the components that these schemas refer to."""
    contents = [*RESPONSES.values()]
    for route in routes:
        contents += [content for content in (route.body, *route.answers.values()) if isinstance(content, Content)]
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


def _operation(
    route: Route, schema_of: Mapping[Any, Json], signatures: Mapping[str, Signature], *, needs_token: bool
) -> Json:
    answers = {status: _response(name) for status, name in _ALWAYS.items()}
    in_path = re.findall(r"{(\w+)}", route.path)
    if in_path and not route.path.startswith("/v2/repository/"):
        answers[404] = _response("NotFound")
    if needs_token and route.needs_token:
        answers[401] = _response("NoToken")
    if not needs_token:
        answers[403] = _response("Foreign")
    for status, answer in route.answers.items():
        answers[status] = _content(answer, schema_of) if isinstance(answer, Content) else _response(answer)
    found: Json = {
        "operationId": "_".join([route.method.lower(), *re.findall(r"\w+", route.path)]),
        "summary": route.summary,
        "responses": {str(status): answer for status, answer in sorted(answers.items())},
    }
    parameters = [_in_path(name, signatures) for name in in_path] + list(route.parameters)
    if parameters:
        found["parameters"] = parameters
    if route.body is not None:
        found["requestBody"] = _content(route.body, schema_of)
        if InferRequest in route.body.json:
            found["requestBody"]["content"][_JSON]["examples"] = _examples(signatures)
    if needs_token and not route.needs_token:
        found["security"] = []
    return found


def _in_path(name: str, signatures: Mapping[str, Signature]) -> Json:
    values = {"model": list(signatures), "family": list(signatures), "file": list(FILES)}
    schema = {"type": "string", "enum": values[name]} if name in values else _VERSION
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _examples(signatures: Mapping[str, Signature]) -> Json:
    """A request of one row for each family whose rows are small."""
    return {
        family: {
            "summary": f"One row for `{family}`",
            "value": {"inputs": [_example(spec) for spec in signature.inputs]},
        }
        for family, signature in signatures.items()
        if sum(_count(spec) for spec in signature.inputs) <= LARGEST_EXAMPLE
    }


def _example(spec: TensorSpec) -> Json:
    zero = False if spec.dtype.kind == "b" else 0
    shape = [1, *(size or 0 for size in spec.shape)]  # inputs have fixed shapes
    return {"name": spec.name, "shape": shape, "datatype": oip.DATATYPE_OF[spec.dtype], "data": [zero] * _count(spec)}


def _count(spec: TensorSpec) -> int:
    return math.prod(size or 0 for size in spec.shape)
