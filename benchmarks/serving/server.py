"""A peer that runs and has answered rightly."""

import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from benchmarks.serving import load, venvs
from benchmarks.serving.load import LoadFailed, Target
from benchmarks.serving.models import Samples
from benchmarks.serving.peers import Peer, Route, Site, free_ports
from benchmarks.serving.processes import NotStarted, Process, running

READY_WITHIN_S = 90.0
_READY = re.compile(rb"^ready http://127\.0\.0\.1:(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Lab:
    """What all servers share: the directory of this run, models, a profiled workspace, samples by family.

    ``tree`` is the checkout of the project whose code runs.
    """

    directory: Path
    models: Path
    workspace: Path
    samples: Mapping[str, Samples]
    instances: int
    tree: Path = venvs.ROOT


@dataclass(frozen=True, slots=True)
class Server:
    """A peer that listens."""

    peer: Peer
    process: Process
    http_port: int
    grpc_port: int
    lab: Lab
    directory: Path

    def target(self, route: Route) -> Target:
        """One of its routes, to put load on."""
        family, kind = route
        dialect, path = self.peer.speaks[kind]
        return Target(
            self.process.tree,
            self.grpc_port if dialect.over_http2 else self.http_port,
            family,
            dialect,
            path.format(family=family),
            self.lab.samples[family],
            self.directory,
        )

    def require_right(self, route: Route) -> None:
        """Ask until it answers, and compare each sample once. Raises `LoadFailed` or `NotStarted`."""
        target, stop_s = self.target(route), time.monotonic() + READY_WITHIN_S
        objection = "no answer"
        while time.monotonic() < stop_s:
            self.process.require_alive()
            objection = load.first_objection(target)
            if not objection:
                return
            time.sleep(0.2)
        raise LoadFailed(f"{objection}; {self.process.log_end()}")


def python_of(peer: Peer) -> Path:
    """The Python that has the peer's packages; ours for proteus. Raises `NotStarted`."""
    if not peer.packages:
        return Path(sys.executable)
    return venvs.environment("triton" if "triton" in peer.name else peer.name, peer.packages)


@contextmanager
def serving(peer: Peer, routes: Sequence[Route], lab: Lab) -> Iterator[Server]:
    """Start a peer with these routes and stop it on the way out. Raises `NotStarted`."""
    directory = Path(mkdtemp(prefix="s", dir=lab.directory))
    site = Site(
        directory, python_of(peer), lab.models, lab.workspace, tuple(routes), lab.instances, free_ports(), lab.tree
    )
    command, more = peer.command(site)
    log = directory / "log"
    try:
        environment = site.environment() | dict(more)
        with running(command, environment, log=log, directory=lab.tree, stop=peer.stop) as process:
            port = _announced_port(process, log) if peer.alone else site.http_port
            yield Server(peer, process, port, site.grpc_port, lab, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _announced_port(process: Process, log: Path) -> int:
    stop_s = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < stop_s:
        process.require_alive()
        ready = _READY.search(log.read_bytes())
        if ready is not None:
            return int(ready[1])
        time.sleep(0.05)
    raise NotStarted(f"not ready within {READY_WITHIN_S:.0f} s; {process.log_end()}")
