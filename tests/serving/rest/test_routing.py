"""Which endpoint a path names: only one that is spelled as it is, whatever a guard in front of this server may read."""

from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proteus_cli.errors import BodyTooLarge, NotFound
from proteus_cli.serving.rest.endpoints import ROUTES, Endpoints
from proteus_cli.serving.rest.routing import RestRequest, Router, path_of

ROUTER = Router(ROUTES)


@pytest.mark.parametrize(
    "target",
    [
        b"/v2%2fproteus/status", b"/v2%2Fproteus%2Fstatus", b"/v2/proteus%2fstatus", b"/v2/%70roteus/status",
        b"/%76%32/proteus/status", b"/v2/proteus/%73tatus", b"//v2/proteus/status", b"/v2//proteus/status",
        b"/v2/./proteus/status", b"/v2/models/../proteus/status", b"/v2/models/%2e%2e/proteus/status",
        b"/v2/proteus/status%00", b"/v2/proteus/status%20", b"/v2/proteus;a/status", b"/V2/proteus/status",
        b"/v2\\proteus\\status", b"/v2/proteus%252fstatus", b"v2/proteus/status", b"*", b"",
        b"/v2/models/shapes%2fready", b"/v2/models/shapes%2Fversions%2F1/infer", b"/v2/repository/models/a%2Fb/unload",
    ],
)  # fmt: skip
def test_another_spelling_of_a_path_is_no_endpoint(target: bytes) -> None:
    with pytest.raises(NotFound):
        ROUTER.match(path_of(target))


@pytest.mark.parametrize(
    ("target", "path", "values"),
    [
        (b"/v2/proteus/status", "/v2/proteus/status", {}),
        (b"/v2/proteus/status/", "/v2/proteus/status", {}),
        (b"/v2/proteus/status?a=%2f/b", "/v2/proteus/status", {}),
        (b"http://here:8000/v2/proteus/status", "/v2/proteus/status", {}),
        (b"/", "/", {}),
        (b"/v2/models/%73hapes/ready", "/v2/models/shapes/ready", {"model": "shapes"}),
        (b"/v2/models/{model}/ready", "/v2/models/{model}/ready", {"model": "{model}"}),
        (b"/v2/models/%ff/ready", "/v2/models/\ufffd/ready", {"model": "\ufffd"}),
        (b"/v2/models/\xc3\xbc/infer", "/v2/models/\u00c3\u00bc/infer", {"model": "\u00c3\u00bc"}),
    ],
)
def test_a_path_names_an_endpoint_and_may_encode_names(target: bytes, path: str, values: dict[str, str]) -> None:
    _, found, canonical = ROUTER.match(path_of(target))
    assert (canonical, found) == (path, values)


@pytest.mark.parametrize("path", ["index", "models/a/load", "models/a/unload"])
def test_a_large_body_is_refused_before_it_is_decoded(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To decode 60 MiB of nested lists took 8 s and 1.5 GiB."""
    body = b'{"parameters":{"x":[%b[]]}}' % (b"[]," * 30_000)
    models = SimpleNamespace(index=None)
    endpoints = cast("Any", Endpoints)(models, None, None, None, None, None, None, None)
    monkeypatch.setattr("proteus_cli.serving.json_bodies.msgspec", None)
    routes, values, _ = ROUTER.match(f"/v2/repository/{path}".encode())

    def ask() -> None:
        answer = routes["POST"].handle(endpoints, RestRequest(values, body, {}))
        if isinstance(answer, Coroutine):
            answer.send(None)

    with pytest.raises(BodyTooLarge):
        ask()
