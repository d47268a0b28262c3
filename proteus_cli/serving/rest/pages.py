"""Everything that REST offers besides inference."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qs

import msgspec

from proteus_cli.control.controller import Controller
from proteus_cli.errors import BadRequest, MethodNotAllowed, NotFound
from proteus_cli.serving.adaptation.manual_plans import ManualPlans
from proteus_cli.serving.http1.compression import compressed
from proteus_cli.serving.http1.exchange import JSON, NOT_MODIFIED, Exchange
from proteus_cli.serving.oip.documents import ModelReady, ServerLive, ServerReady
from proteus_cli.serving.oip.repository import ModelRepository, server_metadata
from proteus_cli.serving.requests.families import Families
from proteus_cli.serving.rest.openapi import document
from proteus_cli.serving.rest.site import AT, FILES, INDEX, Site
from proteus_cli.serving.telemetry.metrics import Metrics
from proteus_cli.serving.telemetry.sampler import MetricsSampler

INFER = "/v2/models/{model}/infer"
INFER_VERSION = "/v2/models/{model}/versions/{version}/infer"
MAX_PARAMETERS = 16
OWN = "/v2/proteus/"


class IndexRequest(msgspec.Struct):
    """``ready``: only of families that take requests."""

    ready: bool = False


class RepositoryRequest(msgspec.Struct):
    """What `load` and `unload` may be told."""

    parameters: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """An answer; ``headers`` are whole lines."""

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    headers: bytes = b""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a page is asked for: ``values`` of the ``{}`` in its path, the body, the headers, the query as it came."""

    values: Mapping[str, str]
    body: bytes | bytearray
    headers: Mapping[bytes, bytes]
    query: bytes = b""

    def parameter(self, name: str) -> str | None:
        """A parameter of the query; None where it isn't there. Raises `BadRequest`."""
        try:
            given = parse_qs(self.query.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
        except ValueError:
            raise BadRequest(f"the query is not ASCII, or has more than {MAX_PARAMETERS} parameters") from None
        values = given.get(name, [])
        if len(values) > 1:
            raise BadRequest(f"`{name}` is there {len(values)} times")
        return values[0] if values else None


Request = TypeVar("Request", IndexRequest, RepositoryRequest)
Handler = Callable[[Asked], Page | Awaitable[Page]]


class Pages:
    """Answers by path."""

    def __init__(
        self,
        families: Families,
        controller: Controller,
        models: ModelRepository,
        metrics: Metrics,
        *,
        status: Callable[[], object],
        by_hand: ManualPlans,
        history: MetricsSampler,
        needs_token: bool = False,
    ) -> None:
        self._models, self._status = models, status
        self._by_hand, self._site = by_hand, Site()
        signatures = {family.name: family.signature for family in families.by_name.values()}
        described = _json(document(signatures, needs_token=needs_token))
        self._routes: dict[str, dict[str, Handler]] = {
            "/": {"GET": lambda asked: self._file(INDEX, asked)},
            f"{AT}{{file}}": {"GET": lambda asked: self._file(asked.values["file"], asked)},
            "/openapi.json": {"GET": lambda _: described},
            "/v2": {"GET": lambda _: _json(server_metadata("binary_tensor_data"))},
            "/v2/health/live": {"GET": lambda _: _json(ServerLive(live=True))},
            "/v2/health/ready": {"GET": self._server_ready},
            "/metrics": {"GET": lambda asked: Page(200, *metrics.page(asked.headers.get(b"accept", b"")))},
            "/v2/proteus/status": {"GET": lambda _: _json(self._status())},
            f"{OWN}history": {"GET": lambda asked: _json(history.feed(asked.parameter("since")))},
            "/v2/proteus/plan": {"GET": lambda _: _json(controller.plan), "POST": self._apply},
            "/v2/models/stats": {"GET": lambda _: self._statistics(None)},
            "/v2/models/{model}": {"GET": self._metadata},
            "/v2/models/{model}/versions/{version}": {"GET": self._metadata},
            "/v2/models/{model}/ready": {"GET": self._model_ready},
            "/v2/models/{model}/versions/{version}/ready": {"GET": self._model_ready},
            "/v2/models/{model}/config": {"GET": self._config},
            "/v2/models/{model}/versions/{version}/config": {"GET": self._config},
            "/v2/models/{model}/stats": {"GET": lambda asked: self._statistics(self._model(asked))},
            "/v2/models/{model}/versions/{version}/stats": {"GET": lambda asked: self._statistics(self._model(asked))},
            "/v2/repository/index": {"POST": self._index},
            "/v2/repository/models/{model}/load": {"POST": self._load},
            "/v2/repository/models/{model}/unload": {"POST": self._unload},
            INFER: {"POST": self._no_such_model},  # of the models that there are, the front end takes care
            INFER_VERSION: {"POST": self._no_such_model},
        }
        self._templates = {template: template.split("/") for template in self._routes}

    @property
    def routes(self) -> dict[str, set[str]]:
        """The verbs of each path; HEAD goes without saying where there is GET."""
        return {template: set(methods) for template, methods in self._routes.items()}

    def answer(self, exchange: Exchange, path: str) -> Awaitable[None] | None:
        """Answer a request that is no inference, at once or, where that takes time, by what is returned.

        Both raise `RequestError`.
        """
        methods, values = self._find(path)
        if "version" in values:
            self._models.require(values["model"], values["version"])
        method = exchange.method.decode()
        handler = methods.get("GET" if method == "HEAD" else method)
        if handler is None:
            allowed = ", ".join(methods)
            raise MethodNotAllowed(f"{path} takes {allowed}, not {method}", allowed=allowed)
        page = handler(Asked(values, exchange.body, exchange.headers, exchange.target.partition(b"?")[2]))
        if isinstance(page, Page):
            _respond(exchange, path, page)
            return None
        return _respond_later(exchange, path, page)

    def _find(self, path: str) -> tuple[dict[str, Handler], dict[str, str]]:
        parts = path.split("/")
        for template, wanted in self._templates.items():
            if len(wanted) == len(parts) and all(w[:1] == "{" or w == p for w, p in zip(wanted, parts, strict=True)):
                values = {w[1:-1]: p for w, p in zip(wanted, parts, strict=True) if w[:1] == "{"}
                return self._routes[template], values
        raise NotFound("no such page; those that there are, GET /openapi.json describes")

    def _file(self, name: str, asked: Asked) -> Page:
        """A file of the page that people watch."""
        if name not in FILES:
            raise NotFound(f"no file `{name}`")
        file = self._site.file(name, asked.headers)
        is_known = file.is_known_to(asked.headers)
        return Page(NOT_MODIFIED if is_known else 200, file.body, file.content_type, file.headers)

    def _model(self, asked: Asked) -> str:
        return self._models.require(asked.values["model"], asked.values.get("version", ""))

    def _server_ready(self, _: Asked) -> Page:
        is_ready = self._models.is_server_ready
        return _json(ServerReady(is_ready), 200 if is_ready else 503)

    def _metadata(self, asked: Asked) -> Page:
        return _json(self._models.metadata(self._model(asked)))

    def _model_ready(self, asked: Asked) -> Page:
        name = self._model(asked)
        is_ready = self._models.is_ready(name)
        return _json(ModelReady(name, is_ready), 200 if is_ready else 503)

    def _config(self, asked: Asked) -> Page:
        return _json(self._models.config(self._model(asked)))

    def _statistics(self, family: str | None) -> Page:
        return _json(self._models.statistics(family))

    def _index(self, asked: Asked) -> Page:
        return _json(self._models.index(only_ready=_read(asked.body, IndexRequest).ready))

    def _load(self, asked: Asked) -> Page:
        self._models.load(asked.values["model"], _read(asked.body, RepositoryRequest).parameters)
        return Page(200)

    def _unload(self, asked: Asked) -> Page:
        _read(asked.body, RepositoryRequest)  # nothing in it matters here
        self._models.unload(asked.values["model"])
        return Page(200)

    async def _apply(self, asked: Asked) -> Page:
        return _json(asdict(await self._by_hand.from_client(asked.body)))

    def _no_such_model(self, asked: Asked) -> Page:
        self._model(asked)
        raise NotFound("no such model")


def _respond(exchange: Exchange, path: str, page: Page) -> None:
    body, headers = page.body, page.headers
    # Triton's asyncio client asks for compression, but reads the pages that it knows as they come.
    if not headers and (path.startswith(OWN) or not path.startswith("/v2/")):
        body, _, headers = compressed(exchange.headers, body, [])
    exchange.respond(page.status, page.content_type, body, headers=headers)


async def _respond_later(exchange: Exchange, path: str, page: Awaitable[Page]) -> None:
    _respond(exchange, path, await page)


def _read(body: bytes | bytearray, kind: type[Request]) -> Request:
    """What a page is told in a JSON object, which may be left out. Raises `BadRequest`."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not what this page takes: {error}") from None


def _json(value: object, status: int = 200) -> Page:
    return Page(status, msgspec.json.encode(value))
