"""The loss of a host, with clients at a real server and in a simulation: both lose about as much, for about as long.

Two agents in processes of their own emulate two devices each. One is killed and started again,
at times that the simulation is then told.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import proteus
from live_agents import agents
from live_server import serving
from small_cluster import make_emulated_hosts, one_row
from steady import Ending, asking, violations

from proteus_cli.domain.report import Loss
from proteus_cli.store import Workspace

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.extended, pytest.mark.hosts]

HOSTS, DEVICES = "ab", 2
RATE_QPS = 240.0  # 60 % of what both hosts carry as accurately as can be, and 120 % of what one does
BEST = 0.9
CALM_S, AWAY_S, AFTER_S = 3.0, 3.0, 2.0


@dataclass(frozen=True)
class Seen:
    """What came of a loss, in seconds of the trace; the violations from then on, and the accuracy with the new plan."""

    lost_s: float
    back_s: float
    violations: float
    relative_accuracy: float


def breakers_are(state: str) -> Callable[[Any], bool]:
    """All devices of the host a are in that state."""
    return lambda status: all(status["devices"][f"a/cpu-{number}"]["breaker"] == state for number in range(DEVICES))


def simulated(place: Workspace, fails_s: float, returns_s: float, lasts_s: float) -> Seen:
    trace = place.root / "even.csv"
    arrivals = (number / RATE_QPS for number in range(round(lasts_s * RATE_QPS)))
    trace.write_text("arrival_s,family\n" + "".join(f"{at_s:.4f},shapes\n" for at_s in arrivals))
    failure = f"a@{fails_s:.3f}s..{returns_s:.3f}s"
    report = proteus("replay", trace, "--plan", "plan", "--fail", failure, "--json", "-w", place.root).document()
    (loss,) = (Loss(**each) for each in report["losses"])
    assert (loss.what, loss.devices) == ("host a", DEVICES)
    assert loss.back_s is not None
    after = [each for each in report["seconds"] if each["start_s"] > fails_s - 1]
    asked = sum(each["demand_qps"] * each["length_s"] for each in after)
    away = [each["relative_accuracy"] for each in after if loss.at_s + 1 < each["start_s"] < returns_s - 1]
    return Seen(loss.at_s, loss.back_s, sum(each["violations"] for each in after) / asked, sum(away) / len(away))


def accuracy(endings: Sequence[Ending]) -> float:
    known = [float(each.said["accuracy"]) / BEST for each in endings if "accuracy" in each.said]
    return sum(known) / len(known)


def test_a_lost_host_costs_as_much_as_simulated(tmp_path: Path) -> None:
    place = make_emulated_hosts(tmp_path / "ws", HOSTS, RATE_QPS, DEVICES)
    with agents(place.root, HOSTS, emulate=True) as running:
        options = ("--emulate", "--cluster", str(place.root / "hosts.toml"), "--set=resume=false")
        with serving(place.root, Path("plan"), *options) as live, asking(live, {"shapes": RATE_QPS}, one_row) as steady:
            start_s = time.monotonic()
            time.sleep(CALM_S)
            fails_s = time.monotonic()
            running["a"].kill()
            live.until(breakers_are("open"))
            lost_s = time.monotonic()
            live.until(lambda status: status["changes"])
            planned_s = time.monotonic()
            time.sleep(AWAY_S)
            running["a"].start()
            returns_s = time.monotonic()
            live.until(breakers_are("closed"))
            back_s = time.monotonic()
            time.sleep(AFTER_S)
            ends_s = time.monotonic()
    after, away = steady.ended("shapes", fails_s), steady.ended("shapes", planned_s + 1.0, returns_s)
    found = Seen(lost_s - start_s, back_s - start_s, violations(after), accuracy(away))
    expected = simulated(place, fails_s - start_s, returns_s - start_s, ends_s - start_s)
    assert found.lost_s == pytest.approx(expected.lost_s, abs=0.5)
    assert found.back_s == pytest.approx(expected.back_s, abs=1.5)
    assert found.violations == pytest.approx(expected.violations, abs=0.15)
    assert found.relative_accuracy == pytest.approx(expected.relative_accuracy, abs=0.06)
    assert expected.relative_accuracy < 0.95, "one host alone is less accurate"
