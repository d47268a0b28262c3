"""Keeps an agent going on this machine: starts it, and starts it again when it has ended.

The agent is no child of this process, so that it outlives it while it serves (`serving/agent/keeping.py`). The next
keeper finds it by the record in its directory, and lets it be.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from proteus_cli import __version__
from proteus_cli.serving.agent.claim import AgentRecord, agent_in

LOOK_S = 0.5
"""Between two looks whether the agent is there."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Between two starts, where one failed; each pause is twice the one before, until an agent is there."""

STOP_S = 10.0
"""For an agent to end after SIGTERM; then it is killed."""

_DETACHED = '"$0" "$@" >/dev/null & echo $!'  # for a shell: its child becomes that of the init process
_KEY = "cluster.pem"


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """An agent: the name of its host, the address to listen on, any port, the cluster's key, and its directory.

    ``environment``: of its process.
    """

    host: str
    address: str
    key: bytes
    state: Path
    environment: Mapping[str, str]

    def fits(self, record: AgentRecord) -> bool:
        """Whether an agent that runs is like this."""
        try:
            is_key = (self.state / _KEY).read_bytes() == self.key
        except FileNotFoundError:
            is_key = False
        return is_key and (record.host, record.version) == (self.address, __version__)


class AgentKeeper:
    """Keeps the agent of a `AgentSpec`, from `run` on until `stop`."""

    def __init__(self, spec: AgentSpec, start: Callable[[AgentSpec], int] | None = None) -> None:
        self._spec, self._start = spec, start or start_agent
        self._started: int | None = None
        self._next_s, self._pause_s = 0.0, FIRST_PAUSE_S
        self._problem: str | None = None
        self._stopping = Event()

    def where(self) -> tuple[str, int] | str | None:
        """Where the agent listens, or why it cannot be started; None while it starts."""
        try:
            record = agent_in(self._spec.state)
            if record is not None and self._spec.fits(record):
                return record.host, record.port
        except OSError as error:
            return str(error)
        return self._problem

    def run(self) -> None:
        """Look after the agent until `stop`."""
        while not self._stopping.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Start an agent where there is none, and have one of another kind end. Failures are tried again later."""
        try:
            record = agent_in(self._spec.state)
            if record is not None and not self._spec.fits(record):
                end_agent(self._spec.state, record)
                record = None
            if record is not None:
                self._next_s, self._pause_s, self._problem = 0.0, FIRST_PAUSE_S, None
            elif time.monotonic() >= self._next_s and not _runs(self._started):
                self._next_s, self._pause_s = time.monotonic() + self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
                self._started, self._problem = self._start(self._spec), None
        except (OSError, subprocess.CalledProcessError) as error:
            self._problem = str(error)

    def stop(self) -> None:
        """End the agent, and start none any more. Returns once it has ended."""
        self._stopping.set()
        record = agent_in(self._spec.state)
        if record is not None:
            end_agent(self._spec.state, record)


def start_agent(spec: AgentSpec) -> int:
    """Start an agent that this process keeps, and is not the parent of; returns its process."""
    spec.state.mkdir(parents=True, exist_ok=True)
    key = spec.state / _KEY
    with os.fdopen(os.open(f"{key}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(spec.key)
    Path(f"{key}.new").replace(key)
    address = f"[{spec.address}]" if ":" in spec.address else spec.address
    agent = [sys.executable, "-P", "-m", "proteus_cli", "agent", "--listen", f"{address}:0", "--name", spec.host]
    owned = ["--key", str(key), "--state", str(spec.state), "-w", str(spec.state), "--keeper", str(os.getpid())]
    started = subprocess.run(
        ["/bin/sh", "-c", _DETACHED, *agent, *owned],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=spec.environment,
        start_new_session=True,
        check=True,
    )
    return int(started.stdout)


def end_agent(state: Path, record: AgentRecord) -> None:
    """End an agent, whose processes of devices end with it. Returns once it has ended."""
    last_s = time.monotonic() + STOP_S
    _send(record.pid, signal.SIGTERM)
    while agent_in(state) == record:
        if time.monotonic() > last_s:
            _send(record.pid, signal.SIGKILL)
        time.sleep(0.05)


def _runs(pid: int | None) -> bool:
    """Whether there is such a process, which has not ended; its parent may not want to know that it has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        os.kill(pid, number)
