"""A host that is lost and back is told once, wherever people look."""

import re
from pathlib import Path
from typing import Any

import pytest
from injecting import until
from live_agents import add_remote_profiles, agents
from live_server import LiveServer, serving
from tiny import SHAPES, add_plan, make_workspace

pytestmark = [pytest.mark.live, pytest.mark.extended, pytest.mark.hosts]


def events(live: LiveServer) -> list[Any]:
    """What the page tells of devices."""
    found: Any = live.get("/v2/proteus/history").document()["events"]
    return [event for event in found if event["kind"] == "device"]


def told(live: LiveServer, text: str) -> list[str]:
    """The reasons of the events of that text."""
    return [event["reason"] for event in events(live) if event["text"] == text]


def test_a_lost_host_is_one_event_in_status_history_metrics_and_log(tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "ws", [SHAPES])
    add_remote_profiles(made, "ab")
    add_plan(made, {"a/cpu0": "shapes-l", "b/cpu0": "shapes-l"})
    with (
        agents(made.root, "ab") as running,
        serving(made.root, Path("plan"), "--cluster", str(made.root / "hosts.toml")) as live,
    ):
        live.until(lambda status: {host["state"] for host in status["hosts"].values()} == {"connected"})
        live.until(lambda status: all(host["round_trip_s"] for host in status["hosts"].values()))
        running["a"].kill()
        lost = live.until(lambda status: status["hosts"]["a"]["state"] == "lost")["hosts"]["a"]
        assert (lost["devices"], lost["working"], lost["round_trip_s"]) == (1, 0, None)
        assert lost["losses"] > 0
        assert 'proteus_host_up{host="a"} 0' in live.get("/metrics").body.decode()
        until(lambda: told(live, "a/cpu0 was lost"), "the event of the loss")
        running["a"].start()
        live.until(lambda status: status["hosts"]["a"]["state"] == "connected")
        live.until(lambda status: status["devices"]["a/cpu0"]["breaker"] == "closed")
        until(lambda: told(live, "a/cpu0 is back"), "the event of the return")
        assert told(live, "a/cpu0 was lost")[0].startswith("host a ")
        assert told(live, "a/cpu0 is back")[0].startswith("after ")
        assert 'proteus_host_up{host="a"} 1' in live.get("/metrics").body.decode()
        assert live.stop() == 0
        log = live.log.read_text()
        assert re.search(r"host a \(\S+\) is lost: ", log)
        assert "all devices of host a are back" in log
        assert "a/cpu0 died" not in log
        assert "opening a/cpu0 again" not in log
