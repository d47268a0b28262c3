"""The table of routes: every path of the REST API, who answers it, and what OpenAPI says of it."""

from collections.abc import Mapping
from typing import Any

from proteus_cli.domain.plan import Plan
from proteus_cli.domain.rollouts import RolloutStatus
from proteus_cli.serving.adaptation.catalog_reading import CatalogStatus
from proteus_cli.serving.adaptation.conditions import ConditionChange, FamilyConditions
from proteus_cli.serving.adaptation.control_loop import PlanChange
from proteus_cli.serving.adaptation.feedback import FeedbackBatch, FeedbackStatus, FeedbackTaken
from proteus_cli.serving.adaptation.rollout_requests import (
    RolloutAbortion,
    RolloutPromotion,
    RolloutsStatus,
    RolloutStart,
)
from proteus_cli.serving.oip import documents
from proteus_cli.serving.rest.codec.bodies import Error, IndexRequest, InferRequest, InferResponse, RepositoryRequest
from proteus_cli.serving.rest.endpoints import Endpoints
from proteus_cli.serving.rest.openapi import header
from proteus_cli.serving.rest.routing import Content, Route
from proteus_cli.serving.rest.site import AT, FILES
from proteus_cli.serving.telemetry.state import History, ServerStatus
from proteus_cli.serving.telemetry.telemetry import CURSOR

MODEL = "/v2/models/{model}"
INFER = f"{MODEL}/infer"
OWN = "/v2/proteus/"
_VERSIONS = ("", "/versions/{version}")

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


def _of_model(suffix: str, method: str, *description: Any, **more: Any) -> list[Route]:
    """The same route without and with the model's version."""
    return [Route(method, f"{MODEL}{version}{suffix}", *description, **more) for version in _VERSIONS]


def _text(*media_types: str) -> Mapping[str, Any]:
    return {"content": {media_type: {"schema": {"type": "string"}} for media_type in media_types}}


def _page(path: str) -> Route:
    answers = {
        200: Content(
            "The same for every server of this version: it holds no data.",
            more={
                "headers": {"ETag": header("For `If-None-Match`.", {"type": "string"})},
                **_text(*sorted({media_type.partition(";")[0] for media_type in FILES.values()})),
            },
        ),
        304: Content("The client has it: its tag is in `If-None-Match`."),
    }
    return Route("GET", path, Endpoints.file, "The page for people, and its files", answers, needs_token=False)


