"""A family comes, is asked over both protocols, and goes again, while the server serves another one."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from injecting import until
from live_server import ANSWER_WITHIN_S, LiveServer, serving
from tiny import SHAPES, TinyFamily, add_plan, add_profiles, catalog_toml, make_workspace
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from proteus_cli.serving.adaptation.live_catalog import FORGET_AFTER_S

pytestmark = pytest.mark.live

TOKEN = "f00d" * 8
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
FAMILY = TinyFamily("shapes", SHAPES.variants[:2], slo="10s", eval=SHAPES.eval)
MORE = TinyFamily("more", (replace(SHAPES.variants[0], name="more-s"),), slo="5s")
X = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}


def test_a_family_comes_and_goes(tmp_path: Path) -> None:
    made = make_workspace(tmp_path, (FAMILY,))
    add_profiles(made, ("cpu0", "cpu1"))
    plan = add_plan(made, {"cpu0": "shapes-m", "cpu1": "shapes-m"}, demand_qps=1.0)
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    options = ("--replan=period=1s", "--auth-tokens", str(tokens), "--grpc-port", "0", "--emulate")
    with serving(tmp_path, plan, *options) as live:
        client = grpc.InferenceServerClient(f"127.0.0.1:{live.grpc_port}")

        def get(path: str) -> Any:
            return live.ask("GET", path, headers=AUTHORIZED)

        def infer() -> Any:
            return live.infer("more", {"inputs": [X]}, AUTHORIZED)

        def infer_over_grpc() -> str:
            x = grpc.InferInput("x", [1, 4], "FP32")
            x.set_data_from_numpy(np.array([X["data"]], np.float32))
            try:
                return str(client.infer("more", [x], headers=_lower(AUTHORIZED)).get_response().model_name)
            except InferenceServerException as error:
                return f"{error.status()}: {error.message()}"

        assert (infer().status, infer_over_grpc()[:20]) == (404, "StatusCode.NOT_FOUND")
        make_workspace(tmp_path, (FAMILY, MORE))
        add_profiles(replace(made, families=(FAMILY, MORE)), ("cpu0", "cpu1"))
        assert live.ask("POST", "/v2/repository/models/more/load", b"", AUTHORIZED).status == 200
        _until(live, lambda: get("/v2/models/more/ready").status == 200)
        assert (infer().status, infer_over_grpc()) == (200, "more")
        assert get("/v2/models/more").document()["inputs"][0]["name"] == "x"
        assert 'proteus_slo_seconds{family="more"} 5' in get("/metrics").body.decode()
        assert get("/v2/proteus/status").document()["families"]["more"]["outcomes"]["served"] == 2
        assert set(get("/v2/proteus/history").document()["families"]) == {"shapes", "more"}

        (tmp_path / "engines" / "catalog.toml").write_text(catalog_toml([FAMILY]))
        assert live.ask("POST", "/v2/proteus/catalog", b"", AUTHORIZED).status == 200
        removed_s = time.monotonic()
        _until(live, lambda: infer().status == 503)
        assert "`more` is being taken out of service" in infer().document()["error"]
        assert infer_over_grpc() == "StatusCode.UNAVAILABLE: `more` is being taken out of service"
        assert get("/v2/models/more/ready").status == 503
        assert get("/v2/proteus/catalog").document()["leaving"] == ["more"]
        _until(live, lambda: infer().status == 404)
        assert time.monotonic() - removed_s >= FORGET_AFTER_S
        assert infer_over_grpc().startswith("StatusCode.NOT_FOUND: no model `more`")
        assert 'proteus_requests_total{family="more"' not in get("/metrics").body.decode()
        assert set(get("/v2/proteus/status").document()["families"]) == {"shapes"}
        assert set(get("/v2/proteus/history").document()["families"]) == {"shapes"}
        client.close()
        assert live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text(), live.log.read_text()


def _lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _until(live: LiveServer, holds: Callable[[], bool]) -> None:
    until(holds, live.log.read_text, ANSWER_WITHIN_S + FORGET_AFTER_S)
