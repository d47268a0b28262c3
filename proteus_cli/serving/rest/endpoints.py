"""The endpoints: the table of their paths, and how all but inference are answered."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files

from proteus_cli.errors import NotFound
from proteus_cli.serving.adaptation.conditions import LiveConditions
from proteus_cli.serving.adaptation.feedback import Feedback
from proteus_cli.serving.adaptation.live_catalog import LiveCatalog
from proteus_cli.serving.adaptation.manual_plans import ManualPlans
from proteus_cli.serving.adaptation.rollouts import VersionRollouts
from proteus_cli.serving.json_bodies import decoded
from proteus_cli.serving.oip import documents
from proteus_cli.serving.oip.repository import ModelRepository, server_metadata
from proteus_cli.serving.oip.tensors import OTHER_BYTES
from proteus_cli.serving.rest.codec.bodies import IndexRequest, RepositoryRequest
from proteus_cli.serving.rest.routing import RestRequest, RestResponse, Route, json_response
from proteus_cli.serving.telemetry.metrics import Metrics
from proteus_cli.serving.telemetry.telemetry import Telemetry

INDEX = "index.html"
AT = "/ui/"
SCRIPTS = ("main", "feed", "series", "charts", "plan_diagram", "hosts", "tables", "slots", "format")
FILES = {
    INDEX: "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    **dict.fromkeys((f"{name}.js" for name in SCRIPTS), "text/javascript; charset=utf-8"),
    "uPlot.iife.min.js": "text/javascript; charset=utf-8",
    "uPlot.min.css": "text/css; charset=utf-8",
}
"""Content types by name; all are served below `AT`, the index also at ``/``."""
TARGETS = frozenset({"/", *(AT + name for name in FILES)})

_VENDORED = frozenset({"uPlot.iife.min.js", "uPlot.min.css"})
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_ALWAYS = (
    f"content-security-policy: {_POLICY}\r\nx-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n"
    "cache-control: no-cache\r\n"
)


def read_site() -> dict[str, RestResponse]:
    """All files of the page by name."""
    return {name: _read(name) for name in FILES}


def _read(name: str) -> RestResponse:
    folder = files("proteus_cli.serving.rest") / "site_files"
    body = (folder / "vendor" / name if name in _VENDORED else folder / name).read_bytes()
    return RestResponse(200, body, FILES[name].encode(), _ALWAYS.encode())


_OK, _NOT_READY = 200, 503


def _read_openapi() -> RestResponse:
    return RestResponse(_OK, (files("proteus_cli.serving.rest") / "openapi.json").read_bytes())


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The parts of the server that requests besides inference ask."""

    models: ModelRepository
    metrics: Metrics
    telemetry: Telemetry
    manual_plans: ManualPlans
    conditions: LiveConditions
    live_catalog: LiveCatalog | None
    feedback: Feedback
    rollouts: VersionRollouts
    site: Mapping[str, RestResponse] = field(default_factory=read_site)
    openapi: RestResponse = field(default_factory=_read_openapi)

    def require_version(self, values: Mapping[str, str]) -> None:
        """Raise `UnknownModel` where the values of a path name a version that does not exist."""
        if "version" in values:
            self.models.require(values["model"], values["version"])

    def require_live_catalog(self) -> LiveCatalog:
        """Raise `NotFound` on a server that reads no catalog."""
        if self.live_catalog is None:
            raise NotFound("this server reads no catalog")
        return self.live_catalog


def _ready(document: object, *, is_ready: bool) -> RestResponse:
    return json_response(document, _OK if is_ready else _NOT_READY)


def _server_ready(of: Endpoints, _: RestRequest) -> RestResponse:
    is_ready = of.models.is_server_ready
    return _ready(documents.ServerReady(is_ready), is_ready=is_ready)


def _model_ready(of: Endpoints, request: RestRequest) -> RestResponse:
    name = _model(of, request)
    is_ready = of.models.is_ready(name, request.version)
    return _ready(documents.ModelReady(name, is_ready), is_ready=is_ready)


def _unknown_model(of: Endpoints, request: RestRequest) -> RestResponse:
    """Inference of a model that does not exist; `RestHandler` answers for the others. Raises `NotFound`."""
    raise NotFound(f"no inference of `{_model(of, request)}`")


def _index(of: Endpoints, request: RestRequest) -> object:
    return of.models.index(only_ready=decoded(request.body, IndexRequest, OTHER_BYTES).ready)


async def _load(of: Endpoints, request: RestRequest) -> RestResponse:
    asked = decoded(request.body, RepositoryRequest, OTHER_BYTES)
    await of.models.load_anew(request.values["model"], asked.parameters)
    return RestResponse(_OK)


