"""Hosts that hang, are cut off, slow, or come and go: each request ends exactly once, at its client and at the agents.

Three agents in processes of their own have emulated devices, and each stands behind a piece of network.
"""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from injecting import until, until_said
from live_agents import LiveAgent, agents, write_hosts
from live_server import LiveServer, serving
from relay import Relay
from small_cluster import make_emulated_hosts, one_row
from steady import Steady, asking

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.extended, pytest.mark.hosts]

HOSTS = "abc"
PLANNED_QPS = 200.0  # two thirds of what all carry as accurately as can be: each has its share
RATE_QPS = 90.0
BURST = 30  # requests at once: 100 ms of work for each device


class World:
    """A server and its agents; what an agent said before does not count."""

    def __init__(self, live: LiveServer, running: dict[str, LiveAgent], relays: dict[str, Relay]) -> None:
        self.live, self.agents, self.relays = live, running, relays
        self._heard = {name: len(agent.log) for name, agent in running.items()}

    def said(self, host: str) -> str:
        return self.agents[host].log[self._heard[host] :]

    def ends(self, host: str) -> list[int]:
        """The epochs of the sessions at a host that have ended."""
        lines = [line for line in self.said(host).splitlines() if " is gone: " in line]
        return [int(found[1]) for line in lines if (found := re.search(r"epoch=(\d+)\b", line))]

    def is_lost(self, host: str) -> Callable[[Any], bool]:
        return lambda status: status["devices"][f"{host}/cpu-0"]["breaker"] != "closed"

    def until_lost(self, host: str) -> None:
        self.live.until(self.is_lost(host))

    def until_back(self, host: str) -> None:
        self.live.until(lambda status: not self.is_lost(host)(status))

    def until_serves(self, host: str, steady: Steady) -> None:
        """Until the device of a host answers what is sent from now on."""
        now_s = time.monotonic()
        until(lambda: any(each.device == f"{host}/cpu-0" for each in steady.ended("shapes", now_s)), f"{host} serves")

    def stop(self) -> None:
        """Stop the server; then its sessions end at all agents."""
        assert self.live.stop() == 0
        assert "Traceback" not in self.live.log.read_text()
        for host in self.agents:
            until(lambda host=host: self.ends(host), "the end of a session")
            assert "Traceback" not in self.said(host)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_emulated_hosts(tmp_path_factory.mktemp("losses") / "ws", HOSTS, PLANNED_QPS).root


@pytest.fixture(scope="module")
def running(root: Path) -> Iterator[dict[str, LiveAgent]]:
    with agents(root, HOSTS, emulate=True) as started:
        yield started


@contextmanager
def serving_hosts(root: Path, running: dict[str, LiveAgent], *more: str) -> Iterator[World]:
    with ExitStack() as stack:
        relays = {name: stack.enter_context(closing(Relay(agent.port))) for name, agent in running.items()}
        hosts = write_hosts(root, {name: relay.port for name, relay in relays.items()})
        options = ("--emulate", "--cluster", str(hosts), "--set=resume=false")
        live = stack.enter_context(serving(root, Path("plan"), *options, *more))
        assert "emulated" in live.said
        yield World(live, running, relays)


@pytest.fixture
def world(root: Path, running: dict[str, LiveAgent]) -> Iterator[World]:
    with serving_hosts(root, running) as found:
        yield found


def test_late_answers_of_a_host_that_hung_reach_nobody(world: World) -> None:
    """It is stopped with batches inside, and ends them once it goes on: its ghost. They have run elsewhere by then."""
    with asking(world.live, {"shapes": RATE_QPS}, one_row) as steady:
        world.until_serves("a", steady)
        steady.at_once("shapes", BURST, 0.01)
        time.sleep(0.03)
        os.kill(world.agents["a"].pid, signal.SIGSTOP)
        world.until_lost("a")
        until_said(world.live, "host a (127.0.0.1", 2)  # connected, and lost
        assert "nothing came from it for 500 ms" in world.live.log.read_text()
        os.kill(world.agents["a"].pid, signal.SIGCONT)
        world.until_back("a")
        world.until_serves("a", steady)
    world.stop()
    assert steady.tally("shapes").get("failed", 0) == 0
    hung, after = world.ends("a")
    assert after > hung


