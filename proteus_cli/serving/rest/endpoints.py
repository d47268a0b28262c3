"""The endpoints: the table of their paths, and who answers all but inference."""

from collections.abc import Awaitable, Mapping
from importlib.resources import files
from typing import Any

from proteus_cli.errors import NotFound
from proteus_cli.serving.adaptation.conditions import LiveConditions
from proteus_cli.serving.adaptation.feedback import Feedback
from proteus_cli.serving.adaptation.live_catalog import LiveCatalog
from proteus_cli.serving.adaptation.manual_plans import ManualPlans
from proteus_cli.serving.adaptation.rollouts import VersionRollouts
from proteus_cli.serving.http1.exchange import NOT_MODIFIED
from proteus_cli.serving.json_bodies import decoded
from proteus_cli.serving.oip import documents
from proteus_cli.serving.oip.repository import ModelRepository, server_metadata
from proteus_cli.serving.oip.tensors import OTHER_BYTES
from proteus_cli.serving.rest.codec.bodies import IndexRequest, RepositoryRequest
from proteus_cli.serving.rest.routing import Handle, RestRequest, RestResponse, Route, json_response
from proteus_cli.serving.rest.site import AT, INDEX, read_site
from proteus_cli.serving.telemetry.metrics import Metrics
from proteus_cli.serving.telemetry.telemetry import Telemetry

_OK, _NOT_READY = 200, 503


class Endpoints:
    """Answers requests from the state of the server's parts."""

    def __init__(
        self,
        models: ModelRepository,
        metrics: Metrics,
        telemetry: Telemetry,
        manual_plans: ManualPlans,
        conditions: LiveConditions,
        live_catalog: LiveCatalog | None,
        feedback: Feedback,
        rollouts: VersionRollouts,
    ) -> None:
        self._models, self._metrics, self._telemetry, self._manual_plans = models, metrics, telemetry, manual_plans
        self._conditions, self._live_catalog, self._feedback = conditions, live_catalog, feedback
        self._rollouts = rollouts
        self._site = read_site()
        self._openapi = RestResponse(_OK, (files("proteus_cli.serving.rest") / "openapi.json").read_bytes())

    def require_version(self, values: Mapping[str, str]) -> None:
        """Raise `UnknownModel` where the values of a path name a version that does not exist."""
        if "version" in values:
            self._models.require(values["model"], values["version"])

    # The protocol

    def server_metadata(self, _: RestRequest) -> RestResponse:
        return json_response(server_metadata("binary_tensor_data"))

    def server_live(self, _: RestRequest) -> RestResponse:
        return json_response(documents.ServerLive(live=True))

    def server_ready(self, _: RestRequest) -> RestResponse:
        is_ready = self._models.is_server_ready
        return json_response(documents.ServerReady(is_ready), _OK if is_ready else _NOT_READY)

    def model_ready(self, request: RestRequest) -> RestResponse:
        name = self._model(request)
        is_ready = self._models.is_ready(name, _version(request))
        return json_response(documents.ModelReady(name, is_ready), _OK if is_ready else _NOT_READY)

    def model_metadata(self, request: RestRequest) -> RestResponse:
        return json_response(self._models.metadata(self._model(request)))

    def unknown_model(self, request: RestRequest) -> RestResponse:
        """Inference of a model that does not exist; `RestHandler` answers for the others. Raises `NotFound`."""
        raise NotFound(f"no inference of `{self._model(request)}`")

    # Triton's extensions

    def model_config(self, request: RestRequest) -> RestResponse:
        return json_response(self._models.config(self._model(request), _version(request)))

    def model_statistics(self, request: RestRequest) -> RestResponse:
        return json_response(self._models.statistics(self._model(request), _version(request)))

    def all_statistics(self, _: RestRequest) -> RestResponse:
        return json_response(self._models.statistics())

    def index(self, request: RestRequest) -> RestResponse:
        return json_response(self._models.index(only_ready=decoded(request.body, IndexRequest, OTHER_BYTES).ready))

    def load(self, request: RestRequest) -> Awaitable[RestResponse]:
        return self._loaded(request.values["model"], decoded(request.body, RepositoryRequest, OTHER_BYTES).parameters)

    async def _loaded(self, model: str, parameters: Mapping[str, Any] | None) -> RestResponse:
        await self._models.load_anew(model, parameters)
        return RestResponse(_OK)

    def unload(self, request: RestRequest) -> RestResponse:
        decoded(request.body, RepositoryRequest, OTHER_BYTES)  # its parameters make no difference
        self._models.unload(request.values["model"])
        return RestResponse(_OK)

    # Our own

    async def metrics(self, request: RestRequest) -> RestResponse:
        return RestResponse(_OK, *await self._metrics.page(request.headers.get(b"accept", b"")))

    def status(self, _: RestRequest) -> RestResponse:
        return json_response(self._telemetry.status())

    def history(self, request: RestRequest) -> RestResponse:
        return json_response(self._telemetry.history(request.parameter("since")))

    def plan(self, _: RestRequest) -> RestResponse:
        return json_response(self._telemetry.plane.controller.plan)

    async def apply_plan(self, request: RestRequest) -> RestResponse:
        return json_response(await self._manual_plans.from_client(request.body))

    def conditions(self, request: RestRequest) -> RestResponse:
        return json_response(self._conditions.of(self._models.require(request.values["family"], "")))

    async def change_condition(self, request: RestRequest) -> RestResponse:
        family = self._models.require(request.values["family"], "")
        return json_response(await self._conditions.from_client(family, request.body))

    def catalog(self, _: RestRequest) -> RestResponse:
        return json_response(self._require_live_catalog().status())

    async def read_catalog(self, _: RestRequest) -> RestResponse:
        return json_response(await self._require_live_catalog().from_client())

    def feedback(self, _: RestRequest) -> RestResponse:
        return json_response(self._feedback.status())

    async def take_feedback(self, request: RestRequest) -> RestResponse:
        return json_response(await self._feedback.from_client(request.body))

    def rollouts(self, _: RestRequest) -> RestResponse:
        return json_response(self._rollouts.status())

    async def start_rollout(self, request: RestRequest) -> RestResponse:
        return json_response(await self._rollouts.start(request.body))

    def promote_rollout(self, request: RestRequest) -> RestResponse:
        return json_response(self._rollouts.promote(request.values["family"], request.body))

    def abort_rollout(self, request: RestRequest) -> RestResponse:
        return json_response(self._rollouts.abort(request.values["family"], request.body))

    def _require_live_catalog(self) -> LiveCatalog:
        if self._live_catalog is None:
            raise NotFound("this server reads no catalog")
        return self._live_catalog

    def openapi(self, _: RestRequest) -> RestResponse:
        return self._openapi

    def file(self, request: RestRequest) -> RestResponse:
        """A file of the page for people. Raises `NotFound`."""
        name = request.values.get("file", INDEX)
        file = self._site.get(name)
        if file is None:
            raise NotFound(f"no file `{name}`")
        is_known = file.is_known_to(request.headers)
        return RestResponse(NOT_MODIFIED if is_known else _OK, file.body, file.content_type, file.headers)

    def _model(self, request: RestRequest) -> str:
        """The model that the path names. Raises `UnknownModel`."""
        return self._models.require(request.values["model"], _version(request))


