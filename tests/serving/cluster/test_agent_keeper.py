"""Who keeps an agent going, with doubles of the agent that claim its directory."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from proteus_cli import __version__
from proteus_cli.serving.agent.claim import agent_in
from proteus_cli.serving.cluster import agent_keeper
from proteus_cli.serving.cluster.agent_keeper import AgentKeeper, AgentSpec

AGENT = """
import os, signal, sys, time
from pathlib import Path
from proteus_cli.serving.agent.claim import AgentRecord, claimed
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with claimed(Path(sys.argv[1]), AgentRecord(os.getpid(), "127.0.0.1", 7000, sys.argv[2])):
    print("ready", flush=True)
    time.sleep(600)
"""


@contextmanager
def agent_process(state: Path, version: str = __version__, *more: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", AGENT, str(state), version, *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


GONE = 2**30
"""The id of no process."""


class Keeping:
    """A keeper that starts no agent, but counts."""

    def __init__(self, state: Path) -> None:
        self.spec = AgentSpec("a", "127.0.0.1", b"key", state, {})
        self.starts, self.started = 0, GONE
        self.fails: OSError | subprocess.CalledProcessError | None = None
        self.keeper = AgentKeeper(self.spec, self._start)
        state.mkdir()
        (state / "cluster.pem").write_bytes(b"key")

    def _start(self, spec: AgentSpec) -> int:
        assert spec is self.spec
        self.starts += 1
        if self.fails is not None:
            raise self.fails
        return self.started


def _noting(starts: list[AgentSpec]) -> Callable[[AgentSpec], int]:
    def start(spec: AgentSpec) -> int:
        starts.append(spec)
        return GONE

    return start


def until(what: Callable[[], object]) -> None:
    last_s = time.monotonic() + 30
    while not what():
        assert time.monotonic() < last_s
        time.sleep(0.01)


@pytest.fixture
def keeping(tmp_path: Path) -> Keeping:
    return Keeping(tmp_path / "state")


def test_an_agent_is_started_once_and_again_when_it_has_ended(keeping: Keeping) -> None:
    keeping.started = os.getpid()  # a process that runs
    keeping.keeper.look()
    keeping.keeper.look()
    assert (keeping.starts, keeping.keeper.where()) == (1, None)
    keeping.started = GONE
    with agent_process(keeping.spec.state):
        keeping.keeper.look()
        assert (keeping.starts, keeping.keeper.where()) == (1, ("127.0.0.1", 7000))
    keeping.keeper.look()
    assert keeping.starts == 1, "what was started first is there, and may be about to listen"
    keeping.keeper._started = GONE
    keeping.keeper.look()
    assert (keeping.starts, keeping.keeper.where()) == (2, None)


def test_an_agent_that_does_not_start_is_started_again_after_pauses_that_grow(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, starts_s = 1000.0, list[float]()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    while now_s < 1100.0:
        before = keeping.starts
        keeping.keeper.look()
        if keeping.starts > before:
            starts_s.append(now_s - 1000.0)
        now_s += 0.5
    assert starts_s == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 61.0, 91.0]


@pytest.mark.parametrize(
    ("fails", "why"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "cluster.pem.new"), "No space left on device"),
        (subprocess.CalledProcessError(2, "/bin/sh"), "returned non-zero exit status 2"),
    ],
)
def test_a_start_that_fails_is_said_and_tried_again_after_pauses_that_grow(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch, fails: OSError | subprocess.CalledProcessError, why: str
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    keeping.fails = fails
    for starts, later_s in enumerate((0.0, 1.0, 2.0, 4.0), 1):
        keeping.keeper.look()
        now_s += later_s
        keeping.keeper.look()
        assert keeping.starts == starts
        assert why in str(keeping.keeper.where())
    keeping.fails = None
    now_s += 8.0
    keeping.keeper.look()
    assert (keeping.starts, keeping.keeper.where()) == (5, None), "it was started, and may be about to listen"


def test_a_keeper_goes_on_once_its_directory_can_be_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_keeper, "LOOK_S", 0.01)
    (tmp_path / "file").write_text("in the place of a directory")
    starts = list[AgentSpec]()
    keeper = AgentKeeper(AgentSpec("a", "127.0.0.1", b"key", tmp_path / "file" / "state", {}), _noting(starts))
    looking = Thread(target=keeper.run)
    looking.start()
    try:
        until(lambda: keeper._problem is not None)
        assert "Not a directory" in str(keeper.where())
        (tmp_path / "file").unlink()
        until(lambda: starts)
    finally:
        keeper.stop()
        looking.join()


def test_an_agent_that_is_there_is_taken_over(keeping: Keeping) -> None:
    with agent_process(keeping.spec.state) as agent:
        keeping.keeper.look()
        assert (keeping.starts, keeping.keeper.where()) == (0, ("127.0.0.1", 7000))
        assert agent.poll() is None


@pytest.mark.parametrize("other", ["version", "key", "address"])
def test_an_agent_of_another_kind_is_replaced(keeping: Keeping, other: str) -> None:
    if other == "key":
        (keeping.spec.state / "cluster.pem").write_bytes(b"another")
    if other == "address":
        keeping.keeper = AgentKeeper(AgentSpec("a", "127.0.0.2", b"key", keeping.spec.state, {}), lambda _: GONE)
    with agent_process(keeping.spec.state, "0.0" if other == "version" else __version__) as agent:
        assert keeping.keeper.where() is None
        keeping.keeper.look()
        assert agent.wait() == -signal.SIGTERM
    assert agent_in(keeping.spec.state) is None


def test_an_agent_that_does_not_end_is_killed(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_keeper, "STOP_S", 0.1)
    with agent_process(keeping.spec.state, __version__, "stubborn") as agent:
        keeping.keeper.stop()
        assert agent.wait() == -signal.SIGKILL
    keeping.keeper.run()
    assert keeping.starts == 0, "it looks no more"


def test_an_agent_gets_its_key_and_its_environment_and_is_no_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The double of the interpreter writes down how it was started."""
    said, double = tmp_path / "said", tmp_path / "python"
    double.write_text(
        f'#!/bin/sh\n{{ echo "$@"; echo "$COLOUR"; echo "$PPID"; echo "$$"; }} > {said}.new; mv {said}.new {said}\n'
    )
    double.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(double))
    state = tmp_path / "state"
    started = agent_keeper.start_agent(
        AgentSpec("a", "::1", b"key", state, {"COLOUR": "blue", "PATH": os.environ["PATH"]})
    )
    until(said.exists)
    options, colour, parent, pid = said.read_text().splitlines()
    assert f"agent --listen [::1]:0 --name a --key {state}/cluster.pem --state {state}" in options
    assert options.endswith(f"--keeper {os.getpid()}")
    assert colour == "blue"
    assert int(parent) != os.getpid()
    assert int(pid) == started
    assert (state / "cluster.pem").read_bytes() == b"key"
    assert (state / "cluster.pem").stat().st_mode & 0o077 == 0
