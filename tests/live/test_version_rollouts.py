"""New versions of a model are rolled out while a client asks and tells labels: a good one serves, others go."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_server import ANSWER_WITHIN_S, POLL_S, LiveServer, serving
from msgspec.structs import replace
from onnx import helper
from tiny import (
    INPUTS,
    SHAPES,
    Tiny,
    TinyFamily,
    add_plan,
    add_profiles,
    make_workspace,
    passing_on,
    save_model,
    tensor,
)

from proteus_cli.domain.profile.profile import Profile
from proteus_cli.serving.adaptation.plan_journal import records
from proteus_cli.store import model_digest, read_json, write_json

pytestmark = pytest.mark.live

TOKEN = "f00d" * 8
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
ROLLOUTS = "/v2/proteus/rollouts"
FAMILY = TinyFamily("shapes", SHAPES.variants[:1], slo="10s", eval=SHAPES.eval)
OLD, NEW = "shapes-s", "shapes-s@2"


def opposing(path: Path) -> Path:
    """A model that answers with the place of the lowest input: it is always wrong."""
    ends = [tensor(name, ["n", INPUTS]) for name in ("x", "scores")]
    return save_model(path, [helper.make_node("Neg", ["x"], ["scores"])], inputs=ends[:1], outputs=ends[1:])


def failing(path: Path) -> Path:
    """A model that looks up in a table where there is nothing; each batch fails."""
    nodes = [
        helper.make_node("Gather", ["table", "nowhere"], ["row"]),
        helper.make_node("Add", ["x", "row"], ["scores"]),
    ]
    ends = [tensor(name, ["n", INPUTS]) for name in ("x", "scores")]
    weights = {"table": np.zeros((2, INPUTS), np.float32), "nowhere": np.array(1000)}
    return save_model(path, nodes, inputs=ends[:1], outputs=ends[1:], weights=weights)


@dataclass
class Watched:
    """A server, and a client that asks it and tells labels for as long as the test runs."""

    live: LiveServer
    made: Tiny
    answers: list[tuple[int, str, bool]] = field(default_factory=list)
    """Status, variant, and whether the answer was right."""
    _numbers: Iterator[int] = field(default_factory=count)

    def version(self, number: int) -> Path:
        return self.made.model(OLD).parent / str(number) / self.made.model(OLD).name

    def post(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        reply = self.live.ask("POST", f"{ROLLOUTS}{path}", body or {}, AUTHORIZED)
        return reply.status, reply.document()

    def start(self, **asked: Any) -> Any:
        status, document = self.post("", {"family": "shapes", "variant": NEW} | asked)
        assert status == 200, document
        return document

    def status(self) -> Any:
        return self.live.ask("GET", ROLLOUTS, headers=AUTHORIZED).document()["rollouts"][-1]

    def until(self, holds: Callable[[Any], bool]) -> Any:
        stop_s = time.monotonic() + ANSWER_WITHIN_S
        while not holds(found := self.status()):
            assert time.monotonic() < stop_s, (found, self.live.log.read_text())
            time.sleep(POLL_S)
        return found

    def until_stage(self, stage: str, step: int = 0) -> Any:
        return self.until(lambda found: found["stage"] == stage and found["step"] == step)

    def until_ended(self, ending: str) -> Any:
        found = self.until(lambda found: found["ending"] is not None)
        assert found["ending"] == ending, (found, self.live.log.read_text())
        return found

    def ask(self, client: str | None = None) -> str:
        """Ask about a row whose highest input is its class, and tell that; returns the variant."""
        name = f"r{next(self._numbers)}"
        x = np.random.default_rng(len(self.answers)).random(4).astype(np.float32)
        parameters = {} if client is None else {"client_key": client}
        body = {
            "id": name,
            "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": x.tolist()}],
            "parameters": parameters,
        }
        reply = self.live.infer("shapes", body, AUTHORIZED)
        document = reply.document()
        variant = document.get("parameters", {}).get("variant", "")
        scores = document["outputs"][0]["data"] if reply.status == 200 else [0.0]
        self.answers.append((reply.status, variant, int(np.argmax(scores)) == int(x.argmax())))
        item = {"model": "shapes", "id": name, "label": int(x.argmax())}
        self.live.ask("POST", "/v2/proteus/feedback", {"feedback": [item]}, AUTHORIZED)
        return str(variant)

    def ask_until(self, is_over: threading.Event) -> None:
        while not is_over.wait(0.001):
            self.ask()

    def hosted(self) -> set[str]:
        plan = self.live.ask("GET", "/v2/proteus/plan", headers=AUTHORIZED).document()
        return {placement["variant"] for placement in plan["placements"]}

    def catalog(self) -> str:
        return (self.made.root / "engines" / "catalog.toml").read_text()


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Watched]:
    root = tmp_path_factory.mktemp("versions")
    made = make_workspace(root, (FAMILY,))
    passing_on(made.model(OLD))
    catalog = root / "engines" / "catalog.toml"
    catalog.write_text("# what we serve\n" + catalog.read_text())
    add_profiles(made, ("cpu0",))
    plan = add_plan(made, {"cpu0": OLD}, demand_qps=1.0)
    tokens = root / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    options = "--replan=period=1s", "--auth-tokens", str(tokens), "--feedback=10min", "--catalog-budget=2s"
    with serving(root, plan, *options, *getattr(request, "param", ())) as live:
        yield Watched(live, made)
        assert live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text(), live.log.read_text()


def measure(made: Tiny, model: Path) -> None:
    """Know a version's times, as if it had been rolled out before: beside other tests, it would wait for a core."""
    known = read_json(made.place.profile_path("cpu0"), Profile, hint="")
    (of_old,) = known.variants
    variants = (replace(of_old, model_digest=model_digest(model)),)
    write_json(made.place.version_profile_path("cpu0"), replace(known, variants=variants))


