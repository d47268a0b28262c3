"""The handlers of all endpoints but inference. `routes` says which paths they answer."""

from collections.abc import Awaitable, Callable, Mapping
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
from proteus_cli.serving.rest.routing import RestRequest, RestResponse, json_response
from proteus_cli.serving.rest.site import INDEX, read_site
from proteus_cli.serving.telemetry.metrics import Metrics
from proteus_cli.serving.telemetry.telemetry import Telemetry

_OK, _NOT_READY = 200, 503


class Endpoints:
    """Answers requests from what the server's parts say. ``describe`` makes the OpenAPI document of these endpoints.

    `families_changed` is to be called whenever they have.
    """

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
        describe: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._models, self._metrics, self._telemetry, self._manual_plans = models, metrics, telemetry, manual_plans
        self._conditions, self._live_catalog, self._feedback = conditions, live_catalog, feedback
        self._rollouts = rollouts
        self._describe, self._site = describe, read_site()
        self._openapi: RestResponse | None = None  # until somebody asks for it

    def families_changed(self) -> None:
        """Other families are there now: the OpenAPI document is made anew."""
        self._openapi = None

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
        if self._openapi is None:
            self._openapi = json_response(self._describe())
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
