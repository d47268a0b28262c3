"""New versions of a model are rolled out while a client asks and tells labels: a good one serves, others go."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from live_server import serving
from onnx import helper
from tiny import INPUTS, passing_on, save_model, tensor
from versioned import (
    AUTHORIZED,
    BY_HAND,
    NEW,
    OLD,
    Watched,
    make_versioned,
    measure,
    opposing,
    renamed,
)

from proteus_cli.serving.adaptation.plan_journal import records

pytestmark = pytest.mark.live


def failing(path: Path) -> Path:
    """A model that looks up in a table where there is nothing; each batch fails."""
    nodes = [
        helper.make_node("Gather", ["table", "nowhere"], ["row"]),
        helper.make_node("Add", ["x", "row"], ["scores"]),
    ]
    ends = [tensor(name, ["n", INPUTS]) for name in ("x", "scores")]
    weights = {"table": np.zeros((2, INPUTS), np.float32), "nowhere": np.array(1000)}
    return save_model(path, nodes, inputs=ends[:1], outputs=ends[1:], weights=weights)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Watched]:
    root = tmp_path_factory.mktemp("versions")
    made, plan, options = make_versioned(root)
    with serving(root, plan, "--replan=period=1s", *options, *getattr(request, "param", ())) as live:
        yield Watched(live, made)
        assert live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text(), live.log.read_text()


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
    passing_on(server.version(2)).write_bytes(renamed(server.version(2)))
    opposing(server.version(3))
    steps = {
        "canary": [0.3, 0.6],
        "auto": True,
        "rollback_window_s": 1.0,
        "guard": [{"metric": "accuracy", "reference": "old", "value": -0.05}],
    }
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


def test_a_client_keeps_its_version_and_a_person_goes_on_and_back(server: Watched) -> None:
    before = server.catalog()
    passing_on(server.version(2)).write_bytes(renamed(server.version(2)))
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


@pytest.mark.parametrize("server", [("--set=executor=process",)], indirect=True)
def test_the_old_version_serves_on_where_the_catalog_changes_the_family_is_unloaded_or_the_device_dies(
    server: Watched,
) -> None:
    passing_on(server.version(2)).write_bytes(renamed(server.version(2)))
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
    passing_on(server.version(2)).write_bytes(renamed(server.version(2)))
    measure(server.made, server.version(2))
    server.start(**BY_HAND)
    server.until_stage("canary", 1)
    (found,) = server.live.ask("GET", "/v2/proteus/history", headers=AUTHORIZED).document()["rollouts"]
    assert (found["specification"]["new"], found["share"], found["stage"]) == (NEW, 0.5, "canary")