def test_what_was_held_on_its_way_reaches_nobody(world: World) -> None:
    """A cable is cut, and both ends still think that they are connected; later all that was sent arrives at once."""
    with asking(world.live, {"shapes": RATE_QPS}, one_row) as steady:
        world.until_serves("b", steady)
        world.relays["b"].hold()
        world.until_lost("b")
        until_said(world.live, "nothing came from it for 500 ms")
        assert world.ends("b") == []  # it waits for its server
        world.relays["b"].release()
        world.until_back("b")
        world.until_serves("b", steady)
    world.stop()
    first, *_, last = world.ends("b")
    assert first < last
    assert {world.ends(host)[-1] for host in "ac"} == {1}
    assert steady.tally("shapes").get("failed", 0) == 0


def test_a_slow_network_makes_a_host_slow_and_not_lost(root: Path, running: dict[str, LiveAgent]) -> None:
    """50 ms each way: the server has it do less than the others, until the network is as it was."""

    def slower(status: Any) -> float:
        """How much slower the device of `c` is than the slowest of the others: also on a machine that is busy."""
        pace = {host: status["devices"][f"{host}/cpu-0"]["pace"] for host in HOSTS}
        return float(pace["c"] / max(pace["a"], pace["b"]))

    with serving_hosts(root, running, "--replan=off") as world:
        with asking(world.live, {"shapes": 1.5 * RATE_QPS}, one_row) as steady:
            world.until_serves("c", steady)
            world.relays["c"].latency_s = 0.05
            world.live.until(lambda status: slower(status) > 2.0)
            slow_s = time.monotonic()
            until(lambda: len(steady.ended("shapes", slow_s)) >= 3 * RATE_QPS, "answers")
            shares = {host: sum(e.device == f"{host}/cpu-0" for e in steady.ended("shapes", slow_s)) for host in HOSTS}
            assert shares["c"] < min(shares["a"], shares["b"])
            world.relays["c"].latency_s = 0.0
            world.live.until(lambda status: slower(status) < 1.5)
        world.stop()
        assert " is lost: " not in world.live.log.read_text()
        assert steady.tally("shapes").get("failed", 0) == 0


def test_a_host_that_comes_and_goes_is_tried_less_often_and_fills_no_log(world: World) -> None:
    with asking(world.live, {"shapes": RATE_QPS}, one_row) as steady:
        relay, stop_s = world.relays["a"], time.monotonic() + 5.0
        while time.monotonic() < stop_s:
            time.sleep(0.1)
            relay.cut()
            time.sleep(0.02)
            relay.mend()
        world.until_back("a")
        world.until_serves("a", steady)
    told = [line for line in world.live.log.read_text().splitlines() if "a/cpu-0" in line or "host a " in line]
    # Connections come after 0.1, 0.2, 0.4, 0.8, 1.6 and 2 s, tries of the device after 0.5, 1, 2 and 4 s.
    assert len(told) <= 30, told
    world.stop()
    assert len(world.ends("a")) <= 8
    assert steady.tally("shapes").get("failed", 0) == 0


def test_an_agent_that_is_killed_and_started_again_knows_nothing_of_before(
    world: World, running: dict[str, LiveAgent]
) -> None:
    with asking(world.live, {"shapes": RATE_QPS}, one_row) as steady:
        world.until_serves("c", steady)
        steady.at_once("shapes", BURST, 0.01)
        running["c"].kill()
        world.until_lost("c")
        running["c"].start()
        world.until_back("c")
        world.until_serves("c", steady)
    world.stop()
    (end,) = world.ends("c")  # of the agent that was killed, nothing is said
    assert end > 1
    assert steady.tally("shapes").get("failed", 0) == 0


def test_a_server_that_is_killed_leaves_agents_that_the_next_one_finds(
    world: World, root: Path, running: dict[str, LiveAgent]
) -> None:
    world.live.process.kill()
    world.live.process.wait()
    for host in HOSTS:
        until(lambda host=host: world.ends(host), "the end of a session")
    with serving_hosts(root, running) as again:
        with asking(again.live, {"shapes": RATE_QPS}, one_row) as steady:
            for host in HOSTS:
                again.until_serves(host, steady)
        again.stop()
        assert steady.tally("shapes").get("failed", 0) == 0
