"""A server with the devices of two agents, each in a process of its own, and everything that can happen to those."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import psutil
import pytest
from command_line import proteus
from injecting import breaker_is, descendants, is_gone, until, until_said
from live_agents import LiveAgent, add_remote_profiles, agents, write_hosts
from live_server import LiveServer, Reply, expect_stopped_well, serving
from relay import Relay
from steady import asking, one_row, row
from tiny import SHAPES, Tiny, add_plan, make_workspace

from proteus_cli.domain.profile import Profile
from proteus_cli.serving.cluster.new_key import write_key
from proteus_cli.store import read_json

pytestmark = [pytest.mark.live, pytest.mark.extended, pytest.mark.from_nothing]

RATE_QPS = 40.0


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    """The most accurate variant on both hosts."""
    made = make_workspace(tmp_path / "ws", [SHAPES])
    add_remote_profiles(made, "ab")
    add_plan(made, {"a/cpu0": "shapes-l", "b/cpu0": "shapes-l"})
    return made


@contextmanager
def serving_cluster(made: Tiny) -> Iterator[LiveServer]:
    with serving(made.root, Path("plan"), "--cluster", str(made.root / "hosts.toml")) as live:
        yield live


def answered_by(live: LiveServer) -> str:
    """The device that answers, once one does: a machine without time for its processes loses some for a while."""
    replies = list[Reply]()

    def is_answered() -> bool:
        replies.append(live.infer("shapes", row()))
        return replies[-1].status == 200

    until(is_answered, "an answer")
    return str(replies[-1].document()["parameters"]["device"])


def expect_all_stopped_well(live: LiveServer, running: dict[str, LiveAgent]) -> None:
    """Nothing of the server is left at the agents."""
    expect_stopped_well(live)
    for agent in running.values():
        until(lambda agent=agent: not descendants(agent.pid), "devices after the server")
        assert agent.stop() == 0
        assert "Traceback" not in agent.log


def test_a_cluster_serves_with_the_devices_of_all_hosts_and_loses_none_of_its_requests(made: Tiny) -> None:
    """One agent is killed under load, and comes back; each request ends once, as `asking` checks.

    The load is more than the most accurate variant carries on one device.
    """
    key = made.root / "cluster.pem"
    write_key(key)
    with agents(made.root, "ab", key) as running, serving_cluster(made) as live:
        with asking(live, {"shapes": 3 * RATE_QPS}, one_row) as steady:
            until(lambda: steady.devices("shapes") == {"a/cpu0", "b/cpu0"}, "answers of both hosts")
            running["a"].kill()
            live.until(breaker_is("a/cpu0", "open"))
            lost_s = time.monotonic()
            until(lambda: steady.devices("shapes", lost_s) == {"b/cpu0"}, "answers of the other host")
            running["a"].start()
            live.until(breaker_is("a/cpu0", "closed"))
            back_s = time.monotonic()
            until(lambda: steady.devices("shapes", back_s) == {"a/cpu0", "b/cpu0"}, "answers of both hosts")
        assert "a/cpu0 died" not in live.log.read_text()
        expect_all_stopped_well(live, running)


def test_a_stopped_host_is_lost_and_is_back_when_it_goes_on(made: Tiny) -> None:
    """Its agent and the processes of its devices stand still: batches go to these directly, so their answers count."""
    with agents(made.root, "ab") as running, serving_cluster(made) as live:
        with asking(live, {"shapes": RATE_QPS}, one_row):
            agent = psutil.Process(running["b"].pid)
            host = [agent, *agent.children(recursive=True)]
            for process in host:
                process.suspend()
            live.until(breaker_is("b/cpu0", "open"))
            until_said(live, "is lost: nothing came from it for 500 ms")
            for process in host:
                process.resume()
            live.until(breaker_is("b/cpu0", "closed"))
        expect_all_stopped_well(live, running)


def test_a_server_starts_without_a_host_that_is_not_there_yet(made: Tiny) -> None:
    """It serves with a device of its own machine meanwhile."""
    add_plan(made, {"cpu0": "shapes-l", "b/cpu0": "shapes-l"})
    with agents(made.root, "ab") as running:
        running["b"].kill()
        with serving_cluster(made) as live:
            assert breaker_is("b/cpu0", "open")(live.status())
            assert answered_by(live) == "cpu0"
            running["b"].start()
            live.until(breaker_is("b/cpu0", "closed"))
            expect_all_stopped_well(live, running)


def test_a_server_that_is_killed_leaves_nothing_and_the_next_one_finds_its_agents(made: Tiny) -> None:
    with agents(made.root, "ab") as running:
        with serving_cluster(made) as live:
            assert answered_by(live) in {"a/cpu0", "b/cpu0"}
            devices = [pid for agent in running.values() for pid in descendants(agent.pid)]
            assert len(devices) == 2
            live.process.kill()
            live.process.wait()
            until(lambda: all(map(is_gone, devices)), "devices of the server that was killed")
        with serving_cluster(made) as live:
            assert answered_by(live) in {"a/cpu0", "b/cpu0"}
            expect_all_stopped_well(live, running)


def test_a_cut_connection_is_made_again_and_strangers_at_the_port_disturb_nobody(made: Tiny) -> None:
    with agents(made.root, "ab") as running:
        relay = Relay(running["a"].port)
        write_hosts(made.root, {"a": relay.port, "b": running["b"].port})
        with serving_cluster(made) as live:
            with asking(live, {"shapes": RATE_QPS}, one_row):
                for said in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, b""):
                    with socket.create_connection(("127.0.0.1", running["b"].port)) as stranger:
                        stranger.sendall(said)
                relay.cut()
                live.until(breaker_is("a/cpu0", "open"))
                relay.mend()
                live.until(breaker_is("a/cpu0", "closed"))
            until(lambda: running["b"].log.count("was no server's") == 3, "what strangers were")
            expect_all_stopped_well(live, running)
        relay.close()


def test_a_measurement_ends_with_the_agent_that_measures(made: Tiny) -> None:
    """Also the devices that it has open, as `kill` checks."""
    with agents(made.root, "a") as running:
        command = [sys.executable, "-m", "proteus_cli", "profile", "--device", "a/cpu0", "-w", str(made.root)]
        command += ["--cluster", str(made.root / "hosts.toml"), "--force", "--accept-noise", "--budget", "60s"]
        measuring = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until(lambda: "measuring_child" in commands_of(descendants(running["a"].pid)), "a measurement")
        running["a"].kill()
        _, said = measuring.communicate(timeout=60)
        assert measuring.returncode == 1
        assert "host a (127.0.0.1" in said


@pytest.mark.hosts
def test_a_cpu_that_serves_is_measured_beside_that_at_low_priority(made: Tiny) -> None:
    with agents(made.root, "ab") as running, serving_cluster(made) as live:
        live.until(lambda status: {host["working"] for host in status["hosts"].values()} == {1})
        command = [sys.executable, "-m", "proteus_cli", "profile", "--device", "a/cpu0", "-w", str(made.root)]
        command += ["--cluster", str(made.root / "hosts.toml"), "--force", "--budget", "5s", "--json"]
        with (
            asking(live, {"shapes": RATE_QPS}, one_row) as steady,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as measuring,
        ):
            until(lambda: os.SCHED_IDLE in measured_with(running["a"]), "a measurement that gives way")
            began_s = time.monotonic()
            until(lambda: "a/cpu0" in steady.devices("shapes", began_s), "answers of a device that is measured")
            said, told = measuring.communicate(timeout=300)
        assert measuring.returncode == 0, told
        assert "a: servers use cpu0: measured at low priority" in told
        (profile,) = msgspec.json.decode(said, type=list[Profile])
        assert all(variant.points[0].runs > 0 for variant in profile.variants)
        expect_all_stopped_well(live, running)


def measured_with(agent: LiveAgent) -> set[int]:
    """The scheduling policies of an agent's processes that measure."""
    found = set()
    for pid in descendants(agent.pid):
        with suppress(ProcessLookupError, FileNotFoundError):
            if "measuring_child" in commands_of([pid]):
                found.add(os.sched_getscheduler(pid))
    return found


