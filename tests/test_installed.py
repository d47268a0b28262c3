"""Where a program is missing, a run says which tests it skipped, why, and how to add the program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from installed import DEBIAN_PACKAGES, lacking, needs

TESTS = Path(__file__).parent
CONFTEST = """
from installed import skip_lines

def pytest_terminal_summary(terminalreporter):
    for line in skip_lines(terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(line)
"""
SKIPPING = """
import pytest
from installed import lacking, needs

@needs("wrk", "h2load")
def test_a(): pass

@pytest.mark.parametrize("place", range(2))
def test_b(place): pytest.skip(lacking("promtool"))

@needs()
def test_c(): pass
"""


@pytest.fixture
def _nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("_nothing_installed")
def test_what_is_missing_is_named_with_the_command_that_adds_it() -> None:
    assert lacking("promtool") == "promtool is not installed; to add it: apt-get install prometheus"
    assert (
        lacking("wrk", "h2load") == "wrk and h2load are not installed; to add them: apt-get install wrk nghttp2-client"
    )
    assert needs("curl").mark.args == (True,)


def test_a_test_runs_where_all_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "wrk"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lacking("wrk") == ""
    assert needs("wrk").mark.args == (False,)
    assert lacking("wrk", "h2load").startswith("h2load is not installed")


def test_ci_installs_all_of_them() -> None:
    script = (TESTS.parent / ".ci" / "run").read_text(encoding="utf-8")
    programs = set(DEBIAN_PACKAGES) - {"curl"}  # which every machine of CI has
    assert all(f" {name}" in script for name in (*programs, *(DEBIAN_PACKAGES[each] for each in programs)))


@pytest.mark.parametrize("options", [(), ("-p", "xdist.plugin", "-n", "1")], ids=["one process", "pytest-xdist"])
def test_a_run_ends_with_a_line_for_each_reason(tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "test_it.py").write_text(SKIPPING)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {TESTS}\n")
    (tmp_path / "nothing").mkdir()
    bare = {**os.environ, "PATH": str(tmp_path / "nothing"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", *options, "test_it.py"]
    ended = subprocess.run(command, cwd=tmp_path, env=bare, text=True, capture_output=True, check=False)
    assert [line for line in ended.stdout.splitlines() if line.startswith("skipped ")] == [
        "skipped 2 tests: promtool is not installed; to add it: apt-get install prometheus",
        "skipped 1 test: wrk and h2load are not installed; to add them: apt-get install wrk nghttp2-client",
    ]
    assert ended.stdout.splitlines()[-1].startswith("1 passed, 3 skipped in ")
