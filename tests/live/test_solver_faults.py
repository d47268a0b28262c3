"""The solver's process is killed, hangs, or has no plan to offer: what serves goes on serving, and it is told."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from clusters import make_cluster
from injecting import metric
from live_server import LiveServer, Reply, serving

from proteus_cli import store
from proteus_cli.domain.rules import DeviceVariant
from proteus_cli.store import Workspace

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_cluster(tmp_path_factory.mktemp("solver") / "ws")


@pytest.fixture
def server(cluster: Workspace) -> Iterator[LiveServer]:
    """It plans anew every second, whatever is asked for."""
    with serving(cluster.root, Path("plan"), "--emulate", "--replan=period=1s") as live:
        yield live
        assert live.stop() == 0
        assert "Traceback" not in live.log.read_text()


def ask(live: LiveServer) -> Reply:
    return live.infer("text", {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}]})


def test_a_solver_that_is_killed_or_hangs_is_replaced_while_requests_are_answered(server: LiveServer) -> None:
    first = server.until(lambda status: status["solver"]["solves"] > 0)["solver"]["pid"]
    os.kill(first, signal.SIGKILL)
    changed = server.until(lambda status: status["solver"]["pid"] not in {first, None})
    second, solves = changed["solver"]["pid"], changed["solver"]["solves"]
    server.until(lambda status: status["solver"]["solves"] > solves)

    os.kill(second, signal.SIGSTOP)

    def taken_over(status: Any) -> bool:
        assert ask(server).status == 200
        return bool(status["solver"]["pid"] != second and status["solver"]["solves"] > solves + 2)

    status = server.until(taken_over)
    assert status["solver"]["restarts"] == 2
    assert sum(status["failures"]["total"].values()) == 0, "another process had the answer"
    assert metric(server, "proteus_solver_restarts_total") == 2
    said = server.log.read_text()
    assert "the solver's process died" in said
    assert "the solver's process hangs" in said
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_a_plan_that_cannot_be_made_is_reported_and_tried_again_at_growing_intervals(cluster: Workspace) -> None:
    plan = cluster.plan(Path("plan"))
    impossible = msgspec.structs.replace(
        plan.rules, pinned=(DeviceVariant("a-0", "text", "text-l"),), banned=(DeviceVariant("a-0", "text", "text-l"),)
    )
    store.write_json(cluster.plans_dir / "impossible.json", msgspec.structs.replace(plan, rules=impossible))
    with serving(cluster.root, Path("impossible"), "--emulate", "--replan=period=500ms") as live:
        status = live.until(lambda status: status["failures"]["total"]["infeasible"] >= 2)
        assert status["failures"]["pause_s"] > 1.0
        assert {failure["cause"] for failure in status["failures"]["last"]} == {"infeasible"}
        assert "rules" in status["failures"]["last"][0]["message"]
        assert status["changes"] == []
        assert status["placements"] == [msgspec.to_builtins(placement) for placement in plan.placements]
        assert metric(live, 'proteus_plan_failures_total{cause="infeasible"}') >= 2
        assert ask(live).status == 200
        assert live.stop() == 0
        assert "kept the plan: No plan obeys all rules" in live.log.read_text()
