"""Agents in processes of their own, for the length of a test, and a workspace with profiles of their devices."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from select import select

import msgspec
from forking.program import start_proteus
from injecting import descendants, is_gone, until
from live_server import ANSWER_WITHIN_S, READY_WITHIN_S
from ports import held_port
from tiny import Tiny, add_profiles

from proteus_cli.backends.affinity import usable_cores
from proteus_cli.backends.discovery import discover
from proteus_cli.settings import DeviceSettings
from proteus_cli.store import write_json, write_text


@dataclass
class LiveAgent:
    """``proteus agent``, which listens on ``port`` of the loopback, with this machine's devices or emulated ones."""

    directory: Path
    key: Path | None
    emulates: bool = False
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = None
    options: tuple[str, ...] = ()

    @property
    def log(self) -> str:
        return (self.directory / "agent.log").read_text()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it, again on the same port."""
        options = ["--listen", f"127.0.0.1:{self.port}", "--state", str(self.directory), "-w", str(self.directory)]
        options += ["--key", str(self.key)] if self.key is not None else []
        options += ["--emulate"] if self.emulates else []
        options += self.options
        with (self.directory / "agent.log").open("ab") as stderr:
            self.process = start_proteus(
                ["agent", *options],
                stdout=subprocess.PIPE,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if not name.startswith("PROTEUS_")},
            )
        assert self.process.stdout is not None
        readable, _, _ = select([self.process.stdout], [], [], READY_WITHIN_S)
        line = self.process.stdout.readline().decode() if readable else ""
        assert line.startswith("ready 127.0.0.1:"), self.log
        assert ("emulated" in line) == self.emulates, line
        self.port = int(line.split()[1].rpartition(":")[2])

    def kill(self) -> None:
        """Kill it; the processes of its devices end with it."""
        devices = descendants(self.pid)
        os.kill(self.pid, signal.SIGKILL)
        self._reap()
        until(lambda: all(map(is_gone, devices)), "the devices of an agent that was killed")

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self._reap()

    def _reap(self) -> int:
        assert self.process is not None
        code = self.process.wait(ANSWER_WITHIN_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None
        return code


def make_agent(root: Path, name: str, key: Path | None = None, cores: int = 1, *, emulates: bool = False) -> LiveAgent:
    """One that is not started yet; it has a single CPU of so many cores."""
    directory = root / f"agent-{name}"
    directory.mkdir(parents=True)
    write_text(directory / "proteus.toml", f"[devices]\ncpu = [{list(usable_cores()[:cores])}]\n")
    return LiveAgent(directory, key, emulates)


@contextmanager
def agents(root: Path, names: str, key: Path | None = None, *, emulate: bool = False) -> Iterator[dict[str, LiveAgent]]:
    """An agent for each letter, and a `hosts.toml` in ``root``; whatever happens, they are gone afterwards."""
    started: dict[str, LiveAgent] = {}
    with ExitStack() as stack:
        stack.callback(_kill, started)
        for name in names:
            started[name] = make_agent(root, name, key, emulates=emulate)
            started[name].port = stack.enter_context(held_port())
            started[name].start()
        write_hosts(root, {name: agent.port for name, agent in started.items()}, key)
        yield started


def _kill(started: Mapping[str, LiveAgent]) -> None:
    for agent in started.values():
        if agent.process is not None:
            os.kill(agent.pid, signal.SIGCONT)
            agent.kill()


def write_hosts(root: Path, ports: Mapping[str, int], key: Path | None = None) -> Path:
    lines = [f'key = "{key}"'] if key is not None else []
    lines += [f'[hosts.{name}]\naddress = "127.0.0.1:{port}"' for name, port in ports.items()]
    path = root / "hosts.toml"
    write_text(path, "\n".join([*lines, ""]))
    return path


def add_remote_profiles(made: Tiny, hosts: str) -> None:
    """Profiles of the first CPU of each host, as if measured there, and of that of this machine."""
    add_profiles(made, ["cpu0"])
    share_profile(made, hosts)


def share_profile(made: Tiny, hosts: str) -> None:
    """The profile of the CPU of this machine, as if measured on the first CPU of each host."""
    measured, device = made.place.profile("cpu0"), discover(DeviceSettings())[0]
    for host in hosts:
        named = msgspec.structs.replace(device, id=f"{host}/cpu0")
        write_json(made.place.profile_path(named.id), msgspec.structs.replace(measured, device=named))
