"""What `plans/history/` holds of a running server, and how a server goes on after one that was killed."""

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from clusters import FLEET, make_cluster
from command_line import proteus
from live_server import LiveServer, serving

from proteus_cli.domain.plan_record import PlanRecord
from proteus_cli.serving.adaptation.plan_journal import records
from proteus_cli.store import Workspace

pytestmark = pytest.mark.live

EVERY_SECOND = ("--emulate", "--replan=period=1s")


@pytest.fixture
def cluster(tmp_path: Path) -> Workspace:
    """Its plan is for more than any test asks for, so the first re-plan hosts other variants."""
    return make_cluster(tmp_path / "ws", "150qps")


def apply_plan(cluster: Workspace, live: LiveServer, demand: str) -> None:
    """Have the server put a plan for that demand in force, by SIGHUP."""
    made = proteus(
        "plan", "--demand", demand, "--fleet", FLEET, "-o", cluster.plans_dir / "plan.json", "-w", cluster.root
    )
    assert made.code == 0, made
    changes = len(live.status()["changes"])
    live.process.send_signal(signal.SIGHUP)
    live.until(lambda status: len(status["changes"]) > changes)


def kept(cluster: Workspace) -> list[PlanRecord]:
    """All of them, the oldest first; each beside a plan that can be read."""
    found = list(records(cluster.history_dir))[::-1]
    for record in found:
        assert cluster.plan(Path(record.plan)).demand_qps == record.planned_qps
    return found


def test_each_plan_in_force_is_recorded_with_its_effect(cluster: Workspace) -> None:
    with serving(cluster.root, Path("plan"), *EVERY_SECOND) as live:
        for _ in range(5):
            body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}]}
            assert live.infer("text", body).status == 200
        status = live.until(lambda status: len(status["changes"]) == 1)
        apply_plan(cluster, live, "150qps")
        assert live.stop() == 0
    first, *others, last = kept(cluster)
    assert (first.origin, first.before, first.swaps) == ("start", None, 0)
    assert [record.before for record in (*others, last)] == [record.plan for record in (first, *others)]
    assert others[0].reason == status["changes"][0]["reason"] == "1 s have passed"
    assert set(others[0].seen.demand_qps["text"]) >= {"0.2s", "0.5s", "10s"}
    assert others[0].solve_s > 0
    effects = [record.effect for record in (first, *others, last)]
    assert [effect.why for effect in effects if effect] == ["replaced"] * (len(others) + 1) + ["stopped"]
    assert sum(effect.families["text"].outcomes["served"] for effect in effects if effect) == 5
    assert first.effect is not None
    assert first.effect.seconds >= 0.9
    assert first.effect.families["text"].slo_violation_ratio == 0


def test_a_full_disk_is_reported_and_serving_goes_on(cluster: Workspace) -> None:
    with serving(cluster.root, Path("plan"), *EVERY_SECOND) as live:
        live.until(lambda status: len(status["changes"]) == 1 and status["history"]["written"] > 2)
        limits = resource.prlimit(live.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(live.process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
        apply_plan(cluster, live, "150qps")
        full = live.until(lambda status: status["history"]["failed"] > 0)
        assert "Can't write" in full["history"]["problem"]
        assert b"\nproteus_plan_history_failures_total " in live.get("/metrics").body
        resource.prlimit(live.process.pid, resource.RLIMIT_FSIZE, limits)
        written = full["history"]["written"]
        apply_plan(cluster, live, "30qps")
        live.until(lambda status: status["history"]["written"] > written and status["history"]["problem"] is None)
        assert live.stop() == 0
    assert not list(cluster.history_dir.glob("*.tmp"))
    kept(cluster)


def test_a_server_whose_journal_cannot_be_written_serves(cluster: Workspace) -> None:
    cluster.history_dir.write_text("no directory")
    with serving(cluster.root, Path("plan"), *EVERY_SECOND) as live:
        live.until(lambda status: status["history"]["failed"] > 0 and len(status["changes"]) > 0)
        assert live.stop() == 0
        assert "the history of plans is not written" in live.log.read_text()


@pytest.fixture
def killed(cluster: Workspace) -> Iterator[LiveServer]:
    """A server that had changed its plan when it was killed."""
    with serving(cluster.root, Path("plan"), *EVERY_SECOND) as live:
        live.until(lambda status: len(status["changes"]) > 0 and status["history"]["written"] > 2)
        live.process.send_signal(signal.SIGKILL)
        live.process.wait()
        yield live


def test_a_server_resumes_the_plan_of_one_that_was_killed(cluster: Workspace, killed: LiveServer) -> None:
    last = kept(cluster)[-1]
    assert last.effect is None
    with serving(cluster.root, Path("plan"), "--emulate", "--replan=off") as live:
        status = live.status()
        assert status["plan"]["origin"] == "resumed"
        assert last.plan in status["plan"]["reason"]
        assert status["placements"] == [
            msgspec.to_builtins(placement) for placement in cluster.plan(Path(last.plan)).placements
        ]
        assert set(status["devices"]) == set(cluster.plan(Path("plan")).devices)
        assert live.stop() == 0
        assert "resuming the plan that was in force" in live.log.read_text()
    with serving(cluster.root, Path("plan"), "--emulate", "--replan=off") as live:
        assert live.status()["plan"]["origin"] == "start", "that one was stopped, not killed"
        assert live.stop() == 0


def test_a_server_does_not_resume_a_stale_plan_or_one_of_a_running_server(
    cluster: Workspace, killed: LiveServer
) -> None:
    with serving(cluster.root, Path("plan"), "--emulate", "--replan=off", "--set=resume=false") as live:
        assert live.status()["plan"]["origin"] == "start"
        os.kill(live.process.pid, signal.SIGKILL)
        live.process.wait()
    newest = cluster.history_dir / f"{kept(cluster)[-1].plan}.json"
    stale = msgspec.json.decode(newest.read_bytes())
    stale["inputs"] = dict.fromkeys(stale["inputs"], "0" * 64)
    newest.write_bytes(msgspec.json.encode(stale))
    with serving(cluster.root, Path("plan"), "--emulate", "--replan=off") as live:
        assert live.status()["plan"]["origin"] == "start"
        assert "has changed since" in live.log.read_text()
        with serving(cluster.root, Path("plan"), "--emulate", "--replan=off") as second:
            assert second.status()["plan"]["origin"] == "start", "nobody was killed: the first one serves"
