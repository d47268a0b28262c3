"""What `proteus doctor --cluster` says of hosts: reached or not, and which of their devices are measured."""

import asyncio
import errno
import json
import os
from pathlib import Path

import msgspec
import pytest
from agents import CPU, run, running_agent
from command_line import proteus
from tiny import Tiny, add_profiles, make_workspace

from proteus_cli.cli import doctor
from proteus_cli.cli.cluster import host_list
from proteus_cli.cli.doctor import Finding, diagnose_cluster
from proteus_cli.store import Workspace, write_json

DEVICES = [CPU, msgspec.structs.replace(CPU, id="cpu1"), msgspec.structs.replace(CPU, id="cpu2")]


@pytest.fixture
def made(tmp_path: Path) -> Tiny:
    """Profiles of the first two devices of `a`, the second of which was another one, and of a host `gone`."""
    made = make_workspace(tmp_path / "ws")
    add_profiles(made, ["cpu0"])
    measured = made.place.profile("cpu0")
    for name, what in (("a/cpu0", CPU.name), ("a/cpu1", "another CPU"), ("gone/cpu0", CPU.name)):
        device = msgspec.structs.replace(CPU, id=name, name=what)
        write_json(made.place.profile_path(name), msgspec.structs.replace(measured, device=device))
    return made


def diagnosed(made: Tiny, *hosts: str) -> dict[str, Finding]:
    """Of agents at these addresses, the hosts `a`, `b` and so on."""
    lines = [f'[hosts.{name}]\naddress = "{address}"\n' for name, address in zip("abc", hosts, strict=False)]
    (made.root / "hosts.toml").write_text("\n".join(lines))
    found = diagnose_cluster(host_list(str(made.root / "hosts.toml")), Workspace(made.root))
    assert len({each.what for each in found}) == len(found)
    return {each.what: each for each in found}


def test_hosts_their_versions_and_devices(made: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with running_agent(made.root, DEVICES, has_key=False) as agent:
            where = f"127.0.0.1:{agent.address.port}"
            found = await asyncio.to_thread(diagnosed, made, where, "127.0.0.1:1")
            monkeypatch.setattr(doctor, "__version__", "9.9")
            assert (await asyncio.to_thread(diagnosed, made, where))["versions on a"].state == "optional"
        assert {what: each.state for what, each in found.items()} == {
            "host a": "ok", "versions on a": "ok", "a/cpu0": "ok", "a/cpu1": "missing", "a/cpu2": "optional",
            "host b": "missing", "host gone": "optional",
        }  # fmt: skip
        assert f"{where}, there and back in " in found["host a"].found
        assert "serves nobody" in found["host a"].found
        assert "of disk free" in found["host a"].found
        assert "the profile is of another one: another CPU" in found["a/cpu1"].found
        assert "no profile" in found["a/cpu2"].found
        assert "b (127.0.0.1:1) can't be reached" in found["host b"].found

    run(test)


def test_profiles_that_may_not_be_looked_at_are_findings(made: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a directory may not be searched; root may search all."""
    is_file = Path.is_file

    def guarded(path: Path) -> bool:
        if made.place.profiles_dir in path.parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return is_file(path)

    async def test() -> None:
        async with running_agent(made.root, DEVICES[:1], has_key=False) as agent:
            monkeypatch.setattr(Path, "is_file", guarded)
            found = await asyncio.to_thread(diagnosed, made, f"127.0.0.1:{agent.address.port}")
        assert found["host a"].state == "ok"
        assert "Can't look at `" in found["a/cpu0"].found

    run(test)


def test_a_list_of_hosts_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    ended = proteus("doctor", "--cluster", tmp_path / "hosts.toml", "-w", tmp_path, "--json")
    assert ended.code == 1
    (finding,) = [each for each in json.loads(ended.stdout) if each["what"] == "cluster"]
    assert finding["state"] == "missing"
    assert "hosts.toml" in finding["found"]