def _unload(of: Endpoints, request: RestRequest) -> RestResponse:
    decoded(request.body, RepositoryRequest, OTHER_BYTES)  # its parameters make no difference
    of.models.unload(request.values["model"])
    return RestResponse(_OK)


async def _metrics(of: Endpoints, request: RestRequest) -> RestResponse:
    return RestResponse(_OK, *await of.metrics.page(request.headers.get(b"accept", b"")))


def _file(of: Endpoints, request: RestRequest) -> RestResponse:
    """A file of the page for people. Raises `NotFound`."""
    name = request.values.get("file", INDEX)
    if name not in of.site:
        raise NotFound(f"no file `{name}`")
    return of.site[name]


def _model(of: Endpoints, request: RestRequest) -> str:
    """The model that the path names. Raises `UnknownModel`."""
    return of.models.require(request.values["model"], request.version)


def _family(of: Endpoints, request: RestRequest) -> str:
    return of.models.require(request.named, "")


MODEL = "/v2/models/{model}"
INFER = f"{MODEL}/infer"
_VERSIONS = ("", "/versions/{version}")
_OWN = "/v2/proteus/"
_FAMILY, _ROLLOUT = f"{_OWN}families/{{family}}", f"{_OWN}rollouts/{{family}}"
Handle = Callable[[Endpoints, RestRequest], object | Awaitable[object]]


def _of_model(suffix: str, method: str, handle: Handle) -> list[Route]:
    """The same route without and with the model's version."""
    return [Route(method, f"{MODEL}{version}{suffix}", handle) for version in _VERSIONS]


ROUTES: tuple[Route, ...] = (
    Route("GET", "/v2", lambda _, __: server_metadata("binary_tensor_data")),
    Route("GET", "/v2/health/live", lambda _, __: documents.ServerLive(live=True), needs_token=False),
    Route("GET", "/v2/health/ready", _server_ready, needs_token=False),
    # Before the metadata of a model of this name:
    Route("GET", "/v2/models/stats", lambda of, _: of.models.statistics()),
    *_of_model("", "GET", lambda of, request: of.models.metadata(_model(of, request))),
    *_of_model("/ready", "GET", _model_ready),
    *_of_model("/infer", "POST", _unknown_model),
    *_of_model("/config", "GET", lambda of, request: of.models.config(_model(of, request), request.version)),
    *_of_model("/stats", "GET", lambda of, request: of.models.statistics(_model(of, request), request.version)),
    Route("POST", "/v2/repository/index", _index),
    Route("POST", "/v2/repository/models/{model}/load", _load, changes_state=True),
    Route("POST", "/v2/repository/models/{model}/unload", _unload, changes_state=True),
    Route("GET", "/metrics", _metrics),
    Route("GET", f"{_OWN}status", lambda of, _: of.telemetry.status()),
    Route("GET", f"{_OWN}history", lambda of, request: of.telemetry.history(request.parameter("since"))),
    Route("GET", f"{_OWN}plan", lambda of, _: of.telemetry.plane.controller.plan),
    Route("POST", f"{_OWN}plan", lambda of, request: of.manual_plans.from_client(request.body), changes_state=True),
    Route("GET", f"{_OWN}catalog", lambda of, _: of.require_live_catalog().status()),
    Route("POST", f"{_OWN}catalog", lambda of, _: of.require_live_catalog().from_client(), changes_state=True),
    Route("GET", f"{_OWN}feedback", lambda of, _: of.feedback.status()),
    Route("POST", f"{_OWN}feedback", lambda of, request: of.feedback.from_client(request.body), changes_state=True),
    Route("GET", f"{_OWN}rollouts", lambda of, _: of.rollouts.status()),
    Route("POST", f"{_OWN}rollouts", lambda of, request: of.rollouts.start(request.body), changes_state=True),
    Route(
        "POST", f"{_ROLLOUT}/promote", lambda of, r: of.rollouts.promote(r.values["family"], r.body), changes_state=True
    ),
    Route("POST", f"{_ROLLOUT}/abort", lambda of, r: of.rollouts.abort(r.values["family"], r.body), changes_state=True),
    Route("GET", _FAMILY, lambda of, request: of.conditions.of(_family(of, request))),
    Route("PATCH", _FAMILY, lambda of, r: of.conditions.from_client(_family(of, r), r.body), changes_state=True),
    Route("GET", "/openapi.json", lambda of, _: of.openapi),
    Route("GET", "/", _file, needs_token=False),
    Route("GET", f"{AT}{{file}}", _file, needs_token=False),
)
"""All endpoints; `docs/generate_openapi.py` describes them. The first path that matches wins."""
