"""What bodies of REST requests and answers look like, as JSON Schema (the dialect of OpenAPI 3.1).

One module, as it is one document: schemas, which refer to each other by name, and hardly any code.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from proteus_cli.domain.plan import Plan
from proteus_cli.serving.lifecycle import ServerState
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.telemetry.sampler import DEVICE_DIGITS, FAMILY_DIGITS
from proteus_cli.serving.telemetry.snapshot import ServerEventKind

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_NUMBER: Json = {"type": "number"}
_FRACTION: Json = {"type": "number", "minimum": 0, "maximum": 1}
_DATATYPE: Json = {"type": "string", "enum": list(oip.DATATYPES)}
_LARGEST = 2**63 - 1


def ref(schema: str) -> Json:
    """A schema of `SCHEMAS`, by name."""
    return {"$ref": f"#/components/schemas/{schema}"}


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

_SERVER = _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}, closed=True)

_TENSOR_METADATA = _object(
    {"name": _TEXT, "datatype": _DATATYPE, "shape": _list({"type": "integer", "minimum": -1})},
    closed=True,
    text="The first size is the number of rows; -1 stands for sizes that vary.",
)

_MODEL = _object(
    {
        "name": _TEXT,
        "versions": _list(_TEXT),
        "platform": _TEXT,
        "inputs": _list(ref("TensorMetadata")),
        "outputs": _list(ref("TensorMetadata")),
    },
    closed=True,
)

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

_BY_OUTCOME = _by(_COUNT, "Requests by outcome.")

_FAMILY_STATUS = _object(
    {
        "demand_qps": _NUMBER | {"description": "Over the last second."},
        "demand_windows_qps": _by(_NUMBER, "Over windows of several lengths."),
        "planned_qps": _NUMBER,
        "capacity_qps": _NUMBER | {"description": "The most that the plan carries."},
        "throughput_qps": _NUMBER | {"description": "Answers per second, lately."},
        "outcomes": _BY_OUTCOME,
        "violations": _or_null(_FRACTION | {"description": "Of the requests that ended in the last seconds."}),
        "effective_accuracy": _or_null(_FRACTION),
        "best_accuracy": _or_null(_FRACTION),
        "slo_s": _NUMBER,
        "p99_s": _or_null(_NUMBER),
        "waiting": _COUNT,
        "loaded": {"type": "boolean"},
    }
)

_DEVICE_STATUS = _object(
    {
        "type": _TEXT,
        "kind": _TEXT,
        "variants": _list(_TEXT),
        "pace": _NUMBER,
        "busy_s": _NUMBER,
        "breaker": {"type": "string", "enum": ["closed", "open", "half-open"]},
        "breaker_s": _NUMBER | {"description": "For how long it has been so."},
        "reason": _or_null(_TEXT | {"description": "Why it isn't closed."}),
        "losses": _COUNT | {"description": "How often it was lost."},
        "pid": _or_null(_COUNT | {"description": "Of the device's own process."}),
    }
)

_PLAN_STATUS = _object(
    {
        "id": _or_null(_TEXT) | {"description": "Its name in plans/history/."},
        "since_unix_s": _NUMBER,
        "origin": _TEXT,
        "reason": _TEXT,
        "held_s": _NUMBER | {"description": "So long it is left alone, as a person asked for it."},
    }
)

_STATUS = _object(
    {
        "state": {"type": "string", "enum": [state.value for state in ServerState]},
        "policy": _TEXT,
        "replan": _TEXT | {"description": "`off`, `auto`, or `period=10s`."},
        "emulated": {"type": "boolean", "description": "The devices are: no time here was measured."},
        "inside": _COUNT | {"description": "Requests that wait or run."},
        "demand_qps": _by(_NUMBER, "Queries per second over the last second, by family."),
        "planned_qps": _by(_NUMBER, "The demand that the plan in force is for, by family."),
        "slo_s": _by(_NUMBER, "By family."),
        "best_accuracy": _by(_FRACTION, "By family."),
        "placements": _list(_object({"device": _TEXT, "family": _TEXT, "variant": _TEXT})),
        "pace": _by(_NUMBER, "What batches take over what was profiled, by device."),
        "outcomes": _by(_BY_OUTCOME, "By family."),
        "changes": _list({"type": "object"}) | {"description": "Changes of plan so far."},
        "plan": _PLAN_STATUS,
        "failures": _object({"total": _by(_COUNT, "By cause."), "last": _list({"type": "object"}), "pause_s": _NUMBER}),
        "solver": _or_null(_object({"pid": _or_null(_COUNT), "is_busy": {"type": "boolean"}})),
        "history": _or_null(
            _object({"directory": _TEXT, "written": _COUNT, "failed": _COUNT, "problem": _or_null(_TEXT)})
        ),
        "drift": _or_null(_object({"after_s": _NUMBER, "points": _list({"type": "object"}), "corrections": _COUNT})),
        "families": _by(_FAMILY_STATUS, "By family."),
        "devices": _by(_DEVICE_STATUS, "By device."),
        "broken": _list(_object({"device": _TEXT, "family": _TEXT, "variant": _TEXT, "reason": _or_null(_TEXT)}))
        | {"description": "What plans do without for now, as it can't be loaded there, or fails on everything."},
    }
)

_CHANGE = _object(
    {
        "unix_s": _NUMBER,
        "reason": _TEXT,
        "solve_s": _NUMBER,
        "total_s": _NUMBER | {"description": "Seconds from the request until it was in force."},
        "swaps": _COUNT | {"description": "Variants loaded."},
        "origin": _TEXT,
    },
    closed=True,
)

_NUMBERS = _list({"type": ["number", "null"]})


def _samples(text: str, columns: Iterable[str]) -> Json:
    return _object(dict.fromkeys(columns, _NUMBERS), closed=True, text=text)


_HISTORY_FAMILY = _object(
    {
        "slo_s": _NUMBER,
        "best_accuracy": _or_null(_FRACTION),
        "demand_qps": _NUMBER | {"description": "Rows that arrived, per second, as everything here lately: 5 s …"},
        "throughput_qps": _NUMBER | {"description": "… rows of batches that were answered …"},
        "goodput_qps": _NUMBER | {"description": "… and those of requests that were answered in time."},
        "violations": _or_null(_FRACTION | {"description": "Of the requests that ended."}),
        "accuracy": _or_null(_FRACTION | {"description": "Mean of what answered …"}),
        "relative_accuracy": _or_null(_NUMBER | {"description": "… over that of the best variant."}),
        "p99_s": _or_null(
            _NUMBER | {"description": "Of what a batch answered in 10 s; estimated within the buckets of a histogram."}
        ),
        "waiting": _COUNT,
        "samples": _samples(
            "A value a sample. `late_qps` and so on are requests per second by how they ended; null: nothing to tell.",
            FAMILY_DIGITS,
        ),
    },
    closed=True,
)

_PLAN_PARTS: Json = msgspec.json.schema_components([Plan], ref_template="#/components/schemas/{name}")[1]

_HISTORY_DEVICE = _object(
    {
        "variants": _list(_TEXT),
        "load": _NUMBER | {"description": "Part of the time in which batches ran; they count when they end."},
        "mean_batch": _or_null(_NUMBER | {"description": "Rows."}),
        "breaker": {"type": "string", "enum": ["closed", "open", "half-open"]},
        "reason": _TEXT | {"description": "Why it is not closed."},
        "samples": _samples("A value a sample.", DEVICE_DIGITS),
    },
    closed=True,
)

_FLOWS = _object(
    {
        "device": _list(_TEXT),
        "family": _list(_TEXT),
        "variant": _list(_TEXT),
        "accuracy": _list(_FRACTION),
        "planned_qps": _list(_NUMBER),
        "answered_qps": _list(_NUMBER),
    },
    closed=True,
    text="The plan in force, column by column: what each placement is sent by it, and has answered in time lately.",
)

_HISTORY = _object(
    {
        "server": _TEXT | {"description": "Another one after a restart: then samples begin anew."},
        "cursor": _TEXT | {"description": "For `since`."},
        "complete": {"type": "boolean", "description": "False: more than fits in an answer; ask on at once."},
        "every_s": _NUMBER,
        "keeps_s": _NUMBER,
        "version": _TEXT,
        "state": {"type": "string", "enum": [state.value for state in ServerState]},
        "policy": _TEXT,
        "emulated": {"type": "boolean", "description": "The devices are: no time here was measured."},
        "inside": _COUNT | {"description": "Requests that wait or run."},
        "unix_s": _NUMBER | {"description": "The time of day now …"},
        "uptime_s": _NUMBER | {"description": "… and now in seconds since the server was ready, as `at_s` has it."},
        "at_s": _list(_NUMBER) | {"description": "When the samples were taken."},
        "families": _by(ref("HistoryFamily"), "By family."),
        "devices": _by(ref("HistoryDevice"), "By device."),
        "flows": ref("Flows"),
        "events": _list(
            _object(
                {
                    "at_s": _NUMBER,
                    "kind": {"type": "string", "enum": [kind.value for kind in ServerEventKind]},
                    "text": _TEXT,
                },
                closed=True,
            )
        )
        | {"description": "Changes of plan, and of devices, among these samples."},
    },
    closed=True,
)

_INSTANCE = _object(
    {
        "name": _TEXT,
        "kind": {"type": "string", "enum": ["KIND_CPU", "KIND_GPU"]},
        "count": _COUNT,
        "gpus": _list(_COUNT),
    },
    closed=True,
    text="A device that hosts a variant of it now.",
)

_CONFIG_TENSOR = _object(
    {
        "name": _TEXT,
        "data_type": {"type": "string", "enum": [f"TYPE_{name}" for name in oip.DATATYPES]},
        "dims": _list({"type": "integer", "minimum": -1}),
    },
    closed=True,
    text="Without the axis of the batch.",
)

_CONFIG = _object(
    {
        "name": _TEXT,
        "platform": _TEXT,
        "backend": _TEXT,
        "version_policy": {"type": "object"},
        "max_batch_size": _COUNT | {"description": "The most rows of a request."},
        "input": _list(_CONFIG_TENSOR),
        "output": _list(_CONFIG_TENSOR),
        "instance_group": _list(_INSTANCE),
        "dynamic_batching": {"type": "object"},
        "model_transaction_policy": {"type": "object"},
        "parameters": _by(
            _object({"string_value": _TEXT}),
            "`slo_us`: the family's SLO in microseconds; `emulated`: `true` where devices are; `signature`: `stub` "
            "where inputs and outputs are made up.",
        ),
    },
    closed=True,
    text="As Triton's `ModelConfig` in JSON.",
)

_DURATION = _object({"count": _COUNT, "ns": _COUNT}, closed=True)
_COMPUTE: Json = dict.fromkeys(("compute_input", "compute_infer", "compute_output"), _DURATION)

_MODEL_STATISTICS = _object(
    {
        "name": _TEXT,
        "version": _TEXT,
        "last_inference": _COUNT | {"description": "Milliseconds since 1970; 0: none yet."},
        "inference_count": _COUNT | {"description": "Rows."},
        "execution_count": _COUNT | {"description": "Batches."},
        "inference_stats": _object(
            {**dict.fromkeys(("success", "fail", "queue"), _DURATION), **_COMPUTE},
            {"cache_hit": _DURATION, "cache_miss": _DURATION},
        ),
        "batch_stats": _list(_object({"batch_size": _COUNT, **_COMPUTE}, closed=True)),
    },
    text="Since the server started.",
)

_STATISTICS = _object({"model_stats": _list(ref("ModelStatistics"))}, closed=True)

_INDEX = _list(
    _object(
        {
            "name": _TEXT,
            "version": _TEXT,
            "state": {"type": "string", "enum": ["READY", "UNAVAILABLE"]},
            "reason": _TEXT,
            "variants": _list(
                _object({"variant": _TEXT, "accuracy": _FRACTION, "device": _TEXT}, closed=True)
            ),
        },
        closed=True,
    )
)  # fmt: skip

_INDEX_REQUEST = _object({}, {"ready": {"type": "boolean", "description": "Only models that take requests."}})

_LOAD_REQUEST = _object({}, {"parameters": _or_null({"type": "object", "description": "No `config`, and no files."})})

_DOCUMENT = _object({"openapi": _TEXT, "info": {"type": "object"}, "paths": {"type": "object"}})

SCHEMAS: Json = {
    "Error": _ERROR,
    "Server": _SERVER,
    "ServerLive": _object({"live": {"type": "boolean"}}, closed=True),
    "ServerReady": _object({"ready": {"type": "boolean"}}, closed=True),
    "ModelReady": _object({"name": _TEXT, "ready": {"type": "boolean"}}, closed=True),
    "Model": _MODEL,
    "TensorMetadata": _TENSOR_METADATA,
    "InferRequest": _INFER_REQUEST,
    "RequestParameters": _REQUEST_PARAMETERS,
    "Input": _INPUT,
    "Values": _VALUES,
    "Wanted": _WANTED,
    "InferAnswer": _INFER_ANSWER,
    "AnswerParameters": _ANSWER_PARAMETERS,
    "Output": _OUTPUT,
    "Status": _STATUS,
    "Change": _CHANGE,
    **_PLAN_PARTS,
    "History": _HISTORY,
    "HistoryFamily": _HISTORY_FAMILY,
    "HistoryDevice": _HISTORY_DEVICE,
    "Flows": _FLOWS,
    "Config": _CONFIG,
    "ModelStatistics": _MODEL_STATISTICS,
    "Statistics": _STATISTICS,
    "Index": _INDEX,
    "IndexRequest": _INDEX_REQUEST,
    "LoadRequest": _LOAD_REQUEST,
    "Document": _DOCUMENT,
}
