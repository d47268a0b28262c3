"""Profiles that are wrong are put right while serving, written back, and planned with, also by the next server."""

import signal
from pathlib import Path
from typing import Any

import pytest
from command_line import proteus
from injecting import until
from live_server import LiveServer, serving
from tiny import Tiny, TinyFamily, TinyVariant, add_plan, add_profiles, make_workspace

from proteus_cli import store
from proteus_cli.domain.profile import Recorded

pytestmark = pytest.mark.live

# In truth these take some 0.05 ms: too fast by far more than what an estimate may leave of a profile, which is half.
FAMILY = TinyFamily(
    "shapes",
    (TinyVariant("fast", 0.70, hidden=4, first_s=0.02), TinyVariant("accurate", 0.90, hidden=8, first_s=0.08)),
    slo="400ms",
)
X = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 0.4]}


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    tiny = make_workspace(tmp_path / "ws", (FAMILY,))
    add_profiles(tiny, ("cpu0",))
    add_plan(tiny, {"cpu0": "fast"}, demand_qps=5.0)
    return tiny


def has_replanned_for_drift(status: Any) -> bool:
    return "drift" in {change["origin"] for change in status["changes"]}


def ask_until_corrected(live: LiveServer) -> None:
    def is_corrected() -> bool:
        assert live.infer("shapes", {"inputs": [X]}).status in {200, 429}
        return bool(live.status()["drift"]["corrections"])

    until(is_corrected)


def until_recorded(made: Tiny, live: LiveServer) -> None:
    """Wait until the plan in force is in the history, from which the next server resumes it."""
    in_force, history = live.status()["plan"]["id"], made.root / "plans" / "history"
    until(lambda: in_force in {record.stem for record in history.glob("*.json")}, "the record of the plan")


def test_a_corrected_profile_is_recorded_and_the_next_server_uses_it(made: Tiny) -> None:
    options = ("--set=drift-after=1200ms", "--set=record=true")
    before = store.digest(made.place.profile_path("cpu0"))
    with serving(made.root, Path("plan"), *options) as live:
        ask_until_corrected(live)
        live.until(lambda status: store.digest(made.place.profile_path("cpu0")) != before)
        live.until(has_replanned_for_drift)
        until_recorded(made, live)
        (correction,) = live.status()["drift"]["last"]
        assert (correction["device"], correction["variant"]) == ("cpu0", "fast")
        assert b"\nproteus_profile_corrections_total 1" in live.get("/metrics").body
        live.process.send_signal(signal.SIGKILL)
        live.process.wait()
        assert "Traceback" not in live.log.read_text()

    measured = made.place.profile("cpu0").of("shapes", "fast")
    assert measured is not None
    assert isinstance(measured.recorded, Recorded)
    assert measured.recorded.replaces == before
    assert [each.factor for each in measured.recorded.points] == pytest.approx([0.5] * 4)
    assert measured.points[0].mean_s == pytest.approx(0.01)
    assert measured.points[0].runs == measured.recorded.points[0].batches >= 20
    untouched = made.place.profile("cpu0").of("shapes", "accurate")
    assert untouched is not None
    assert not isinstance(untouched.recorded, Recorded)

    with serving(made.root, Path("plan"), *options) as live:
        assert live.status()["plan"]["origin"] == "resumed", live.log.read_text()
        assert live.stop() == 0
    with serving(made.root, Path("plan"), *options) as live:
        status = live.status()
        assert status["plan"]["origin"] == "resumed", "the plan that it was started with is stale"
        assert live.stop() == 0
    assert "has changed since the plan" in proteus("serve", "plan", "--set=resume=false", "-w", made.root).refused()


@pytest.mark.extended
def test_a_server_that_is_killed_resumes_though_it_wrote_no_profile(made: Tiny) -> None:
    options = ("--set=drift-after=1200ms",)
    before = store.digest(made.place.profile_path("cpu0"))
    with serving(made.root, Path("plan"), *options) as live:
        ask_until_corrected(live)
        live.until(has_replanned_for_drift)
        until_recorded(made, live)
        live.process.send_signal(signal.SIGKILL)
        live.process.wait()
    assert store.digest(made.place.profile_path("cpu0")) == before
    with serving(made.root, Path("plan"), *options) as live:
        assert live.status()["plan"]["origin"] == "resumed", live.log.read_text()
        assert live.stop() == 0
