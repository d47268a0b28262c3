"""Servers on the same cores find each other; left-over files, children and read-only places do no harm."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proteus_cli.serving.core_claims import CoreClaim, claiming, runtime_dir, warning_of_shared

HOLD = """
import sys
from pathlib import Path
from proteus_cli.serving.core_claims import claiming
with claiming(map(int, sys.argv[2].split(",")), Path(sys.argv[1]), *sys.argv[3:]) as others:
    print([other.pid for other in others], flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_server(directory: Path, cores: str, *program: str) -> Iterator[subprocess.Popen[str]]:
    """A process that claims cores until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, str(directory), cores, *program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_two_servers_on_the_same_cores_find_each_other(tmp_path: Path) -> None:
    with another_server(tmp_path, "1,2,3") as other, claiming((3, 4, 1), tmp_path) as found:
        assert found == (CoreClaim(other.pid, (1, 3)),)


def test_servers_on_other_cores_are_no_matter(tmp_path: Path) -> None:
    with another_server(tmp_path, "1,2"), claiming((3,), tmp_path) as found:
        assert found == ()


@pytest.mark.parametrize(("program", "named"), [("server", "another Proteus server"), ("agent", "a Proteus agent")])
def test_the_warning_names_the_other_program(
    program: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with another_server(runtime_dir(), "1,2", program) as other, warning_of_shared((2,)):
        pass
    assert [record.message for record in caplog.records] == [
        f"{named} (pid {other.pid}) serves from the same cores (2): both are slower than planned"
    ]


def test_a_server_that_was_killed_leaves_no_claim(tmp_path: Path) -> None:
    with another_server(tmp_path, "1") as other:
        other.kill()
        other.wait()
        assert [path.name for path in tmp_path.iterdir()] == [f"{other.pid}.cores"]
        with claiming((1,), tmp_path) as found:
            assert found == ()
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_outlives_its_server_holds_no_claim(tmp_path: Path) -> None:
    with claiming((1,), tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        with claiming((1,), tmp_path) as found:
            assert found == ()
    finally:
        child.kill()
        child.communicate()


def test_what_is_no_claim_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "1.cores").write_text("no claim")
    (tmp_path / "2.cores").mkdir()
    with claiming((1,), tmp_path) as found:
        assert found == ()


def test_without_access_nothing_is_claimed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with claiming((1,), tmp_path / "file") as found:
        assert found == ()


def test_a_directory_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with claiming((1,), tmp_path) as found:
        assert found == ()
        assert list(tmp_path.iterdir()) == []


def test_emulated_devices_have_no_cores_to_claim(tmp_path: Path) -> None:
    with claiming((), tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_claim_names_process_and_cores(tmp_path: Path) -> None:
    with another_server(tmp_path, "2,1") as other:
        assert json.loads((tmp_path / f"{other.pid}.cores").read_text()) == {"pid": other.pid, "cores": [1, 2]}


def test_claims_lie_in_the_runtime_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime_dir() == tmp_path / "proteus"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runtime_dir().name.startswith("proteus-")
