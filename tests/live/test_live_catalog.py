"""The catalog of a running server is read anew: variants come, change and go, and no request is lost meanwhile."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from live_server import ANSWER_WITHIN_S, POLL_S, LiveServer, serving
from tiny import SHAPES, Tiny, TinyFamily, TinyVariant, add_plan, add_profiles, catalog_toml, make_workspace, mlp

from proteus_cli.serving.adaptation.plan_journal import records

pytestmark = pytest.mark.live

TOKEN = "f00d" * 8
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
ROW = np.random.default_rng(5).normal(size=4).astype(np.float32)
CATALOG = "/v2/proteus/catalog"
FAMILY = TinyFamily("shapes", SHAPES.variants[:2], slo="10s", eval=SHAPES.eval)


@dataclass
class Watched:
    """A server that re-plans, and a client that asks it without a pause, for as long as the test runs."""

    live: LiveServer
    made: Tiny
    statuses: list[int] = field(default_factory=list)

    def catalog(self) -> Any:
        return self.live.ask("GET", CATALOG, headers=AUTHORIZED).document()

    def read(self) -> tuple[int, Any]:
        reply = self.live.ask("POST", CATALOG, b"", AUTHORIZED)
        return reply.status, reply.document()

    def until(self, holds: Callable[[Any], bool]) -> Any:
        """The first state of the catalog for which that holds."""
        stop_s = time.monotonic() + ANSWER_WITHIN_S
        while not holds(found := self.catalog()):
            assert time.monotonic() < stop_s, (found, self.live.log.read_text())
            time.sleep(POLL_S)
        return found

    def hosted(self) -> set[str]:
        plan = self.live.ask("GET", "/v2/proteus/plan", headers=AUTHORIZED).document()
        return {placement["variant"] for placement in plan["placements"]}

    def until_hosted(self, holds: Callable[[set[str]], bool]) -> set[str]:
        stop_s = time.monotonic() + ANSWER_WITHIN_S
        while not holds(found := self.hosted()):
            assert time.monotonic() < stop_s, (found, self.live.log.read_text())
            time.sleep(POLL_S)
        return found

    def answer(self) -> list[float]:
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROW.tolist()}
        reply = self.live.infer("shapes", {"inputs": [tensor]}, AUTHORIZED)
        self.statuses.append(reply.status)
        return list(reply.document()["outputs"][0]["data"]) if reply.status == 200 else []

    def ask_until(self, is_over: threading.Event) -> None:
        while not is_over.is_set():
            self.answer()

    def write_catalog(self, *variants: TinyVariant, **family: Any) -> None:
        changed = TinyFamily("shapes", variants, slo="10s", eval=SHAPES.eval, **family)
        (self.made.root / "engines" / "catalog.toml").write_text(catalog_toml([changed]))


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Watched]:
    root = tmp_path_factory.mktemp("live-catalog")
    made = make_workspace(root, (FAMILY,))
    add_profiles(made, ("cpu0",))
    plan = add_plan(made, {"cpu0": "shapes-m"}, demand_qps=1.0)
    tokens = root / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    options = getattr(request, "param", ())
    with serving(root, plan, "--replan=period=1s", "--auth-tokens", str(tokens), *options) as live:
        watched, is_over = Watched(live, made), threading.Event()
        client = threading.Thread(target=watched.ask_until, args=(is_over,))
        client.start()
        try:
            yield watched
        finally:
            is_over.set()
            client.join()
        assert set(watched.statuses) == {200}, live.log.read_text()
        assert live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text()


def scores(made: Tiny, variant: str) -> list[float]:
    """What a model says, computed here."""
    import onnx  # noqa: PLC0415
    from onnx import numpy_helper  # noqa: PLC0415

    weights = {each.name: numpy_helper.to_array(each) for each in onnx.load(made.model(variant)).graph.initializer}
    found: list[float] = (np.maximum(ROW @ weights["w1"], 0) @ weights["w2"]).tolist()
    return found


def test_a_model_that_was_trained_anew_takes_over_without_a_lost_request(server: Watched) -> None:
    before = scores(server.made, "shapes-m")
    np.testing.assert_allclose(server.answer(), before, rtol=1e-4)
    mlp(server.made.model("shapes-m"), hidden=8, seed=17)
    after = scores(server.made, "shapes-m")
    status, document = server.read()
    assert status == 200
    assert document["changes"] == [{"family": "shapes", "variant": "shapes-m", "kind": "changed", "what": "its model"}]
    (name,) = {v["name"] for v in server.until(lambda each: each["state"] == "served")["catalog"]["family"][0]["variant"]} - {"shapes-s"}
    assert name.startswith("shapes-m@")
    server.until_hosted(lambda hosted: "shapes-m" not in hosted)
    assert name in server.hosted() or "shapes-s" in server.hosted()
    server.until(lambda each: not each["retiring"])
    stop_s = time.monotonic() + ANSWER_WITHIN_S
    while not np.allclose(server.answer(), after, rtol=1e-4):
        assert time.monotonic() < stop_s
    reasons = [record.reason for record in records(server.made.root / "plans" / "history")]
    assert any(reason.startswith("the catalog has changed: shapes/shapes-m is changed") for reason in reasons), reasons
