"""Hosts that are nodes of a Ray cluster, each with an agent that Ray started.

Ray's client has no place in a server: it ends its process 60 s after the head of the cluster is lost. Another process,
`ray_follower`, is therefore that client. It has Ray place an agent on each node, and writes what this module reads, a
line for each change. Without it, or without Ray, the hosts stay as they were.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import msgspec

from proteus_cli.errors import BackendUnavailable, DeviceUnavailable, printable
from proteus_cli.serving.child_process import environment
from proteus_cli.serving.cluster.ray_placing import Listed, Problem, RayReport
from proteus_cli.serving.devices.remote.channel.address import AgentAddress, Agents
from proteus_cli.serving.devices.remote.channel.tls import cluster_tls
from proteus_cli.serving.lifecycle import running
from proteus_cli.serving.logs import fields

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Before the follower is started again; each pause is twice the one before, until it has listed hosts."""

LONGEST_LINE_BYTES = 2**20

FOLLOWER = "proteus_cli.serving.cluster.ray_follower"
HINT = "pip install 'ray[client]' cryptography, here and on all nodes of the cluster"

log = logging.getLogger("proteus.cluster")


def require_ray() -> None:
    """Raise `BackendUnavailable` where Ray is not installed."""
    if find_spec("ray") is None:
        raise BackendUnavailable("A cluster of Ray takes the package ray, which is not installed.", hint=HINT)


class RayNodes:
    """A `HostList`: the nodes of the Ray cluster at ``address``, ``auto`` or ``ray://…``.

    Agents get the key of the cluster, the file ``key``, when Ray places them. ``command`` starts the follower. Raises
    `BackendUnavailable` where Ray is missing, `ArtefactError` where the key can't be used.
    """

    fixed = False

    def __init__(self, address: str, key: Path, command: Sequence[str] = ()) -> None:
        if not command:
            require_ray()
        self._address, self._tls = address, cluster_tls(key, listens=False)
        self._command = command or (sys.executable, "-P", "-m", FOLLOWER, address, str(key.absolute()))
        self._has_listed, self._last_words = False, ""
        self._said: set[str] = set()  # since hosts were listed

    def __str__(self) -> str:
        return self._address

    async def changes(self) -> AsyncGenerator[Agents, None]:
        """See `HostList.changes`. Raises `DeviceUnavailable` where there is no such cluster of Ray."""
        pause_s, before = FIRST_PAUSE_S, None
        while True:
            async with aclosing(self._reported()) as reported:
                async for agents in reported:
                    pause_s = FIRST_PAUSE_S
                    if agents != before:
                        before = agents
                        yield agents
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _reported(self) -> AsyncGenerator[Agents, None]:
        """The messages of one follower, until it ends."""
        async with self._following() as follower:
            has_said_why = False
            while (report := await _next_report(follower)) is not None:
                match report:
                    case Listed(hosts=hosts):
                        self._has_listed = True
                        self._said.clear()
                        yield {name: AgentAddress(name, *where, self._tls) for name, where in hosts.items()}
                    case Problem() as problem:
                        has_said_why = has_said_why or problem.is_fatal
                        self._failed(problem)
            if not has_said_why:
                code = await follower.wait()
                self._failed(Problem(f"the process that follows Ray has ended ({code})", self._last_words))

    async def _logged(self, stderr: asyncio.StreamReader | None) -> None:
        """Log what Ray has to say, which is much."""
        assert stderr is not None  # noqa: S101 - it is a pipe
        while line := await stderr.readline():
            self._last_words = printable(line.decode(errors="replace").strip())
            log.debug("Ray: %s", self._last_words)

    def _failed(self, problem: Problem) -> None:
        """Log what there is to know; raise where the server can't start with it."""
        if not self._has_listed and problem.is_fatal:
            raise DeviceUnavailable(problem.message, hint=problem.hint)
        if problem.message not in self._said:
            self._said.add(problem.message)
            then = "; the hosts stay as they are" if problem.is_fatal else ""
            hint = f" ({problem.hint})" if problem.hint else ""
            log.warning("%s%s%s", problem.message, then, hint, extra=fields(cluster=self._address))

    @asynccontextmanager
    async def _following(self) -> AsyncIterator[asyncio.subprocess.Process]:
        follower = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE_BYTES,
            env={"RAY_USAGE_STATS_ENABLED": "0", **environment()},
        )
        try:
            async with running(self._logged, follower.stderr):
                yield follower
        finally:
            _kill(follower)
            await follower.wait()


async def _next_report(follower: asyncio.subprocess.Process) -> RayReport | None:
    """The next message of a follower; None once it has ended, even within a line. Ends one that can't be read."""
    assert follower.stdout is not None  # noqa: S101 - it is a pipe
    try:
        line = await follower.stdout.readline()
        return msgspec.json.decode(line, type=RayReport) if line.endswith(b"\n") else None
    except ValueError as error:  # no report, or no end of the line for `LONGEST_LINE_BYTES`
        _kill(follower)
        return Problem(f"the process that follows Ray said what can't be read: {error}")


def _kill(follower: asyncio.subprocess.Process) -> None:
    if follower.returncode is None:
        follower.kill()
