"""Clients that ask a server for rows of an eval split, and tell it soon after each answer what was right."""

import asyncio
from collections.abc import Sequence

import msgspec
import numpy as np

from proteus_cli.domain.request import Bounds, Outcome
from proteus_cli.replay.http_client import HttpClient
from proteus_cli.replay.inputs import Sample
from proteus_cli.replay.target import OK, Reply, post_inference, refused, request_parameters

TELL_S = 0.1
"""Between two calls that tell labels."""


class _Parameters(msgspec.Struct):
    variant: str


class _Answer(msgspec.Struct):
    parameters: _Parameters


class _Taken(msgspec.Struct):
    accepted: int


class Labelling:
    """A `Target` of a replay. ``samples`` have labels, and are drawn; ``told`` are the labels by variant so far."""

    def __init__(self, client: HttpClient, family: str, samples: Sequence[Sample], rng: np.random.Generator) -> None:
        self._client, self._family, self._samples, self._rng = client, family, samples, rng
        self._infer = client.head("POST", f"/v2/models/{family}/infer")
        self._feedback = client.head("POST", "/v2/proteus/feedback")
        self._to_tell = list[tuple[str, str, int]]()  # the variant, the id of the request, and the label
        self.told: dict[str, int] = {}

    async def send(
        self,
        family: str,  # noqa: ARG002 - there is one
        number: int,
        timeout_s: float,
        min_accuracy: float,
        bounds: Bounds | None = None,
    ) -> Reply:
        """See `Target`."""
        sample = self._samples[int(self._rng.integers(len(self._samples)))]
        json = b'{"id":"%d",' % number + sample.json(request_parameters(timeout_s, min_accuracy, bounds))[1:]
        reply = await post_inference(self._client, self._infer, json, sample.binary, timeout_s)
        if reply is None or reply.status != OK:
            return refused(reply)
        told = reply.body[: int(reply.headers.get(b"inference-header-content-length", len(reply.body)))]
        variant = msgspec.json.decode(told, type=_Answer).parameters.variant
        assert sample.label is not None
        self._to_tell.append((variant, str(number), sample.label))
        return Reply(Outcome.SERVED, variant=variant)

    async def tell_all(self) -> None:
        """Tell labels, until cancelled. Raises `AssertionError` where the server does not take them all."""
        while True:
            await asyncio.sleep(TELL_S)
            telling, self._to_tell = self._to_tell, []
            if telling:
                await self._tell(telling)

    async def _tell(self, telling: Sequence[tuple[str, str, int]]) -> None:
        items = [{"model": self._family, "id": name, "label": label} for _, name, label in telling]
        body = msgspec.json.encode({"feedback": items})
        reply = await self._client.post(self._feedback, b"Content-Type: application/json\r\n", body)
        assert reply.status == OK, reply.body
        taken = msgspec.json.decode(reply.body, type=_Taken)
        assert taken.accepted == len(items), f"{taken.accepted} of {len(items)} labels were accepted"
        for variant, _, _ in telling:
            self.told[variant] = self.told.get(variant, 0) + 1
