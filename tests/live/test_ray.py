"""A Ray cluster of two nodes: it starts the agents of a server, and may go away while that serves."""

import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from injecting import breaker_is, is_gone, until, until_said
from live_agents import add_remote_profiles
from live_ray import HEAD_GONE, LiveRay, ran, ray_cluster
from live_server import expect_stopped_well, serving
from steady import Steady, asking, one_row
from tiny import SHAPES, Tiny, add_plan, make_workspace

pytestmark = [
    pytest.mark.live,
    pytest.mark.alone,
    pytest.mark.extended,
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed; `make test-ray` adds it"),
]

RATE_QPS = 100.0  # more than one device carries with the most accurate variant: both have to answer
LISTED_WITHIN_S = 240.0


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    """The most accurate variant on both nodes."""
    made = make_workspace(tmp_path / "ws", [SHAPES])
    add_remote_profiles(made, "ab")
    add_plan(made, {"a/cpu0": "shapes-l", "b/cpu0": "shapes-l"})
    return made


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveRay]:
    with ray_cluster("a", "b") as ray:
        monkeypatch.setenv("RAY_ADDRESS", ray.address)
        monkeypatch.setenv(*HEAD_GONE)
        yield ray


def serving_cluster(made: Tiny) -> Any:
    """A server, once Ray has placed the agents."""
    until_listed(made)
    return serving(made.root, Path("plan"), "--cluster", "auto", "--set=join=false")


def until_listed(made: Tiny) -> None:
    """Until Ray lists both nodes, and their agents answer. Many processes start meanwhile."""
    stop_s, said = time.monotonic() + LISTED_WITHIN_S, ""
    while not ("a/cpu0" in said and "b/cpu0" in said):
        assert time.monotonic() < stop_s, said
        said = ran("devices", "--cluster", "auto", "-w", str(made.root))


def answered_by(steady: Steady, devices: set[str]) -> Callable[[], bool]:
    """Whether all these devices answer what is sent from now on, and no other does."""
    since_s = time.monotonic()
    return lambda: steady.devices("shapes", since_s) == devices


def test_a_node_of_ray_is_killed_under_load_then_its_agent_and_both_come_back(made: Tiny, ray: LiveRay) -> None:
    """Each request ends once, as `asking` checks."""
    with serving_cluster(made) as live:
        with asking(live, {"shapes": RATE_QPS}, one_row) as steady:
            until(answered_by(steady, {"a/cpu0", "b/cpu0"}), "answers of both nodes")
            first = ray.agent("b")
            ray.kill("b")
            until(answered_by(steady, {"a/cpu0", "b/cpu0"}), "answers of the agent whose node is gone")
            assert ray.agent("b") == first
            ray.kill_agent("b")
            live.until(breaker_is("b/cpu0", "open"))
            until(answered_by(steady, {"a/cpu0"}), "answers of the other node")
            ray.start("b")
            live.until(breaker_is("b/cpu0", "closed"), LISTED_WITHIN_S)
            until(answered_by(steady, {"a/cpu0", "b/cpu0"}), "answers of both nodes again")
            assert ray.agent("b").pid != first.pid
        expect_stopped_well(live)
    agents = [ray.agent(name).pid for name in "ab"]
    assert "ended 2 agents" in ran("cluster", "down")
    until(lambda: all(map(is_gone, agents)), "agents that were taken down")


def test_the_loss_of_rays_head_stops_no_serving(made: Tiny, ray: LiveRay) -> None:
    """The node without a head ends, too. A new head finds the agents of the old one, and no device is lost."""
    with serving_cluster(made) as live:
        with asking(live, {"shapes": RATE_QPS}, one_row) as steady:
            until(answered_by(steady, {"a/cpu0", "b/cpu0"}), "answers of both nodes")
            agents = [ray.agent(name).pid for name in "ab"]
            node = ray.nodes["b"]
            ray.kill("a")
            until(lambda: node.poll() is not None, "the end of a node without a head")
            until_said(live, "the hosts stay as they are")
            until(answered_by(steady, {"a/cpu0", "b/cpu0"}), "answers of both nodes, which are gone")
            ray.kill("b")
            ray.start("a", is_head=True)
            ray.start("b")
            until_listed(made)
            until(answered_by(steady, {"a/cpu0", "b/cpu0"}), "answers of both nodes again")
            assert [ray.agent(name).pid for name in "ab"] == agents
        assert not {"failed", "lost"} & {ending.outcome for ending in steady.endings}
        for name in "ab":
            ray.kill(name)
        expect_stopped_well(live)
    until(lambda: all(map(is_gone, agents)), "agents without a server and without Ray")
