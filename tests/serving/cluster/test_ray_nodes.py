"""What the server makes of the process that follows Ray: doubles of it that say what they are told."""

import asyncio
import sys
from pathlib import Path

import pytest
from agents import key_of, run
from cluster.lists import following
from command_line import proteus
from tiny import add_plan, add_profiles, make_workspace

from proteus_cli.cli.cluster import host_list
from proteus_cli.errors import BackendUnavailable, DeviceUnavailable
from proteus_cli.serving.cluster import ray_nodes
from proteus_cli.serving.cluster.ray_nodes import RayNodes

TWO = '{"type":"Listed","hosts":{"a":["127.0.0.1",7000],"b":["127.0.0.2",7001]}}'
ONE = '{"type":"Listed","hosts":{"a":["127.0.0.1",7000]}}'
LOST = '{"type":"Problem","message":"the head is lost"}'
TWICE = '{"type":"Problem","message":"two nodes are called a","is_fatal":false}'


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_nodes, "FIRST_PAUSE_S", 0.01)


def told(directory: Path, *lines: str, then: str = "import time; time.sleep(600)") -> RayNodes:
    """A follower that says these lines once, and says nothing when it is started again."""
    said = directory / "said"
    text = f"""
import pathlib, sys
said = pathlib.Path({str(said)!r})
with said.open("a") as file:
    file.write("x")
if said.read_text() == "x":
    for line in {lines!r}:
        print(line, flush=True)
{then}
"""
    return RayNodes("auto", key_of(directory), [sys.executable, "-c", text])


def test_hosts_are_those_that_the_follower_lists(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with following(told(tmp_path, TWICE, TWO, TWO, ONE)) as followed:
            assert await followed.next() == {"a": "127.0.0.1:7000", "b": "127.0.0.2:7001"}
            assert await followed.next() == {"a": "127.0.0.1:7000"}
            assert followed.is_quiet

    run(test)
    assert "two nodes are called a" in caplog.text


def test_without_ray_the_hosts_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The follower is started again, and its complaint is logged once."""

    async def test() -> None:
        async with following(told(tmp_path, TWO, then="sys.exit('it was too late')")) as followed:
            await followed.next()
            while len((tmp_path / "said").read_text()) < 4:
                await asyncio.sleep(0.01)
            assert followed.is_quiet

    run(test)
    assert [record.message for record in caplog.records if "Ray" in record.message] == [
        "the process that follows Ray has ended (1); the hosts stay as they are (it was too late)"
    ]


def test_what_the_follower_says_of_its_end_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        then = f"if said.read_text() == 'x': print({TWO!r})\nprint({LOST!r})\nsys.exit(1)"
        async with following(told(tmp_path, then=then)) as followed:
            await followed.next()
            while len((tmp_path / "said").read_text()) < 4:
                await asyncio.sleep(0.01)

    run(test)
    assert [record.message for record in caplog.records if record.name == "proteus.cluster"] == [
        "the head is lost; the hosts stay as they are"
    ]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (f"print({ONE[:30]!r}, end='', flush=True); os.kill(os.getpid(), 9)", "has ended (-9)"),
        ("print('no report', flush=True); time.sleep(600)", "said what can't be read: "),
        ("print('x' * 2**21, flush=True); time.sleep(600)", "said what can't be read: "),
    ],
)
def test_a_follower_whose_line_cannot_be_read_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, said: str, why: str
) -> None:
    """It may be killed in the middle of a line."""
    then = f"""
import os, time
if said.read_text() == "x":
    {said}
print({TWO!r}, flush=True)
time.sleep(600)
"""

    async def test() -> None:
        async with following(told(tmp_path, ONE, then=then)) as followed:
            assert await followed.next() == {"a": "127.0.0.1:7000"}
            assert await followed.next() == {"a": "127.0.0.1:7000", "b": "127.0.0.2:7001"}

    run(test)
    (warning,) = [record.message for record in caplog.records if record.name == "proteus.cluster"]
    assert f"the process that follows Ray {why}" in warning
    assert "; the hosts stay as they are" in warning


def test_a_cluster_that_is_not_there_is_an_error_at_first(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(DeviceUnavailable, match="the head is lost"):
            await anext(told(tmp_path, LOST).changes())
        (tmp_path / "said").unlink()
        with pytest.raises(DeviceUnavailable, match=r"the process that follows Ray has ended \(3\)"):
            await anext(told(tmp_path, then="sys.exit(3)").changes())

    run(test)


def test_the_follower_ends_with_who_follows(tmp_path: Path) -> None:
    here = tmp_path / "pid"
    then = f"""
import os, time
pathlib.Path({str(here)!r}).write_text(str(os.getpid()))
print({ONE!r}, flush=True)
time.sleep(600)
"""

    async def test() -> None:
        async with following(told(tmp_path, then=then)) as followed:
            await followed.next()

    run(test)
    assert not Path(f"/proc/{here.read_text()}").exists()


def test_ray_has_to_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_nodes, "find_spec", lambda _: None)
    made = make_workspace(tmp_path / "ws")
    add_profiles(made, ["a/cpu0"])
    add_plan(made, {"a/cpu0": "shapes-l"})
    for cluster in ("auto", "ray", "ray://127.0.0.1:10001"):
        ended = proteus("serve", "plan", "--cluster", cluster, "-w", made.root)
        assert "takes the package ray" in ended.refused(4)
        assert "pip install 'ray[client]' cryptography" in ended.stderr
    with pytest.raises(BackendUnavailable):
        ray_nodes.require_ray()
    assert "takes the package ray" in proteus("cluster", "down").refused(4)
    assert not (made.root / "cluster.pem").exists()


def test_a_key_is_made_for_ray_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_nodes, "find_spec", lambda name: name)
    assert str(host_list("ray", None, tmp_path)) == "auto"
    made = (tmp_path / "cluster.pem").read_bytes()
    assert str(host_list("ray://head:10001", None, tmp_path)) == "ray://head:10001"
    assert (tmp_path / "cluster.pem").read_bytes() == made
    assert "is no cluster of Ray" in proteus("cluster", "down", "hosts.toml").refused()
