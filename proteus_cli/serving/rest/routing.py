"""Routes: which handler answers which method and path."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from proteus_cli.errors import BadRequest, MethodNotAllowed, NotFound
from proteus_cli.serving.http1.exchange import JSON

MAX_QUERY_PARAMETERS = 16


@dataclass(frozen=True, slots=True)
class RestRequest:
    """A request that is no inference: ``values`` of the ``{}`` in its path, the body, the headers, the raw query."""

    values: Mapping[str, str]
    body: bytes | bytearray
    headers: Mapping[bytes, bytes]
    query: bytes = b""

    @property
    def version(self) -> str:
        """The version that the path names; empty: none."""
        return self.values.get("version", "")

    @property
    def named(self) -> str:
        """The family that the path names."""
        return self.values["family"]

    def parameter(self, name: str) -> str | None:
        """A parameter of the query; None where it is missing. Raises `BadRequest`."""
        try:
            given = parse_qs(self.query.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_QUERY_PARAMETERS)
        except ValueError:
            raise BadRequest(f"the query is not ASCII, or has more than {MAX_QUERY_PARAMETERS} parameters") from None
        values = given.get(name, [])
        if len(values) > 1:
            raise BadRequest(f"the query has {len(values)} parameters `{name}`; one is allowed")
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class RestResponse:
    """An answer; ``headers`` are complete lines."""

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    headers: bytes = b""


def json_response(value: object, status: int = 200) -> RestResponse:
    """A response with a value as JSON."""
    return RestResponse(status, msgspec.json.encode(value))


Handle = Callable[[Any, RestRequest], object | Awaitable[object]]
"""Answers a request, by a `RestResponse` or a value that is sent as JSON. The first argument has all parts."""


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint. A GET also answers HEAD.

    Without ``needs_token`` it takes requests without a token. ``changes_state``: only servers with tokens do it, and
    not for a page of another site (`access.require_json`).
    """

    method: str
    path: str
    handle: Handle
    needs_token: bool = True
    changes_state: bool = False


class Router:
    """Finds routes by path; the first that matches wins."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            self._by_path.setdefault(route.path, {})[route.method] = route
        self._segments = {path: path.split("/") for path in self._by_path}

    def match(self, path: bytes) -> tuple[Mapping[str, Route], dict[str, str], str]:
        """The routes of a path by method, the values of the ``{}`` in it, and the path with them. Raises `NotFound`.

        Only these values may be percent-encoded, and not to contain a slash: what guards paths in front of this server
        must not be deceived by another spelling.
        """
        given = path.decode("latin-1").split("/")
        for template, segments in self._segments.items():
            if len(segments) == len(given):
                pairs = list(zip(segments, given, strict=True))
                if all(segment[:1] == "{" or segment == value for segment, value in pairs):
                    values = {segment[1:-1]: unquote(value) for segment, value in pairs if segment[:1] == "{"}
                    if not any("/" in value for value in values.values()):
                        return self._by_path[template], values, template.format_map(values)
        raise NotFound("no such endpoint; GET /openapi.json lists all")


def route_of(routes: Mapping[str, Route], method: str, path: str) -> Route:
    """The route of a method. Raises `MethodNotAllowed`."""
    route = routes.get("GET" if method == "HEAD" else method)
    if route is None:
        allowed = ", ".join(routes)
        raise MethodNotAllowed(f"{path} takes {allowed}, not {method}", allowed=allowed)
    return route


def path_of(target: bytes) -> bytes:
    """The path of a request's target: without scheme, host, query and trailing slashes.

    A client that takes this server for a proxy names scheme and host (RFC 9112, 3.2.2).
    """
    if not target.startswith(b"/"):
        _, separator, rest = target.partition(b"://")
        if not separator:
            return target
        target = b"/" + rest.partition(b"/")[2]
    return target.partition(b"?")[0].rstrip(b"/") or b"/"
