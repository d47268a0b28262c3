"""What is fuzzed: a target takes bytes, and drives the project's own code with them in this process."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
    def accepts(self, content: bytes) -> bool:
        """Play the input, and say whether it is valid."""

    @abstractmethod
    def seeds(self) -> Mapping[str, bytes]:
        """Valid inputs by name, to begin with."""

    @abstractmethod
    def mutate(self, content: bytes, rng: Random) -> bytes:
        """An input that differs from ``content``, and is still of its format as far as a mutation allows."""

    def close(self) -> None:  # noqa: B027 - most targets that are no servers have nothing to close
        """Give back what the target has opened."""


class WireTarget(Target):
    """A target that talks to servers, each with its tokens; they serve all inputs.

    A server is opened anew after an input that has put another plan in force.
    """

    tokens: Sequence[Sequence[str]] = ((),)

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=WatchedLoop)
        self._loop = cast("WatchedLoop", self._runner.get_loop())
        self._servers = [OpenServer(tokens) for tokens in self.tokens]
        for server in self._servers:
            self._runner.run(server.open())

    @abstractmethod
    async def converse(self, server: Server, content: bytes) -> None:
        """Have conversations with the server, and leave it."""

    def play(self, content: bytes, watch: Watch) -> None:
        self._loop.watch = watch
        self._runner.run(self._play(content))

    async def _play(self, content: bytes) -> None:
        self._loop.client = asyncio.current_task()
        await asyncio.sleep(0)  # this step is still timed
        for server in self._servers:
            await self.converse(server.opened, content)
            await server.opened.settle()
            server.opened.check_settled()
            server.opened.reset()
            if not server.opened.has_first_plan:
                await server.close()
                await server.open()

    def accepts(self, content: bytes) -> bool:
        """Whether a request of it is served."""
        before = sum(server.served for server in self._servers)
        self.play(content, Watch())
        return sum(server.served for server in self._servers) > before

    def close(self) -> None:
        for server in self._servers:
            self._runner.run(server.close())
        self._runner.close()


class OpenServer:
    """A server that can be opened again."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens, self._stack = tokens, AsyncExitStack()
        self._served_before = 0
        self.opened: Server

    @property
    def served(self) -> int:
        return self._served_before + self.opened.plane.counts.of_outcome(Outcome.SERVED)

    async def open(self) -> None:
        self.opened = await self._stack.enter_async_context(running_server(self._tokens))

    async def close(self) -> None:
        self._served_before = self.served
        await self._stack.aclose()
