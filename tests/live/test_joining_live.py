"""Hosts that appear while a server runs: their devices are measured if need be, tried out, planned with, and serve."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from injecting import until, until_said
from live_agents import add_remote_profiles, agents, make_agent, write_hosts
from live_server import serving
from steady import asking, one_row
from tiny import SHAPES, Tiny, add_plan, make_workspace

from proteus_cli.backends.affinity import usable_cores
from proteus_cli.serving.adaptation.plan_journal import records
from proteus_cli.store import Workspace

pytestmark = [
    pytest.mark.live,
    pytest.mark.extended,
    pytest.mark.hosts,
    pytest.mark.skipif(len(usable_cores()) < 2, reason="devices of one core and of two are different ones"),
]

MEASURED_WITHIN_S = 300.0
RATE_QPS = 40.0


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    """A plan for host a, whose device has one core."""
    made = make_workspace(tmp_path / "ws", [SHAPES])
    add_remote_profiles(made, "a")
    add_plan(made, {"a/cpu0": "shapes-l"})
    return made


def serves(device: str) -> Callable[[Any], bool]:
    return lambda status: status["devices"].get(device, {}).get("breaker") == "closed"


def serving_cluster(made: Tiny) -> Any:
    return serving(made.root, Path("plan"), "--cluster", str(made.root / "hosts.toml"), "--set=join-budget=2s")


def test_a_host_that_appears_is_measured_and_served_with_and_a_server_started_again_knows_it(made: Tiny) -> None:
    """Host b has a device of two cores, like no other; host c one like that of host a."""
    with agents(made.root, "a") as running:
        with serving_cluster(made) as live:
            with asking(live, {"shapes": RATE_QPS}, one_row) as steady:
                for name, cores in (("b", 2), ("c", 1)):
                    running[name] = make_agent(made.root, name, cores=cores)
                    running[name].start()
                    write_hosts(made.root, {host: each.port for host, each in running.items()})
                    live.until(serves(f"{name}/cpu0"), MEASURED_WITHIN_S)
                running["a"].kill()
                live.until(lambda status: status["devices"]["a/cpu0"]["breaker"] == "open")
                lost_s = time.monotonic()
                until(lambda: steady.devices("shapes", lost_s) & {"b/cpu0", "c/cpu0"}, "answers of a host that joined")
                running["a"].start()
                live.until(serves("a/cpu0"))
            measured, alike = (made.place.profile(f"{name}/cpu0") for name in "bc")
            assert measured.measured_on == "b/cpu0"
            assert all(variant.points[0].runs > 0 for variant in measured.variants)
            assert alike.measured_on == made.place.profile("a/cpu0").measured_on
            assert live.log.read_text().count("measuring ") == 1
            assert live.status()["devices"]["b/cpu0"]["losses"] == 0
            live.process.kill()
            live.process.wait()
        journal = list(records(made.place.history_dir))
        for device in ("b/cpu0", "c/cpu0"):
            (joined,) = [record for record in journal if f"{device} has joined" in record.reason]
            assert device in made.place.plan(Path(joined.plan)).devices
        with serving_cluster(made) as live:
            status = live.until(lambda status: all(serves(f"{name}/cpu0")(status) for name in "abc"))
            assert status["plan"]["origin"] == "resumed"
            assert " joins" not in live.log.read_text()
            assert live.stop() == 0
            assert "Traceback" not in live.log.read_text()


def test_a_host_that_is_listed_and_was_never_measured_joins_after_the_start(made: Tiny) -> None:
    """It is not listed any more later: it serves on until its agent ends."""
    with agents(made.root, "a") as running:
        running["b"] = make_agent(made.root, "b", cores=2)
        running["b"].start()
        write_hosts(made.root, {host: each.port for host, each in running.items()})
        with serving_cluster(made) as live:
            live.until(serves("b/cpu0"), MEASURED_WITHIN_S)
            write_hosts(made.root, {"a": running["a"].port})
            until_said(live, "is not listed any more; it serves until its connection ends")
            assert serves("b/cpu0")(live.status())
            assert running["b"].stop() == 0
            live.until(lambda status: status["devices"]["b/cpu0"]["breaker"] == "open")
            assert serves("a/cpu0")(live.status())
            assert live.stop() == 0
            assert "Traceback" not in live.log.read_text()


def test_two_servers_have_a_host_measured_and_both_serve_with_it(made: Tiny) -> None:
    """Both ask before either serves with it. The second profile may have cells that the first had no time for."""
    other = made.root.with_name("other")
    shutil.copytree(made.root, other)
    with agents(made.root, "a") as running:
        options = ("--cluster", str(made.root / "hosts.toml"), "--set=join-budget=10s")
        first, second = (serving(root, Path("plan"), *options) for root in (made.root, other))
        with first as one, second as two:
            running["b"] = make_agent(made.root, "b", cores=2)
            running["b"].start()
            write_hosts(made.root, {host: each.port for host, each in running.items()})
            for live in (one, two):
                live.until(serves("b/cpu0"), MEASURED_WITHIN_S)
            profiles = [Workspace(root).profile("b/cpu0") for root in (made.root, other)]
            assert profiles[0].device == profiles[1].device
            assert {each.key for each in profiles[0].variants} == {each.key for each in profiles[1].variants}
            for live in (one, two):
                assert live.stop() == 0
                assert "Traceback" not in live.log.read_text()
                assert "cannot join" not in live.log.read_text()
