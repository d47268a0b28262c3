"""What is fuzzed: a target takes bytes, and drives the project's own code with them in this process."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from random import Random
from typing import cast

from fuzzing.in_process.loop import WatchedLoop
from fuzzing.in_process.server import Server, running_server
from fuzzing.watch import Watch

from proteus_cli.domain.request import Outcome


class Target(ABC):
    """``play`` raises where an input shows a bug; what it costs is in the watch and the memory of the process."""

    @abstractmethod
    def play(self, content: bytes, watch: Watch) -> None:
        """Take an input of any bytes. What an event loop would run as one callback goes through ``watch``."""

    @abstractmethod
    def seeds(self) -> Mapping[str, bytes]:
        """Valid inputs by name, to begin with."""

    @abstractmethod
    def mutate(self, content: bytes, rng: Random) -> bytes:
        """An input that differs from ``content``, and is still of its format as far as a mutation allows."""

    def close(self) -> None:  # noqa: B027 - most targets that are no servers have nothing to close
        """Give back what the target has opened."""


class WireTarget(Target):
    """A target that talks to a `Server`, which serves all inputs."""

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        self._runner = asyncio.Runner(loop_factory=WatchedLoop)
        self._stack = AsyncExitStack()
        self._loop = cast("WatchedLoop", self._runner.get_loop())
        self._server = self._runner.run(self._stack.enter_async_context(running_server(tokens)))

    @abstractmethod
    async def converse(self, server: Server, content: bytes) -> None:
        """Have conversations with the server, and leave it."""

    def play(self, content: bytes, watch: Watch) -> None:
        self._loop.watch = watch
        self._runner.run(self._play(content))

    async def _play(self, content: bytes) -> None:
        server = self._server
        await self.converse(server, content)
        await server.settle()
        server.require_settled()
        server.reset()

    @property
    def served(self) -> int:
        """Requests that were served so far."""
        return self._server.plane.counts.of_outcome(Outcome.SERVED)

    def close(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()
