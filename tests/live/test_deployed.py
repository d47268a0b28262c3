"""A server as recipes of docs/deploy.md run it: told of by sd_notify, and with a workspace that it may not write to."""

import hashlib
import socket
from pathlib import Path

import pytest
from clusters import make_cluster
from command_line import proteus
from live_server import serving

pytestmark = pytest.mark.live


def tree(root: Path) -> dict[str, tuple[int, str]]:
    """Each file and directory, but our own log, with its time of change, in ns, and a digest of what it holds."""
    found = {}
    for path in (root, *(path for path in root.rglob("*") if path.name != "server.log")):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (path.stat().st_mtime_ns, content)
    return found


def test_with_a_state_directory_the_workspace_is_only_read(tmp_path: Path) -> None:
    """The plan that was in force is resumed from the state, also after a kill; the workspace is as it was."""
    root, state = make_cluster(tmp_path / "ws").root, tmp_path / "var" / "state"
    (root / "server.log").touch()
    before = tree(root)
    options = ("--emulate", f"--set=state={state}", "--replan", "period=200ms")
    with serving(root, Path("plan"), *options) as live:
        live.until(lambda status: status["history"]["written"] >= 1)
        assert live.status()["history"]["directory"] == str(state / "plans" / "history")
        live.process.kill()
        live.process.wait()
    with serving(root, Path("plan"), *options) as live:
        assert live.status()["plan"]["origin"] == "resumed"
        assert live.stop() == 0
    assert "Traceback" not in live.log.read_text()
    assert list((state / "plans" / "history").glob("*.record.json"))
    assert tree(root) == before


def test_profiles_are_not_recorded_in_a_workspace_that_is_only_read(tmp_path: Path) -> None:
    root = make_cluster(tmp_path / "ws").root
    done = proteus("serve", "plan", "--set=record=true", f"--set=state={tmp_path / 'state'}", "-w", root)
    assert done.refused(2) == "`record` writes to the workspace, which `state` leaves as it is."


def test_a_service_manager_hears_that_the_server_is_ready_works_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_cluster(tmp_path / "ws").root
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        heard: list[bytes] = []

        def hear_until(start: bytes) -> None:
            while not heard or not heard[-1].startswith(start):
                heard.append(manager.recv(4096))

        with serving(root, Path("plan"), "--emulate", "--replan", "off") as live:
            hear_until(b"READY=1\nSTATUS=ready http://127.0.0.1:")
            heard.clear()
            hear_until(b"WATCHDOG=1")
            assert live.stop() == 0
        hear_until(b"STOPPING=1\nSTATUS=draining")
