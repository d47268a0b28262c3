"""A plan that a person applies to a running server: by HTTP with a token, or SIGHUP. What doesn't fit is refused."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import swaps_from
from clusters import make_cluster
from command_line import proteus
from injecting import until
from live_server import LiveServer, serving

from proteus_cli import store
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import PlanRecord
from proteus_cli.domain.rules import Rules
from proteus_cli.serving.adaptation.control_loop import HOLD_S
from proteus_cli.serving.adaptation.plan_journal import records
from proteus_cli.store import Workspace

pytestmark = pytest.mark.live

TOKEN = "f00d" * 8
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


class Guarded:
    """A server that asks for a token, and what it was started with."""

    def __init__(self, live: LiveServer, cluster: Workspace) -> None:
        self.live, self.cluster, self.path = live, cluster, cluster.plans_dir / "plan.json"

    def status(self) -> Any:
        return self.live.ask("GET", "/v2/proteus/status", headers=AUTHORIZED).document()

    def apply(self, plan: Any) -> tuple[int, Any]:
        reply = self.live.ask("POST", "/v2/proteus/plan", plan, AUTHORIZED)
        return reply.status, reply.document()

    def in_force(self) -> Plan:
        reply = self.live.ask("GET", "/v2/proteus/plan", headers=AUTHORIZED)
        return msgspec.json.decode(reply.body, type=Plan)

    def record_of(self, plan: str) -> PlanRecord:
        """Once it is written, which is beside all else."""
        found: PlanRecord = until(
            lambda: next((record for record in records(self.cluster.history_dir) if record.plan == plan), None)
        )
        return found

    def hang_up(self, said: str) -> None:
        """SIGHUP, and wait for a line of the log that has this in it."""
        lines = self.live.log.read_text().count(said)
        self.live.process.send_signal(signal.SIGHUP)
        until(lambda: self.live.log.read_text().count(said) > lines, self.live.log.read_text)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """It re-plans every second, but for what people want."""
    cluster = make_cluster(tmp_path_factory.mktemp("by-hand") / "ws", "30qps")
    tokens = cluster.root / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    options = ("--emulate", "--replan=period=1s", "--auth-tokens", str(tokens))
    with serving(cluster.root, Path("plan"), *options) as live:
        yield Guarded(live, cluster)
        assert live.stop() == 0
        assert "Traceback" not in live.log.read_text()


@pytest.fixture(scope="module")
def larger(server: Guarded) -> Plan:
    """A plan for far more than was planned for."""
    path, place = server.cluster.plans_dir / "larger.json", server.cluster.root
    fleet = "a:4,b:2,c:2"
    assert proteus("plan", "--demand", "400qps", "--fleet", fleet, "-o", path, "-w", place).code == 0
    return server.cluster.plan(path)


def test_a_plan_from_a_client_is_in_force_when_it_is_answered_and_is_held(server: Guarded, larger: Plan) -> None:
    before = server.in_force()
    status, change = server.apply(msgspec.to_builtins(larger))
    assert (status, change["origin"]) == (200, "request"), change
    assert change["swaps"] == swaps_from(larger, before) > 0
    assert server.in_force() == larger
    until(lambda: server.status()["plan"]["held_s"] < HOLD_S - 1.5)  # by then it would have been planned anew
    told = server.status()
    assert told["plan"]["origin"] == "request"
    assert told["plan"]["held_s"] > 0
    assert server.record_of(told["plan"]["id"]).origin == "request"
    assert server.cluster.plan(Path(told["plan"]["id"])) == larger


def test_a_body_that_is_no_plan_or_does_not_fit_is_refused_and_changes_nothing(server: Guarded, larger: Plan) -> None:
    before = server.in_force()
    good: dict[str, Any] = msgspec.to_builtins(larger)
    placement = good["placements"][0]

    def placed(**fields: Any) -> dict[str, Any]:
        return good | {"placements": [placement | fields, *good["placements"][1:]]}

    refused = {
        "no plan": (400, good | {"format": 1}),
        "not JSON": (400, b"{"),
        "a field too many": (400, good | {"more": 1}),
        "stale": (409, good | {"inputs": {**good["inputs"], "engines/catalog.toml": "0" * 64}}),
        "gone": (409, good | {"inputs": {"profiles/z.json": "0" * 64}}),
        "outside": (409, good | {"inputs": {"../ws/plans/plan.json": "0" * 64}}),
        "another policy": (422, good | {"policy": "most-accurate"}),
        "another device": (422, good | {"fleet": {**good["fleet"], "d": ["d-0"]}}),
        "another variant": (422, placed(variant="text-xl")),
        "a batch that is no batch": (400, placed(max_batch=10**9)),
        "a batch that was never measured": (422, placed(max_batch=1000)),
        "the same twice": (422, good | {"placements": [*good["placements"], placement]}),
    }
    for why, (status, plan) in refused.items():
        found, document = server.apply(plan)
        assert found == status, (why, document)
        assert set(document) == {"error"}
        if why == "outside":
            assert "outside of the workspace" in document["error"]
    assert server.live.ask("POST", "/v2/proteus/plan", good).status == 401
    assert server.in_force() == before


def test_sighup_applies_the_plan_file_or_logs_what_is_wrong_with_it(server: Guarded, larger: Plan) -> None:
    good = server.path.read_bytes()
    plan = server.cluster.plan(server.path)
    try:
        marked = msgspec.structs.replace(plan, objective="as edited by hand")
        store.write_json(server.path, marked)
        server.hang_up("applied by SIGHUP")
        assert server.in_force() == marked
        told = server.status()["plan"]
        assert told["origin"] == "file"
        assert server.record_of(told["id"]).base.sha256 == store.digest(server.path), "from which a server would go on"
        server.path.write_text("{")
        server.hang_up("SIGHUP: kept the plan")
        assert "not a valid plan" in server.live.log.read_text()
        store.write_json(server.path, msgspec.structs.replace(plan, rules=Rules(), policy="least-accurate"))
        server.hang_up("this server runs `proteus`")
        server.path.unlink()
        os.mkfifo(server.path)
        server.hang_up("is a pipe, and must be a regular file")
        assert server.in_force() == marked
    finally:
        server.path.unlink()
        server.path.write_bytes(good)