def kill_device(server: Watched) -> None:
    """The process of the only device ends; until it is back, requests are refused."""
    status = server.live.ask("GET", "/v2/proteus/status", headers=AUTHORIZED).document()
    os.kill(status["devices"]["cpu0"]["pid"], signal.SIGKILL)


@contextmanager
def asking(server: Watched) -> Iterator[None]:
    """A client asks meanwhile; the machine of the test has little time, so one is enough."""
    is_over = threading.Event()
    client = threading.Thread(target=server.ask_until, args=(is_over,))
    client.start()
    try:
        yield
    finally:
        is_over.set()
        client.join()


def test_a_good_version_is_promoted_and_a_bad_one_goes_back_and_no_request_is_lost(server: Watched) -> None:
    passing_on(server.version(2)).write_bytes(_renamed(server.version(2)))
    opposing(server.version(3))
    steps = {"canary": [0.3, 0.6], "auto": True, "rollback_window_s": 1.0, "guard": "accuracy >= old - 0.05"}
    measure(server.made, server.version(2))
    server.start(shadow=0.5, **steps)
    with asking(server):
        server.until_ended("done")
        assert 'onnx = "models/shapes/2/shapes-s.onnx"' in server.catalog()
        assert server.catalog().startswith("# what we serve")
        server.until(lambda _: server.hosted() == {NEW})
    measure(server.made, server.version(3))
    server.start(**steps, variant="shapes-s@3")
    with asking(server):
        found = server.until_ended("rolled back")
        assert "accuracy" in found["reason"]
        assert 'onnx = "models/shapes/2/shapes-s.onnx"' in server.catalog()
        server.until(lambda _: server.hosted() == {NEW})
    assert {status for status, _, _ in server.answers} == {200}, server.live.log.read_text()
    assert all(right for _, variant, right in server.answers if variant in {OLD, NEW})
    assert {variant for _, variant, _ in server.answers} == {OLD, NEW, "shapes-s@3"}
    reasons = [record.reason for record in records(server.made.root / "plans" / "history")]
    assert any(reason.startswith(f"{NEW} is shadowed") for reason in reasons), reasons
    assert any(reason.startswith(f"{NEW} serves in place of {OLD}") for reason in reasons), reasons


