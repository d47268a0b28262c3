"""A Ray cluster of several nodes on this machine, for the length of a test, and the agents that it keeps."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from injecting import descendants, is_gone, until
from live_server import ANSWER_WITHIN_S

from proteus_cli.backends.affinity import usable_cores
from proteus_cli.serving.agent.claim import AgentRecord, agent_in
from proteus_cli.serving.transport.listening import listen

HEAD_GONE = ("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
"""A variable: what is connected to Ray ends so long after its head; 60 s unless Ray is told otherwise."""

NODE_WITHIN_S = 180.0
"""A node has started by then, also where other tests keep all cores busy: Ray gives up several times before."""

_RAY = Path(sys.executable).with_name("ray")
_LITTLE = ("--num-cpus", "1", "--object-store-memory", str(75 * 2**20), "--disable-usage-stats")
_ANY_PORTS = ("--min-worker-port", "0", "--max-worker-port", "0")


@dataclass
class LiveRay:
    """Nodes by name; the first one is the head. ``directory`` has a short name, as Ray makes sockets in it."""

    directory: Path
    port: int
    nodes: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def start(self, name: str, *, is_head: bool = False) -> None:
        """Start a node, whose agent has one CPU."""
        (self.state / name).mkdir(parents=True, exist_ok=True)
        (self.state / name / "proteus.toml").write_text(f"[devices]\ncpu = [{list(usable_cores()[:1])}]\n")
        role: tuple[str, ...] = ("--address", self.address)
        if is_head:
            role = ("--head", "--port", str(self.port), "--temp-dir", str(self.directory / "ray"))
            role += ("--include-dashboard", "false", "--ray-client-server-port", str(free_port()))
        command: tuple[str | Path, ...] = (_RAY, "start", "--block", "--node-name", name, *role, *_LITTLE, *_ANY_PORTS)
        try:
            until(lambda: self._runs(name, command), "a node of Ray", NODE_WITHIN_S)
        except AssertionError as error:
            error.add_note(f"its process has ended: {self.nodes[name].poll()}; its log:\n{self.log(name)}")
            raise

    def _runs(self, name: str, command: tuple[str | Path, ...]) -> bool:
        """Whether a node runs. One that has given up is started again, as where no core is free it does so in 5 s."""
        if name not in self.nodes or self.nodes[name].poll() is not None:
            with (self.directory / f"{name}.log").open("wb") as log:
                self.nodes[name] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={**os.environ, "PROTEUS_STATE": str(self.state), HEAD_GONE[0]: HEAD_GONE[1]},
                )
        return "runtime started" in self.log(name)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def kill(self, name: str) -> None:
        """Kill all of a node but its agent, which is none of its processes."""
        node = self.nodes.pop(name)
        (self.directory / f"{name}.log").unlink()
        for pid in [node.pid, *descendants(node.pid)] if node.poll() is None else []:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def agent(self, name: str) -> AgentRecord:
        """The agent that runs on a node."""
        record = agent_in(self.state / name)
        assert record is not None, name
        return record

    def kill_agent(self, name: str) -> None:
        pid = self.agent(name).pid
        devices = descendants(pid)
        os.kill(pid, signal.SIGKILL)
        until(lambda: all(map(is_gone, [pid, *devices])), "an agent that was killed, and its devices")

    def close(self) -> None:
        for name in list(self.nodes):
            self.kill(name)
        for directory in self.state.iterdir():
            if agent_in(directory) is not None:
                self.kill_agent(directory.name)


def free_port() -> int:
    with listen("127.0.0.1", 0) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def ray_cluster(*names: str) -> Iterator[LiveRay]:
    """A cluster of nodes with these names; whatever happens, it is gone afterwards, and its agents are."""
    directory = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # names of sockets are short
    cluster = LiveRay(directory, free_port())
    try:
        for name in names:
            cluster.start(name, is_head=name == names[0])
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(directory, ignore_errors=True)


def ran(*command: str) -> str:
    """What a command of proteus says on both streams, in a process of its own; it may fail."""
    done = subprocess.run(
        [sys.executable, "-m", "proteus_cli", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * ANSWER_WITHIN_S,
    )
    return done.stdout + done.stderr
