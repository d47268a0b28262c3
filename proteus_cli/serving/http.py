"""The REST front end: a raw ASGI application that only translates."""

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from proteus_cli import __version__
from proteus_cli.errors import (
    BadRequest,
    BodyTooLarge,
    DeadlineExceeded,
    EngineFailed,
    MethodNotAllowed,
    NotFound,
    NotReady,
    Overloaded,
    RequestError,
    UnknownModel,
)
from proteus_cli.serving import metrics, oip
from proteus_cli.serving.dataplane import DataPlane
from proteus_cli.serving.lane import Answered
from proteus_cli.serving.lifecycle import State

log = logging.getLogger("proteus.http")

STATUS = {
    BadRequest: 400,
    UnknownModel: 404,
    NotFound: 404,
    MethodNotAllowed: 405,
    BodyTooLarge: 413,
    Overloaded: 429,
    EngineFailed: 500,
    NotReady: 503,
    DeadlineExceeded: 504,
}
JSON_LENGTH = b"inference-header-content-length"
OUTCOME = b"proteus-outcome"
_US_PER_S = 1e6
_NO_CONTENT = b""
_MOST_DIGITS = 18

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


class ClientGone(Exception):
    """The client closed its connection before its request was complete."""


class HttpFrontEnd:
    """Open Inference Protocol v2, ``/metrics`` and ``/proteus/status``; bodies of at most ``max_body_bytes``."""

    def __init__(
        self, plane: DataPlane, *, platform: str, max_body_bytes: int, status: Callable[[], dict[str, Any]]
    ) -> None:
        self._plane, self._platform, self._max_body_bytes = plane, platform, max_body_bytes
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        try:
            response = await self._respond(scope, receive)
        except RequestError as error:
            response = _error(error)
        except ClientGone:
            return
        except Exception:
            log.exception("a bug while handling %s %s", scope["method"], scope["path"])
            response = _json({"error": "internal error"}, 500)
        headers = [
            (b"content-type", response.content_type),
            (b"content-length", str(len(response.body)).encode()),
            *response.headers,
        ]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        parts = scope["path"].strip("/").split("/")
        match parts:
            case ["v2", "models", name, *version, "infer"] if _is_version(version):
                _require_method(scope, "POST")
                return await self._infer(name, scope, receive)
            case _:
                page = self._page(parts)
                _require_method(scope, "GET")
                return page()

    def _page(self, parts: list[str]) -> Callable[[], Response]:
        match parts:
            case ["v2"]:
                return self._server
            case ["v2", "health", "live"]:
                return lambda: Response(200, _NO_CONTENT)
            case ["v2", "health", "ready"]:
                return lambda: Response(200 if self._is_ready() else 503, _NO_CONTENT)
            case ["v2", "models", name, *version] if _is_version(version):
                return lambda: _json(oip.metadata(name, self._platform, self._plane.require_family(name)))
            case ["v2", "models", name, *version, "ready"] if _is_version(version):
                return lambda: Response(200 if self._hosts(name) else 503, _NO_CONTENT)
            case ["metrics"]:
                text = b"text/plain; version=0.0.4; charset=utf-8"
                return lambda: Response(200, metrics.exposition(self._plane), text)
            case ["proteus", "status"]:
                return lambda: _json(self._status())
            case ["v2", "models", name, "versions", version, *_]:
                raise UnknownModel(f"`{name}` has no version `{version}`; there is `1`")
            case _:
                raise NotFound("no such page; the API is described at GET /v2 and in the Open Inference Protocol v2")

    def _server(self) -> Response:
        return _json({"name": "proteus", "version": __version__, "extensions": ["binary_tensor_data"]})

    def _is_ready(self) -> bool:
        return self._plane.lifecycle.state is State.READY

    def _hosts(self, name: str) -> bool:
        self._plane.require_family(name)
        return self._is_ready() and bool(self._plane.controller.hosting(name))

    async def _infer(self, name: str, scope: Scope, receive: Receive) -> Response:
        signature = self._plane.require_family(name)
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise BadRequest("compressed bodies are not supported; send the body as it is")
        body = await self._body(headers, receive)
        request = oip.decode(body, _json_length(headers), signature)
        answer = await self._plane.infer(name, request)
        content, json_length = oip.encode(name, request, answer.outputs, _parameters(answer))
        if json_length is None:
            return Response(200, content)
        return Response(200, content, b"application/octet-stream", [(JSON_LENGTH, str(json_length).encode())])

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_body_bytes:
            raise self._too_large()
        chunks, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._max_body_bytes:
                raise self._too_large()
            more = message.get("more_body", False)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is larger than {self._max_body_bytes} bytes")


def _is_version(parts: list[str]) -> bool:
    return parts in ([], ["versions", "1"])


def _require_method(scope: Scope, method: str) -> None:
    is_head = scope["method"] == "HEAD" and method == "GET"  # a GET whose body the server leaves out
    if scope["method"] != method and not is_head:
        raise MethodNotAllowed(f"{scope['path']} takes {method}, not {scope['method']}", allowed=method)


def _json_length(headers: dict[bytes, bytes]) -> int | None:
    text = headers.get(JSON_LENGTH)
    if text is None:
        return None
    if not text.isdigit() or len(text) > _MOST_DIGITS:
        raise BadRequest("Inference-Header-Content-Length must be a whole number")
    return int(text)


def _parameters(answer: Answered) -> oip.Parameters:
    return {
        "variant": answer.hosted.variant,
        "accuracy": answer.hosted.accuracy,
        "device": answer.hosted.device,
        "batch_size": answer.batch_rows,
        "compute_us": round(answer.compute_s * _US_PER_S),
    }


def _json(value: object, status: int = 200) -> Response:
    return Response(status, msgspec.json.encode(value))


def _error(error: RequestError) -> Response:
    headers = []
    if isinstance(error, Overloaded | NotReady):
        headers.append((b"retry-after", str(math.ceil(error.retry_after_s)).encode()))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allowed.encode()))
    if isinstance(error, DeadlineExceeded):
        headers.append((OUTCOME, b"late" if error.is_late else b"dropped"))
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    return Response(status, msgspec.json.encode({"error": error.message}), headers=headers)