def commands_of(pids: list[int]) -> str:
    return " ".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in pids if not is_gone(pid))


def test_what_the_commands_say_of_a_cluster(made: Tiny) -> None:
    """Devices are listed, measured by their agents, planned with and served."""
    made.place.profile_path("cpu0").unlink()
    with agents(made.root, "ab") as running:
        hosts = made.root / "hosts.toml"
        listed = proteus("devices", "--cluster", hosts, "-w", made.root)
        assert listed.code == 0
        assert "a/cpu0" in listed.stdout
        assert "serves nobody" in listed.stdout
        measured = proteus(
            "profile", "--cluster", hosts, "--device", "a/cpu0,b/cpu0", "--budget", "2s", "--accept-noise", "--json",
            "-w", made.root,
        )  # fmt: skip
        assert measured.code == 0, measured
        profiles = msgspec.json.decode(measured.stdout, type=list[Profile])
        assert [profile.device.id for profile in profiles] == ["a/cpu0", "b/cpu0"]
        stored = read_json(made.place.profile_path("a/cpu0"), Profile, hint="")
        assert stored == profiles[0]
        assert all(variant.points[0].runs > 0 for variant in stored.variants)
        assert stored.network is not None
        assert 0 < stored.network.round_trip_s < min(variant.points[0].mean_s for variant in stored.variants)
        plan = made.root / "plans" / "measured.json"
        planned = proteus("plan", "--demand", "50qps", "--cluster", hosts, "-o", plan, "-w", made.root)
        assert planned.code == 0, planned
        with serving(made.root, Path("measured"), "--cluster", str(hosts)) as live:
            assert answered_by(live) in {"a/cpu0", "b/cpu0"}
            listed = proteus("devices", "--cluster", hosts, "-w", made.root)
            assert "serves 127.0.0.1:" in listed.stdout
            assert live.stop() == 0
        running["b"].kill()
        listed = proteus("devices", "--cluster", hosts, "-w", made.root)
        assert listed.code == 0
        assert "Host b (127.0.0.1" in listed.stderr
        assert running["a"].stop() == 0
