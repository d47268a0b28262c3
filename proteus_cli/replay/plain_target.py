"""The target of a load: a server of any make that speaks the Open Inference Protocol v2 over HTTP.

Requests carry nothing that only some servers know: no deadline, no bounds. Tensors are binary where the server says
that it has the extension ``binary_tensor_data``, else JSON.
"""

import asyncio

import msgspec
import numpy as np

from proteus_cli.domain.request import Bounds, Outcome
from proteus_cli.errors import ServerError
from proteus_cli.replay.http_client import HttpClient
from proteus_cli.replay.inputs import InputMetadata, PlainBody, plain_bodies
from proteus_cli.replay.target import OF_STATUS, OK, REPLY_TIMEOUT_S, Reply, get_json
from proteus_cli.urls import path_of

BINARY = "binary_tensor_data"


class _ServerMetadata(msgspec.Struct):
    name: str = ""
    extensions: list[str] = msgspec.field(default_factory=list)


class _ModelMetadata(msgspec.Struct):
    inputs: list[InputMetadata]


class PlainTarget:
    """One model of a server at ``url``; `prepare` comes first."""

    def __init__(self, url: str, client: HttpClient, model: str) -> None:
        self._url, self._client, self._model = url.rstrip("/"), client, model
        self._bodies: list[PlainBody] = []
        self._path = f"/v2/models/{path_of(model)}"
        self._head = client.head("POST", f"{self._path}/infer")

    async def prepare(self) -> str:
        """Make sample requests; returns the name of the server's software. Raises `ServerError`."""
        server = await get_json(self._client, self._url, "/v2", _ServerMetadata, hint="is it a server of the protocol?")
        inputs = await get_json(self._client, self._url, self._path, _ModelMetadata, hint="does it serve that model?")
        self._bodies = plain_bodies(
            inputs.inputs, f"{self._url}{self._path}", np.random.default_rng(0), is_binary=BINARY in server.extensions
        )
        return server.name

    async def send(
        self,
        family: str,  # noqa: ARG002 - there is one model
        number: int,
        timeout_s: float,
        min_accuracy: float,  # noqa: ARG002
        bounds: Bounds | None = None,  # noqa: ARG002
    ) -> Reply:
        """Send one request; ``number`` determines its content. What is no answer counts as what its status says.

        The server is not told ``timeout_s``.
        """
        body = self._bodies[number % len(self._bodies)]
        try:
            async with asyncio.timeout(timeout_s + REPLY_TIMEOUT_S):
                reply = await self._client.post(self._head, body.headers, body.content)
        except OSError:  # TimeoutError is one
            return Reply(Outcome.FAILED)
        return Reply(Outcome.SERVED if reply.status == OK else OF_STATUS.get(reply.status, Outcome.FAILED))

    async def once(self) -> None:
        """Send one request, which must be answered. Raises `ServerError`."""
        reply = await self.send(self._model, 0, 0.0, 0.0)
        if reply.outcome is not Outcome.SERVED:
            raise ServerError(
                f"`{self._url}` does not answer a request for `{self._model}` with random inputs.",
                hint="send one with another client, and look at the server's log",
            )