ROUTES: tuple[Route, ...] = (
    # The protocol
    Route(
        "GET", "/v2", Endpoints.server_metadata, "Server metadata",
        {200: Content("Name, version, extensions.", (documents.ServerMetadata,))},
    ),
    Route(
        "GET", "/v2/health/live", Endpoints.server_live, "Whether the server runs",
        {200: Content("It does.", (documents.ServerLive,))}, needs_token=False,
    ),
    Route(
        "GET", "/v2/health/ready", Endpoints.server_ready, "Whether the server takes requests",
        {
            200: Content("It does.", (documents.ServerReady,)),
            503: Content("It starts or drains, or has too many connections.", (documents.ServerReady, Error)),
        },
        needs_token=False,
    ),
    # Before the models: this path would match that of a model called `stats`.
    Route(
        "GET", "/v2/models/stats", Endpoints.all_statistics, "Statistics of all models",
        {200: Content("Counts since the start.", (documents.Statistics,))},
    ),
    *_of_model(
        "", "GET", Endpoints.model_metadata, "Model metadata",
        {200: Content("What the model takes and gives.", (documents.ModelMetadata,))},
    ),
    *_of_model(
        "/ready", "GET", Endpoints.model_ready, "Whether a model takes requests",
        {
            200: Content("It does.", (documents.ModelReady,)),
            503: Content(
                "It is unloaded or leaves, no variant of it is hosted, or the server is not ready.",
                (documents.ModelReady, Error),
            ),
        },
    ),
    *_of_model(
        "/infer", "POST", Endpoints.unknown_model, "Inference",
        {
            200: Content(
                "The outputs of the model.", (InferResponse,),
                {
                    "headers": {_LENGTH_HEADER: header(_LENGTH_TEXT, _LENGTH, required=False)},
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
    *_of_model(
        "/config", "GET", Endpoints.model_config, "Model configuration",
        {200: Content("As Triton's `ModelConfig`.", (documents.ModelConfig,))},
    ),
    *_of_model(
        "/stats", "GET", Endpoints.model_statistics, "Statistics of a model",
        {200: Content("Counts since the start.", (documents.Statistics,))},
    ),
    Route(
        "POST", "/v2/repository/index", Endpoints.index, "All models, and whether they take requests",
        {200: Content("The models.", (list[documents.ModelIndex],))},
        body=Content("", (IndexRequest,)),
    ),
    Route(
        "POST", "/v2/repository/models/{model}/load", Endpoints.load, "Let a model take requests again",
        {
            200: Content("It does. The catalog was read anew, and is followed."),
            409: Content("What the catalog changes needs a new start of the server.", (Error,)),
            415: "NotJson",
            422: Content("The catalog is wrong, or can't be followed.", (Error,)),
        },
        body=Content("", (RepositoryRequest,)),
        changes_state=True,
    ),
    Route(
        "POST", "/v2/repository/models/{model}/unload", Endpoints.unload, "Let a model take no more requests",
        {200: Content("Requests in flight are answered, others get 503."), 415: "NotJson"},
        changes_state=True,
    ),
    # Our own
    Route(
        "GET", "/metrics", Endpoints.metrics, "Counters and histograms",
        {200: Content("Prometheus' text format.", more=_text("text/plain"))},
    ),
    Route(
        "GET", f"{OWN}status", Endpoints.status, "What runs now, and how the plan changed",
        {200: Content("The status.", (ServerStatus,))},
    ),
    Route(
        "GET", f"{OWN}history", Endpoints.history, "The last 15 minutes, a sample a second",
        {200: Content("The samples after `since`, and the state now.", (History,))},
        parameters=(
            {
                "name": "since", "in": "query", "description": "The `cursor` of an earlier answer; without it: all.",
                "schema": {"type": "string", "pattern": f"^{CURSOR}$"},
            },
        ),
    ),
    Route(
        "GET", f"{OWN}plan", Endpoints.plan, "The plan in force",
        {200: Content("As in a plan file.", (Plan,))},
    ),
    Route(
        "POST", f"{OWN}plan", Endpoints.apply_plan, "Put a plan in force",
        {
            200: Content("It is in force.", (PlanChange,)),
            409: Content("What the plan was made from has changed since.", (Error,)),
            415: "NotJson",
            422: Content("The plan does not fit what is served here, or can't be loaded.", (Error,)),
        },
        body=Content("", (Plan,), {"required": True}),
        changes_state=True,
    ),
    Route(
        "GET", f"{OWN}catalog", Endpoints.catalog, "What is served of the catalog",
        {200: Content("What is served, and what becomes of the last reading.", (CatalogStatus,))},
    ),
    Route(
        "POST", f"{OWN}catalog", Endpoints.read_catalog, "Read the catalog anew, and follow it",
        {
            200: Content("It was read. What is new is measured first, where that is needed.", (CatalogStatus,)),
            409: Content("The change needs a new start of the server.", (Error,)),
            415: "NotJson",
            422: Content("The catalog is wrong, or a model is missing or of another signature.", (Error,)),
        },
        changes_state=True,
    ),
    Route(
        "GET", f"{OWN}feedback", Endpoints.feedback, "How accurate answers are, by feedback",
        {
            200: Content("By family and variant.", (FeedbackStatus,)),
            409: Content("This server keeps no answers for feedback.", (Error,)),
        },
    ),
    Route(
        "POST", f"{OWN}feedback", Endpoints.take_feedback, "Tell the labels of requests that were answered",
        {
            200: Content("What became of the items; a wrong one keeps no other from counting.", (FeedbackTaken,)),
            409: Content("This server keeps no answers for feedback.", (Error,)),
            415: "NotJson",
        },
        body=Content("", (FeedbackBatch,), {"required": True}),
        changes_state=True,
    ),
    Route(
        "GET", f"{OWN}rollouts", Endpoints.rollouts, "The last version roll-out of each family that had one",
        {200: Content("How far they are, and what is known of the new versions.", (RolloutsStatus,))},
    ),
    Route(
        "POST", f"{OWN}rollouts", Endpoints.start_rollout, "Roll out a new version of a variant",
        {
            200: Content("It begins: the new version is measured first.", (RolloutStatus,)),
            409: Content("The family has a roll-out, or the catalog has changed and was not read.", (Error,)),
            415: "NotJson",
            422: Content("There is no such version, it does not fit, or the catalog can't be written.", (Error,)),
        },
        body=Content("", (RolloutStart,), {"required": True}),
        changes_state=True,
    ),
    *(
        Route(
            "POST", f"{OWN}rollouts/{{family}}/{name}", handler, summary,
            {
                200: Content(answer, (RolloutStatus,)),
                409: Content("The roll-out is not at a step where that is possible.", (Error,)),
                415: "NotJson",
            },
            body=Content("", (kind,)),
            changes_state=True,
        )
        for name, handler, summary, answer, kind in (
            ("promote", Endpoints.promote_rollout, "Go on with a version roll-out", "It goes on.", RolloutPromotion),
            ("abort", Endpoints.abort_rollout, "End a version roll-out", "The old version serves.", RolloutAbortion),
        )
    ),
    Route(
        "GET", f"{OWN}families/{{family}}", Endpoints.conditions, "The conditions of a family's multi-exit variants",
        {200: Content("What counts now.", (FamilyConditions,))},
    ),
    Route(
        "PATCH", f"{OWN}families/{{family}}", Endpoints.change_condition, "Change the condition of a family",
        {
            200: Content("It counts from the next batch on.", (FamilyConditions,)),
            409: Content("The family has no multi-exit variants, or none that would follow the condition.", (Error,)),
            415: "NotJson",
            422: Content("The plan can't be put in force anew.", (Error,)),
        },
        body=Content("", (ConditionChange,), {"required": True}),
        changes_state=True,
    ),
    Route(
        "GET", "/openapi.json", Endpoints.openapi, "This document", {200: Content("OpenAPI 3.1.", (dict[str, Any],))},
    ),
    _page("/"),
    _page(f"{AT}{{file}}"),
)  # fmt: skip