def _version(request: RestRequest) -> str:
    """The version that the path names; empty: none."""
    return request.values.get("version", "")


MODEL = "/v2/models/{model}"
INFER = f"{MODEL}/infer"
_VERSIONS = ("", "/versions/{version}")
_OWN = "/v2/proteus/"
_FAMILY, _ROLLOUT = f"{_OWN}families/{{family}}", f"{_OWN}rollouts/{{family}}"


def _of_model(suffix: str, method: str, handle: Handle) -> list[Route]:
    """The same route without and with the model's version."""
    return [Route(method, f"{MODEL}{version}{suffix}", handle) for version in _VERSIONS]


ROUTES: tuple[Route, ...] = (
    Route("GET", "/v2", Endpoints.server_metadata),
    Route("GET", "/v2/health/live", Endpoints.server_live, needs_token=False),
    Route("GET", "/v2/health/ready", Endpoints.server_ready, needs_token=False),
    Route("GET", "/v2/models/stats", Endpoints.all_statistics),  # before the metadata of a model of this name
    *_of_model("", "GET", Endpoints.model_metadata),
    *_of_model("/ready", "GET", Endpoints.model_ready),
    *_of_model("/infer", "POST", Endpoints.unknown_model),
    *_of_model("/config", "GET", Endpoints.model_config),
    *_of_model("/stats", "GET", Endpoints.model_statistics),
    Route("POST", "/v2/repository/index", Endpoints.index),
    Route("POST", "/v2/repository/models/{model}/load", Endpoints.load, changes_state=True),
    Route("POST", "/v2/repository/models/{model}/unload", Endpoints.unload, changes_state=True),
    Route("GET", "/metrics", Endpoints.metrics),
    Route("GET", f"{_OWN}status", Endpoints.status),
    Route("GET", f"{_OWN}history", Endpoints.history),
    Route("GET", f"{_OWN}plan", Endpoints.plan),
    Route("POST", f"{_OWN}plan", Endpoints.apply_plan, changes_state=True),
    Route("GET", f"{_OWN}catalog", Endpoints.catalog),
    Route("POST", f"{_OWN}catalog", Endpoints.read_catalog, changes_state=True),
    Route("GET", f"{_OWN}feedback", Endpoints.feedback),
    Route("POST", f"{_OWN}feedback", Endpoints.take_feedback, changes_state=True),
    Route("GET", f"{_OWN}rollouts", Endpoints.rollouts),
    Route("POST", f"{_OWN}rollouts", Endpoints.start_rollout, changes_state=True),
    Route("POST", f"{_ROLLOUT}/promote", Endpoints.promote_rollout, changes_state=True),
    Route("POST", f"{_ROLLOUT}/abort", Endpoints.abort_rollout, changes_state=True),
    Route("GET", _FAMILY, Endpoints.conditions),
    Route("PATCH", _FAMILY, Endpoints.change_condition, changes_state=True),
    Route("GET", "/openapi.json", Endpoints.openapi),
    Route("GET", "/", Endpoints.file, needs_token=False),
    Route("GET", f"{AT}{{file}}", Endpoints.file, needs_token=False),
)
"""All endpoints; `docs/generate_openapi.py` describes them. The first path that matches wins."""
