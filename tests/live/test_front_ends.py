"""Two servers on one set of agents, each in a process of its own: neither is a single point of failure."""

import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from injecting import descendants, until
from live_agents import LiveAgent, add_remote_profiles, agents
from live_server import LiveServer, serving
from steady import Steady, asking, one_row, row
from tiny import SHAPES, Tiny, add_plan, make_workspace

pytestmark = [pytest.mark.live, pytest.mark.extended, pytest.mark.hosts, pytest.mark.from_nothing]

RATE_QPS = 40.0
DEVICES = ("a/cpu0", "b/cpu0")


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    """The most accurate variant on both hosts."""
    made = make_workspace(tmp_path / "ws", [SHAPES])
    add_remote_profiles(made, "ab")
    add_plan(made, dict.fromkeys(DEVICES, "shapes-l"))
    return made


@contextmanager
def two_servers(made: Tiny) -> Iterator[tuple[LiveServer, LiveServer]]:
    """Each has a workspace of its own, as on two machines."""
    other = made.root.with_name("other")
    shutil.copytree(made.root, other)
    hosts = str(made.root / "hosts.toml")
    first, second = (serving(root, Path("plan"), "--cluster", hosts) for root in (made.root, other))
    with first as one, second as two:
        yield one, two


def capacity_qps(live: LiveServer) -> float:
    return float(live.status()["families"]["shapes"]["capacity_qps"])


def has_all(status: Any) -> bool:
    return all(status["devices"][device]["breaker"] == "closed" for device in DEVICES)


def is_shared(live: LiveServer) -> bool:
    return live.log.read_text().count("shared by 2 servers") >= 1


def test_one_of_two_servers_is_killed_and_the_other_carries_on_with_all_of_the_devices(made: Tiny) -> None:
    with agents(made.root, "ab") as running, two_servers(made) as (first, second):
        for live in (first, second):
            until(lambda live=live: is_shared(live), "two servers")
            live.until(has_all)
            until(lambda live=live: live.status()["plan"]["origin"] == "demand", "a plan for half of the devices")
        shared_qps = capacity_qps(first)
        with asking(first, {"shapes": RATE_QPS}, one_row) as mine:
            theirs = Steady(second.port, {"shapes": RATE_QPS}, one_row)
            theirs.start()
            for steady in (mine, theirs):
                until(lambda steady=steady: steady.devices("shapes") == set(DEVICES), "answers of both hosts")
            killed_s = time.monotonic()
            second.process.send_signal(signal.SIGKILL)
            until(lambda: capacity_qps(first) > 1.5 * shared_qps, "the capacity of all devices")
            took_s = time.monotonic() - killed_s
            theirs.stop()
            until(lambda: mine.devices("shapes", killed_s) == set(DEVICES), "answers of both hosts")
        print(f"all capacity was back after {took_s * 1e3:.0f} ms")  # noqa: T201 - shown by `pytest -s`
        assert mine.tally("shapes").keys() <= {"served", "late"}
        assert theirs.tally("shapes").keys() <= {"served", "late", "lost"}
        assert "Traceback" not in first.log.read_text()
        ended_well(first, running)


def test_two_servers_that_stop_one_after_the_other_leave_nothing(made: Tiny) -> None:
    with agents(made.root, "ab") as running, two_servers(made) as (first, second):
        until(lambda: is_shared(first), "two servers")
        assert all(len(descendants(agent.pid)) == 2 for agent in running.values())
        assert second.stop() == 0
        until(lambda: "this server's alone" in first.log.read_text(), "one server")
        assert first.infer("shapes", row()).status == 200
        ended_well(first, running)


def ended_well(live: LiveServer, running: dict[str, LiveAgent]) -> None:
    assert live.stop() == 0
    for agent in running.values():
        until(lambda agent=agent: not descendants(agent.pid), "devices after the servers")
        assert agent.stop() == 0
        assert "Traceback" not in agent.log
