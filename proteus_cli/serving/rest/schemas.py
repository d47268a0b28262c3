"""What bodies of REST requests and answers look like, as JSON Schema (the dialect of OpenAPI 3.1).

One module, as it is one document: schemas, which refer to each other by name, and hardly any code.
"""

from typing import Any

import msgspec

from proteus_cli.domain.plan import Plan
from proteus_cli.serving.adaptation.control_loop import PlanChange
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.oip.documents import (
    ModelConfig,
    ModelIndex,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
    Statistics,
)
from proteus_cli.serving.telemetry.history import History
from proteus_cli.serving.telemetry.status import ServerStatus

Json = dict[str, Any]

SERVED = (
    ServerLive, ServerReady, ServerMetadata, ModelReady, ModelMetadata, ModelConfig, Statistics, list[ModelIndex],
    ServerStatus, History, Plan, PlanChange,
)  # fmt: skip
"""The Structs that are sent, from which msgspec makes schemas."""

_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_NUMBER: Json = {"type": "number"}
_FRACTION: Json = {"type": "number", "minimum": 0, "maximum": 1}
_DATATYPE: Json = {"type": "string", "enum": list(oip.DATATYPES)}
_LARGEST = 2**63 - 1


def ref(schema: str) -> Json:
    """A schema of `SCHEMAS`, by name."""
    return {"$ref": f"#/components/schemas/{schema}"}


def _cleaned(schema: Any) -> Any:
    """A schema whose descriptions are docstrings, without their line breaks and marks of reStructuredText."""
    if isinstance(schema, dict):
        return {
            key: " ".join(value.replace("``", "`").split()) if key == "description" and isinstance(value, str) else
            _cleaned(value)
            for key, value in schema.items()
        }  # fmt: skip
    return [_cleaned(each) for each in schema] if isinstance(schema, list) else schema


def _object(required: Json, optional: Json | None = None, *, closed: bool = False, text: str = "") -> Json:
    """An object with these properties; others may be there unless it is ``closed``."""
    found: Json = {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}
    if closed:
        found["additionalProperties"] = False
    return found | ({"description": text} if text else {})


def _list(items: Json, **limits: int) -> Json:
    return {"type": "array", "items": items, **limits}


def _by(values: Json, text: str) -> Json:
    return {"type": "object", "additionalProperties": values, "description": text}


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


_ERROR = _object({"error": _TEXT}, closed=True, text="What is wrong, for people.")

_REQUEST_PARAMETERS = _object(
    {},
    {
        "timeout": _or_null({
            "type": "integer", "minimum": 0, "maximum": _LARGEST,
            "description": "Microseconds until the answer is no longer wanted; 0 or nothing: the family's SLO.",
        }),
        "priority": {
            "type": "integer", "minimum": 0, "maximum": oip.LOWEST_PRIORITY,
            "description": "1 is the highest, larger is lower; 0 is the same as 2.",
        },
        "min_accuracy": _or_null(_FRACTION | {"description": "Only variants at least so accurate may answer."}),
        "binary_data_output": {"type": "boolean", "description": "All outputs as binary tensors."},
    },
    text="Others are passed over.",
)  # fmt: skip

_INPUT = _object(
    {
        "name": _TEXT,
        "shape": _list({"type": "integer", "minimum": 1, "maximum": _LARGEST}, minItems=1),
        "datatype": _DATATYPE,
    },
    {
        "parameters": _or_null(_object({}, {"binary_data_size": _or_null(_COUNT)})),
        "data": {"anyOf": [ref("Values"), {"type": "null"}]},
    },
    text=(
        "As the model's metadata says. The values are in `data`, or are as many bytes behind the JSON as "
        "`binary_data_size` says."
    ),
)

_VALUES = _list({"anyOf": [_NUMBER, {"type": "boolean"}, ref("Values")]}) | {
    "description": "Row-major, flat or nested as the shape is. JSON has neither NaN nor infinity."
}

_WANTED = _object({"name": _TEXT}, {"parameters": _object({}, {"binary_data": {"type": "boolean"}})})

_INFER_REQUEST = _object(
    {"inputs": _list(ref("Input"), minItems=1)},
    {
        "id": _or_null(_TEXT | {"description": "Comes back with the answer."}),
        "parameters": _or_null(ref("RequestParameters")),
        "outputs": _or_null(_list(ref("Wanted")) | {"description": "The outputs that are wanted; nothing: all."}),
    },
)

_ANSWER_PARAMETERS = _object(
    {
        "variant": _TEXT | {"description": "Which variant of the family answered …"},
        "accuracy": _FRACTION | {"description": "… how accurate it is …"},
        "device": _TEXT | {"description": "… and where it ran."},
        "batch_size": {"type": "integer", "minimum": 1, "description": "Rows of the batch that it was part of."},
        "queue_us": _COUNT | {"description": "Microseconds from its arrival until the batch ran."},
        "compute_us": _COUNT | {"description": "Microseconds that the batch took."},
    },
    {"emulated": {"type": "boolean", "description": "The device is emulated: times and outputs are made up."}},
    closed=True,
)

_OUTPUT = _object(
    {"name": _TEXT, "datatype": _DATATYPE, "shape": _list(_COUNT)},
    {
        "parameters": _object({"binary_data_size": _COUNT}, closed=True),
        "data": _list({"type": ["number", "boolean", "null"]})
        | {"description": "Row-major and flat; null stands for NaN and the infinities."},
    },
    closed=True,
)

_INFER_ANSWER = _object(
    {
        "model_name": _TEXT,
        "model_version": _TEXT,
        "parameters": ref("AnswerParameters"),
        "outputs": _list(ref("Output")),
    },
    {"id": _TEXT},
    closed=True,
)

_INDEX_REQUEST = _object({}, {"ready": {"type": "boolean", "description": "Only models that take requests."}})

_LOAD_REQUEST = _object({}, {"parameters": _or_null({"type": "object", "description": "No `config`, and no files."})})

_DOCUMENT = _object({"openapi": _TEXT, "info": {"type": "object"}, "paths": {"type": "object"}})

SCHEMAS: Json = {
    "Error": _ERROR,
    "InferRequest": _INFER_REQUEST,
    "RequestParameters": _REQUEST_PARAMETERS,
    "Input": _INPUT,
    "Values": _VALUES,
    "Wanted": _WANTED,
    "InferAnswer": _INFER_ANSWER,
    "AnswerParameters": _ANSWER_PARAMETERS,
    "Output": _OUTPUT,
    "IndexRequest": _INDEX_REQUEST,
    "LoadRequest": _LOAD_REQUEST,
    "Document": _DOCUMENT,
    **_cleaned(msgspec.json.schema_components(SERVED, ref_template="#/components/schemas/{name}")[1]),
}