def _renamed(path: Path) -> bytes:
    """The same model by other bytes, so that it is another version."""
    import onnx  # noqa: PLC0415

    model: Any = onnx.load(path)
    model.doc_string = "trained anew"
    content: bytes = model.SerializeToString()
    return content


BY_HAND = {"canary": [0.5], "guard": "errors <= 50%"}


def test_a_client_keeps_its_version_and_a_person_goes_on_and_back(server: Watched) -> None:
    before = server.catalog()
    passing_on(server.version(2)).write_bytes(_renamed(server.version(2)))
    measure(server.made, server.version(2))
    assert server.post("/shapes/promote")[0] == 409
    server.start(**BY_HAND, rollback_window_s=600.0)
    assert server.post("", {"family": "shapes", "variant": NEW})[0] == 409
    server.until_stage("canary", 1)
    server.until(lambda _: NEW in server.hosted())
    by_client = {client: {server.ask(client) for _ in range(4)} for client in "abcdefgh"}
    assert all(len(variants) == 1 for variants in by_client.values()), by_client
    assert set.union(*by_client.values()) == {OLD, NEW}
    assert server.post("/shapes/promote")[0] == 200
    server.until_stage("full")
    server.until(lambda _: server.hosted() == {NEW})
    assert {server.ask() for _ in range(4)} == {NEW}
    assert server.post("/shapes/abort", {"reason": "second thoughts"})[0] == 200
    found = server.until_ended("aborted")
    assert found["reason"] == "second thoughts"
    server.until(lambda _: server.hosted() == {OLD} and server.catalog() == before)
    assert {server.ask() for _ in range(4)} == {OLD}
    assert {status for status, _, _ in server.answers} == {200}


def test_a_version_that_fails_or_that_is_no_model_leaves_the_old_one_in_service(server: Watched) -> None:
    server.version(3).parent.mkdir()
    server.version(3).write_bytes(b"no model")
    status, document = server.post("", {"family": "shapes", "variant": "shapes-s@3"})
    assert status == 422, document
    status, document = server.post("", {"family": "shapes", "variant": "shapes-s@9"})
    assert (status, "No model" in document["error"]) == (422, True), document
    failing(server.version(2))
    measure(server.made, server.version(2))
    server.start(**BY_HAND)
    found = server.until_ended("failed")
    assert "the model failed" in found["reason"]
    server.until(lambda _: server.hosted() == {OLD})
    assert {server.ask() for _ in range(4)} == {OLD}
    assert {status for status, _, _ in server.answers} == {200}


@pytest.mark.parametrize("server", [("--executor=process",)], indirect=True)
def test_the_old_version_serves_on_where_the_catalog_changes_the_family_is_unloaded_or_the_device_dies(
    server: Watched,
) -> None:
    passing_on(server.version(2)).write_bytes(_renamed(server.version(2)))
    measure(server.made, server.version(2))
    server.start(**BY_HAND)
    server.until_stage("canary", 1)
    server.until(lambda _: NEW in server.hosted())
    kill_device(server)
    server.until(lambda _: {server.ask() for _ in range(8)} == {OLD, NEW})  # both are back, and it goes on
    assert server.status()["ending"] is None
    assert server.live.ask("POST", "/v2/repository/models/shapes/unload", {}, AUTHORIZED).status == 200
    assert "unloaded" in server.until_ended("failed")["reason"]
    assert server.live.ask("POST", "/v2/repository/models/shapes/load", {}, AUTHORIZED).status == 200
    server.until(lambda _: server.hosted() == {OLD})
    assert server.ask() == OLD


def test_the_page_is_told_how_far_a_version_is(server: Watched) -> None:
    history = server.live.ask("GET", "/v2/proteus/history", headers=AUTHORIZED).document()
    assert history["rollouts"] == []
    passing_on(server.version(2)).write_bytes(_renamed(server.version(2)))
    measure(server.made, server.version(2))
    server.start(**BY_HAND)
    server.until_stage("canary", 1)
    (found,) = server.live.ask("GET", "/v2/proteus/history", headers=AUTHORIZED).document()["rollouts"]
    assert (found["specification"]["new"], found["share"], found["stage"]) == (NEW, 0.5, "canary")
