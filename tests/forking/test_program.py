"""A program that was forked is like one that was started from nothing."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forking.program import Program, Template

TESTS = Path(__file__).parents[1]
MODULE = "forking.probe"
WITHIN_S = 60


@pytest.fixture(scope="module")
def template() -> Iterator[Template]:
    made = Template((), {**os.environ, "PYTHONPATH": str(TESTS)})
    yield made
    made.close()


def ended(process: "subprocess.Popen[Any]") -> tuple[int, Any, str]:
    with process:
        stdout, stderr = process.communicate("some input", timeout=WITHIN_S)
    return process.returncode, json.loads(stdout or "null"), stderr.splitlines()[-1]


@pytest.mark.parametrize("way", ["0", "3", "killed", "raises"])
def test_it_runs_and_ends_as_any_other(template: Template, tmp_path: Path, way: str) -> None:
    arguments = [MODULE, way, "two words", "ä"]
    how: dict[str, Any] = {
        "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path,
        "process_group": 0, "env": {**os.environ, "PYTHONPATH": str(TESTS), "MORE": "ö"},
    }  # fmt: skip
    found = ended(Program(template, arguments, **how))
    wanted = ended(subprocess.Popen([sys.executable, "-m", *arguments], **how))
    assert found == wanted
    assert found[0] == {"killed": -signal.SIGKILL, "raises": 1}.get(way, int(way) if way.isdigit() else None)


def test_it_inherits_limits_and_cores_as_they_are_when_it_starts(template: Template, tmp_path: Path) -> None:
    how: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ended(Program(template, [MODULE, "0"], cwd=tmp_path, **how))  # so that the template has its own
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    cores = os.sched_getaffinity(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    os.sched_setaffinity(0, {min(cores)})
    try:
        _, said, _ = ended(Program(template, [MODULE, "0"], cwd=tmp_path, **how))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.sched_setaffinity(0, cores)
    assert said["inherited"]["limits"][0] == [soft - 1, hard]
    assert said["inherited"]["cores"] == [min(cores)]


def test_its_end_can_be_waited_for(template: Template, tmp_path: Path) -> None:
    """In the group of whoever starts it, with the files of that."""
    with Program(template, [MODULE, "0"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=tmp_path) as process:
        assert process.poll() is None
        assert os.getpgid(process.pid) == os.getpgrp()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WITHIN_S) == -signal.SIGTERM
    assert process.poll() == -signal.SIGTERM
