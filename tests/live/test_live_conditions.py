"""The condition of a family's multi-exit variants, changed while they are served: who may, and what comes of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from exit_nets import add_exits
from injecting import until
from live_server import LiveServer, serving
from short_forms import parse_condition
from tiny import SHAPES, TinyFamily, make_workspace

from proteus_cli.domain.conditions import Condition
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.serving.adaptation.plan_journal import records

pytestmark = pytest.mark.live

TOKEN = "f00d" * 8
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
ROWS = np.random.default_rng(5).normal(size=(8, 4)).astype(np.float32)
SHORT = (StagePoint(1, 1e-6, 1e-6),)
EXITS = (ExitProfile(0.5, 0.9, 0.4, SHORT), ExitProfile(0.3, 0.7, 0.3, SHORT), ExitProfile(0.2, 0.5, None, SHORT))
SHAPES_AT = "/v2/proteus/families/shapes"


OPTIONS = ["--replan=off", "--auth-tokens"]


def made_in(root: Path) -> Path:
    """A workspace with a multi-exit model, and the tokens of its clients; returns the plan."""
    made = make_workspace(root, (TinyFamily("shapes", SHAPES.variants[:1], slo="60s"),))
    tokens = root / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    tokens.chmod(0o600)
    return add_exits(made, "shapes-exits", "confidence >= 2", EXITS)


@pytest.fixture(scope="module", params=["in the server", "in a process"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    root = tmp_path_factory.mktemp("conditions")
    apart = ["--set=executor=process"] if request.param == "in a process" else []
    with serving(root, made_in(root), *OPTIONS, str(root / "tokens"), *apart) as live:
        yield live
        assert live.stop() == 0, live.log.read_text()
    assert not conditions_file(live).exists()  # each test takes back what it has changed


def conditions_file(server: LiveServer) -> Path:
    return server.log.parent / "engines" / "conditions.json"


def exits(server: LiveServer, **parameters: float) -> list[int]:
    """By row, the exit that answers."""
    found = []
    for row in ROWS:
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": row.tolist()}
        reply = server.infer("shapes", {"inputs": [tensor], "parameters": parameters}, AUTHORIZED)
        assert reply.status == 200, reply.body
        found.append(reply.document()["parameters"]["exit"])
    return found


def data(condition: Condition) -> Any:
    return msgspec.json.decode(msgspec.json.encode(condition))


def patched(server: LiveServer, stop_when: Any, at: str = SHAPES_AT) -> tuple[int, Any]:
    condition = data(parse_condition(stop_when)) if isinstance(stop_when, str) else stop_when
    reply = server.ask("PATCH", at, {"stop_when": condition}, AUTHORIZED)
    return reply.status, reply.document()


def told(live: str | None, since: object = None, origin: str = "request") -> dict[str, object]:
    counts = {"shapes-exits": data(parse_condition(live or "confidence >= 2"))}
    where = {"since": since, "origin": origin if live else None}
    return {
        "family": "shapes",
        "stop_when": data(parse_condition(live)) if live else None,
        **where,
        "variants": counts,
        "exceptions": [],
        "not_kept": None,
    }


def test_a_live_condition_counts_at_once_until_it_is_taken_back(server: LiveServer) -> None:
    usual = exits(server)
    assert set(usual) == {1, 2, 3}
    status, said = patched(server, "exit >= 2 and confidence > 0")
    assert (status, said) == (200, told("exit >= 2 and confidence > 0", said["since"]))
    assert exits(server) == [2] * len(ROWS)
    assert server.ask("GET", SHAPES_AT, headers=AUTHORIZED).document() == said
    assert patched(server, "exit >= 1")[0] == 200
    assert exits(server) == [1] * len(ROWS)
    assert patched(server, None) == (200, told(None))
    assert exits(server) == usual
    assert server.ask("GET", SHAPES_AT, headers=AUTHORIZED).document() == told(None)


@pytest.mark.parametrize(
    ("stop_when", "expected"),
    [
        ("latency >= 3600", 3),
        ("latency > 0", 1),
        ("confidence >= 1e9 or latency > 0 and exit >= 2", 2),
        ("computation > 0.5", 2),
        ("accuracy >= 0.95 or exit >= 3", 3),
    ],
)
def test_a_live_condition_may_compare_what_a_query_has_taken(server: LiveServer, stop_when: str, expected: int) -> None:
    """Of three stages, each takes a third of the computation; no exit is 95 % right."""
    assert patched(server, stop_when)[0] == 200
    assert exits(server) == [expected] * len(ROWS)
    assert patched(server, None)[0] == 200


def test_who_is_promised_an_accuracy_is_answered_by_the_condition_of_the_catalog(server: LiveServer) -> None:
    usual = exits(server)
    assert patched(server, "exit >= 1")[0] == 200
    assert exits(server, min_accuracy=0.5) == exits(server, min_expected_accuracy=0.5) == usual
    assert exits(server) == [1] * len(ROWS)
    assert patched(server, None)[0] == 200


def test_the_next_server_goes_by_a_live_condition(tmp_path: Path) -> None:
    plan = made_in(tmp_path)
    with serving(tmp_path, plan, *OPTIONS, str(tmp_path / "tokens")) as live:
        status, said = patched(live, "exit >= 2")
        assert (status, said["origin"], said["not_kept"]) == (200, "request", None)
        assert live.stop() == 0, live.log.read_text()
    with serving(tmp_path, plan, *OPTIONS, str(tmp_path / "tokens")) as live:
        assert live.ask("GET", SHAPES_AT, headers=AUTHORIZED).document() == told("exit >= 2", said["since"], "kept")
        assert exits(live) == [2] * len(ROWS)
        assert patched(live, None) == (200, told(None))
        assert not conditions_file(live).exists()
        assert live.stop() == 0, live.log.read_text()
    first = next(record for record in records(tmp_path / "plans" / "history") if record.origin == "start")
    assert first.reason.endswith(f"; shapes stops when exit >= 2, as since {said['since']}")


def test_status_metrics_and_journal_say_what_counts(server: LiveServer) -> None:
    assert patched(server, "exit >= 3")[0] == 200
    status = server.ask("GET", "/v2/proteus/status", headers=AUTHORIZED).document()
    assert status["families"]["shapes"]["stop_when"] == "exit >= 3"
    assert [status["changes"][-1][name] for name in ("reason", "swaps")] == ["shapes stops when exit >= 3", 0]
    metrics = server.ask("GET", "/metrics", headers=AUTHORIZED).body.decode()
    assert 'proteus_condition_info{family="shapes",stop_when="exit >= 3"} 1' in metrics
    assert patched(server, None)[0] == 200
    assert patched(server, None)[0] == 200  # which changes nothing
    metrics = server.ask("GET", "/metrics", headers=AUTHORIZED).body.decode()
    assert "proteus_condition_info{" not in metrics
    expected = [("request", "shapes stops when exit >= 3"), ("request", "shapes stops as the catalog says")]

    def newest() -> list[tuple[str, str]]:
        last = sorted(records(server.log.parent / "plans" / "history"), key=lambda record: record.plan)[-2:]
        return [(record.origin, record.reason) for record in last]

    until(lambda: newest() == expected, newest)


@pytest.mark.parametrize(
    ("stop_when", "status", "said"),
    [
        ({"metric": "speed", "op": ">", "value": 1}, 400, "Invalid enum value 'speed' - at `$.stop_when.metric`"),
        ({"all": [{"metric": "exit", "op": ">", "value": 1}]}, 400, "two or more conditions in `all` or `any`"),
        ({"metric": "confidence", "op": ">"}, 400, "a condition has `metric`, `op` and `value`"),
        ("energy >= 3", 409, "the profile of `shapes-exits` on `cpu0` has no power"),
        (2, 400, "the body is not a change of a condition"),
    ],
)
def test_what_is_no_condition_of_stages_is_refused(server: LiveServer, stop_when: Any, status: int, said: str) -> None:
    found, document = patched(server, stop_when)
    assert (found, said in document["error"]) == (status, True), document
    assert server.ask("GET", SHAPES_AT, headers=AUTHORIZED).document() == told(None)


def test_only_clients_with_a_token_change_conditions(server: LiveServer) -> None:
    assert server.ask("PATCH", SHAPES_AT, {"stop_when": None}).status == 401
    assert patched(server, None, "/v2/proteus/families/nothing")[0] == 404
    assert server.ask("POST", SHAPES_AT, {"stop_when": None}, AUTHORIZED).status == 405
